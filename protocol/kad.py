"""Kademlia's messages: one protobuf asks, one answers; a stream may carry many, one after the other.

    FIND_NODE key                   ->  <-  closer peers
    GET_PROVIDERS key               ->  <-  providers, closer peers
    ADD_PROVIDER key, providers     ->      (no answer)
    GET_VALUE key                   ->  <-  record, closer peers
    PUT_VALUE key, record           ->  <-  the same back
    PING                            ->  <-  the same back

A request that is refused has its stream reset: the protocol has no word for it.  Whatever is read is bounded here, so
nobody behind this file meets more peers, addresses or bytes than its constants say.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "RPC messages".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.multiaddr_form import is_multiaddr
from protocol.proto import kad_pb2
from protocol.wire import parse

#: Other implementations' network, and this one's.
PUBLIC_PROTOCOL: Final = "/ipfs/kad/1.0.0"
PROTOCOL: Final = "/descord/kad/1.0.0"

#: Bytes of a message that is read.  go reads 4 MiB and sends as many providers as fit.  Twenty closer peers are some
#: 5 kB as they come, and 100 kB with every address that is taken; five hundred providers fit beside the former.
MAX_RECEIVED: Final = 128 * 1024

#: Bytes of a request that is read.  The largest that are honest carry a record, or one provider's addresses.
MAX_REQUEST: Final = 16 * 1024

#: Bytes of a message that is sent: rust-libp2p reads no more unless told to.
MAX_SENT: Final = 16 * 1024

#: Bytes of a key: go's limit for provider keys.  Ours are 34 and at most 78.
MAX_KEY: Final = 80

#: Bytes of a value: a descriptor of many addresses is about 1 KiB.
MAX_VALUE: Final = 4096

#: Closer peers that are taken of one answer: k, with room for the peer that was asked for, and for a larger k.
MAX_CLOSER: Final = 32

#: Providers that are taken of one answer: more than a search asks.
MAX_PROVIDERS: Final = 256

#: Addresses of one peer that are taken, or sent.
MAX_ADDRESSES: Final = 16

#: Bytes of a record's time: RFC 3339 with nanoseconds is 35.
MAX_TIME: Final = 64


class MessageType(IntEnum):
    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class KadPeer:
    """``id``: a valid peer id.  ``addresses``: binary multiaddrs, of a form that is known."""

    id: bytes
    addresses: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class KadRecord:
    """``received``: when whoever sends it got it, RFC 3339, "" when it does not say."""

    key: bytes
    value: bytes
    received: str = ""


@dataclass(frozen=True, slots=True)
class KadMessage:
    """``left_out``: peers and addresses that were malformed or too many, when it was read."""

    type: MessageType
    key: bytes = b""
    record: KadRecord | None = None
    closer: tuple[KadPeer, ...] = ()
    providers: tuple[KadPeer, ...] = ()
    left_out: int = 0


_KEYED: Final = frozenset(MessageType) - {MessageType.PING}


def encode(message: KadMessage) -> bytes:
    """The message, without its length in front, at most 16 KiB: closer peers first, then the providers that fit.

    LocalProtocolError when its key or record alone is too large.
    """
    if len(message.key) > MAX_KEY:
        raise LocalProtocolError(f"a key of {len(message.key)} bytes")
    encoded = kad_pb2.Message(type=int(message.type), key=message.key, cluster_level_raw=1)
    if message.record is not None:
        if len(message.record.value) > MAX_VALUE:
            raise LocalProtocolError(f"a value of {len(message.record.value)} bytes")
        record = encoded.record
        record.key, record.value = message.record.key, message.record.value
        record.time_received = message.record.received.encode()
    room = _add_peers(encoded.closer_peers, message.closer, MAX_SENT - encoded.ByteSize())
    _add_peers(encoded.provider_peers, message.providers, room)
    return encoded.SerializeToString()


def _add_peers(field: object, peers: Sequence[KadPeer], room: int) -> int:
    """Those of ``peers`` that fit into ``room`` bytes; what is left of it."""
    for peer in peers:
        encoded = kad_pb2.Peer(id=peer.id, addrs=peer.addresses[:MAX_ADDRESSES])
        size = encoded.ByteSize() + 4  # its tag and its length
        if size > room:
            break
        room -= size
        field.append(encoded)  # type: ignore[attr-defined]
    return room


def decode_request(payload: bytes) -> KadMessage:
    """What a peer asks.  RemoteProtocolError when it is malformed, too large, or lacks what its type needs."""
    message = _decode(payload, MAX_REQUEST)
    if message.type in _KEYED and not message.key:
        raise RemoteProtocolError(f"{message.type.name} without a key", "kad")
    if message.type is MessageType.PUT_VALUE:
        if message.record is None:
            raise RemoteProtocolError("PUT_VALUE without a record", "kad")
        if message.record.key != message.key:
            raise RemoteProtocolError("PUT_VALUE with the record of another key", "kad")
    return message


def decode_answer(payload: bytes, request: KadMessage) -> KadMessage:
    """What a peer answers to ``request``.  RemoteProtocolError when it is malformed, too large, of another type, or
    about another key."""
    message = _decode(payload, MAX_RECEIVED)
    if message.type is not request.type:
        raise RemoteProtocolError(f"{message.type.name} in answer to {request.type.name}", "kad")
    if message.key and message.key != request.key:  # FIND_NODE is answered without
        raise RemoteProtocolError("an answer about another key", "kad")
    if message.record is not None and message.record.key != request.key:
        raise RemoteProtocolError("an answer with the record of another key", "kad")
    return message


def _decode(payload: bytes, limit: int) -> KadMessage:
    if len(payload) > limit:
        raise RemoteProtocolError(f"a Kademlia message of {len(payload)} bytes, at most {limit}", "oversized")
    message = parse(kad_pb2.Message(), payload, "a Kademlia message", "kad")
    try:
        kind = MessageType(message.type)
    except ValueError:
        raise RemoteProtocolError(f"a Kademlia message of type {message.type}", "kad") from None
    if len(message.key) > MAX_KEY:
        raise RemoteProtocolError(f"a key of {len(message.key)} bytes, at most {MAX_KEY}", "oversized")
    closer, left_out = _peers(message.closer_peers, MAX_CLOSER)
    providers, more = _peers(message.provider_peers, MAX_PROVIDERS)
    record = _record(message.record) if message.HasField("record") else None
    if record is not None and not record.key and not record.value:
        record = None  # js sends an empty one for none
    return KadMessage(kind, message.key, record, closer, providers, left_out + more)


def _record(record: kad_pb2.Record) -> KadRecord:
    if len(record.key) > MAX_KEY or len(record.value) > MAX_VALUE or len(record.time_received) > MAX_TIME:
        raise RemoteProtocolError("a record that is too large", "oversized")
    return KadRecord(record.key, record.value, record.time_received.decode(errors="replace"))


def _peers(field: Iterable[kad_pb2.Peer], limit: int) -> tuple[tuple[KadPeer, ...], int]:
    """(the first ``limit`` that are well-formed and told once, how much was left out)."""
    found: dict[bytes, KadPeer] = {}
    left_out = 0
    for looked_at, peer in enumerate(field):
        if looked_at >= 2 * limit:
            left_out += 1
            break
        if len(found) >= limit or peer.id in found:
            left_out += 1
            continue
        try:
            PeerId(peer.id)
        except RemoteProtocolError:
            left_out += 1
            continue
        addresses, fewer = well_formed(peer.addrs)
        left_out += fewer
        found[peer.id] = KadPeer(peer.id, addresses)
    return tuple(found.values()), left_out


def well_formed(addresses: Iterable[bytes]) -> tuple[tuple[bytes, ...], int]:
    """(the first 16 that are multiaddrs, each once, how many were left out)."""
    taken: dict[bytes, None] = {}
    left_out = 0
    for looked_at, address in enumerate(addresses):
        if looked_at >= 2 * MAX_ADDRESSES:
            left_out += 1
            break
        if len(taken) < MAX_ADDRESSES and is_multiaddr(address):
            taken[address] = None
        else:
            left_out += 1
    return tuple(taken), left_out


def rfc3339(when: float) -> str:
    """Unix time as text in UTC: go and js stamp records so, and js cannot store one that is not stamped."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
