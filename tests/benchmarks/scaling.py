"""What several forwarders give and cost: `python -m tests.benchmarks.scaling`.

One node after the other carries the same circuits, several times: one forwarder in one process, the same under Ray, two
forwarders whose diallers move to their targets', and two that bridge what they do not share.  The clients need cores
too, so what is compared is CPU, by its medians.  "Carried a second" is what the forwarders carry in a second of wall
time when each has a core of its own and is busy all of it: their number, times bytes for a second of their CPU.  Which
circuits fall to which of them is chance; the share of the busiest is told too.  Of the circuits of the last node only
some are between the two: what such a one costs follows from their share, which the node's metrics tell, and from what
others cost on the node before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import generator, procfs, relays
from tests.benchmarks.generator import Load

GIB = 1 << 30
SIZES = (65536, 16384)
TIMEOUT = 300.0
CORES = frozenset(os.sched_getaffinity(0))

NODES: dict[str, tuple[str, ...]] = {
    "one process": (),
    "Ray, one forwarder": ("--runtime", "ray"),
    "Ray, two forwarders": ("--forwarders", "2"),
    "Ray, two forwarders, bridged": ("--forwarders", "2", "--move-diallers", "off"),
}


def _free_port() -> int:
    """One that nobody has, and that the kernel gives to nobody who asks for any port, as Ray does meanwhile."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(lowest - 1, 1024, -1):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError(f"no free port below {lowest}")


@dataclass
class Spent:
    """CPU seconds of each actor, and of the process that was started."""

    actors: dict[str, float]
    supervisor: float

    @property
    def forwarders(self) -> list[float]:
        return [seconds for name, seconds in self.actors.items() if name.startswith("forwarder/")]

    @property
    def total(self) -> float:
        return sum(self.actors.values()) + self.supervisor


class Node:
    """A relay of ours with more flags, and the CPU of each of its actors."""

    def __init__(self, flags: tuple[str, ...], state: Path, cache: Path) -> None:
        ours = relays.IMPLEMENTATIONS["ours"]
        self._metrics = _free_port()
        flags = (*flags, "--metrics-port", str(self._metrics))
        implementation = relays.Implementation(
            ours.name, ours.title, lambda cache, state: [*ours.command(cache, state), *flags]
        )
        self.relay = relays.Relay(implementation, cache, state, CORES)

    def cpu(self) -> Spent:
        # In one process every actor has its number: it is counted once.
        actors: dict[str, float] = {}
        seen = set()
        for name, pid in sorted(self.relay.actors.items()):
            if pid not in seen:
                seen.add(pid)
                actors[name] = procfs.cpu_seconds((pid,))
        rest = set(self.relay.pids) - seen
        return Spent(actors, procfs.cpu_seconds(rest))

    def bridged(self) -> tuple[float, float]:
        """Circuits so far: in all, and those between two forwarders."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics") as page:
            lines = page.read().decode().splitlines()

        def total(name: str) -> float:
            return sum(float(line.split()[-1]) for line in lines if line.startswith(f"descord_relay_{name}_total"))

        return total("circuits"), total("bridged_circuits")

    def run(self, workload: dict[str, Any], cache: Path) -> tuple[Spent, dict[str, Any]]:
        asked = {**workload, "relay": self.relay.address}
        with Load(asked, cache, CORES, TIMEOUT) as load:
            load.phase("ready")
            self.relay.rest()
            before = self.cpu()
            load.go_on()
            found = load.phase("done")
            self.relay.rest()
            after = self.cpu()
        spent = {name: after.actors[name] - before.actors[name] for name in before.actors}
        return Spent(spent, after.supervisor - before.supervisor), found


@dataclass
class Row:
    """What a node cost, a value each time: by bytes of a frame CPU-seconds for a GiB of all its processes and of its
    forwarders, the share of the busiest, and of its circuits those that were bridged; milliseconds for a circuit."""

    cost: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    forwarders: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    busiest: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    bridged: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    circuit: list[float] = field(default_factory=list)
    relay_server: list[float] = field(default_factory=list)
    count: int = 1

    def measure(self, node: Node, cache: Path, asked: argparse.Namespace) -> None:
        for size in SIZES:
            workload = {
                "workload": "bulk",
                "direction": "push",
                "circuits": asked.circuits,
                "write_size": size,
                "bytes": asked.mib << 20,
                "seconds": TIMEOUT,
                "warm_up": 1 << 20,
            }
            before = node.bridged()
            spent, found = node.run(workload, cache)
            opened, bridged = (now - then for now, then in zip(node.bridged(), before, strict=True))
            busy = spent.forwarders or list(spent.actors.values())
            self.count = len(busy)
            self.cost[size].append(spent.total * GIB / found["bytes"])
            self.forwarders[size].append(sum(busy) * GIB / found["bytes"])
            self.busiest[size].append(max(busy) / sum(busy))
            self.bridged[size].append(bridged / opened)
        spent, found = node.run({"workload": "circuits", "count": asked.count}, cache)
        self.circuit.append(1000 * (sum(spent.forwarders) or spent.total) / found["count"])
        if len(spent.actors) > 1:
            self.relay_server.append(1000 * spent.actors["relay_server"] / found["count"])

    def cells(self, first: Row) -> list[str]:
        cells = []
        for size in SIZES:
            cost, one = median(self.cost[size]), median(first.cost[size])
            carried = self.count * median(first.forwarders[size]) / median(self.forwarders[size])
            cells += [f"{cost:.2f}", f"{cost / one:.2f}", f"{carried:.2f} times ({median(self.busiest[size]):.0%})"]
        server = f"{median(self.relay_server):.2f}" if self.relay_server else "-"
        return [*cells, f"{median(self.circuit):.2f}", server]

    def bridge(self, size: int, local: Row) -> str:
        """What a bridged circuit costs beside one that is not."""
        share, others = median(self.bridged[size]), median(local.cost[size])
        alone = (median(self.cost[size]) - (1 - share) * others) / share
        return f"{size // 1024} KiB: {share:.0%} of the circuits, {alone / others:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--circuits", type=int, default=64)
    parser.add_argument("--mib", type=int, default=2048, help="to carry in all")
    parser.add_argument("--count", type=int, default=300, help="circuits to open and close, one after the other")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    cache = relays.cache_dir()
    generator.build(cache)
    rows = {name: Row() for name in NODES}
    for _ in range(asked.repeats):
        for name, flags in NODES.items():
            with tempfile.TemporaryDirectory() as folder:
                node = Node(flags, Path(folder) / "state", cache)
                try:
                    rows[name].measure(node, cache, asked)
                finally:
                    node.relay.stop()
    print("| | 64 KiB, CPU-s/GiB | of one | carried a second | 16 KiB, CPU-s/GiB | of one | carried a second |", end="")
    print(" a circuit: forwarders, ms | RelayServer, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    one, *_, local, bridged = rows.values()
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row.cells(one)) + " |", flush=True)
    shares = "; ".join(bridged.bridge(size, local) for size in SIZES)
    print(f"\nA circuit that is bridged, beside one that is not: {shares}")


if __name__ == "__main__":
    main()
