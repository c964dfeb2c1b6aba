"""What a client's program holds: connections to peers and streams on them, read and written with await."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from typing import TYPE_CHECKING, Final

from actors.circuit_client import CircuitClient
from actors.client_streams import ByteStream
from actors.inbound_streams import QuietOwner
from actors.peer_link import PeerLink, Refusal
from actors.ports.host import random_bytes
from protocol import ping
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identify import IdentifyMessage
from protocol.identity import PeerId
from protocol.relay_hop import Limit

if TYPE_CHECKING:
    from actors.ports.client import Client

#: Bytes handed on in one write: what lies between two looks at whether the peer still reads.  One frame and one Noise
#: message in every connection that they pass: each within another adds 30 bytes, and MAX_BODY leaves room for sixteen.
CHUNK: Final = 64 * 1024 - 512


class ClientError(Exception):
    """What was asked for could not be had; the message says why."""


class DialError(ClientError):
    """No connection to the peer."""


class AddressError(DialError):
    """Text that is no address which can be dialled."""


class RelayRefused(ClientError):
    """A relay refused.  ``refusal`` has its status, reason and when to come back."""

    def __init__(self, message: str, refusal: Refusal) -> None:
        super().__init__(f"{message}: {refusal}")
        self.refusal = refusal


class StreamError(ClientError):
    """The stream is gone: reset, or its connection is over."""


def reason_of(error: BaseException | None) -> str:
    """For a person."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


