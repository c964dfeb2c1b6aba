"""Signed envelopes, peer records and vouchers."""

from __future__ import annotations

import pytest

from protocol import envelope
from protocol.envelope import PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, VOUCHER_DOMAIN, VOUCHER_TYPE
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.proto import envelope_pb2

ALICE, BOB = Identity.from_seed(bytes(32)), Identity.from_seed(b"\1" * 32)


def test_a_peer_record_comes_back() -> None:
    record = envelope.open_peer_record(envelope.seal_peer_record(ALICE, 7, (b"one", b"two")))
    assert record == envelope.PeerRecord(ALICE.peer_id, 7, (b"one", b"two"))


def test_a_voucher_comes_back() -> None:
    voucher = envelope.open_voucher(envelope.seal_voucher(ALICE, BOB.peer_id, 1_800_000_000))
    assert voucher == envelope.Voucher(ALICE.peer_id, BOB.peer_id, 1_800_000_000)


def test_every_byte_counts() -> None:
    sealed = envelope.seal_voucher(ALICE, BOB.peer_id, 1)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(RemoteProtocolError):
            envelope.open_voucher(bytes(changed))
    for end in range(len(sealed)):
        with pytest.raises(RemoteProtocolError):
            envelope.open_voucher(sealed[:end])


def test_an_envelope_is_good_for_its_domain_and_type_only() -> None:
    sealed = envelope.seal(ALICE, "domain", b"\x09", b"payload")
    assert envelope.open_envelope(sealed, "domain", b"\x09") == (ALICE.public_key, b"payload")
    for domain, kind in (("other", b"\x09"), ("domain", b"\x08"), ("", b"\x09")):
        with pytest.raises(RemoteProtocolError):
            envelope.open_envelope(sealed, domain, kind)
    with pytest.raises(RemoteProtocolError):
        envelope.open_peer_record(envelope.seal_voucher(ALICE, BOB.peer_id, 1))


def test_nobody_signs_for_another() -> None:
    record = envelope_pb2.PeerRecord(peer_id=BOB.peer_id.bytes, seq=1).SerializeToString()
    with pytest.raises(RemoteProtocolError, match="another peer"):
        envelope.open_peer_record(envelope.seal(ALICE, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, record))
    voucher = envelope_pb2.Voucher(relay=BOB.peer_id.bytes, peer=ALICE.peer_id.bytes, expiration=1)
    with pytest.raises(RemoteProtocolError, match="another peer"):
        envelope.open_voucher(envelope.seal(ALICE, VOUCHER_DOMAIN, VOUCHER_TYPE, voucher.SerializeToString()))


def test_envelopes_are_bounded() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        envelope.open_voucher(bytes(envelope.MAX_ENVELOPE + 1))
    assert raised.value.code == "oversized"
