"""What a Kademlia server answers, and whom it answers at all.

Each request is answered at once, from tables: nothing of it waits, so streams that are idle hold nothing up.  Still a
stream that stays open costs its forwarder memory, so whoever was silent longest is let go when there are too many, of
one household or in all; and a household's requests have a rate.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "RPC messages".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from actors.fair_share import FairShare
from actors.kad_addresses import scope_of, to_tell
from actors.kad_records import ProviderRecords, SignedRecords
from actors.kad_routing import RoutingTable
from actors.rate_limit import KeyedBuckets
from actors.reservations import household
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad import KadMessage, KadPeer, KadRecord, MessageType, rfc3339
from protocol.kad_keys import descriptor_key, is_whereabouts, keyspace

#: Peers in an answer: the specification's k.
K: Final = 20

#: Providers in an answer: what fits into 16 KiB beside them, about.
PROVIDERS: Final = 100

#: Requests a second of one household, and at once.  A peer that walks the network asks each server once or twice.
REQUESTS_PER_SECOND: Final = 20.0
REQUESTS_AT_ONCE: Final = 200.0

#: What a request costs of that: a value brings a signature to verify.
PUT_COST: Final = 5.0

#: Households whose rate is remembered.
MAX_RATE_KEYS: Final = 16_384

#: Streams that wait for their peers' next request: in all, and of one household.
MAX_IDLE: Final = 512
MAX_IDLE_OF_HOUSEHOLD: Final = 32


class KadServer:
    """See the module.  ``own``: our peer id's bytes.  ``addresses``: ours, binary multiaddrs.  ``provided``: keys that
    we provide ourselves; ``envelope``: our own descriptor, b"": none."""

    def __init__(
        self,
        own: bytes,
        table: RoutingTable,
        providers: ProviderRecords,
        descriptors: SignedRecords,
        whereabouts: SignedRecords,
        randomness: Callable[[int], bytes],
    ) -> None:
        self.addresses: tuple[bytes, ...] = ()
        self.provided: frozenset[bytes] = frozenset()
        self.envelope = b""
        self._own = own
        self._own_key = descriptor_key(PeerId(own))
        self._table = table
        self._providers = providers
        self._signed = (descriptors, whereabouts)
        self._randomness = randomness

    def answer(self, request: KadMessage, peer: bytes, address: str, now: float) -> KadMessage | None:
        """The answer to ``peer`` at the IP ``address``; None: it expects none.  RemoteProtocolError: refused."""
        match request.type:
            case MessageType.PING:
                return KadMessage(MessageType.PING)
            case MessageType.FIND_NODE:
                return KadMessage(MessageType.FIND_NODE, closer=self._closer(request.key, peer, address))
            case MessageType.ADD_PROVIDER:
                self._providers.add(request.key, peer, address, request.providers, now)
                return None
            case MessageType.GET_PROVIDERS:
                answer = self._answer(request, peer, address)
                return replace(answer, providers=self._provide(request.key, address, now))
            case MessageType.PUT_VALUE:
                if request.record is None:
                    raise RemoteProtocolError("PUT_VALUE without a record", "kad")
                self._put(request.record, address, now)
                return KadMessage(MessageType.PUT_VALUE, request.key, request.record)
            case MessageType.GET_VALUE:
                return replace(self._answer(request, peer, address), record=self._value(request.key, now))

    def _answer(self, request: KadMessage, peer: bytes, address: str) -> KadMessage:
        return KadMessage(request.type, request.key, closer=self._closer(request.key, peer, address))

    def _closer(self, key: bytes, asker: bytes, address: str) -> tuple[KadPeer, ...]:
        """Those nearest to ``key`` that ``asker`` can reach, without itself; us too when it is us that are wanted."""
        hearer = scope_of(address)
        closest = self._table.closest(keyspace(key), K, exclude=(asker,))
        told = [KadPeer(one.peer, to_tell(one.addresses, hearer)) for one in closest]
        if key == self._own:
            told.insert(0, KadPeer(self._own, to_tell(self.addresses, hearer)))
        return tuple(one for one in told if one.addresses)

    def _provide(self, key: bytes, address: str, now: float) -> tuple[KadPeer, ...]:
        hearer = scope_of(address)
        found = self._providers.find(key, PROVIDERS, now, self._randomness)
        told = [KadPeer(one.id, to_tell(one.addresses, hearer)) for one in found]
        if key in self.provided:
            told.insert(0, KadPeer(self._own, to_tell(self.addresses, hearer)))
        return tuple(told)

    def _value(self, key: bytes, now: float) -> KadRecord | None:
        if key == self._own_key and self.envelope:
            return KadRecord(key, self.envelope, rfc3339(now))
        for records in self._signed:
            try:
                found = records.find(key, now)
            except RemoteProtocolError:
                continue  # of another kind: we may have none, but know who is nearer
            return None if found is None else KadRecord(key, found[0], rfc3339(found[1]))
        return None

    def _put(self, record: KadRecord, address: str, now: float) -> None:
        descriptors, whereabouts = self._signed
        (whereabouts if is_whereabouts(record.key) else descriptors).put(record, address, now)


class IdleStreams:
    """Which streams were let go because others need their place; see the module."""

    def __init__(self) -> None:
        self._idle: FairShare[tuple[str, int]] = FairShare()
        self._rates = KeyedBuckets(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE, MAX_RATE_KEYS)

    def __len__(self) -> int:
        return len(self._idle)

    def may_ask(self, address: str, kind: MessageType, now: float) -> bool:
        """Whether the household of the IP ``address`` keeps to its rate if it asks that now."""
        cost = PUT_COST if kind is MessageType.PUT_VALUE else 1.0
        return self._rates.take(household(address), now, cost)

    def answered(self, forwarder: str, stream: int, address: str) -> tuple[str, int] | None:
        """The stream waits for its next request; the one to be reset for it, if any."""
        home = household(address)
        self._idle.add((forwarder, stream), (home,))
        victim = None
        if self._idle.under((home,)) > MAX_IDLE_OF_HOUSEHOLD:
            victim = self._idle.oldest((home,))
        elif len(self._idle) > MAX_IDLE:
            victim = self._idle.oldest()
        if victim is not None:
            self._idle.remove(victim)
        return victim

    def over(self, forwarder: str, stream: int) -> None:
        self._idle.remove((forwarder, stream))

    def lost(self, forwarder: str) -> None:
        """All of its streams are over."""
        for item in [item for item in self._idle if item[0] == forwarder]:
            self._idle.remove(item)