class PeerStream:
    """One stream.  One task may read while another writes."""

    def __init__(self, client: Client, view: ByteStream) -> None:
        self._client = client
        self._view = view
        self._waiting: set[asyncio.Future[None]] = set()
        view.changed = self._changed

    @property
    def protocol(self) -> str:
        return self._view.protocol

    async def read(self, most: int = CHUNK) -> bytes:
        """Some bytes, at most ``most``; b"" when the peer has finished.  StreamError."""
        view = self._view
        while not view.received:
            if view.ended:
                return b""
            self._check()
            await self._change()
        data = view.take(most)
        self._client.turn()
        return data

    async def read_exactly(self, size: int) -> bytes:
        """``size`` bytes.  StreamError when the stream ends before."""
        parts = []
        while size:
            part = await self.read(size)
            if not part:
                raise StreamError(f"the peer finished {size} bytes too early")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; returns when the peer's window and the socket took it.  StreamError."""
        view = memoryview(data)
        while view:
            self._check()
            if self._view.stream.fin_sent or self._view.stream.fin_after_held:
                raise StreamError("the stream was finished: nothing more can be written")
            if not CircuitClient.takes(self._view):
                await self._change()
                continue
            stream = self._view.stream
            stream.session.send(stream, view[:CHUNK])
            view = view[CHUNK:]
            self._client.turn()

    async def finish(self) -> None:
        """Write no more; the peer reads to the end, and may still answer."""
        stream = self._view.stream
        stream.session.finish(stream)
        self._client.turn()

    def reset(self) -> None:
        """End the stream both ways, now."""
        stream = self._view.stream
        stream.session.reset(stream)
        self._view.fail("this side reset the stream")
        self._client.turn()

    def abandon(self) -> None:
        """Nobody reads any more: what still comes is thrown away, until the peer finishes too."""
        stream = self._view.stream
        stream.session.consume(stream, sum(map(len, self._view.received)))
        stream.owner = QuietOwner(stream)
        self._client.turn()

    def _check(self) -> None:
        if self._view.failure:
            raise StreamError(self._view.failure)

    async def _change(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _changed(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class PeerConnection:
    """A connection to a peer, direct or through a relay."""

    def __init__(self, client: Client, link: PeerLink) -> None:
        self._client = client
        self.link = link
        self._ready = asyncio.Event()
        self._identified = asyncio.Event()
        self._ended = asyncio.Event()
        #: By whether it is padded.
        self._ping_streams: dict[bool, PeerStream] = {}
        self._pinging = asyncio.Lock()
        #: Nothing came here since, at the time of the client's clock.
        self._doubted = -math.inf
        #: Whether it is direct because both ends dialled at the same time (actors/ports/hole_punch.py).
        self.punched = False
        link.changed = self._changed
        self._changed()

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proved by its key."""
        assert self.link.peer is not None, "given out only when its handshake is complete"
        return self.link.peer

    @property
    def relay(self) -> PeerId | None:
        """The relay between; None for a direct connection."""
        return self.link.relay.peer if self.link.relay is not None else None

    @property
    def carried_by(self) -> PeerConnection:
        """The connection to the relay between, of one that has one."""
        assert self.link.relay is not None, "through a relay"
        return self._client.connection_of(self.link.relay)

    @property
    def onion(self) -> bool:
        """Whether it is by Tor."""
        return not self._client.observes

    @property
    def limit(self) -> Limit | None:
        """What the relay said it lets through; None: it named no limit."""
        return self.link.limit

    @property
    def usable(self) -> bool:
        """Whether streams can be opened."""
        return self.link.ready and self.link.connection.last_received > self._doubted

    @property
    def ended(self) -> str:
        """Why it is over; "" while it is not."""
        return self.link.ended

    def now(self) -> float:
        """The time of the client's clock, seconds."""
        return self._client.now()

    def doubt(self, since: float) -> bool:
        """Whether nothing has come since a time of the client's clock, though something was asked.  Then no new stream
        is to be opened here until something comes (:attr:`usable`); the peer is asked for a sign, and so is the relay,
        if nothing came from it either.  What is open stays so: keep-alive is to end it."""
        if self.link.ended or self.link.connection.last_received > since:
            return False
        self._doubted = since
        self._client.core.ask_for_sign(self.link, self._client.now())
        if self.link.relay is not None:
            self._client.connection_of(self.link.relay).doubt(since)
        self._client.turn()
        return True

    async def open(self, *protocols: str, padded: bool | None = None) -> PeerStream:
        """A stream for the first of ``protocols`` that the peer speaks.  ``padded``: in frames of a few sizes
        (protocol/padding.py), and by no other way; None: as all streams of this peer are.  StreamError."""
        if self._client.padded if padded is None else padded:
            from actors.ports.padded import open_padded  # it is made of what is here

            return await open_padded(self, protocols, self._client.core.policy.stream_timeout)
        opened: asyncio.Future[PeerStream] = asyncio.get_running_loop().create_future()

        def succeed(view: ByteStream) -> None:
            stream = PeerStream(self._client, view)
            if opened.done():  # whoever asked has gone
                stream.reset()
            else:
                opened.set_result(stream)

        def fail(reason: str) -> None:
            if not opened.done():
                opened.set_exception(StreamError(f"no stream to {self.link.peer}: {reason}"))

        self._client.core.open(self.link, protocols, succeed, fail, self._client.now())
        self._client.turn()
        try:
            return await opened
        except asyncio.CancelledError:
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                opened.result().reset()  # it came at the same moment
            raise

    def open_bare(self) -> PeerStream:
        """A stream on which the caller agrees on a protocol itself.  StreamError."""
        try:
            view = self._client.core.open_bare(self.link, self._client.now())
        except LocalProtocolError as error:
            raise StreamError(f"no stream to {self.link.peer}: {error}") from error
        self._client.turn()
        return PeerStream(self._client, view)

    async def ping(self, within: float = 10.0, *, padded: bool | None = None) -> float:
        """Seconds for 32 bytes to go there and back.  StreamError, also when they do not within ``within`` seconds."""
        padded = self._client.padded if padded is None else padded
        async with self._pinging:
            try:
                async with asyncio.timeout(within):
                    stream = self._ping_streams.pop(padded, None)  # one that fails is not used again
                    if stream is None:
                        stream = await self.open(ping.PROTOCOL, padded=padded)
                    machine = ping.Pinger()
                    machine.ping(random_bytes(ping.SIZE))
                    started = self._client.now()
                    await stream.write(machine.data_to_send())
                    while machine.next_event() is None:
                        data = await stream.read()
                        if not data:
                            raise StreamError("the peer closed the ping stream")
                        machine.receive_data(data)
                    self._ping_streams[padded] = stream
                    return self._client.now() - started
            except TimeoutError:
                raise StreamError(f"no answer to a ping within {within:g} s") from None
            except RemoteProtocolError as error:
                raise StreamError(str(error)) from error

    async def identify(self, within: float = 10.0) -> IdentifyMessage:
        """What the peer says of itself; none of it is proved.  ClientError when it does not within ``within``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._identified.wait()
        if self.link.identified is None:
            raise ClientError(f"{self.link.peer} did not say who it is: {self.ended or 'no answer'}")
        return self.link.identified

    async def wait_ended(self) -> str:
        """Until the connection is over; returns why."""
        await self._ended.wait()
        return self.ended

    async def close(self) -> None:
        """Say good-bye."""
        self._client.core.close(self.link, self._client.now())
        self._client.turn()

    async def wait_ready(self) -> None:
        """Until the handshake is complete.  DialError.  One who gives up waiting closes the connection."""
        try:
            await self._ready.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        if not self.link.ready:
            raise DialError(self.ended or "the peer is going away")

    def _changed(self) -> None:
        link = self.link
        if link.identified is not None:
            self._identified.set()
        if link.peer is not None:
            self._ready.set()
        if link.ended:
            for event in (self._ready, self._identified, self._ended):
                event.set()
