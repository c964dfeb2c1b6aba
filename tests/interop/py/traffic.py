"""The stream protocols that the peers run over a circuit, both sides.

============= =============================================================================================
push          dialer: u64 big-endian count, that many bytes, half-close; listener: their SHA-256, close
pull          dialer: u64 big-endian count, half-close; listener: that many bytes, their SHA-256, close
halfclose     dialer: bytes, half-close; listener: reads to the end, only then sends them back, close
stall         the listener accepts and never reads
============= =============================================================================================

Bytes are an AES-128-CTR key stream: as fast as the link, and no two transfers alike.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF

PUSH = TProtocol("/descord-interop/push/1.0.0")
PULL = TProtocol("/descord-interop/pull/1.0.0")
HALF_CLOSE = TProtocol("/descord-interop/halfclose/1.0.0")
STALL = TProtocol("/descord-interop/stall/1.0.0")

WRITE_SIZE = 64 * 1024
READ_SIZE = 256 * 1024
HASH_SIZE = 32
COUNT = struct.Struct(">Q")
ENDLESS = 2**52


class ByteSource:
    """Endless pseudo-random bytes of one seed."""

    def __init__(self, seed: object) -> None:
        key = hashlib.sha256(str(seed).encode()).digest()[:16]
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._zeros = memoryview(bytes(WRITE_SIZE))

    def next(self, n: int) -> bytes:
        """The next n bytes, at most WRITE_SIZE."""
        return self._cipher.update(self._zeros[:n])


async def _send_bytes(stream: INetStream, source: ByteSource, n: int) -> bytes:
    digest = hashlib.sha256()
    left = n
    while left > 0:
        piece = source.next(min(left, WRITE_SIZE))
        digest.update(piece)
        await stream.write(piece)
        left -= len(piece)
    return digest.digest()


async def _read_to_end(stream: INetStream, take: Callable[[bytes], object]) -> None:
    """Give all that arrives to `take` until the remote half-closes; a reset raises."""
    while True:
        try:
            piece = await stream.read(READ_SIZE)
        except StreamEOF:
            return
        if not piece:
            return
        take(piece)


async def _collect(stream: INetStream) -> bytes:
    pieces = bytearray()
    await _read_to_end(stream, pieces.extend)
    return bytes(pieces)


async def _half_close(stream: INetStream) -> None:
    # NetStream.close() says "completely", and also means that no more is read: close_write is the half-close.
    await stream.close_write()  # type: ignore[attr-defined]


# Listener side.


async def _answer_push(stream: INetStream) -> None:
    digest = hashlib.sha256()
    header = bytearray()
    received = 0

    def take(piece: bytes) -> None:
        nonlocal received
        missing = COUNT.size - len(header)
        header.extend(piece[:missing])
        body = memoryview(piece)[missing:]
        digest.update(body)
        received += len(body)

    await _read_to_end(stream, take)
    (announced,) = COUNT.unpack(header)
    if received != announced:
        raise ValueError(f"push announced {announced} bytes and sent {received}")
    await stream.write(digest.digest())
    await stream.close()


async def _answer_pull(stream: INetStream) -> None:
    (count,) = COUNT.unpack(await _collect(stream))
    await stream.write(await _send_bytes(stream, ByteSource(f"pull {count}"), count))
    await stream.close()


async def _answer_half_close(stream: INetStream) -> None:
    received = await _collect(stream)
    for at in range(0, len(received), WRITE_SIZE):
        await stream.write(received[at : at + WRITE_SIZE])
    await stream.close()


async def _answer_stall(stream: INetStream) -> None:
    await trio.sleep_forever()


def _guarded(listen: Callable[[INetStream], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
    async def handler(stream: INetStream) -> None:
        try:
            await listen(stream)
        except Exception:
            # An exception that left a handler would end the library's connection, and all streams on it.
            traceback.print_exc(file=sys.stderr)
            await stream.reset()

    return handler


LISTENERS = {
    PUSH: _guarded(_answer_push),
    PULL: _guarded(_answer_pull),
    HALF_CLOSE: _guarded(_answer_half_close),
    STALL: _guarded(_answer_stall),
}


# Dialer side.


async def push(stream: INetStream, count: int, seed: object) -> dict[str, Any]:
    started = time.perf_counter()
    await stream.write(COUNT.pack(count))
    local = await _send_bytes(stream, ByteSource(seed), count)
    await _half_close(stream)
    remote = await _collect(stream)
    await stream.close()
    if len(remote) != HASH_SIZE:
        raise ValueError(f"push of {count} bytes was answered with {len(remote)}: the stream ended early")
    seconds = time.perf_counter() - started
    return {"sha256_local": local.hex(), "sha256_remote": remote.hex(), "seconds": seconds}


async def pull(stream: INetStream, count: int) -> dict[str, Any]:
    started = time.perf_counter()
    digest = hashlib.sha256()
    tail = bytearray()
    received = 0

    def take(piece: bytes) -> None:
        nonlocal received
        body = min(len(piece), max(0, count - received))
        digest.update(memoryview(piece)[:body])
        tail.extend(memoryview(piece)[body:])
        received += len(piece)

    await stream.write(COUNT.pack(count))
    await _half_close(stream)
    await _read_to_end(stream, take)
    await stream.close()
    if received != count + HASH_SIZE:
        raise ValueError(f"pull of {count} bytes gave {received}")
    seconds = time.perf_counter() - started
    return {"sha256_local": digest.hexdigest(), "sha256_remote": tail.hex(), "seconds": seconds}


async def echo_half_close(stream: INetStream, count: int) -> dict[str, Any]:
    source = ByteSource(f"half-close {count}")
    sent = bytearray()
    while len(sent) < count:
        piece = source.next(min(count - len(sent), WRITE_SIZE))
        sent += piece
        await stream.write(piece)
    await _half_close(stream)
    equal = await _collect(stream) == sent
    await stream.close()
    return {"equal": equal}


async def ask(stream: INetStream, data: bytes) -> str:
    """Say `data` by any protocol; what the other end says to it before it ends the stream, in hex."""
    if data:
        await stream.write(data)
    await _half_close(stream)
    said = await _collect(stream)
    await stream.close()
    return said.hex()


async def flood(stream: INetStream) -> dict[str, Any]:
    """Write until the stream or its connection ends; the error is the result, not a failure."""
    source = ByteSource("flood")
    sent = 0
    try:
        await stream.write(COUNT.pack(ENDLESS))
        while True:
            await stream.write(source.next(WRITE_SIZE))
            sent += WRITE_SIZE
    except Exception as error:
        cause = error.__cause__
        return {"sent": sent, "error": f"{type(error).__name__}: {error}" + (f"; {cause}" if cause else "")}


async def stall(stream: INetStream, count: int, quiet: float) -> dict[str, Any]:
    """Write at most `count` bytes to a listener that never reads, until nothing moved for `quiet` seconds."""
    source = ByteSource("stall")
    sent = 0
    while sent < count:
        piece = source.next(min(count - sent, WRITE_SIZE))
        with trio.move_on_after(quiet) as waiting:
            await stream.write(piece)
            sent += len(piece)
        if waiting.cancelled_caught:
            return {"sent": sent, "blocked": True}
    return {"sent": sent, "blocked": False}
