"""The rows of the table: which workload, how much of it, and what is told of its outcome.

Each workload runs over the relays in turn, then again, so that a moment in which the machine is slow falls on all of
them. A figure is the median of its runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.measure import (
    GIB,
    Outcome,
    RunningRelay,
    WorkloadError,
    aead_seconds_per_gib,
    run_clients,
    socat_seconds_per_gib,
)

MIB = 1 << 20
NOISE_AND_YAMUX = 12  # a yamux header, sealed with each application write
WRITES = (65536, 16384, 1200)
# Clients at this share of their core were the slower side; the relay's CPU per byte counts all the same.
BOTTLENECK = 0.95


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of each workload: the whole measurement, or a quick look."""

    repeats: int
    bulk: int
    small: int
    round_trips: int
    connects: int
    circuits: int
    reservations: tuple[int, ...]
    idle: float


FULL = Scale(3, 256 * MIB, 64 * MIB, 5000, 300, 1000, (1000, 10000), 10.0)
QUICK = Scale(1, 128 * MIB, 32 * MIB, 2000, 100, 300, (1000,), 3.0)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure for each relay; `figures` has None where the workload failed, `bound` the relays whose clients were full."""

    group: str
    title: str
    unit: str
    figures: Mapping[str, float | None]
    floor: float | None = None
    bound: tuple[str, ...] = ()


Start = Callable[[str], RunningRelay]


@dataclass(slots=True)
class Bench:
    """The relays that run, and how to start another of a kind."""

    running: Mapping[str, RunningRelay]
    start: Start
    scale: Scale
    say: Callable[[str], None]

    def over(self, workload: str, *arguments: object, repeats: int | None = None) -> dict[str, list[Outcome]]:
        """Runs a workload over every relay in turn, `repeats` times. One that fails is told and left out."""
        outcomes: dict[str, list[Outcome]] = {name: [] for name in self.running}
        for _ in range(repeats or self.scale.repeats):
            for name, relay in self.running.items():
                outcome = self.once(relay, workload, *arguments)
                if outcome is not None:
                    outcomes[name].append(outcome)
        return outcomes

    def once(self, relay: RunningRelay, workload: str, *arguments: object) -> Outcome | None:
        try:
            return run_clients(relay, workload, *arguments)
        except WorkloadError as error:
            self.say(f"FAILED: {relay.name}: {workload} {' '.join(map(str, arguments))}: {error}")
            return None


def _row(
    group: str,
    title: str,
    unit: str,
    outcomes: Mapping[str, Sequence[Outcome]],
    figure: Callable[[Outcome], float],
    floor: float | None = None,
) -> Row:
    figures = {name: median(map(figure, some)) if some else None for name, some in outcomes.items()}
    bound = tuple(n for n, some in outcomes.items() if some and median(o.client_share for o in some) > BOTTLENECK)
    return Row(group, title, unit, figures, floor, bound)


def bulk(bench: Bench) -> list[Row]:
    """CPU per byte and per message: push and pull, one circuit and sixteen, three sizes of write."""
    group, rows, messages = "CPU per byte", [], []
    for relay in bench.running.values():  # what compiles as it runs has done so
        bench.once(relay, "bulk", "--bytes", 32 * MIB, "--circuits", 4)
        bench.once(relay, "bulk", "--bytes", 4 * MIB, "--circuits", 4, "--write", 1200)
    for write in WRITES:
        copied = socat_seconds_per_gib(write, bench.scale.bulk)
        if copied is None:
            bench.say("NO FLOOR: socat is missing; apt-get install -y socat")
        floor = None if copied is None else 2 * aead_seconds_per_gib(min(write + NOISE_AND_YAMUX, 65519)) + copied
        total = bench.scale.bulk if write > 1200 else bench.scale.small
        for direction in ("push", "pull"):
            for circuits in (1, 16):
                options = ("--direction", direction, "--circuits", circuits, "--write", write, "--bytes", total)
                outcomes = bench.over("bulk", *options)
                title = f"{direction}, {circuits} circuit{'s' if circuits > 1 else ''}, {_size(write)} writes"

                def per_gib(outcome: Outcome) -> float:
                    return outcome.relay_cpu * GIB / float(outcome.found["bytes"])

                def per_message(outcome: Outcome) -> float:
                    return outcome.relay_cpu * 1e6 / float(outcome.found["messages"])

                rows.append(_row(group, title, "s/GiB", outcomes, per_gib, floor))
                if write == 1200:
                    messages.append(_row("CPU per message", title, "us", outcomes, per_message))
    return rows + messages


def _size(count: int) -> str:
    return f"{count // 1024} KiB" if count % 1024 == 0 else f"{count / 1000:g} kB"


def latency(bench: Bench) -> list[Row]:
    """What the relay adds to a round trip of 64 bytes, alone and beside 64 circuits that carry 16 MiB/s together."""
    rows = []
    for busy in (0, 64):
        options = ("--count", bench.scale.round_trips, "--busy", busy)
        direct = [run_clients(None, "pingpong", "--direct", *options) for _ in range(bench.scale.repeats)]
        outcomes = bench.over("pingpong", *options)
        beside = f"beside {busy} busy circuits" if busy else "idle"
        for percentile in ("p50", "p99"):
            without = median(float(one.found[f"{percentile}_us"]) for one in direct)

            def added(outcome: Outcome, key: str = f"{percentile}_us", without: float = without) -> float:
                return float(outcome.found[key]) - without

            rows.append(_row("Added round trip", f"{percentile}, {beside}", "us", outcomes, added))
    return rows


def events(bench: Bench) -> list[Row]:
    """CPU per new connection, reservation and circuit."""

    def each(outcome: Outcome) -> float:
        return outcome.relay_cpu * 1e3 / float(outcome.found["count"])

    group, scale = "CPU per event", bench.scale
    connects = bench.over("connects", "--count", scale.connects)
    reservations = bench.over("reserve", "--count", 1000)
    circuits = bench.over("circuits", "--count", scale.circuits)
    return [
        _row(group, "new connection, identified", "ms", connects, each),
        _row(group, "reservation", "ms", reservations, each),
        _row(group, "circuit, opened and closed", "ms", circuits, each),
    ]


def memory(bench: Bench) -> list[Row]:
    """Start, idle and resident memory, each of a process that has done nothing before."""
    started: dict[str, float | None] = {}
    idle_cpu: dict[str, float | None] = {}
    resident: dict[int, dict[str, float | None]] = {count: {} for count in (0, *bench.scale.reservations)}
    for name in bench.running:
        relay = bench.start(name)
        try:
            started[name] = relay.started_in
            before = relay.cpu()
            time.sleep(bench.scale.idle)
            idle_cpu[name] = relay.cpu().since(before) / bench.scale.idle * 100
            resident[0][name] = relay.resident() / MIB
        finally:
            relay.stop()
        for count in bench.scale.reservations:
            relay = bench.start(name)
            try:
                outcome = bench.once(relay, "reserve", "--count", count)
                resident[count][name] = outcome.resident_after / MIB if outcome else None
            finally:
                relay.stop()
    return [
        Row("Start and idle", "from start to ready", "s", started),
        Row("Start and idle", "CPU when idle", "%", idle_cpu),
        *(Row("Memory", f"{count:,} reservations held", "MiB", resident[count]) for count in resident),
    ]


def stall(bench: Bench) -> list[Row]:
    """A target stops reading one of its four circuits: the rate of the others, and what the relay holds for it."""
    outcomes = {}
    for name in bench.running:
        relay = bench.start(name)
        try:
            outcome = bench.once(relay, "stall")
            outcomes[name] = [outcome] if outcome else []
        finally:
            relay.stop()

    def kept(outcome: Outcome) -> float:
        return 100 * float(outcome.found["after_bytes_per_second"]) / float(outcome.found["before_bytes_per_second"])

    def held(outcome: Outcome) -> float:
        return (float(outcome.found["stalled_sent"]) - float(outcome.found["stalled_arrived"])) / MIB

    def grown(outcome: Outcome) -> float:
        return (outcome.resident_after - outcome.resident_before) / MIB

    group = "A stalled reader"
    return [
        _row(group, "rate that the other circuits keep", "%", outcomes, kept),
        _row(group, "taken for it beyond its window", "MiB", outcomes, held),
        _row(group, "growth of the process", "MiB", outcomes, grown),
    ]


WORKLOADS: Mapping[str, Callable[[Bench], list[Row]]] = {
    "bulk": bulk,
    "latency": latency,
    "events": events,
    "memory": memory,
    "stall": stall,
}
