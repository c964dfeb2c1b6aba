"""Receipts: what each step says, who may sign, and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import receipts
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.receipts import KEPT, OFFER, SHOWN, Receipt
from tests.support.peers import seeded

RELAY, CLIENT, OTHER = (Identity.from_seed(seeded(name)) for name in ("relay", "client", "other"))


def receipt(**more: int) -> Receipt:
    values = {"window": 500_000, "worked": 1, "failed": 0, "sent": 3, "received": 0, **more}
    return Receipt(RELAY.peer_id.bytes, CLIENT.peer_id.bytes, **values)


@pytest.mark.parametrize(
    ("size", "step"),
    [(0, 0), (1, 1), (65_536, 1), (65_537, 2), (131_072, 2), (131_073, 3), (2**40, 25), (2**62, 47)],
)
def test_sizes_are_told_in_steps(size: int, step: int) -> None:
    assert receipts.step(size) == step
    assert receipts.least(step) < size or not size


@given(st.integers(0, 2**60))
def test_a_step_is_above_half_of_what_it_may_be(size: int) -> None:
    step = receipts.step(size)
    assert receipts.least(step) <= size <= max(2 * receipts.least(step), receipts.STEP)


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_a_relay_may_say_what_we_counted_or_less(told: int, counted: int) -> None:
    agrees = receipts.agrees(receipts.step(told), counted)
    assert agrees or told > counted + counted // 16
    assert not agrees or told <= 2 * (counted + max(counted // 16, receipts.STEP))


def test_counts_are_told_in_steps_too() -> None:
    assert [receipts.step(count, 1) for count in (0, 1, 2, 3, 4, 5, 9)] == [0, 1, 2, 3, 3, 4, 5]


def test_each_party_signs_its_own_types() -> None:
    said = receipt()
    assert receipts.open_receipt(receipts.sign(said, RELAY, OFFER), OFFER) == said
    for kind in (SHOWN, KEPT):
        signed = receipts.sign(said, CLIENT, kind)
        assert receipts.open_receipt(signed, kind) == said
        assert len(signed) < 350
        for other in {SHOWN, KEPT, OFFER} - {kind}:
            with pytest.raises(RemoteProtocolError, match="type"):
                receipts.open_receipt(signed, other)
        for forger in (RELAY, OTHER):
            with pytest.raises(RemoteProtocolError, match="another peer"):
                receipts.open_receipt(receipts.sign(said, forger, kind), kind)
    with pytest.raises(RemoteProtocolError, match="another peer"):
        receipts.open_receipt(receipts.sign(said, CLIENT, OFFER), OFFER)


def test_what_is_refused() -> None:
    itself = msgspec.structs.replace(receipt(), client=RELAY.peer_id.bytes)
    with pytest.raises(RemoteProtocolError, match="itself"):
        receipts.open_receipt(receipts.sign(itself, RELAY, SHOWN), SHOWN)
    with pytest.raises(RemoteProtocolError, match="bytes, at most"):
        receipts.open_receipt(bytes(receipts.MAX_ENVELOPE + 1), SHOWN)
    with pytest.raises(RemoteProtocolError):
        receipts.open_receipt(receipts.sign(receipt(sent=99), CLIENT, SHOWN), SHOWN)
    signed = bytearray(receipts.sign(receipt(), CLIENT, SHOWN))
    signed[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        receipts.open_receipt(bytes(signed), SHOWN)


@pytest.mark.parametrize(
    "message",
    [
        receipts.ReceiptAsked(),
        receipts.ReceiptOffered(b"envelope"),
        receipts.NothingToSign(),
        receipts.ReceiptSigned(b"envelope"),
        receipts.ReceiptsShown((b"a",) * receipts.MAX_SHOWN),
        receipts.StandingTold(1.5, 1_800_000_000),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_come_back(message: receipts.ReceiptMessage) -> None:
    assert receipts.decode(receipts.encode(message)) == message


def test_messages_are_bounded() -> None:
    for bad in (
        receipts.encode(receipts.ReceiptsShown((b"a",) * (receipts.MAX_SHOWN + 1))),
        receipts.encode(receipts.ReceiptSigned(bytes(receipts.MAX_ENVELOPE + 1))),
        receipts.encode(receipts.StandingTold(2.1, 1)),
        bytes(receipts.MAX_MESSAGE + 1),
        b"",
    ):
        with pytest.raises(RemoteProtocolError):
            receipts.decode(bad)
    fullest = receipts.ReceiptsShown((bytes(receipts.MAX_ENVELOPE),) * receipts.MAX_SHOWN)
    assert receipts.decode(receipts.encode(fullest)) == fullest
