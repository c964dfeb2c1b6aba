"""Signed envelopes, and the two things this node puts in them: peer records and reservation vouchers.

Source: https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md, RFC/0003-routing-records.md,
relay/circuit-v2.md ("Reservation Vouchers").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId, PublicKey
from protocol.proto import envelope_pb2
from protocol.wire import encode_uvarint, parse

PEER_RECORD_DOMAIN: Final = "libp2p-peer-record"
PEER_RECORD_TYPE: Final = b"\x03\x01"
VOUCHER_DOMAIN: Final = "libp2p-relay-rsvp"
VOUCHER_TYPE: Final = b"\x03\x02"

#: Bytes of an envelope that is opened: nothing that libp2p puts in one comes near it.
MAX_ENVELOPE: Final = 16 * 1024


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """ "domain, payload type and payload, each preceded by its length as an unsigned varint"."""
    parts = (domain.encode(), payload_type, payload)
    return b"".join(encode_uvarint(len(part)) + part for part in parts)


def seal(identity: Identity, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """``payload`` in an envelope signed by ``identity`` for ``domain``."""
    return envelope_pb2.Envelope(
        public_key=identity.public_key.encode(),
        payload_type=payload_type,
        payload=payload,
        signature=identity.sign(_signed_bytes(domain, payload_type, payload)),
    ).SerializeToString()


def open_envelope(data: bytes, domain: str, payload_type: bytes) -> tuple[PublicKey, bytes]:
    """(the signer, the payload).  RemoteProtocolError when it is no envelope, of another type, or not signed for
    ``domain``."""
    if len(data) > MAX_ENVELOPE:
        raise RemoteProtocolError(f"an envelope of {len(data)} bytes, at most {MAX_ENVELOPE}", "oversized")
    message = parse(envelope_pb2.Envelope(), data, "an envelope", "envelope")
    if message.payload_type != payload_type:
        raise RemoteProtocolError(f"an envelope of type {message.payload_type.hex()}", "envelope")
    signer = PublicKey.decode(message.public_key)
    if not signer.verify(_signed_bytes(domain, payload_type, message.payload), message.signature):
        raise RemoteProtocolError("the signature of an envelope is wrong", "envelope")
    return signer, message.payload


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The addresses (binary multiaddrs) that ``peer`` says it has; a higher ``sequence`` replaces a lower."""

    peer: PeerId
    sequence: int
    addresses: tuple[bytes, ...]


def seal_peer_record(identity: Identity, sequence: int, addresses: Sequence[bytes]) -> bytes:
    """Our own signed peer record."""
    record = envelope_pb2.PeerRecord(
        peer_id=identity.peer_id.bytes,
        seq=sequence,
        addresses=[envelope_pb2.PeerRecord.AddressInfo(multiaddr=address) for address in addresses],
    )
    return seal(identity, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, record.SerializeToString())


def open_peer_record(data: bytes) -> PeerRecord:
    """A peer's; RemoteProtocolError unless it is signed by the peer that it is about."""
    signer, payload = open_envelope(data, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE)
    record = parse(envelope_pb2.PeerRecord(), payload, "a peer record", "envelope")
    peer = PeerId(record.peer_id)
    if signer.peer_id != peer:
        raise RemoteProtocolError("a peer record signed by another peer", "envelope")
    return PeerRecord(peer, record.seq, tuple(entry.multiaddr for entry in record.addresses))


@dataclass(frozen=True, slots=True)
class Voucher:
    """``relay`` promised ``peer`` to relay for it until ``expires_at`` (Unix time, seconds)."""

    relay: PeerId
    peer: PeerId
    expires_at: int


def seal_voucher(identity: Identity, peer: PeerId, expires_at: int) -> bytes:
    """Our promise to relay for ``peer`` until ``expires_at`` (Unix time, seconds)."""
    voucher = envelope_pb2.Voucher(relay=identity.peer_id.bytes, peer=peer.bytes, expiration=expires_at)
    return seal(identity, VOUCHER_DOMAIN, VOUCHER_TYPE, voucher.SerializeToString())


def open_voucher(data: bytes) -> Voucher:
    """A relay's promise; RemoteProtocolError unless it is signed by that relay."""
    signer, payload = open_envelope(data, VOUCHER_DOMAIN, VOUCHER_TYPE)
    message = parse(envelope_pb2.Voucher(), payload, "a voucher", "envelope")
    relay = PeerId(message.relay)
    if signer.peer_id != relay:
        raise RemoteProtocolError("a voucher signed by another peer than its relay", "envelope")
    return Voucher(relay, PeerId(message.peer), message.expiration)
