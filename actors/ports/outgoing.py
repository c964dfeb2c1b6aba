"""A host's part in dialling (actors/dialling.py): sockets that are being connected.

The host's own (actors/ports/host.py), in a file of their own.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from actors.dialling import Attempt
from protocol.addresses import encode_tcp

if TYPE_CHECKING:
    from actors.ports.host import Host


class Outgoing:
    """Sockets that are not connected yet, by what they are for."""

    __slots__ = ("_host", "_sockets")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sockets: dict[Attempt, socket.socket] = {}

    def connect(self, attempt: Attempt) -> None:
        """Open a connection; what becomes of it is said in a later turn.  Its port is any: a peer that dials back must
        not come through what a router remembers of ours."""
        host = self._host
        family = socket.AF_INET6 if ":" in attempt.address else socket.AF_INET
        try:
            if host.full:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            host._loop.call_soon(self._failed, attempt, error.strerror or str(error))
            return
        self._sockets[attempt] = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.give_up = partial(self.give_up, attempt)
        try:
            sock.connect((attempt.address, attempt.port))
        except BlockingIOError:
            pass
        except OSError as error:
            self.give_up(attempt)
            host._loop.call_soon(self._failed, attempt, error.strerror or str(error))
            return
        host._loop.add_writer(sock, self._connected, attempt)

    def give_up(self, attempt: Attempt) -> None:
        """It is not wanted any more."""
        sock = self._sockets.pop(attempt, None)
        if sock is not None:
            self._host._loop.remove_writer(sock)
            sock.close()

    def close(self) -> None:
        for attempt in list(self._sockets):
            self.give_up(attempt)

    def _connected(self, attempt: Attempt) -> None:
        host, forwarder = self._host, self._host._forwarder
        sock = self._sockets.pop(attempt)
        host._loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error or forwarder is None:
            sock.close()
            self._failed(attempt, os.strerror(error))
            return
        local = ("", 0)
        with contextlib.suppress(OSError):
            local = sock.getsockname()
        link = forwarder.dialled(
            attempt,
            encode_tcp(ipaddress.ip_address(attempt.address), attempt.port),
            encode_tcp(ipaddress.ip_address(local[0].partition("%")[0]), local[1]) if local[0] else b"",
            host._now(),
        )
        if link is None:
            sock.close()
        else:
            host.take(sock, link)
        host.end_turn()
        host._wake()

    def _failed(self, attempt: Attempt, reason: str) -> None:
        host, forwarder = self._host, self._host._forwarder
        if forwarder is not None:
            forwarder.dial_failed(attempt, reason, host._now())
            host.end_turn()
            host._wake()
