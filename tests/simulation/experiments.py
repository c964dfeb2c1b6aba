"""Experiments with many nodes in virtual time: `python -m tests.simulation.experiments found --nodes 1000 --seed 1`.

    found   a tenth of the nodes relay, a fifth is replaced each hour without a good-bye: how many look-ups find a relay
            that is there, and after how many round trips the first

A seed repeats a run.  Tables are in tests/simulation/README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median, quantiles

from protocol.discovery_messages import RelayFound, RelaysSearched, RelaysWanted
from tests.simulation.kademlia import Kademlia
from tests.simulation.network import Host, Weather

#: Seconds one way, the same for all: so that time is round trips.
ONE_WAY = 0.05
HOUR = 3600.0

COLUMNS = (
    "nodes",
    "seed",
    "relays",
    "replaced an hour",
    "look-ups",
    "found one",
    "round trips, median",
    "p90",
    "messages a node, an hour",
    "CPU-s",
)


class Found:
    """See the module: ``found``."""

    def __init__(self, nodes: int, seed: int, *, relays: float, churn: float, hours: float, looks: int) -> None:
        self.world = Kademlia(seed, Weather(latency=(ONE_WAY, ONE_WAY)))
        self._wanted = nodes
        self._share = relays
        self._churn = churn
        self._hours = hours
        self._looks = looks
        self._relays: set[Host] = set()
        self._sequence: dict[Host, int] = {}
        self._number = 0
        #: Of each look-up, round trips until the first relay that is there was found; None: none was.
        self.trips: list[float | None] = []
        self.messages = 0.0

    def run(self) -> None:
        world, network = self.world, self.world.network
        for host in world.join(self._wanted, spacing=0.2):
            self._maybe_relay(host)
        network.run(300.0)
        begin = sum(network.counts.values())
        replaced = round(self._wanted * self._churn * self._hours)
        pause = self._hours * HOUR / max(replaced, 1)
        look_every = max(replaced // self._looks, 1)
        for step in range(replaced):
            gone = network.random.choice(world.nodes)
            world.leave(gone)
            self._relays.discard(gone)
            (came,) = world.join(1, spacing=pause)
            self._maybe_relay(came)
            for relay in self._relays:
                if network.random.random() < pause / HOUR:  # each says anew what it is, once an hour or so
                    self._say(relay)
            for host in world.nodes:
                host.said.clear()
            if step % look_every == 0:
                self.trips.append(self._look())
        self.messages = (sum(network.counts.values()) - begin) / self._wanted / self._hours

    def _maybe_relay(self, host: Host) -> None:
        if self.world.network.random.random() < self._share:
            self._relays.add(host)
            self._say(host)

    def _say(self, host: Host) -> None:
        self._sequence[host] = self._sequence.get(host, 0) + 1
        self.world.relay(host, self._sequence[host])

    def _look(self) -> float | None:
        """One look-up, by a node that has been there for a while."""
        network = self.world.network
        asker = network.random.choice(self.world.nodes[: self._wanted // 2])
        self._number += 1
        began, number = network.now, self._number
        living = {relay.peer.bytes for relay in self._relays}
        asker.post(RelaysWanted(number, "directory", 20.0))

        def first() -> float | None:
            times = [
                when
                for when, message in asker.said
                if isinstance(message, RelayFound) and message.request_id == number and message.peer in living
            ]
            return min(times, default=None)

        network.run_until(
            lambda: first() is not None or any(one.request_id == number for one in asker.heard(RelaysSearched)), 21.0
        )
        when = first()
        return None if when is None else (when - began) / (2 * ONE_WAY)


def found(arguments: argparse.Namespace) -> None:
    began = time.process_time()
    experiment = Found(
        arguments.nodes,
        arguments.seed,
        relays=arguments.relays,
        churn=arguments.churn,
        hours=arguments.hours,
        looks=arguments.looks,
    )
    experiment.run()
    trips = [one for one in experiment.trips if one is not None]
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " ---: |" * len(COLUMNS))
    print(
        f"| {arguments.nodes} | {arguments.seed} | {arguments.relays:.0%} | {arguments.churn:.0%} | "
        f"{len(experiment.trips)} | {len(trips) / len(experiment.trips):.1%} | {median(trips):.1f} | "
        f"{quantiles(trips, n=10)[-1]:.1f} | {experiment.messages:.0f} | {time.process_time() - began:.0f} |"
    )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("found")
    command.add_argument("--nodes", type=int, default=1000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--relays", type=float, default=0.1, help="part of the nodes that relay")
    command.add_argument("--churn", type=float, default=0.2, help="part that is replaced each hour")
    command.add_argument("--hours", type=float, default=1.0)
    command.add_argument("--looks", type=int, default=100)
    command.set_defaults(run=found)
    arguments = parser.parse_args(given)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
