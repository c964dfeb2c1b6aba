"""What is asked of each relay, and how each answer becomes figures.

A workload is what the load generator is told and one function from what was seen to named figures. Figures are plain
numbers in the unit that their name ends in; the median over a run's repeats is what is shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.generator import Load
from tests.benchmarks.relays import Relay

GIB = 1 << 30
MIB = 1 << 20
KIB = 1 << 10

WRITE_SIZES = (65536, 16384, 1200)
BUSY_CIRCUITS = 64
#: What the busy circuits carry together, bytes/s: a third of what the slowest relay here can carry at all.
BUSY_RATE = 32 * MIB
#: A stalled reader's sender stops by itself here, for relays that would take everything.
STALL_BYTES = 512 * MIB
#: Between two looks at a relay's memory.
MEMORY_LOOK = 0.05

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: `FULL` for figures, `QUICK` to see that everything works."""

    bulk_bytes: int
    bulk_seconds: float
    warm_up: int
    pings: int
    busy_pings: int
    churn: int
    reservation_steps: tuple[int, ...]
    reservation_seconds: float
    idle_seconds: float
    stall_seconds: float
    stall_bytes: int
    floor_bytes: int
    repeats: int
    timeout: float


FULL = Scale(
    bulk_bytes=512 * MIB,
    bulk_seconds=6.0,
    warm_up=64 * MIB,
    pings=5000,
    busy_pings=2000,
    churn=500,
    reservation_steps=(1000, 10000),
    reservation_seconds=180.0,
    idle_seconds=10.0,
    stall_seconds=3.0,
    stall_bytes=STALL_BYTES,
    floor_bytes=1 * GIB,
    repeats=3,
    timeout=600.0,
)
QUICK = Scale(
    bulk_bytes=32 * MIB,
    bulk_seconds=1.0,
    warm_up=4 * MIB,
    pings=300,
    busy_pings=300,
    churn=30,
    reservation_steps=(50, 200),
    reservation_seconds=30.0,
    idle_seconds=2.0,
    stall_seconds=0.5,
    stall_bytes=64 * MIB,
    floor_bytes=64 * MIB,
    repeats=1,
    timeout=120.0,
)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a measurement runs: the clients' cores, the build cache, and the relay (None for two clients alone)."""

    relay: Relay | None
    cache: Path
    client_cores: frozenset[int]
    timeout: float

    def load(self, asked: Mapping[str, Any]) -> Load:
        """Start the clients."""
        address = {"relay": self.relay.address} if self.relay else {"direct": True}
        return Load({**asked, **address}, self.cache, self.client_cores, self.timeout)


@dataclass(frozen=True, slots=True)
class Workload:
    """`measure` gives the figures of one run. `fresh`: each run has a relay of its own, just started.

    `direct`: two clients without a relay are measured too. `once`: long, and steady enough not to be repeated.
    `bulk`: to be seen beside the floor.
    """

    name: str
    measure: Callable[[Seat], Figures]
    fresh: bool = False
    direct: bool = False
    once: bool = False
    bulk: bool = False


@dataclass(slots=True)
class _Spent:
    """What relay and clients spent in a `with _spending(...)`."""

    relay: float = 0.0
    clients: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)


@contextmanager
def _spending(seat: Seat, load: Load) -> Iterator[_Spent]:
    """CPU seconds from here to the end of the block, and until the relay has tidied up."""
    spent = _Spent()
    if seat.relay:
        seat.relay.rest()
    relay = seat.relay.cpu_seconds() if seat.relay else 0.0
    clients = load.cpu_seconds()
    yield spent
    spent.clients = load.cpu_seconds() - clients
    if seat.relay:
        seat.relay.rest()
        spent.relay = seat.relay.cpu_seconds() - relay


def _spend(seat: Seat, asked: Mapping[str, Any]) -> _Spent:
    """One workload of the phases ready and done: what its work cost."""
    with seat.load(asked) as load:
        load.phase("ready")
        with _spending(seat, load) as spent:
            load.go_on()
            spent.found = load.phase("done")
    return spent


def _bulk(asked: Mapping[str, Any]) -> Callable[[Seat], Figures]:
    def measure(seat: Seat) -> Figures:
        spent = _spend(seat, asked)
        moved, seconds = spent.found["bytes"], spent.found["seconds"]
        return {
            "relay_cpu_s_per_gib": spent.relay * GIB / moved,
            "client_cpu_s_per_gib": spent.clients * GIB / moved,
            "relay_cpu_us_per_write": spent.relay * 1e6 * asked["write_size"] / moved,
            "rate_mib_per_s": moved / MIB / seconds,
            "relay_busy_ratio": spent.relay / seconds,
            "client_busy_ratio": spent.clients / seconds,
        }

    return measure


def _pingpong(asked: Mapping[str, Any]) -> Callable[[Seat], Figures]:
    def measure(seat: Seat) -> Figures:
        spent = _spend(seat, asked)
        found = spent.found
        return {
            "p50_us": found["p50"] * 1e6,
            "p99_us": found["p99"] * 1e6,
            "relay_cpu_us_per_message": spent.relay * 1e6 / found["messages"],
            "busy_mib_per_s": found["busy_rate"] / MIB,
        }

    return measure


def _churn(asked: Mapping[str, Any]) -> Callable[[Seat], Figures]:
    def measure(seat: Seat) -> Figures:
        spent = _spend(seat, asked)
        return {
            "relay_cpu_ms_each": spent.relay * 1e3 / spent.found["count"],
            "client_cpu_ms_each": spent.clients * 1e3 / spent.found["count"],
            "p50_ms": spent.found.get("p50", 0.0) * 1e3,
        }

    return measure


