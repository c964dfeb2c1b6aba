"""The sockets that forwarders of one node meet at (actors/bridges.py).

On one host a unix socket in a folder that only the node's user can enter; between hosts a TCP port.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from multiaddr import Multiaddr

from actors.bridges import UNIX
from actors.moves import MOVES

#: Bridges that the kernel holds until they are accepted.
BACKLOG: Final = 1024

#: Bytes that the kernel holds of a bridge on one host; it takes that of it which the system allows (net.core.wmem_max).
#: Less has the writer wait, and keep copies, for a reader that is a turn behind: a tenth more CPU at 64 KiB a frame.
SEND_BUFFER: Final = 1 << 20

#: Bytes of a unix socket's path, its final zero included (sockaddr_un, unix(7)).
MAX_PATH: Final = 108


def listen_unix(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A listening socket at ``path``, in place of what a former forwarder left there; OSError when it cannot be had."""
    if len(os.fsencode(path)) >= MAX_PATH:
        raise OSError(f"{path} is too long for a unix socket: at most {MAX_PATH - 1} bytes")
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def listen_tcp(address: str, port: int = 0) -> socket.socket:
    """A listening socket for forwarders of other hosts; OSError when it cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def address_of(listener: socket.socket) -> str:
    """What other forwarders are told of it (protocol.messages.ForwarderReport)."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        kind = MOVES if listener.type == socket.SOCK_SEQPACKET else UNIX
        return kind + str(name).lstrip("/")
    version = "ip6" if listener.family == socket.AF_INET6 else "ip4"
    return f"/{version}/{name[0]}/tcp/{name[1]}"


def connect(address: str) -> socket.socket:
    """Begin to connect to the bridge at ``address``; writable when it is connected.  OSError when it cannot be."""
    family, where = _target(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        prepare(sock)
        if family == socket.AF_UNIX:
            sock.connect(where)  # at once, or it fails
        else:
            with contextlib.suppress(BlockingIOError):
                sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Either end of a bridge."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _target(address: str) -> tuple[int, str | tuple[str, int]]:
    if address.startswith(UNIX):
        return socket.AF_UNIX, "/" + address.removeprefix(UNIX)
    multiaddr = Multiaddr(address)
    version = "ip6" if address.startswith("/ip6/") else "ip4"
    host, port = multiaddr.value_for_protocol(version), multiaddr.value_for_protocol("tcp")
    assert host is not None and port is not None
    return (socket.AF_INET6 if version == "ip6" else socket.AF_INET), (host, int(port))
