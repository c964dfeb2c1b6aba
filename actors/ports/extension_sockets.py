"""A host's part in extensions (actors/extensions.py): their sockets to other relays.

The host's own (actors/ports/host.py), in a file of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from actors.extensions import CHUNK, CONNECT_TIMEOUT, IDLE, Extension

if TYPE_CHECKING:
    from actors.ports.host import Host


class ExtensionSockets:
    """``files``: how many sockets there are."""

    __slots__ = ("_buffer", "_host", "_sockets")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sockets: set[_Socket] = set()
        self._buffer = memoryview(bytearray(CHUNK))

    @property
    def files(self) -> int:
        return len(self._sockets)

    def connect(self, extension: Extension) -> None:
        """Try its addresses; what becomes of it is said in a later turn."""
        if extension.ended:
            return
        made = _Socket(self._host, extension, self._buffer, self._sockets.discard)
        self._sockets.add(made)
        extension.socket = made
        self._host._loop.call_soon(made.connect)

    def close(self) -> None:
        for one in list(self._sockets):
            one.extension.end()


class _Socket:
    __slots__ = ("_buffer", "_gone", "_host", "_moved", "_reading", "_shut", "_sock", "_timer", "_writing", "extension")

    def __init__(self, host: Host, extension: Extension, buffer: memoryview, gone: object) -> None:
        self.extension = extension
        self._host = host
        self._buffer = buffer
        self._gone = gone
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False
        self._writing = False
        self._shut = False
        self._moved = 0.0

    def connect(self) -> None:
        """The next address, or tell that there is none."""
        self._close()
        extension = self.extension
        if extension.ended:
            return
        if not extension.addresses or self._host.full:
            extension.failed("no address of it answers" if not self._host.full else "there are too many connections")
            self._turn()
            return
        address, port = extension.addresses.pop(0)
        try:
            sock = self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                sock.connect((address, port))
        except OSError:  # no IPv6 here, or no file, too: the next address, or the peer hears that there is none
            self._host._loop.call_soon(self.connect)
            return
        self._timer = self._host._loop.call_later(CONNECT_TIMEOUT, self.connect)
        self._host._loop.add_writer(sock, self._connected)
        self._writing = True

    def _connected(self) -> None:
        sock = self._sock
        assert sock is not None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.connect()
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._host._loop.remove_writer(sock)
        self._writing = False
        self._moved = self._host._now()
        self._timer = self._host._loop.call_later(IDLE, self._look)
        self.extension.opened()
        self.want()
        self._turn()

    def _look(self) -> None:
        left = self._moved + IDLE - self._host._now()
        if left > 0:
            self._timer = self._host._loop.call_later(left, self._look)
        else:
            self.extension.end()
            self._turn()

    def want(self) -> None:
        """Read while the peer takes what comes, write while there is something."""
        extension, sock, loop = self.extension, self._sock, self._host._loop
        if sock is None or not extension.connected or extension.ended:
            return
        reading = extension.room > 0
        if reading != self._reading:
            self._reading = reading
            if reading:
                loop.add_reader(sock, self._readable)
            else:
                loop.remove_reader(sock)
        writing = (bool(extension.outgoing) and extension.sendable) or (extension.ending and not self._shut)
        if writing != self._writing:
            self._writing = writing
            if writing:
                loop.add_writer(sock, self._writable)
            else:
                loop.remove_writer(sock)

    def send(self, data: bytes) -> int:
        sock = self._sock
        if sock is None:
            return 0
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.extension.end()
            return 0
        self._moved = self._host._now()
        return sent

    def abort(self) -> None:
        self._close()
        self._gone(self)  # type: ignore[operator]

    def _readable(self) -> None:
        extension, sock = self.extension, self._sock
        assert sock is not None
        room = extension.room
        if not room:
            self.want()
            return
        try:
            size = sock.recv_into(self._buffer[:room])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            extension.end()
            self._turn()
            return
        if size:
            self._moved = self._host._now()
            extension.received(self._buffer[:size])
            self.want()
        else:
            self._host._loop.remove_reader(sock)
            extension.eof()
            self._eof()
        self._turn()

    def _eof(self) -> None:
        # A relay that has closed its side is done with us: libp2p closes both.
        self.extension.end(reset=False)

    def _writable(self) -> None:
        extension, sock = self.extension, self._sock
        assert sock is not None
        try:
            if extension.outgoing:
                self._moved = self._host._now()
                extension.taken(sock.send(extension.outgoing))
            if extension.ending and not extension.outgoing and not self._shut:
                self._shut = True
                sock.shutdown(socket.SHUT_WR)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            extension.end()
        self.want()
        self._turn()

    def _close(self) -> None:
        sock, self._sock = self._sock, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if sock is not None:
            self._host._loop.remove_reader(sock)
            self._host._loop.remove_writer(sock)
            self._reading = self._writing = False
            sock.close()

    def _turn(self) -> None:
        self._host.end_turn()
        self._host._wake()
