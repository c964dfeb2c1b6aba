"""Sockets of peers on their way from one forwarder to another of the same host (actors/moves.py).

One datagram a connection, on a unix socket of packets: its state, and its descriptor beside it (SCM_RIGHTS).  Sending
one costs about 20 us, and nothing waits: what cannot be sent at once is not sent.
"""

from __future__ import annotations

import array
import logging
import os
import socket
from typing import Final

from actors.moves import MAX_STATE, MOVES
from actors.ports import bridge_sockets

log = logging.getLogger(__name__)

_DESCRIPTOR: Final = array.array("i").itemsize


def listen(path: str) -> socket.socket:
    """Where other forwarders send connections to; OSError when it cannot be had."""
    return bridge_sockets.listen_unix(path, socket.SOCK_SEQPACKET)


def takes(listener: socket.socket) -> bool:
    """Whether ``listener`` is one of these."""
    return listener.family == socket.AF_UNIX and listener.type == socket.SOCK_SEQPACKET


class Movers:
    """Connections to other forwarders' :func:`listen` sockets, kept once made."""

    __slots__ = ("_sockets",)

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def send(self, address: str, state: bytes, descriptor: int) -> bool:
        """False when the other forwarder is gone, behind, or ``state`` is too large: then nothing was sent."""
        if len(state) > MAX_STATE:
            return False
        try:
            sock = self._sockets.get(address)
            if sock is None:
                sock = self._sockets[address] = _connect(address)
            sock.sendmsg([state], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
        except OSError as error:
            log.debug("a connection stays: %s", error.strerror)
            if not isinstance(error, BlockingIOError) and (sock := self._sockets.pop(address, None)) is not None:
                sock.close()
            return False
        return True

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def receive(sock: socket.socket) -> tuple[bytes, socket.socket] | None:
    """The next connection's state and its socket; None when there is none now.

    EOFError when the sender is gone.  OSError when no descriptor can be had for it: then the connection is lost.
    """
    try:
        state, beside, flags, _ = sock.recvmsg(MAX_STATE, socket.CMSG_SPACE(_DESCRIPTOR), socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, InterruptedError):
        return None
    descriptors = array.array("i")
    for level, kind, content in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % _DESCRIPTOR])
    if not state and not descriptors:
        raise EOFError("the sender is gone")
    if len(descriptors) != 1 or flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError("a connection came without its socket")
    return state, socket.socket(fileno=descriptors[0])


def _connect(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect("/" + address.removeprefix(MOVES))
    except OSError:
        sock.close()
        raise
    return sock
