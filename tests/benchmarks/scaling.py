"""What several forwarders give and cost: `python -m tests.benchmarks.scaling`.

One node after the other carries the same circuits: one forwarder in one process, the same under Ray, two forwarders
whose diallers move to their targets', and two that bridge what they do not share.  The clients need cores too, so what
is compared is CPU: bytes for a second of the forwarder that worked most, which is what a second of wall time carries
where each forwarder has a core of its own and the clients have theirs.  Sockets fall to forwarders by chance, so the
more circuits, the more even.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import generator, procfs, relays
from tests.benchmarks.generator import Load

GIB = 1 << 30
TIMEOUT = 300.0

NODES: dict[str, tuple[str, ...]] = {
    "one process": (),
    "Ray, one forwarder": ("--runtime", "ray"),
    "Ray, two forwarders": ("--forwarders", "2"),
    "Ray, two forwarders, bridged": ("--forwarders", "2", "--move-diallers", "off"),
}


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
        implementation = relays.Implementation(
            ours.name, ours.title, lambda cache, state: [*ours.command(cache, state), *flags]
        )
        everywhere = frozenset(os.sched_getaffinity(0))
        self.relay = relays.Relay(implementation, cache, state, everywhere)

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

    def run(self, workload: dict[str, Any], cache: Path) -> tuple[Spent, dict[str, Any]]:
        asked = {**workload, "relay": self.relay.address}
        with Load(asked, cache, frozenset(os.sched_getaffinity(0)), TIMEOUT) as load:
            load.phase("ready")
            self.relay.rest()
            before = self.cpu()
            load.go_on()
            found = load.phase("done")
            self.relay.rest()
            after = self.cpu()
        spent = {name: after.actors[name] - before.actors[name] for name in before.actors}
        return Spent(spent, after.supervisor - before.supervisor), found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--circuits", type=int, default=64)
    parser.add_argument("--mib", type=int, default=1024, help="to carry in all")
    parser.add_argument("--count", type=int, default=500, help="circuits to open and close, one after the other")
    asked = parser.parse_args()
    cache = relays.cache_dir()
    generator.build(cache)
    baseline: dict[int, tuple[float, float]] = {}
    print("| | 64 KiB, CPU-s/GiB | of one | carried a second | 16 KiB, CPU-s/GiB | of one | carried a second |", end="")
    print(" a circuit: forwarders, ms | RelayServer, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, flags in NODES.items():
        with tempfile.TemporaryDirectory() as folder:
            node = Node(flags, Path(folder) / "state", cache)
            cells = []
            try:
                for size in (65536, 16384):
                    workload = {
                        "workload": "bulk",
                        "direction": "push",
                        "circuits": asked.circuits,
                        "write_size": size,
                        "bytes": asked.mib << 20,
                        "seconds": TIMEOUT,
                        "warm_up": 1 << 20,
                    }
                    spent, found = node.run(workload, cache)
                    cost = spent.total * GIB / found["bytes"]
                    carried = found["bytes"] / max(spent.forwarders or list(spent.actors.values()))
                    first = baseline.setdefault(size, (cost, carried))
                    cells += [f"{cost:.2f}", f"{cost / first[0]:.2f}", f"{carried / first[1]:.2f} times"]
                spent, found = node.run({"workload": "circuits", "count": asked.count}, cache)
                forwarders = sum(spent.forwarders) or spent.total
                cells.append(f"{1000 * forwarders / found['count']:.2f}")
                separate = len(spent.actors) > 1
                cells.append(f"{1000 * spent.actors['relay_server'] / found['count']:.2f}" if separate else "-")
            finally:
                node.relay.stop()
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
