"""How soon a relay is found through the DHT: by look-ups under churn, when it is new, and after a partition.

found       a part of the nodes relay, a part of all is replaced each hour without a good-bye: how many look-ups find
            a relay that is there, and after how many round trips the first
new         seconds until somebody finds a relay that has just begun
partition   half of the nodes cannot reach the other half for an hour, in which relays begin: what each half finds
            of the relays beyond, then and after it
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.discovery_messages import RelayFound, RelaysSearched, RelaysWanted
from tests.simulation.kademlia import Kademlia
from tests.simulation.network import Host, Weather

#: Seconds one way, the same for all: so that time is round trips.
ONE_WAY = 0.05
HOUR = 3600.0


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


def new_relays(seed: int, nodes: int, relays: int, *, every: float = 1.0, most: int = 120) -> list[float]:
    """Of each of so many relays that begin one after the other, seconds from then until a look-up found it: each second
    another node looks."""
    world = Kademlia(seed)
    network = world.network
    askers = world.join(nodes, spacing=0.2)
    network.run(300.0)
    waited, turn = [], 0
    for number in range(relays):
        (relay,) = world.join(1, spacing=30.0)
        began = network.now
        world.relay(relay)
        looking: list[Host] = []
        found: list[float] = []
        while not found and len(looking) < most:
            turn += 1
            asker = askers[turn % len(askers)]
            asker.said.clear()
            asker.post(RelaysWanted(number, "directory", 20.0))
            looking.append(asker)
            network.run(every)
            found = [when for one in looking for when in _found_at(one, relay.peer.bytes)]
        waited.append(min(found, default=began + most * every) - began)
        world.leave(relay)
        network.run(60.0)
    return waited


def _found_at(asker: Host, relay: bytes) -> list[float]:
    return [when for when, message in asker.said if isinstance(message, RelayFound) and message.peer == relay]


@dataclass(frozen=True)
class Side:
    """``minute``: since the partition began.  ``here``, ``beyond``: part of the relays of each side that look-ups found
    on average."""

    minute: float
    here: float
    beyond: float


def partition(seed: int, nodes: int, *, relays: float = 0.2, apart: float = HOUR, after: float = HOUR) -> list[Side]:
    """Looks at ten-minute intervals, each by four nodes of each side."""
    world = Kademlia(seed)
    network = world.network
    everybody = world.join(nodes, spacing=0.2)
    network.run(300.0)
    side = {host: number % 2 for number, host in enumerate(everybody)}
    chosen = everybody[: round(nodes * relays)]
    sequence = 0
    began = network.now
    network.cut(lambda one, other: side[one] != side[other])
    result: list[Side] = []
    askers = everybody[len(chosen) :]

    def look() -> None:
        here = beyond = 0.0
        some = [askers.pop(0) for _ in range(8)]
        for asker in some:
            askers.append(asker)
            heard = {one.peer for one in world.search(asker, 30.0)}
            of = [[one.peer.bytes for one in chosen if (side[one] == side[asker]) is same] for same in (True, False)]
            here += len(heard & set(of[0])) / len(of[0])
            beyond += len(heard & set(of[1])) / len(of[1])
        result.append(Side((network.now - began) / 60, here / len(some), beyond / len(some)))

    while network.now < began + apart + after:
        if network.now >= began + apart:
            network.cut(None)
        # Relays say anew what they are, as they do when half of a descriptor's life is over.
        if network.now >= began + sequence * HOUR * 0.5:
            sequence += 1
            for relay in chosen:
                world.relay(relay, sequence)
        network.run(600.0)
        look()
    return result
