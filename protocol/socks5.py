"""SOCKS 5, the server's side: one request for a connection to a name.

    client: version, methods        server: no authentication (0x00)
    client: CONNECT, name, port     server: succeeded, or why not; then the bytes of the connection

Only names are taken: an IP address is nobody's that is reached here, and BIND and UDP have no meaning.

Source: RFC 1928.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError

#: Bytes of a greeting with all 255 methods, and of a request with the longest name.
MAX_GREETING: Final = 2 + 255
MAX_REQUEST: Final = 4 + 1 + 255 + 2

_VERSION: Final = 5
_NO_AUTHENTICATION: Final = 0
_NO_METHOD: Final = 0xFF
_CONNECT: Final = 1
_NAME: Final = 3


class Reply(IntEnum):
    """RFC 1928, section 6."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """``host``: the name as the client wrote it, ASCII.  ``port``: 0 to 65535."""

    host: str
    port: int


class SocksServer:
    """Bytes in by :meth:`receive_data`, :meth:`next_event` gives the request once, or raises RemoteProtocolError and
    stays dead; what is to be sent is in :meth:`data_to_send` either way.  :meth:`reply` answers the request."""

    __slots__ = ("_buffer", "_dead", "_output", "_requested", "_steps")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._output = bytearray()
        self._dead: RemoteProtocolError | None = None
        self._requested = False
        self._steps = self._read()
        next(self._steps)

    def receive_data(self, data: bytes) -> None:
        if self._dead is None:
            self._buffer += data

    def next_event(self) -> ConnectRequested | None:
        if self._dead is not None:
            raise RemoteProtocolError(str(self._dead), self._dead.code)
        if self._requested:
            return None
        try:
            event = self._steps.send(None)
        except RemoteProtocolError as error:
            self._dead = RemoteProtocolError(str(error), error.code)
            self._buffer.clear()
            raise
        self._requested = event is not None
        return event

    def reply(self, reply: Reply) -> None:
        """Answer the request: with the address 0.0.0.0:0, for there is none to tell."""
        if not self._requested:
            raise LocalProtocolError("there is no request to answer")
        self._say(reply)

    def data_to_send(self) -> bytes:
        data = bytes(self._output)
        self._output.clear()
        return data

    def trailing_data(self) -> bytes:
        """What came behind the request: the first bytes of the connection."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _say(self, reply: Reply) -> None:
        self._output += bytes((_VERSION, reply, 0, 1)) + bytes(6)

    def _read(self) -> Generator[ConnectRequested | None, None, None]:
        yield None
        # "The client connects to the server, and sends a version identifier/method selection message"
        version, count = yield from self._take(2)
        if version != _VERSION:
            raise RemoteProtocolError(f"SOCKS version {version}: only version 5 is spoken here", "version")
        methods = yield from self._take(count)
        if _NO_AUTHENTICATION not in methods:
            # "If the selected METHOD is X'FF', none of the methods listed by the client are acceptable"
            self._output += bytes((_VERSION, _NO_METHOD))
            raise RemoteProtocolError("the client wants to authenticate: there is nothing to do so with", "method")
        self._output += bytes((_VERSION, _NO_AUTHENTICATION))
        version, command, _, kind = yield from self._take(4)
        if version != _VERSION:
            raise RemoteProtocolError(f"SOCKS version {version} in a request", "version")
        if command != _CONNECT:
            self._say(Reply.COMMAND_NOT_SUPPORTED)
            raise RemoteProtocolError(f"SOCKS command {command}: only CONNECT is served", "command")
        if kind != _NAME:
            self._say(Reply.ADDRESS_NOT_SUPPORTED)
            raise RemoteProtocolError(
                "an IP address was asked for: only names are served; have the client leave names to the proxy "
                "(socks5h)",
                "address",
            )
        (size,) = yield from self._take(1)
        name = yield from self._take(size)
        port = yield from self._take(2)
        if not name.isascii() or not name.decode("ascii").isprintable() or not name:
            self._say(Reply.HOST_UNREACHABLE)
            raise RemoteProtocolError("a name that is not printable ASCII", "name")
        yield ConnectRequested(name.decode("ascii"), int.from_bytes(port, "big"))

    def _take(self, size: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < size:
            yield None
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
