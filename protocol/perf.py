"""Perf: how fast a connection is.  The client says how much it wants, sends, and gets that much back.

    client: u64 big-endian, bytes until it finishes  ->
                                                     <-  server: so many bytes, then it finishes

Neither machine keeps a byte of what it counts.

Source: https://github.com/libp2p/specs/blob/master/perf/perf.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.machine import Machine

PROTOCOL: Final = "/perf/1.0.0"

_COUNT: Final = struct.Struct(">Q")
_ZEROS: Final = memoryview(bytes(64 * 1024))


@dataclass(frozen=True, slots=True)
class UploadFinished:
    """The client sent ``received`` bytes and wants ``wanted`` back."""

    received: int
    wanted: int


@dataclass(frozen=True, slots=True)
class DownloadFinished:
    """All that was wanted came."""

    received: int


class PerfServer(Machine[UploadFinished]):
    """``remaining``: bytes still to be sent; :meth:`produce` makes them as the stream takes them."""

    __slots__ = ("_count", "_header", "remaining")

    def __init__(self) -> None:
        super().__init__()
        self._header = b""
        self._count = 0
        self.remaining = 0

    def produce(self, limit: int) -> memoryview:
        """The next bytes to send, at most ``limit``; they count as sent."""
        size = min(limit, self.remaining, len(_ZEROS))
        self.remaining -= size
        return _ZEROS[:size]

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        missing = _COUNT.size - len(self._header)
        if missing:
            self._header += bytes(data[:missing])
        self._count += max(len(data) - missing, 0)

    def _receive_eof(self) -> None:
        if len(self._header) < _COUNT.size:
            raise RemoteProtocolError("the stream ended before it said how much is wanted", "closed")
        (self.remaining,) = _COUNT.unpack(self._header)
        self._done = True
        self._events.append(UploadFinished(self._count, self.remaining))


class PerfClient(Machine[DownloadFinished]):
    """Wants ``download`` bytes; ``data_to_send`` is the request, behind which the caller sends what it likes."""

    __slots__ = ("_download", "received")

    def __init__(self, download: int) -> None:
        super().__init__()
        self._download = download
        self.received = 0
        self._output = _COUNT.pack(download)

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self.received += len(data)
        if self.received > self._download:
            raise RemoteProtocolError("more came back than was wanted", "perf")

    def _receive_eof(self) -> None:
        if self.received < self._download:
            raise RemoteProtocolError("less came back than was wanted", "closed")
        self._done = True
        self._events.append(DownloadFinished(self.received))