def _reservations(scale: Scale) -> Callable[[Seat], Figures]:
    asked = {
        "workload": "reservations",
        "steps": scale.reservation_steps,
        "seconds": scale.reservation_seconds,
        "concurrency": 16,
    }

    def measure(seat: Seat) -> Figures:
        assert seat.relay is not None, "a relay holds reservations"
        figures: Figures = {}
        with seat.load(asked) as load:
            load.phase("ready")
            seat.relay.rest()
            empty = seat.relay.resident_bytes()
            figures["rss_mib_at_0"] = empty / MIB
            for step in scale.reservation_steps:
                load.go_on()
                found = load.phase("held")
                seat.relay.rest()
                resident = seat.relay.resident_bytes()
                figures["held"] = found["held"]
                figures["kib_each"] = (resident - empty) / KIB / max(1, found["held"])
                if found["held"] == step:
                    figures[f"rss_mib_at_{step}"] = resident / MIB
            load.go_on()
            load.phase("done")
        return figures

    return measure


def _idle(seconds: float) -> Callable[[Seat], Figures]:
    def measure(seat: Seat) -> Figures:
        assert seat.relay is not None, "a relay idles"
        seat.relay.rest()
        before = seat.relay.cpu_seconds()
        time.sleep(seconds)
        return {
            "ready_s": seat.relay.ready_after,
            "idle_cpu_percent": 100 * (seat.relay.cpu_seconds() - before) / seconds,
            "rss_mib": seat.relay.resident_bytes() / MIB,
        }

    return measure


class _MemoryWatch:
    """The most memory that a relay held while this was watching."""

    def __init__(self, relay: Relay) -> None:
        self.peak = relay.resident_bytes()
        self._relay = relay
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Bytes."""
        self._stop.set()
        self._thread.join()
        return self.peak

    def _watch(self) -> None:
        while not self._stop.wait(MEMORY_LOOK):
            try:
                self.peak = max(self.peak, self._relay.resident_bytes())
            except ProcessLookupError:
                return


def _stall(scale: Scale) -> Callable[[Seat], Figures]:
    asked = {
        "workload": "stall",
        "circuits": 4,
        "shared": True,
        "write_size": 16384,
        "warm_up": scale.warm_up,
        "seconds": scale.stall_seconds,
        "stall_bytes": scale.stall_bytes,
    }

    def measure(seat: Seat) -> Figures:
        assert seat.relay is not None, "a relay holds what a reader does not take"
        with seat.load(asked) as load:
            load.phase("ready")
            load.go_on()
            before = load.phase("before")
            memory = seat.relay.resident_bytes()
            watch = _MemoryWatch(seat.relay)
            load.go_on()
            during = load.phase("during")
            peak = watch.end()
            load.go_on()
            load.phase("done")
        return {
            "rss_growth_mib": (peak - memory) / MIB,
            "held_mib": (during["stalled_sent"] - during["stalled_came"]) / MIB,
            "others_kept_ratio": during["rate"] / before["rate"],
            "others_failed": during["others_failed"],
        }

    return measure


def all_workloads(scale: Scale) -> list[Workload]:
    """Every workload, in the order in which they run."""
    several: list[Workload] = []
    for direction in ("push", "pull"):
        for circuits in (1, 16):
            for size in WRITE_SIZES:
                asked = _bulk_load(scale, direction, circuits, size)
                several.append(Workload(bulk_name(direction, circuits, size), _bulk(asked), bulk=True))
    # Shared: one dialer's connection and one target's carry all circuits. Each: no client gathers small writes.
    shared = {**_bulk_load(scale, "push", 16, 16384), "shared": True}
    each = {**_bulk_load(scale, "push", 1, 1200), "each_frame": True}
    several.append(Workload("push 16x16384 shared", _bulk(shared), bulk=True))
    several.append(Workload("push 1x1200 each", _bulk(each), bulk=True))

    idle = {"workload": "pingpong", "count": scale.pings}
    busy = {
        "workload": "pingpong",
        "count": scale.busy_pings,
        "circuits": 1 + BUSY_CIRCUITS,
        "busy_rate": BUSY_RATE,
    }
    at_once = {
        "workload": "pingpong",
        "count": max(10, scale.busy_pings // 10),
        "circuits": BUSY_CIRCUITS,
        "at_once": True,
    }
    for name, asked in (("ping idle", idle), ("ping busy", busy), ("ping at once", at_once)):
        several.append(Workload(name, _pingpong(asked), direct=True))
    for name in ("connects", "reserves", "circuits"):
        asked = {"workload": name, "count": scale.churn, "concurrency": 4}
        several.append(Workload(name, _churn(asked)))
    several.append(Workload("idle", _idle(scale.idle_seconds), fresh=True, once=True))
    several.append(Workload("stall", _stall(scale), fresh=True))
    several.append(Workload("reservations", _reservations(scale), fresh=True, once=True))
    return several


def bulk_name(direction: str, circuits: int, size: int) -> str:
    """The name of a bulk workload: "push 16x1200"."""
    return f"{direction} {circuits}x{size}"


def _bulk_load(scale: Scale, direction: str, circuits: int, size: int) -> dict[str, Any]:
    return {
        "workload": "bulk",
        "direction": direction,
        "circuits": circuits,
        "write_size": size,
        "bytes": scale.bulk_bytes,
        "seconds": scale.bulk_seconds,
        "warm_up": scale.warm_up,
    }
