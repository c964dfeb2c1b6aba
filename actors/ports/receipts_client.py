"""What a peer says to the relays that it uses, of what they carried and of whose it is (protocol/receipts.py).

    a circuit ends     a moment ─► ReceiptAsked ─► ReceiptOffered ─► as we counted? ─► ReceiptSigned
    a relay is to be used   the pass of our own relay ─► PassShown ─► StandingTold: we are served as it would be

Of circuits through one relay alone: a receipt, and a pass, tie this peer id to the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from actors.newest import keep_newest
from actors.ports.attempts import unless_closed
from actors.ports.connections import ClientError, PeerConnection, StreamError
from protocol import receipts
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId
from protocol.receipts import (
    NothingToSign,
    PassShown,
    ReceiptAsked,
    ReceiptMessage,
    ReceiptOffered,
    ReceiptSigned,
    StandingTold,
)
from protocol.wire import FrameReader, frame

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds after a circuit's end until its relay is asked: others end with it, and the relay has to hear of it.
SETTLE_AFTER: Final = 2.0

#: Seconds until a relay that had heard of nothing is asked again, and how often in all.
AGAIN: Final = 0.2
TRIES: Final = 5

#: Seconds for a relay's answers; the pass holds up what it is shown for.
TIMEOUT: Final = 10.0
PASS_TIMEOUT: Final = 3.0

#: Seconds that receipts have when the peer is closed.
LAST_WORDS: Final = 2.0

#: Relays whose answer to a pass is remembered.
MAX_SHOWN: Final = 256


@dataclass(frozen=True, slots=True)
class OwnPass:
    """``envelope``, ``receipts``: as of PassShown."""

    envelope: bytes
    receipts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnRelay:
    """The relay of whoever this peer talks for.  ``give_pass``: None: it gives none.  ``spent``: told of bytes that
    other relays carried for us."""

    give_pass: Callable[[], Awaitable[OwnPass | None]]
    spent: Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class _Used:
    """Of a relay: what was counted since it was asked last."""

    circuits: int = 0
    sent: int = 0
    received: int = 0


class ReceiptsClient:
    """``consent``: the setting ``receipts``: off, kept or shown."""

    def __init__(self, identity: Identity, consent: str, own: OwnRelay | None = None) -> None:
        self._identity = identity
        self._consent = consent
        self._own = own
        self._pass: OwnPass | None = None
        self._pass_until = 0.0
        self._asking = asyncio.Lock()
        self._used: dict[PeerConnection, _Used] = {}
        self._settling: dict[PeerConnection, asyncio.Task[None]] = {}
        self._spent = 0
        self._spending: asyncio.Task[None] | None = None
        self._showing: dict[PeerId, asyncio.Task[None]] = {}
        self._closed = False
        #: By relay: until when nothing is shown to it, monotonic seconds.
        self._shown: dict[PeerId, float] = {}

    def used(self, relay: PeerConnection, sent: int, received: int) -> None:
        """A circuit through ``relay``, which is connected directly, has ended; bytes each way."""
        if self._closed:
            return
        self._spent += sent + received
        if self._own is not None and self._spending is None:
            self._spending = asyncio.get_running_loop().create_task(self._spend(self._own, SETTLE_AFTER))
        if self._consent == "off" or relay.ended:
            return
        used = self._used.setdefault(relay, _Used())
        used.circuits += 1
        used.sent += sent
        used.received += received
        if relay not in self._settling:
            self._begin(relay, SETTLE_AFTER)

    async def before_use(self, relay: PeerConnection) -> None:
        """Show it the pass, if there is one and it was not shown of late.  A relay that takes none is used as it is."""
        if self._own is None or self._shown.get(relay.peer, 0.0) > time.monotonic():
            return
        task = self._showing.get(relay.peer)
        if task is None:
            task = self._showing[relay.peer] = asyncio.get_running_loop().create_task(self._show(relay, self._own))
            task.add_done_callback(lambda _: self._showing.pop(relay.peer, None))
        await unless_closed(task, "the peer was closed while it dialled")

    async def _show(self, relay: PeerConnection, own: OwnRelay) -> None:
        now = time.monotonic()
        async with self._asking:
            if self._pass_until <= now:
                self._pass = await _quietly(own.give_pass())
                self._pass_until = now + (receipts.PASS_LIFE / 2 if self._pass is not None else receipts.WINDOW)
        until = 0.0
        if self._pass is not None:
            with contextlib.suppress(ClientError, RemoteProtocolError, TimeoutError):
                async with asyncio.timeout(PASS_TIMEOUT):
                    told = await _one_answer(relay, PassShown(self._pass.envelope, self._pass.receipts))
                    until = told.until - time.time() if isinstance(told, StandingTold) else 0.0
            log.info("%s serves this peer %s", relay.peer, "as its owner's relay" if until > 0 else "as anybody")
        quiet_until = min(now + max(until, receipts.WINDOW), self._pass_until)
        keep_newest(self._shown, relay.peer, quiet_until, MAX_SHOWN)

    async def close(self) -> None:
        """Ask now for what is left; the relays have a moment."""
        self._closed = True
        waiting = [*self._settling.values(), *self._showing.values()]
        if self._spending is not None:
            waiting.append(self._spending)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        left = [asyncio.ensure_future(self._settle(relay, 0.0)) for relay in self._used]
        if self._own is not None and self._spent:
            left.append(asyncio.ensure_future(self._spend(self._own, 0.0)))
        if left:
            _, late = await asyncio.wait(left, timeout=LAST_WORDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _spend(self, own: OwnRelay, after: float) -> None:
        """Tell our own relay what others carried; once in a while, however many circuits have ended."""
        try:
            await asyncio.sleep(after)
            spent, self._spent = self._spent, 0
            await _quietly(own.spent(spent))
        finally:
            self._spending = None

    def _begin(self, relay: PeerConnection, after: float) -> None:
        def over(_: asyncio.Task[None]) -> None:
            del self._settling[relay]
            if relay in self._used and not self._closed:  # a circuit ended meanwhile
                self._begin(relay, SETTLE_AFTER)

        task = self._settling[relay] = asyncio.get_running_loop().create_task(self._settle(relay, after))
        task.add_done_callback(over)

    async def _settle(self, relay: PeerConnection, after: float) -> None:
        await asyncio.sleep(after)
        used = self._used.pop(relay, None)
        for _ in range(TRIES):
            if used is None or not relay.usable:
                return
            try:
                async with asyncio.timeout(TIMEOUT):
                    if await self._sign(relay, used):
                        return
            except (ClientError, RemoteProtocolError, TimeoutError) as error:
                log.debug("no receipt for %s: %s", relay.peer, error)
                return
            await asyncio.sleep(AGAIN)

    async def _sign(self, relay: PeerConnection, used: _Used) -> bool:
        """Whether there was something to sign.  StreamError: it makes no receipts; RemoteProtocolError: this one is
        wrong."""
        async with _Talk(relay, ReceiptAsked()) as talk:
            told = await talk.answer()
            if isinstance(told, NothingToSign):
                return False
            if not isinstance(told, ReceiptOffered):
                raise RemoteProtocolError("something else than a receipt", "order")
            receipt = receipts.open_receipt(told.envelope, receipts.OFFER)
            receipts.check_offer(
                receipt, relay.peer.bytes, self._identity.peer_id.bytes, time.time(),
                circuits=used.circuits, sent=used.sent, received=used.received,
            )  # fmt: skip
            kind = receipts.SHOWN if self._consent == "shown" else receipts.KEPT
            await talk.say(ReceiptSigned(receipts.sign(receipt, self._identity, kind)))
            await talk.end()
        return True


async def _quietly(asked: Awaitable[T]) -> T | None:
    """Our own relay's answer, which is not waited for long; None: there is none."""
    try:
        async with asyncio.timeout(PASS_TIMEOUT):
            return await asked
    except (ClientError, TimeoutError):
        return None


