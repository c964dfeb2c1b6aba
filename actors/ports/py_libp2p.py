"""What py-libp2p's swarm holds: a connection of ours through a relay, and the streams on it, asked from trio.

They are of the kind that py-libp2p calls natively multiplexed, as its QUIC ones are: who is at the other end was
proved by our Noise within the circuit, from one end to the other, and our yamux carries the streams.  On each of them
py-libp2p agrees on a protocol itself, and answers identify itself.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

from actors.ports.connections import CHUNK, ClientError, PeerConnection, PeerStream, StreamError
from actors.ports.trio_bridge import AsyncioThread, BridgeClosed

#: Streams that a peer has opened and py-libp2p has not accepted yet; one more is reset.  As many as a go-libp2p peer
#: leaves unacknowledged.
STREAM_BACKLOG: Final = 256


class CircuitStream(IMuxedStream):
    """One stream.  One task may read while another writes."""

    def __init__(self, connection: CircuitConnection, thread: AsyncioThread, stream: PeerStream) -> None:
        self.muxed_conn = connection
        self._thread = thread
        self._stream = stream
        #: Received and not read yet, at most CHUNK: multistream-select reads its lengths byte by byte.
        self._ahead = b""
        self._finished = self._closed = False
        self._patience: float = float("inf")

    async def read(self, n: int | None = None) -> bytes:
        """At most ``n`` bytes; with None or -1 all until the peer finishes.  MuxedStreamEOF, MuxedStreamReset, and
        MuxedStreamClosed once this side has closed it."""
        if n is None or n < 0:
            parts = bytearray()
            while True:
                try:
                    parts += await self.read(CHUNK)
                except MuxedStreamEOF:
                    return bytes(parts)
        if n == 0:
            return b""
        if not self._ahead:
            if self._closed:
                raise MuxedStreamClosed("this side has closed the stream")
            with trio.fail_after(self._patience):
                self._ahead = await self._ask(self._stream.read, CHUNK)
            if not self._ahead:
                raise MuxedStreamEOF("the peer has finished")
        data, self._ahead = self._ahead[:n], self._ahead[n:]
        return data

    async def write(self, data: bytes) -> None:
        """Send; returns when the peer's window and the socket took it.  MuxedStreamClosed, MuxedStreamReset."""
        if self._finished:
            raise MuxedStreamClosed("this side has finished the stream")
        with trio.fail_after(self._patience):
            await self._ask(self._stream.write, bytes(data))

    async def close_write(self) -> None:
        """Write no more; what the peer sends is read on."""
        if not self._finished:
            self._finished = True
            await self._ask(self._stream.finish)

    async def close(self) -> None:
        """Write no more and read no more."""
        if self._closed:
            return
        self._closed, self._ahead = True, b""
        finish = not self._finished
        self._finished = True

        async def close() -> None:
            if finish:
                await self._stream.finish()
            self._stream.abandon()

        with trio.CancelScope(shield=True):  # it does not wait for the peer
            await self._ask(close)

    async def reset(self) -> None:
        self._closed = self._finished = True

        async def reset() -> None:
            self._stream.reset()

        with trio.CancelScope(shield=True):
            await self._ask(reset)

    def set_deadline(self, ttl: int) -> None:
        """Seconds in which each read and each write must be done; else trio.TooSlowError.  ValueError."""
        if ttl < 0:
            raise ValueError(f"a deadline lies ahead, not {-ttl} s ago")
        self._patience = float(ttl)

    def get_remote_address(self) -> None:
        """Nobody knows: that is what the relay is for."""

    async def __aenter__(self) -> CircuitStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, function: Any, *arguments: object) -> Any:
        try:
            return await self._thread.call(function, *arguments)
        except (StreamError, BridgeClosed) as error:
            raise MuxedStreamReset(str(error)) from error


class CircuitConnection(IMuxedConn):
    """See the module.  ``event_started`` and what py-libp2p sets (on_close, remove_stream) belong to its swarm."""

    def __init__(self, thread: AsyncioThread, connection: PeerConnection) -> None:
        self.peer_id = ID(connection.peer.bytes)
        self.event_started = trio.Event()
        self._thread = thread
        self._connection = connection
        self._opened: asyncio.Queue[PeerStream] = asyncio.Queue(STREAM_BACKLOG)
        self._closed = False

    negotiated_security_protocol: Final = "/noise"
    negotiated_muxer_protocol: Final = "/yamux/1.0.0"

    def take(self, stream: PeerStream) -> None:
        """A stream that the peer opened; said in the loop's thread."""
        try:
            self._opened.put_nowait(stream)
        except asyncio.QueueFull:
            stream.reset()

    @property
    def is_initiator(self) -> bool:
        return not self._connection.link.inbound

    @property
    def is_established(self) -> bool:
        return not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self._closed or bool(self._connection.ended)

    async def start(self) -> None:
        self.event_started.set()

    async def open_stream(self) -> CircuitStream:
        """MuxedConnUnavailable, with the reason."""

        async def open_bare() -> PeerStream:
            return self._connection.open_bare()

        try:
            return CircuitStream(self, self._thread, await self._thread.call(open_bare))
        except (ClientError, BridgeClosed) as error:
            raise MuxedConnUnavailable(str(error)) from error

    async def accept_stream(self) -> CircuitStream:
        """The next that the peer opens.  MuxedConnUnavailable when there will be none."""
        try:
            return CircuitStream(self, self._thread, await self._thread.call(self._next))
        except (ClientError, BridgeClosed) as error:
            self._closed = True
            raise MuxedConnUnavailable(str(error)) from error

    async def _next(self) -> PeerStream:
        ended = asyncio.ensure_future(self._connection.wait_ended())
        opened = asyncio.ensure_future(self._opened.get())
        try:
            await asyncio.wait((ended, opened), return_when=asyncio.FIRST_COMPLETED)
            if opened.done():
                return opened.result()
            raise StreamError(f"the connection to {self._connection.peer} is over: {self._connection.ended}")
        finally:
            for waiting in (ended, opened):
                waiting.cancel()

    async def wait_ended(self) -> None:
        """Until the connection is over."""
        try:
            await self._thread.call(self._connection.wait_ended)
        except BridgeClosed:
            pass

    async def close(self) -> None:
        """Say good-bye."""
        self._closed = True
        try:
            with trio.CancelScope(shield=True):  # it does not wait for the peer
                await self._thread.call(self._connection.close)
        except BridgeClosed:
            pass

    def get_remote_address(self) -> None:
        """Nobody knows."""

    @property
    def relay(self) -> ID:
        """The relay between."""
        assert self._connection.relay is not None, "made for connections through a relay alone"
        return ID(self._connection.relay.bytes)

    def get_transport_addresses(self) -> list[Multiaddr]:
        """None is told.  py-libp2p's identify would send it to the peer as where it was observed, and js-libp2p takes
        an address without an IP there for an error."""
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.RELAYED
