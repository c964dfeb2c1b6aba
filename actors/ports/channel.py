"""Frames and descriptors between two processes of one node, over a unix stream socket.

    u32 bytes of the frame, u32 descriptors, the frame: one message of actors/ports/handover_frames.py as msgpack

Descriptors travel beside the bytes (SCM_RIGHTS), at most :data:`MAX_DESCRIPTORS` with one write; the kernel keeps their
order and that of the bytes.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from actors.ports.handover_frames import Frame
from protocol.codec import CodecError, decode_untrusted

#: Bytes of a frame: whatever max_backlog_total allows to be unsent, and the state beside it.
MAX_FRAME: Final = 1 << 30

#: Descriptors that Linux takes with one message (SCM_MAX_FD).
MAX_DESCRIPTORS: Final = 253

#: Bytes moved before the loop's other work gets its turn.
TURN: Final = 1 << 20

_HEADER: Final = struct.Struct(">II")
_PIECE: Final = 1 << 18


class ChannelClosed(Exception):
    """The other process is gone, or what it says is no frame."""


class Channel:
    """See the module.  One receives and one sends at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: list[int] = []

    def close(self) -> None:
        """Descriptors that came and were not taken are closed too."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._sock.close()

    async def send(self, frame: Frame, descriptors: Sequence[int] = ()) -> None:
        """The kernel has all of it when this returns.  ChannelClosed when the other end is gone."""
        body = msgspec.msgpack.encode(frame)
        view = memoryview(_HEADER.pack(len(body), len(descriptors)) + body)
        left = list(descriptors)
        while view:
            # While there are more descriptors than one message takes, each message has but one byte.
            piece = view[: 1 if len(left) > MAX_DESCRIPTORS else _PIECE]
            some = array.array("i", left[:MAX_DESCRIPTORS])
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)] if some else []
            try:
                sent = self._sock.sendmsg([piece], beside)
            except (BlockingIOError, InterruptedError):
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
                continue
            except OSError as error:
                raise ChannelClosed(f"the other process is gone: {error.strerror}") from error
            view = view[sent:]
            left = left[MAX_DESCRIPTORS:]

    async def receive(self) -> tuple[Frame, list[int]]:
        """The next frame and its descriptors, which are the caller's.  ChannelClosed."""
        await self._fill(_HEADER.size)
        size, count = _HEADER.unpack_from(self._received)
        if size > MAX_FRAME:
            raise ChannelClosed(f"a frame of {size} bytes")
        await self._fill(_HEADER.size + size)
        if len(self._descriptors) < count:
            raise ChannelClosed(f"{len(self._descriptors)} descriptors came of {count}")
        body = bytes(memoryview(self._received)[_HEADER.size : _HEADER.size + size])
        del self._received[: _HEADER.size + size]
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        try:
            frame: Frame = decode_untrusted(body, Frame, MAX_FRAME)  # type: ignore[arg-type]
        except CodecError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelClosed(f"the other process says what is no frame: {error}") from error
        return frame, descriptors

    def last_words(self) -> list[Frame]:
        """Hear no more: what the other end says from now on it cannot say.  What it said before and nobody heard."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
        frames: list[Frame] = []
        while True:
            step = self.receive().__await__()
            try:
                next(step)  # it would wait: there is nothing more
                step.close()
            except StopIteration as done:
                frames.append(done.value[0])
                continue
            except ChannelClosed:
                pass
            return frames

    async def _fill(self, size: int) -> None:
        turn = 0
        while len(self._received) < size:
            try:
                data, beside, flags, _ = self._sock.recvmsg(
                    _PIECE, socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as error:
                raise ChannelClosed(f"the other process is gone: {error.strerror}") from error
            for level, kind, content in beside:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    some = array.array("i")
                    some.frombytes(content[: len(content) - len(content) % some.itemsize])
                    self._descriptors += some
            if flags & socket.MSG_CTRUNC:
                raise ChannelClosed("descriptors were lost: the limit of open files is reached")
            if not data:
                raise ChannelClosed("the other process is gone")
            self._received += data
            turn += len(data)
            if turn >= TURN:
                turn = 0
                await asyncio.sleep(0)

    async def _ready(self, add: Callable[..., object], remove: Callable[..., object]) -> None:
        ready = self._loop.create_future()

        def set_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        add(self._sock.fileno(), set_ready)
        try:
            await ready
        finally:
            remove(self._sock.fileno())
