"""An eclipse of the key under which relays are found: K attackers whose ids lie nearer to it than any honest node's.

Attackers are whole nodes with real cores, and behave in everything but this: of the key they know no provider, and as
nearer peers they tell of each other alone.  What an attacker pays for is networks (a /16 each): ids are nearly free.
They are there before the relays, which is worse than after.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from actors.dht_advertiser import DHTAdvertiser
from actors.record_store import MemoryStore
from protocol.identity import Identity
from protocol.kad import KadMessage, KadPeer, MessageType
from protocol.kad_keys import BITS, RELAYS, keyspace, provider_key
from tests.simulation.kademlia import Kademlia
from tests.simulation.network import SERVICE, Host
from tests.support.descriptors import validate
from tests.support.peers import seeded

KEY = provider_key(RELAYS)
TARGET = keyspace(KEY)

#: Attackers lie in so small a part of the keyspace about the key, of what one honest node has on average.
NEARER = 0.5


@dataclass(frozen=True)
class Outcome:
    """``found``: look-ups that found a relay that is there, of ``looks``.  ``relays``: the part of them that one found
    on average.  ``messages``: of a look-up, on average."""

    looks: int
    found: int
    relays: float
    messages: float


class Eclipse:
    """``nodes`` honest ones, a ``part`` of them relays; ``attackers`` in so many ``networks``."""

    def __init__(self, seed: int, nodes: int, attackers: int, networks: int, *, part: float = 0.1) -> None:
        self.world = Kademlia(seed)
        network = self.world.network
        self.honest = self.world.join(nodes, spacing=0.2)
        network.run(600.0)
        self.attackers: list[Host] = []
        self._told: tuple[KadPeer, ...] = ()
        for number, identity in enumerate(grind(seed, attackers, round(2**BITS / nodes * NEARER))):
            ip = f"{150 + number % networks}.{number % networks // 100}.{number // 250}.{number % 250}"
            self.attackers.append(network.add_identity(identity, ip, self._attacker))
            network.run(0.2)
        network.run(1800.0)  # until everybody has met them
        self.relays = self.honest[: round(nodes * part)]
        for relay in self.relays:
            self.world.relay(relay)
        network.run(300.0)

    def nearest(self, count: int) -> list[Host]:
        """To the key, of all."""
        everybody = [*self.honest, *self.attackers]
        return sorted(everybody, key=lambda host: keyspace(host.peer.bytes) ^ TARGET)[:count]

    def look(self, looks: int) -> Outcome:
        """So many look-ups, each by another node that is no relay."""
        living = {relay.peer.bytes for relay in self.relays}
        network = self.world.network
        askers = self.honest[len(self.relays) :][:looks]
        found, parts, before = 0, 0.0, network.counts["message"]
        for asker in askers:
            heard = {one.peer for one in self.world.search(asker, 30.0)} & living
            found += bool(heard)
            parts += len(heard) / len(living)
        return Outcome(len(askers), found, parts / len(askers), (network.counts["message"] - before) / len(askers))

    def _attacker(self, host: Host) -> DHTAdvertiser:
        some = self.world.network.random.sample(self.honest, 3)
        bootstrap = [(node.peer.bytes, (node.address,)) for node in some]
        core = DHTAdvertiser(SERVICE, host.peer, validate, host.random_bytes, MemoryStore(), bootstrap=bootstrap)
        honest = core._server.answer

        def answer(request: KadMessage, peer: bytes, address: str, now: float) -> KadMessage | None:
            if request.key != KEY:
                return honest(request, peer, address, now)
            if request.type is MessageType.ADD_PROVIDER:
                return None
            return KadMessage(request.type, request.key, closer=self._accomplices(host))

        core._server.answer = answer  # type: ignore[method-assign]
        return core

    def _accomplices(self, host: Host) -> tuple[KadPeer, ...]:
        others = [one for one in self.attackers if one is not host]
        some = self.world.network.random.sample(others, min(20, len(others)))
        return tuple(KadPeer(one.peer.bytes, (one.address,)) for one in some)


def grind(seed: int, wanted: int, within: int) -> list[Identity]:
    """Identities that lie ``within`` that distance of the key."""
    found: list[Identity] = []
    for number in count():
        if len(found) == wanted:
            break
        identity = Identity.from_seed(seeded(f"attacker {seed} {number}"))
        if keyspace(identity.peer_id.bytes) ^ TARGET < within:
            found.append(identity)
    return found
