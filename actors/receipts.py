"""Receipts of this node: those that peers sign for it, those that it signs, and those that are shown to it.

    a peer asks     ReceiptAsked ─► ServedWanted to RelayServer ─► ReceiptOffered ─► ReceiptSigned ─► kept
    we used one     CircuitUsed, a moment ─► ReceiptAsked ─► ReceiptOffered ─► as we counted? ─► ReceiptSigned
    we want a slot  PriorityWanted ─► ReceiptsShown ─► StandingTold ─► PriorityTold
    a relay shows   ReceiptsShown ─► those of witnesses that we know ─► vouching.py ─► StandingTold
    its owner does  PassShown ─► whose pass, and the same ─► StandingTold; RelayServer is told

A part of ReputationTracker (actors/reputation_tracker.py).  Whatever a peer does wrong ends its stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.actor import Send
from actors.newest import keep_newest
from actors.rate_limit import KeyedBuckets
from actors.receipt_rows import ReceiptRows
from actors.reservations import household
from actors.vouching import WORD_LIFE, Vouchers
from protocol import receipts
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.receipts import (
    NothingToSign,
    Pass,
    PassShown,
    Receipt,
    ReceiptAsked,
    ReceiptOffered,
    ReceiptSigned,
    ReceiptsShown,
    StandingTold,
)
from protocol.reputation_messages import (
    CircuitUsed,
    PassTold,
    PassWanted,
    PriorityTold,
    PriorityWanted,
    Served,
    ServedWanted,
)
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted

#: Requests a second of one household, and how many at once.  A peer has one for each burst of its circuits.
RATE: Final = 0.5
AT_ONCE: Final = 20.0

#: The same for showing, which costs a signature to be verified for each receipt: one in ten minutes says all.
SHOW_RATE: Final = 1 / 600
SHOW_AT_ONCE: Final = 4.0

#: Households whose rate is remembered.
MAX_RATE_KEYS: Final = 8192

#: Peers whose receipts are under way.
MAX_SETTLING: Final = 256

#: Relays that we used and have not settled with, and our own questions under way.
MAX_USED: Final = 256
MAX_QUESTIONS: Final = 256

#: Seconds after a circuit's end until the relay is asked: others end with it, and the relay has to hear of it.
SETTLE_AFTER: Final = 2.0

#: Seconds after which it is asked again, and how often in all.
RETRY: Final = 30.0
TRIES: Final = 3

#: Seconds for a relay's answer.
TIMEOUT: Final = 10.0

#: Peers that one relay may give passes to, who are served as it would be: its owner's devices.  In all: as operators.
MAX_HOLDERS: Final = 4
MAX_PASSES: Final = 4096

_Stream = tuple[str, int]


@dataclass(slots=True)
class _Used:
    """Of a relay: what we counted.  ``at``: when it is asked.  ``forwarder``: as in CircuitUsed."""

    at: float
    addresses: tuple[bytes, ...]
    forwarder: str
    tries: int = 0
    worked: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0

    def add(self, worked: int, failed: int, sent: int, received: int) -> None:
        self.worked += worked
        self.failed += failed
        self.sent += sent
        self.received += received


@dataclass(frozen=True, slots=True)
class _Question:
    """Of ours, to ``relay``, over ``forwarder``: about what we ``used``, or what is ``wanted``."""

    relay: bytes
    forwarder: str
    used: _Used | None = None
    wanted: PriorityWanted | None = None


@dataclass(slots=True)
class _Settling:
    """``offer``: what the peer is to sign; "": RelayServer has not said."""

    peer: bytes
    offer: bytes = b""
    receipt: Receipt | None = None


class Receipts:
    """``name``: of the actor it is part of.  ``consent``: the setting ``receipts``.  ``own(peer, now)``: how much of a
    relay was seen, 0 to 1.  ``until(peer)``: Unix time to which it is served as an operator.

    ``sends``: to be taken.  ``counts``: of what came, by kind.  ``confirmed``: bytes that peers have signed for,
    ``raised``: relays whose standing may have changed, since they were taken."""

    def __init__(
        self,
        name: str,
        identity: Identity,
        relay_server: str,
        consent: str,
        rows: ReceiptRows,
        own: Callable[[bytes, float], float],
        until: Callable[[bytes], float],
    ) -> None:
        self.sends: list[Send] = []
        self.counts: Counter[str] = Counter()
        self.confirmed = 0
        self.raised: list[bytes] = []
        #: By who has it, the newest last: the pass, and until when its holder counts as one of its relay's.
        self.passes: dict[bytes, tuple[Pass, float]] = {}
        self.vouchers = Vouchers(own)
        self.rows = rows
        self._name = name
        self._identity = identity
        self._own_id = identity.peer_id.bytes
        self._relay_server = relay_server
        self._consent = consent
        self._own = own
        self._until = until
        self._forwarders: list[str] = []
        self._number = 0
        self._settling: dict[_Stream, _Settling] = {}
        self._asked_server: dict[int, _Stream] = {}
        self._used: dict[bytes, _Used] = {}
        self._questions: dict[int, _Question] = {}
        self._rate = KeyedBuckets(RATE, AT_ONCE, MAX_RATE_KEYS)
        self._show_rate = KeyedBuckets(SHOW_RATE, SHOW_AT_ONCE, MAX_RATE_KEYS)

    # Forwarders.

    def forwarder_ready(self, forwarder: str) -> None:
        if forwarder not in self._forwarders:
            self._forwarders.append(forwarder)

    def forwarder_lost(self, forwarder: str, now: float) -> None:
        """Its streams are over."""
        if forwarder in self._forwarders:
            self._forwarders.remove(forwarder)
        for stream in [stream for stream in self._settling if stream[0] == forwarder]:
            self._forget(stream)
        for number in [number for number, one in self._questions.items() if one.forwarder == forwarder]:
            self._failed(self._questions.pop(number), f"{forwarder} fell", now)

    # What peers say on streams.

    def message(self, message: StreamMessage, now: float) -> None:
        stream = (message.forwarder, message.stream)
        try:
            said = receipts.decode(message.payload)
            if message.request_id:
                self._answered(message, said, now)
            else:
                self._asked(stream, message, said, now)
        except RemoteProtocolError as error:
            self.counts[f"refused: {error.code}"] += 1
            self._forget(stream)
            if (question := self._questions.pop(message.request_id, None)) is not None and question.wanted is not None:
                self._answer(question.wanted, problem=str(error))
            self._say(stream, None, reset=True)

    def over(self, message: StreamOver, now: float) -> None:
        self._forget((message.forwarder, message.stream))
        if (question := self._questions.pop(message.request_id, None)) is None:
            return
        if message.code == "protocol" and question.used is not None:
            return  # it makes none
        self._failed(question, message.reason or message.code, now)

    def _failed(self, question: _Question, reason: str, now: float) -> None:
        """There was no answer."""
        if question.wanted is not None:
            self._answer(question.wanted, problem=reason)
        elif question.used is not None:
            self._again(question.relay, question.used, now)

    def _asked(self, stream: _Stream, message: StreamMessage, said: receipts.ReceiptMessage, now: float) -> None:
        """On a stream that the peer has opened."""
        match said:
            case ReceiptAsked() if stream not in self._settling:
                if len(self._settling) >= MAX_SETTLING or not self._rate.take(household(message.address), now):
                    raise RemoteProtocolError("too many receipts at a time", "rate")
                self._settling[stream] = _Settling(message.peer)
                self._number += 1
                self._asked_server[self._number] = stream
                self.sends.append(Send(self._relay_server, ServedWanted(self._number, message.peer)))
            case ReceiptSigned(envelope=envelope) if stream in self._settling and self._settling[stream].offer:
                self._take(self._settling.pop(stream), envelope, now)
                self._say(stream, None, finish=True)
            case ReceiptsShown(envelopes=envelopes):
                if not self._show_rate.take(household(message.address), now):
                    raise RemoteProtocolError("receipts are shown too often", "rate")
                self._look(message.peer, envelopes, now)
                self._tell_standing(stream, message.peer, self._until(message.peer), now)
            case PassShown(envelope=envelope, receipts=envelopes):
                if not self._show_rate.take(household(message.address), now):
                    raise RemoteProtocolError("passes are shown too often", "rate")
                given = receipts.open_pass(envelope, message.peer, now)
                self._admit(given, now)
                self._look(given.relay, envelopes, now)
                self.raised.append(given.holder)
                self._tell_standing(stream, given.relay, min(self._until(given.relay), given.until), now)
            case _:
                raise RemoteProtocolError("a message that is not due", "order")

    def _tell_standing(self, stream: _Stream, relay: bytes, until: float, now: float) -> None:
        told = StandingTold(self.vouchers.standing(relay, now), int(until) if until > now else 0)
        self._say(stream, receipts.encode(told), finish=True)

    def _admit(self, given: Pass, now: float) -> None:
        """RemoteProtocolError when its relay has given as many as it may.  Each counts for a day, however short the
        time for which it holds: or a relay would give them to one after the other."""
        self.passes = {holder: one for holder, one in self.passes.items() if one[1] > now}
        same = {holder for holder, (one, _) in self.passes.items() if one.relay == given.relay}
        others = len(same - {given.holder})
        if others >= MAX_HOLDERS:
            raise RemoteProtocolError(f"{MAX_HOLDERS} others have a pass of that relay", "passes")
        keep_newest(self.passes, given.holder, (given, now + receipts.PASS_LIFE), MAX_PASSES)

    # This node as the relay.

    def served(self, served: Served, now: float) -> None:
        """RelayServer's answer."""
        stream = self._asked_server.pop(served.request_id, None)
        settling = self._settling.get(stream) if stream is not None else None
        if stream is None or settling is None:
            return
        if not (served.worked or served.failed):
            del self._settling[stream]
            self._say(stream, receipts.encode(NothingToSign()), finish=True)
            return
        receipt = Receipt(
            self._own_id, settling.peer, int(now // receipts.WINDOW),
            receipts.step(served.worked, 1), receipts.step(served.failed, 1),
            receipts.step(served.sent), receipts.step(served.received),
        )  # fmt: skip
        settling.receipt = receipt
        settling.offer = receipts.sign(receipt, self._identity, receipts.OFFER)
        self._say(stream, receipts.encode(ReceiptOffered(settling.offer)))

    def relay_server_lost(self) -> None:
        """It will not answer what it was asked, and has forgotten what it knew."""
        for stream in self._asked_server.values():
            if self._settling.pop(stream, None) is not None:
                self._say(stream, receipts.encode(NothingToSign()), finish=True)
        self._asked_server.clear()

    def _take(self, settling: _Settling, envelope: bytes, now: float) -> None:
        """RemoteProtocolError unless it is the receipt that was offered, signed by the peer."""
        kind = receipts.SHOWN
        try:
            receipt = receipts.open_receipt(envelope, kind)
        except RemoteProtocolError:
            kind = receipts.KEPT
            receipt = receipts.open_receipt(envelope, kind)
        if receipt != settling.receipt:
            raise RemoteProtocolError("another receipt than was offered", "forged")
        self.counts["taken"] += 1
        self.confirmed += receipts.least(receipt.sent) + receipts.least(receipt.received)
        self.rows.put(settling.offer, envelope, receipt, now, shown=kind == receipts.SHOWN)

    # This node as the one that used a relay.

    def used(self, used: CircuitUsed, now: float) -> None:
        if self._consent == "off":
            return
        one = self._used.get(used.relay)
        if one is None:
            if len(self._used) >= MAX_USED:
                self.counts["forgotten"] += 1
                return
            one = self._used[used.relay] = _Used(now + SETTLE_AFTER, used.addresses, used.forwarder)
        one.add(not used.failed, used.failed, used.sent, used.received)

    def next_deadline(self) -> float | None:
        return min((one.at for one in self._used.values()), default=None)

    def handle_deadline(self, now: float) -> None:
        for relay in [relay for relay, one in self._used.items() if one.at <= now]:
            used = self._used.pop(relay)
            used.tries += 1
            if not self._ask(relay, used.addresses, ReceiptAsked(), used=used):
                self._again(relay, used, now)

    def _ask(
        self,
        relay: bytes,
        addresses: tuple[bytes, ...],
        message: receipts.ReceiptMessage,
        *,
        used: _Used | None = None,
        wanted: PriorityWanted | None = None,
    ) -> bool:
        """False: there is no forwarder, or too much is asked already."""
        if not self._forwarders or len(self._questions) >= MAX_QUESTIONS:
            return False
        self._number += 1
        forwarder = self._forwarders[self._number % len(self._forwarders)]
        if used is not None and used.forwarder in self._forwarders:
            forwarder = used.forwarder
        payload = receipts.encode(message)
        asked = StreamWanted(self._number, self._name, relay, addresses, receipts.PROTOCOL, payload, TIMEOUT)
        self._questions[self._number] = _Question(relay, forwarder, used, wanted)
        self.sends.append(Send(forwarder, asked))
        return True

    def _again(self, relay: bytes, used: _Used, now: float) -> None:
        """Ask it later, with what was used meanwhile."""
        if used.tries >= TRIES:
            self.counts["given up"] += 1
            return
        if (since := self._used.get(relay)) is not None:
            used.add(since.worked, since.failed, since.sent, since.received)
        elif len(self._used) >= MAX_USED:
            return
        used.at = now + RETRY
        self._used[relay] = used

    def _answered(self, message: StreamMessage, said: receipts.ReceiptMessage, now: float) -> None:
        """On a stream that we have opened."""
        stream, question = (message.forwarder, message.stream), self._questions.get(message.request_id)
        match said:
            case ReceiptOffered(envelope=envelope) if question is not None and question.used is not None:
                receipt = receipts.open_receipt(envelope, receipts.OFFER)
                self._check(receipt, question.relay, question.used, now)
                kind = receipts.SHOWN if self._consent == "shown" else receipts.KEPT
                signed = ReceiptSigned(receipts.sign(receipt, self._identity, kind))
                self.counts["signed"] += 1
                self._say(stream, receipts.encode(signed), finish=True)
            case NothingToSign() if question is not None and question.used is not None:
                self._again(question.relay, question.used, now)
                self._say(stream, None, finish=True)
            case StandingTold(standing=standing, until=until) if question is not None and question.wanted is not None:
                self._answer(question.wanted, standing, until)
                self._say(stream, None, finish=True)
            case _:
                raise RemoteProtocolError("a message that is not due", "order")
        del self._questions[message.request_id]

    def _check(self, receipt: Receipt, relay: bytes, used: _Used, now: float) -> None:
        """RemoteProtocolError unless it is what we counted."""
        receipts.check_offer(
            receipt, relay, self._own_id, now,
            circuits=used.worked + used.failed, sent=used.sent, received=used.received,
        )  # fmt: skip

    # Priority.

    def give(self, wanted: PassWanted, now: float) -> None:
        """For who talks for this node's owner."""
        envelope = receipts.give_pass(self._identity, wanted.holder, now)
        told = PassTold(wanted.request_id, envelope, tuple(self.rows.to_show(receipts.MAX_SHOWN, now)))
        self.sends.append(Send(wanted.asker, told))

    def show(self, wanted: PriorityWanted, now: float) -> None:
        """Show the newest that may be shown to ``wanted.relay``."""
        envelopes = tuple(self.rows.to_show(receipts.MAX_SHOWN, now))
        if not envelopes:
            self._answer(wanted, problem="no peer has signed a receipt that may be shown")
        elif not self._ask(wanted.relay, wanted.addresses, ReceiptsShown(envelopes), wanted=wanted):
            self._answer(wanted, problem="no forwarder is ready, or too much is asked already")

    def _answer(self, wanted: PriorityWanted, standing: float = 0.0, until: int = 0, problem: str = "") -> None:
        self.sends.append(Send(wanted.asker, PriorityTold(wanted.request_id, standing, until, problem)))

    def _look(self, relay: bytes, envelopes: tuple[bytes, ...], now: float) -> None:
        """What ``relay`` shows.  RemoteProtocolError when a receipt is not as it should be."""
        witnesses: dict[bytes, float] = {}
        for envelope in envelopes:
            receipt = receipts.open_receipt(envelope, receipts.SHOWN)
            at = (receipt.window + 1) * receipts.WINDOW
            if receipt.relay != relay:
                raise RemoteProtocolError("a receipt of another relay", "forged")
            if receipt.worked and now - WORD_LIFE <= at <= now + 2 * receipts.WINDOW and self._own(receipt.client, now):
                witnesses[receipt.client] = max(at, witnesses.get(receipt.client, 0.0))
        self.counts["shown"] += 1
        self.raised.append(relay)
        self.vouchers.vouch(relay, witnesses)

    # Streams.

    def _say(self, stream: _Stream, payload: bytes | None, *, finish: bool = False, reset: bool = False) -> None:
        self.sends.append(Send(stream[0], StreamAnswer(stream[1], payload, finish=finish, reset=reset)))

    def _forget(self, stream: _Stream) -> None:
        self._settling.pop(stream, None)
