"""Signed relay descriptors for tests of what carries them: the least that validation must tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from protocol.codec import decode_untrusted
from protocol.envelope import open_envelope, seal
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId

_DOMAIN, _TYPE = "descord-test-descriptor", b"\x7f"


class _Descriptor(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    expires_at: float
    addresses: tuple[bytes, ...]


@dataclass(frozen=True)
class Validated:
    peer: PeerId
    sequence: int
    expires_at: float
    addresses: tuple[bytes, ...]


def descriptor(identity: Identity, sequence: int, expires_at: float, addresses: Sequence[bytes] = ()) -> bytes:
    payload = msgspec.msgpack.encode(_Descriptor(sequence, expires_at, tuple(addresses)))
    return seal(identity, _DOMAIN, _TYPE, payload)


def validate(envelope: bytes, now: float) -> Validated:
    validated = _open(envelope)
    if validated.expires_at <= now:
        raise RemoteProtocolError("expired", "expired")
    return validated


@lru_cache(maxsize=4096)  # one signature is verified by many simulated nodes
def _open(envelope: bytes) -> Validated:
    signer, payload = open_envelope(envelope, _DOMAIN, _TYPE)
    told = decode_untrusted(payload, _Descriptor, 2048)
    return Validated(signer.peer_id, told.sequence, told.expires_at, told.addresses)
