"""What others have this node keep for them: who provides what, signed relay descriptors and peers' whereabouts.

Anybody may send records, so they are bounded per peer, per key, per IP group and in all.  When there is no room,
whoever takes the most of it loses the oldest (fair_share.py): a flood displaces itself.  A provider is the
authenticated sender and nobody else.  A value is believed for its signature, whoever brings it, and is only ever a
relay's descriptor or a peer's whereabouts.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "Content provider advertisement", "Value
storage".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from actors.fair_share import FairShare
from actors.kad_addresses import group_of, scope_of, to_tell
from actors.record_store import RecordStore
from actors.reservations import household
from protocol.codec import decode_untrusted
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad import MAX_VALUE, KadPeer, KadRecord
from protocol.kad_keys import descriptor_peer

#: First byte of a record's key in the store.
_PROVIDER: Final = b"p"
_DESCRIPTOR: Final = b"d"
WHEREABOUTS: Final = b"w"

#: Bytes of a stored row: 16 addresses of 256 bytes, or a value, and a little.
_MAX_ROW: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class RecordPolicy:
    """``provider_life``, ``address_life``: seconds (the specification's 48 h and 24 h).  ``most_life``: seconds that a
    descriptor is kept, whatever it says.  Counts: ``providers`` and ``descriptors`` in all (at most some 20 MB each),
    ``per_key``: providers of one key (answers hold about a hundred), ``per_peer``: keys of one provider (the share of a
    busy one that lies at one of a thousand nodes), ``per_group``: records that come from one IP group."""

    provider_life: float = 48 * 3600.0
    address_life: float = 24 * 3600.0
    most_life: float = 48 * 3600.0
    providers: int = 16_384
    descriptors: int = 4096
    per_key: int = 1024
    per_peer: int = 256
    per_group: int = 2048


class Validated(Protocol):
    """A signed record whose form and signature are right.  ``expires_at``: Unix time, seconds; ``addresses``: binary
    multiaddrs at which the peer is reached."""

    @property
    def peer(self) -> PeerId: ...

    @property
    def sequence(self) -> int: ...

    @property
    def expires_at(self) -> float: ...

    @property
    def addresses(self) -> Sequence[bytes]: ...


T = TypeVar("T")

#: ``validate(envelope, now)``: RemoteProtocolError when it is no record of its kind that holds now.
Validate = Callable[[bytes, float], Validated]


class _Provider(msgspec.Struct, frozen=True, array_like=True):
    """``origin``: the IP that it was sent from.  ``received``: Unix time, seconds."""

    key: bytes
    peer: bytes
    addresses: tuple[bytes, ...]
    origin: str
    received: float


class ProviderRecords:
    """Who provides which key.  ``store``: where they are kept."""

    __slots__ = ("_all", "_by_key", "_of_key", "_policy", "_store")

    def __init__(self, store: RecordStore, policy: RecordPolicy | None = None) -> None:
        self._store = store
        self._policy = policy or RecordPolicy()
        self._by_key: dict[bytes, dict[bytes, _Provider]] = {}
        self._all: FairShare[tuple[bytes, bytes]] = FairShare()
        self._of_key: FairShare[tuple[bytes, bytes]] = FairShare()

    def __len__(self) -> int:
        return len(self._all)

    def load(self, now: float) -> None:
        """Take what the store has, and delete there what is of no use."""
        for row, value in self._store.load():
            if row[:1] != _PROVIDER:
                continue
            try:
                record = decode_untrusted(value, _Provider, _MAX_ROW)
                lives = 0 <= now - record.received < self._policy.provider_life
                if not lives or row != _row(record.key, record.peer) or len(self._all) >= self._policy.providers:
                    raise RemoteProtocolError("a row that is out of date", "expired")
            except RemoteProtocolError:
                self._store.delete(row)
            else:
                self._insert(record)

    def add(self, key: bytes, sender: bytes, origin: str, told: Sequence[KadPeer], now: float) -> None:
        """``sender``, at the IP ``origin``, says that it provides ``key``.  RemoteProtocolError, by code: ``foreign``
        (it told of others only), ``address`` (of no address that leads to it), ``peer_full``, ``full``."""
        own = next((peer for peer in told if peer.id == sender), None)
        if own is None:
            raise RemoteProtocolError("a provider record that is not about its sender", "foreign")
        addresses = to_tell(own.addresses, scope_of(origin))
        if not addresses:
            raise RemoteProtocolError("a provider record without an address that could lead there", "address")
        policy = self._policy
        record = _Provider(key, sender, addresses, origin, now)
        known = sender in self._by_key.get(key, ())
        if not known and self._all.under((group_of(origin), household(origin), sender)) >= policy.per_peer:
            raise RemoteProtocolError(f"more than {policy.per_peer} keys of one provider", "peer_full")
        self._insert(record)
        # The newcomer too may be the one that goes.
        if self._of_key.under((key,)) > policy.per_key:
            self._evict(self._of_key.oldest((key,)))
        group = group_of(origin)
        if group and self._all.under((group,)) > policy.per_group:
            self._evict(self._all.oldest((group,)))
        if len(self._all) > policy.providers:
            self._evict(self._all.oldest())
        if self._by_key.get(key, {}).get(sender) is not record:
            raise RemoteProtocolError("no room for another record from there", "full")
        self._store.put(_row(key, sender), msgspec.msgpack.encode(record))

    def find(self, key: bytes, count: int, now: float, randomness: Callable[[int], bytes]) -> list[KadPeer]:
        """At most ``count`` providers of ``key``: one of each IP group before a second of any, so that a flood from one
        network does not crowd out the others, and of each the latest first, which is the likeliest to live.  Groups
        come in random order.  Addresses older than their life are left out."""
        groups: dict[str, list[_Provider]] = {}
        for record in self._by_key.get(key, {}).values():
            if now - record.received < self._policy.provider_life:
                groups.setdefault(group_of(record.origin), []).append(record)
        lots = shuffled(list(groups.values()), randomness)
        for lot in lots:
            lot.sort(key=lambda record: record.received)
        found: list[KadPeer] = []
        while lots and len(found) < count:
            for lot in lots:
                record = lot.pop()
                fresh = now - record.received < self._policy.address_life
                found.append(KadPeer(record.peer, record.addresses if fresh else ()))
            lots = [lot for lot in lots if lot]
        return found[:count]

    def expire(self, now: float) -> None:
        """Forget what is older than its life."""
        life = self._policy.provider_life
        old = [(one.key, one.peer) for of in self._by_key.values() for one in of.values() if now - one.received >= life]
        for item in old:
            self._evict(item)

    def _insert(self, record: _Provider) -> None:
        item, group, home = (record.key, record.peer), group_of(record.origin), household(record.origin)
        self._by_key.setdefault(record.key, {})[record.peer] = record
        self._all.add(item, (group, home, record.peer))
        self._of_key.add(item, (record.key, group, home))

    def _evict(self, item: tuple[bytes, bytes] | None) -> None:
        if item is None:
            return
        key, peer = item
        of_key = self._by_key[key]
        del of_key[peer]
        if not of_key:
            del self._by_key[key]
        self._all.remove(item)
        self._of_key.remove(item)
        self._store.delete(_row(key, peer))


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    """``origin``: the IP that it was first sent from.  ``received``: Unix time, seconds."""

    envelope: bytes
    sequence: int
    expires_at: float
    origin: str
    received: float


class SignedRecords:
    """Records of one kind, that peers have signed, by their peer ids.  ``store``: where they are kept.  ``peer_of``:
    whom a key is about.  ``row``: first byte of their keys in the store."""

    __slots__ = ("_all", "_by_peer", "_peer_of", "_policy", "_row", "_store", "_validate")

    def __init__(
        self,
        store: RecordStore,
        validate: Validate,
        policy: RecordPolicy | None = None,
        *,
        peer_of: Callable[[bytes], PeerId] = descriptor_peer,
        row: bytes = _DESCRIPTOR,
    ) -> None:
        self._store = store
        self._peer_of = peer_of
        self._row = row
        self._policy = policy or RecordPolicy()
        self._validate = validate
        self._by_peer: dict[bytes, _Signed] = {}
        self._all: FairShare[bytes] = FairShare()

    def __len__(self) -> int:
        return len(self._by_peer)

    def load(self, now: float) -> None:
        """Take what the store has, and delete there what is of no use."""
        for row, value in self._store.load():
            if row[:1] != self._row:
                continue
            try:
                record = decode_untrusted(value, _Signed, _MAX_ROW)
                validated = self._validate(record.envelope, now)
                lives = now < min(record.expires_at, validated.expires_at)
                named = row == self._row + validated.peer.bytes and record.sequence == validated.sequence
                if not lives or not named or len(self._by_peer) >= self._policy.descriptors:
                    raise RemoteProtocolError("a row that is out of date", "expired")
            except RemoteProtocolError:
                self._store.delete(row)
            else:
                self._insert(validated.peer.bytes, record)

    def put(self, record: KadRecord, origin: str, now: float) -> Validated:
        """Keep ``record``, which came from the IP ``origin``.  RemoteProtocolError, by code: ``foreign`` (none
        of this kind, or another's), ``oversized``, ``expired``, ``stale`` (a later one is known), ``full``, and what
        validation says of one that is forged."""
        peer = self._peer_of(record.key).bytes
        if len(record.value) > MAX_VALUE:
            raise RemoteProtocolError(f"a value of {len(record.value)} bytes", "oversized")
        validated = self._validate(record.value, now)
        if validated.peer.bytes != peer:
            raise RemoteProtocolError("another peer's record", "foreign")
        if validated.expires_at <= now:
            raise RemoteProtocolError("a record that has expired", "expired")
        known = self._by_peer.get(peer)
        if known is not None and known.expires_at > now and record.value != known.envelope:
            if validated.sequence <= known.sequence:
                raise RemoteProtocolError(f"a record before the {known.sequence}th, which is known", "stale")
        elif known is not None and record.value == known.envelope:
            return validated  # whoever brings it again does not make it its own
        expires_at = min(validated.expires_at, now + self._policy.most_life)
        self._insert(peer, _Signed(record.value, validated.sequence, expires_at, origin, now))
        group = group_of(origin)
        if group and self._all.under((group,)) > self._policy.per_group:
            self._evict(self._all.oldest((group,)))
        if len(self._by_peer) > self._policy.descriptors:
            self._evict(self._all.oldest())
        kept = self._by_peer.get(peer)
        if kept is None:
            raise RemoteProtocolError("no room for another record from there", "full")
        self._store.put(self._row + peer, msgspec.msgpack.encode(kept))
        return validated

    def find(self, key: bytes, now: float) -> tuple[bytes, float] | None:
        """(the envelope under ``key``, when it came), None: none that holds.  RemoteProtocolError for a key that is
        of another kind."""
        record = self._by_peer.get(self._peer_of(key).bytes)
        return None if record is None or record.expires_at <= now else (record.envelope, record.received)

    def expire(self, now: float) -> None:
        for peer in [peer for peer, record in self._by_peer.items() if record.expires_at <= now]:
            self._evict(peer)

    def _insert(self, peer: bytes, record: _Signed) -> None:
        self._by_peer[peer] = record
        self._all.add(peer, (group_of(record.origin), household(record.origin)))

    def _evict(self, peer: bytes | None) -> None:
        if peer is not None:
            del self._by_peer[peer]
            self._all.remove(peer)
            self._store.delete(self._row + peer)


def shuffled(items: list[T], randomness: Callable[[int], bytes]) -> list[T]:
    """``items`` in random order."""
    lots = randomness(4 * len(items))
    order = sorted(range(len(items)), key=lambda index: lots[4 * index : 4 * index + 4])
    return [items[index] for index in order]


def _row(key: bytes, peer: bytes) -> bytes:
    return _PROVIDER + bytes((len(key),)) + key + peer
