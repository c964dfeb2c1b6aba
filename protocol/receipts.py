"""Receipts: what a relay carried for a peer, signed by both.

When circuits have ended, the peer that used them asks the relay on a stream of its own; a peer that does not speak this
is never asked for anything.

    peer  -> relay   ReceiptAsked
    relay -> peer    ReceiptOffered, signed by the relay; or NothingToSign
    peer  -> relay   ReceiptSigned: the same receipt, signed by the peer, if its own count agrees

A relay that wants to be served first elsewhere shows what peers have signed, on a stream that it opens:

    relay -> other   ReceiptsShown
    other -> relay   StandingTold

Whoever runs a relay talks as somebody else, who is no relay.  So the relay gives that peer a pass, and the peer shows
it, with the receipts, to the relay that it is about to use:

    peer  -> other   PassShown
    other -> peer    StandingTold: the relay's, and until when the peer is served as the relay would be

A receipt tells who used which relay.  So sizes and counts are in steps of two, time is in hours, and the peer says by
the type under which it signs whether the relay may show it to others (``SHOWN``) or not (``KEPT``): a receipt of the
one type is worth nothing as the other.

Source: ours.  Messages and receipts are msgpack arrays, later versions add at their ends; the envelopes are
https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.codec import decode_untrusted
from protocol.envelope import open_envelope, seal
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity

PROTOCOL: Final = "/descord/receipt/1.0.0"

DOMAIN: Final = "descord-relay-receipt"
OFFER: Final = b"/descord/receipt-offer/1"
SHOWN: Final = b"/descord/receipt-shown/1"
KEPT: Final = b"/descord/receipt-kept/1"
PASS: Final = b"/descord/relay-pass/1"

#: Seconds for which a pass holds.
PASS_LIFE: Final = 24 * 3600

#: Bytes of a pass in its envelope.
MAX_PASS: Final = 1024

#: Seconds of the time that a receipt names.
WINDOW: Final = 3600

#: Bytes of the smallest step of a size.
STEP: Final = 64 * 1024

#: Bytes of a receipt in its envelope.  With Ed25519 keys it is 0.3 kB, with the largest RSA keys 1.5.
MAX_ENVELOPE: Final = 2048

#: Receipts that are shown at a time: so many witnesses as any relay needs to be known by a few, and 32 kB at most.
MAX_SHOWN: Final = 16

#: Bytes of any message.
MAX_MESSAGE: Final = MAX_SHOWN * (MAX_ENVELOPE + 8) + MAX_PASS + 64

_Peer = Annotated[bytes, Meta(min_length=2, max_length=64)]
_Step = Annotated[int, Meta(ge=0, le=48)]
_Envelope = Annotated[bytes, Meta(max_length=MAX_ENVELOPE)]


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """``relay`` carried ``sent`` from and ``received`` to ``client``, in circuits that ended in or before ``window``
    (Unix time in hours): ``worked`` of them well, ``failed`` by an error.  All four in steps (:func:`step`)."""

    relay: _Peer
    client: _Peer
    window: Annotated[int, Meta(ge=0, le=2**40)]
    worked: _Step
    failed: _Step
    sent: _Step
    received: _Step


class ReceiptAsked(msgspec.Struct, frozen=True, array_like=True, tag="asked"):
    """My circuits have ended: what did you carry?"""


class ReceiptOffered(msgspec.Struct, frozen=True, array_like=True, tag="offered"):
    """``envelope``: the receipt, signed by the relay under ``OFFER``."""

    envelope: _Envelope


class NothingToSign(msgspec.Struct, frozen=True, array_like=True, tag="nothing"):
    """No circuit of yours has ended since."""


class ReceiptSigned(msgspec.Struct, frozen=True, array_like=True, tag="signed"):
    """``envelope``: the receipt, signed by the peer under ``SHOWN`` or ``KEPT``."""

    envelope: _Envelope


class ReceiptsShown(msgspec.Struct, frozen=True, array_like=True, tag="shown"):
    """``envelopes``: receipts that peers have signed under ``SHOWN``."""

    envelopes: Annotated[tuple[_Envelope, ...], Meta(max_length=MAX_SHOWN)]


class Pass(msgspec.Struct, frozen=True, array_like=True):
    """``relay`` asks that ``holder`` be served as itself, ``until`` then (Unix time)."""

    relay: _Peer
    holder: _Peer
    until: Annotated[int, Meta(ge=0, le=2**40)]


class PassShown(msgspec.Struct, frozen=True, array_like=True, tag="pass"):
    """``envelope``: a pass for who shows it.  ``receipts``: those of the relay that gave it, as in ReceiptsShown."""

    envelope: Annotated[bytes, Meta(max_length=MAX_PASS)]
    receipts: Annotated[tuple[_Envelope, ...], Meta(max_length=MAX_SHOWN)]


class StandingTold(msgspec.Struct, frozen=True, array_like=True, tag="standing"):
    """``standing``: 0 to 2, of the peer that showed, as actors/vouching.py counts it.  ``until``: Unix time to which it
    is served as an operator, 0: it is not."""

    standing: Annotated[float, Meta(ge=0, le=2)]
    until: Annotated[int, Meta(ge=0, le=2**40)]


ReceiptMessage = (
    ReceiptAsked | ReceiptOffered | NothingToSign | ReceiptSigned | ReceiptsShown | PassShown | StandingTold
)


def encode(message: ReceiptMessage) -> bytes:
    """As it is on the stream, without its length."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes) -> ReceiptMessage:
    """RemoteProtocolError whatever is wrong with it."""
    message: ReceiptMessage = decode_untrusted(data, ReceiptMessage, MAX_MESSAGE)  # type: ignore[arg-type]
    return message


