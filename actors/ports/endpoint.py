"""One socket of a host, and what a host allows itself."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from actors.links import Link
from actors.ports.backlog import Backlog
from protocol.connection import Connection


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """``max_backlog``: bytes unsent to one peer before it is given up; ``max_backlog_total``: to all peers, before the
    one with most is.  ``write_timeout``: seconds that a peer may take none of them.  ``frame_rate_per_ip``: see
    actors/ports/fairness.py; 0: no limit.  ``reserved_files``: descriptors kept free for everything that is not a
    connection.  ``listen_backlog``: connections that the kernel holds for us."""

    max_backlog: int = 64 * 1024 * 1024
    max_backlog_total: int = 256 * 1024 * 1024
    write_timeout: float = 60.0
    frame_rate_per_ip: float = 20_000.0
    reserved_files: int = 64
    listen_backlog: int = 1024


class Endpoint:
    """One socket and what it did not take yet."""

    __slots__ = (
        "backlog",
        "closing",
        "connection",
        "descriptor",
        "finished",
        "link",
        "paused",
        "receive_size",
        "sock",
    )

    def __init__(self, sock: socket.socket, link: Link) -> None:
        self.sock = sock
        self.descriptor = sock.fileno()
        self.link = link
        self.connection: Connection = link.connection
        self.backlog: Backlog | None = None
        self.closing = False
        self.finished = False
        self.paused = False
        self.receive_size = 0  # bytes at a time, 0: as many as there is room for
