"""Ping: 32 bytes there, the same 32 bytes back, as often as wanted on one stream.

Source: https://github.com/libp2p/specs/blob/master/ping/ping.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.machine import Machine

PROTOCOL: Final = "/ipfs/ping/1.0.0"
SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class Pinged:
    """The peer was answered, ``count`` times."""

    count: int


@dataclass(frozen=True, slots=True)
class Ponged:
    """Our ping came back."""


class PingResponder(Machine[Pinged]):
    """Sends back whole payloads; keeps at most 31 bytes of the next."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        super().__init__()
        self._partial = b""

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        received = self._partial + bytes(data)
        whole = len(received) - len(received) % SIZE
        self._partial = received[whole:]
        if whole:
            self._output += received[:whole]
            self._events.append(Pinged(whole // SIZE))

    def _receive_eof(self) -> None:
        if self._partial:
            raise RemoteProtocolError("the stream ended within a ping", "closed")


class Pinger(Machine[Ponged]):
    """Asks: one payload of 32 random bytes at a time."""

    __slots__ = ("_expected", "_received")

    def __init__(self) -> None:
        super().__init__()
        self._expected = b""
        self._received = b""

    def ping(self, payload: bytes) -> None:
        """Send 32 bytes.  LocalProtocolError for another number, or while an answer is awaited."""
        if len(payload) != SIZE or self._expected:
            raise LocalProtocolError(f"a ping is {SIZE} bytes, one at a time")
        self._expected = payload
        self._output += payload

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        received = self._received + bytes(data)
        if not self._expected[: len(received)] == received[:SIZE] or len(received) > SIZE:
            raise RemoteProtocolError("the answer to a ping is not what was sent", "ping")
        if len(received) < SIZE:
            self._received = received
            return
        self._received = self._expected = b""
        self._events.append(Ponged())
