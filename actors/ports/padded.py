"""Padded streams (protocol/padding.py): what they carry is read and written as on any other.

The one who opened the stream and the one who serves it agree within it what it is for.  A stream that is reset is not
filled up: its total shows.  Nothing here falls back to a stream without padding: who cannot is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from actors.circuit_client import CircuitClient
from actors.ports.connections import CHUNK, ClientError, PeerConnection, PeerStream, StreamError
from protocol import ping
from protocol.errors import RemoteProtocolError
from protocol.multistream import Dialer, Listener, Negotiated
from protocol.padding import PROTOCOL, Padder, Unpadder

Handler = Callable[[PeerConnection, PeerStream], Awaitable[None]]


class PaddedStream(PeerStream):
    """``stream``, which is for padding, from its first byte on; it is not to be used itself any more."""

    def __init__(self, stream: PeerStream) -> None:
        super().__init__(stream._client, stream._view)
        self._agreed = PROTOCOL
        self._padder = Padder()
        self._unpadder = Unpadder()
        self._data: deque[bytes] = deque()
        self._writing = asyncio.Lock()
        self._finished = False

    @property
    def protocol(self) -> str:
        return self._agreed

    async def read(self, most: int = CHUNK) -> bytes:
        while not self._data:
            sealed = await super().read(CHUNK)
            if sealed:
                self._unpadder.receive_data(sealed)
            else:
                self._unpadder.receive_eof()
            try:
                while (event := self._unpadder.next_event()) is not None:
                    self._data.append(event.data)
            except RemoteProtocolError as error:
                self._view.fail(str(error))
                self.reset()
                if not self._data:
                    raise StreamError(str(error)) from error
            if not sealed:
                return b""
        data = self._data.popleft()
        if len(data) > most:
            self._data.appendleft(data[most:])
            data = data[:most]
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        async with self._writing:
            if self._finished:
                raise StreamError("the stream was finished: nothing more can be written")
            view = memoryview(data)
            for start in range(0, len(view), CHUNK):
                # What one read of a program's gives goes on in one turn, though it be a frame and a small one: half the
                # writes, here and at the relay.
                await self._send(b"".join(self._padder.frames(view[start : start + CHUNK])))

    async def _send(self, frames: bytes) -> None:
        """Wait, then send all of it at once: who is cancelled leaves no part of a frame.  StreamError."""
        stream = self._view.stream
        while True:
            self._check()
            if stream.fin_sent or stream.fin_after_held:
                raise StreamError("the stream was finished: nothing more can be written")
            if CircuitClient.takes(self._view):
                break
            await self._change()
        stream.session.send(stream, frames)
        self._padder.total += len(frames)
        self._client.turn()

    async def finish(self) -> None:
        """Also waits until what fills the stream up is on its way.  Given up meanwhile, it can be asked for again."""
        async with self._writing:
            if self._finished:
                return
            with contextlib.suppress(StreamError):  # it is gone: there is nothing to hide any more
                for frame in self._padder.filling():
                    await self._send(frame)
            self._finished = True
            await super().finish()

    def abandon(self) -> None:
        self._data.clear()
        super().abandon()

    async def propose(self, protocols: Sequence[str], within: float) -> None:
        """Agree with who serves the stream on one of ``protocols``, within so many seconds.  StreamError."""
        event = await self._negotiate(Dialer(protocols), within)
        if not isinstance(event, Negotiated):
            raise StreamError(f"the peer speaks none of {', '.join(protocols)} on a padded stream")
        self._agreed = event.protocol

    async def accept(self, protocols: Mapping[str, object], within: float) -> None:
        """Agree with who opened the stream on one of ``protocols``, within so many seconds.  StreamError."""
        self._agreed = cast(Negotiated, await self._negotiate(Listener(protocols), within)).protocol

    async def _negotiate(self, machine: Any, within: float) -> object:
        try:
            async with asyncio.timeout(within):
                while True:
                    event = machine.next_event()
                    if output := machine.data_to_send():
                        await self.write(output)
                    if event is not None:
                        if trailing := machine.trailing_data():
                            self._data.appendleft(trailing)
                        return event
                    data = await self.read()
                    if not data:
                        raise StreamError("the peer finished a padded stream before it was agreed what it is for")
                    machine.receive_data(data)
        except TimeoutError:
            raise StreamError(f"no answer on a padded stream within {within:g} s") from None
        except RemoteProtocolError as error:
            raise StreamError(str(error)) from error


async def open_padded(connection: PeerConnection, protocols: Sequence[str], within: float) -> PaddedStream:
    """A padded stream for the first of ``protocols`` that the peer speaks on one.  StreamError."""
    try:
        stream = PaddedStream(await connection.open(PROTOCOL, padded=False))
    except ClientError as error:
        raise StreamError(f"padding was asked for, and nothing is sent without it: {error}") from error
    try:
        await stream.propose(protocols, within)
    except BaseException:
        stream.reset()
        raise
    return stream


def serve_padded(handlers: Mapping[str, Handler], within: float) -> Handler:
    """What is done with a stream for :data:`PROTOCOL`: ``handlers`` serve what is agreed within it, and pings."""
    served = {ping.PROTOCOL: _answer_pings, **handlers}

    async def serve(connection: PeerConnection, outer: PeerStream) -> None:
        stream = PaddedStream(outer)
        await stream.accept(served, within)
        await served[stream.protocol](connection, stream)
        await stream.finish()

    return serve


async def _answer_pings(_: PeerConnection, stream: PeerStream) -> None:
    machine = ping.PingResponder()
    while data := await stream.read():
        machine.receive_data(data)
        while machine.next_event() is not None:
            pass
        await stream.write(machine.data_to_send())