async def _one_answer(relay: PeerConnection, message: ReceiptMessage) -> ReceiptMessage:
    async with _Talk(relay, message) as talk:
        return await talk.answer()


class _Talk:
    """A stream of receipts, on which ``message`` is said first; reset at the end."""

    def __init__(self, relay: PeerConnection, message: ReceiptMessage) -> None:
        self._relay = relay
        self._first = message
        self._reader = FrameReader(receipts.MAX_MESSAGE)

    async def __aenter__(self) -> _Talk:
        self._stream = await self._relay.open(receipts.PROTOCOL, padded=False)
        try:
            await self.say(self._first)
        except BaseException:
            self._stream.reset()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stream.reset()

    async def say(self, message: ReceiptMessage) -> None:
        await self._stream.write(frame(receipts.encode(message)))

    async def answer(self) -> ReceiptMessage:
        """The next message.  StreamError, RemoteProtocolError."""
        while (payload := self._reader.next_frame()) is None:
            data = await self._stream.read()
            if not data:
                raise StreamError(f"{self._relay.peer} gave no answer")
            self._reader.receive_data(data)
        return receipts.decode(payload)

    async def end(self) -> None:
        """Until the other has taken it, and ends the stream."""
        await self._stream.finish()
        while await self._stream.read():
            pass
