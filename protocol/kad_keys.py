"""Where things are in Kademlia's keyspace, and the keys of what this network stores in it.

    keyspace        SHA-256 of a peer id's or a key's bytes; distance is XOR, as numbers
    provider key    the multihash (not the CID) of what is provided: SHA-256 of the name for a name
    descriptor key  /relays/available/PEER, the peer id in base58
    whereabouts key /relays/whereabouts/PEER

A name is provided under CIDv1(raw, SHA-256 of the name): so do go-libp2p's RoutingDiscovery (nsToCid in
p2p/discovery/routing) and whoever makes that CID for js-libp2p's contentRouting.  In ADD_PROVIDER and GET_PROVIDERS the
key is the CID's multihash (go: Provide and FindProviders send ``c.Hash()``; js: ``key.multihash.bytes``).

go and js check a value's key by its namespace, the part between the first two slashes (go-libp2p-record SplitKey, js
record/validators): without a leading slash there is none.  A server that has no validator for ``relays`` refuses
PUT_VALUE by resetting that stream, and answers GET_VALUE with closer peers; nothing else happens.  The peer id is text
because both make text of the key, which binary bytes would not survive.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md ("Distance", "Content provider advertisement",
"Value storage and retrieval").
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId

#: What relays provide.
RELAYS: Final = "relays/available"

#: Bits of the keyspace.
BITS: Final = 256

_DESCRIPTORS: Final = b"/" + RELAYS.encode() + b"/"
_WHEREABOUTS: Final = b"/relays/whereabouts/"


@lru_cache(maxsize=8192)  # 0.7 us otherwise; a few hundred peers come again in nearly every answer
def keyspace(data: bytes) -> int:
    """Where a peer id or a key lies: 0 to 2**256 - 1.  The distance of two is their XOR."""
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


def common_prefix(one: int, other: int) -> int:
    """How many leading bits two places share, 0 to 256."""
    return BITS - (one ^ other).bit_length()


def provider_key(name: str) -> bytes:
    """The multihash under which ``name`` is provided."""
    return b"\x12\x20" + hashlib.sha256(name.encode()).digest()


def provider_cid(name: str) -> bytes:
    """The CIDv1 (raw) of that multihash, which discovery interfaces of other implementations take."""
    return b"\x01\x55" + provider_key(name)


def descriptor_key(peer: PeerId) -> bytes:
    """The key of ``peer``'s signed relay descriptor: at most 78 bytes."""
    return _DESCRIPTORS + str(peer).encode()


def descriptor_peer(key: bytes) -> PeerId:
    """Whose descriptor is stored under ``key``; RemoteProtocolError (``foreign``) when it is no such key."""
    return _peer_of(key, _DESCRIPTORS, "a relay's descriptor")


def whereabouts_key(peer: PeerId) -> bytes:
    """The key of ``peer``'s signed whereabouts (protocol/whereabouts.py): at most 80 bytes."""
    return _WHEREABOUTS + str(peer).encode()


def whereabouts_peer(key: bytes) -> PeerId:
    """Whose whereabouts are stored under ``key``; RemoteProtocolError (``foreign``) when it is no such key."""
    return _peer_of(key, _WHEREABOUTS, "a peer's whereabouts")


def is_whereabouts(key: bytes) -> bool:
    """Whether it is meant as a key of whereabouts."""
    return key.startswith(_WHEREABOUTS)


def _peer_of(key: bytes, prefix: bytes, what: str) -> PeerId:
    if not key.startswith(prefix):
        raise RemoteProtocolError(f"a key of something else than {what}", "foreign")
    try:
        peer = PeerId.parse(key[len(prefix) :].decode("ascii"))
    except ValueError as error:
        raise RemoteProtocolError(f"a key of {what} without a peer id: {error}", "foreign") from error
    if prefix + str(peer).encode() != key:
        raise RemoteProtocolError(f"a key of {what} that is not in its one form", "foreign")
    return peer