def step(size: int, least: int = STEP) -> int:
    """0 of nothing; else n, when ``size`` is at most ``least`` * 2**(n-1) and more than half of that."""
    return ((size - 1) // least).bit_length() + 1 if size > 0 else 0


def least(number: int) -> int:
    """Bytes that step ``number`` of a size is more than."""
    return STEP << (number - 2) if number > 1 else 0


def agrees(told: int, counted: int) -> bool:
    """Whether a relay may say step ``told`` of what we counted as ``counted`` bytes.  It counts what we had under way
    when it ended, and frames; that it says less, because it forgot, is no reason to say nothing."""
    return told <= step(counted + max(counted // 16, STEP))


def sign(receipt: Receipt, identity: Identity, kind: bytes) -> bytes:
    """An envelope of ``receipt``, of type ``kind``: ``OFFER`` by the relay, ``SHOWN`` or ``KEPT`` by the client."""
    return seal(identity, DOMAIN, kind, msgspec.msgpack.encode(receipt))


def open_receipt(envelope: bytes, kind: bytes) -> Receipt:
    """The receipt in ``envelope``.  RemoteProtocolError when it is none, of another type, or not signed by the one of
    its two parties who signs that type."""
    if len(envelope) > MAX_ENVELOPE:
        raise RemoteProtocolError(f"a receipt of {len(envelope)} bytes, at most {MAX_ENVELOPE}", "oversized")
    signer, payload = open_envelope(envelope, DOMAIN, kind)
    receipt = decode_untrusted(payload, Receipt, MAX_ENVELOPE)
    if signer.peer_id.bytes != (receipt.relay if kind == OFFER else receipt.client):
        raise RemoteProtocolError("a receipt signed by another peer", "forged")
    if receipt.relay == receipt.client:
        raise RemoteProtocolError("a receipt of a relay for itself", "forged")
    return receipt


def check_offer(
    receipt: Receipt, relay: bytes, client: bytes, now: float, *, circuits: int, sent: int, received: int
) -> None:
    """RemoteProtocolError unless ``receipt``, which ``relay`` offers to ``client`` now, is of no more than was counted.
    ``circuits``: that have ended, well or not: what ended well here may have been an error for the relay, which saw the
    other end."""
    window = int(now // WINDOW)
    if (receipt.relay, receipt.client) != (relay, client) or not window - 1 <= receipt.window <= window + 1:
        raise RemoteProtocolError("a receipt of others, or of another time", "forged")
    agree = agrees(receipt.sent, sent) and agrees(receipt.received, received)
    if not agree or receipt.worked > step(circuits, 1):
        raise RemoteProtocolError("a receipt of more than we counted", "amount")


def give_pass(relay: Identity, holder: bytes, now: float) -> bytes:
    """An envelope, for ``holder`` to show."""
    given = Pass(relay.peer_id.bytes, holder, int(now) + PASS_LIFE)
    return seal(relay, DOMAIN, PASS, msgspec.msgpack.encode(given))


def open_pass(envelope: bytes, holder: bytes, now: float) -> Pass:
    """The pass that ``holder`` shows.  RemoteProtocolError when it is none, another's, over, or not signed by its
    relay."""
    if len(envelope) > MAX_PASS:
        raise RemoteProtocolError(f"a pass of {len(envelope)} bytes, at most {MAX_PASS}", "oversized")
    signer, payload = open_envelope(envelope, DOMAIN, PASS)
    given = decode_untrusted(payload, Pass, MAX_PASS)
    if signer.peer_id.bytes != given.relay or given.holder != holder or given.relay == given.holder:
        raise RemoteProtocolError("a pass of another relay, or for another peer", "forged")
    # A clock that is ahead by an hour is a clock; one that is days ahead would make it hold for ever.
    if not now < given.until <= now + PASS_LIFE + WINDOW:
        raise RemoteProtocolError("a pass that is over, or holds for too long", "stale")
    return given
