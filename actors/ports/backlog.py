"""Bytes that sockets did not take yet: what each peer left, and what all of them did.

Credit keeps a backlog small (protocol/switching.py); what is here bounds it against peers that mean ill.  Bytes are
kept in large pieces, so that a megabyte of them costs a megabyte, however small the writes were that it is made of.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from actors.reservations import household

if TYPE_CHECKING:
    from actors.ports.endpoint import Endpoint

#: Bytes of a piece: what is kept is copied into the last one while it fits.
PIECE: Final = 64 * 1024

#: Buffers handed to the system at once.  Linux takes 1024 (IOV_MAX); beyond some tens a call's cost no longer shows.
GATHER: Final = 64


class Backlog:
    """What one socket did not take.  ``size``: bytes.  ``moved_at``: when it took some, or when this began."""

    __slots__ = ("_pieces", "_sent", "moved_at", "size")

    def __init__(self, now: float) -> None:
        self._pieces: deque[bytearray] = deque()
        self._sent = 0  # of the first piece
        self.size = 0
        self.moved_at = now

    def keep(self, views: Iterable[memoryview | bytes]) -> int:
        """Copy ``views`` behind what is here; how many bytes they are."""
        before = self.size
        pieces = self._pieces
        for view in views:
            if pieces and len(pieces[-1]) + len(view) <= PIECE:
                pieces[-1] += view
            else:
                pieces.append(bytearray(view))
            self.size += len(view)
        return self.size - before

    def send(self, sock: socket.socket, now: float) -> int:
        """Give ``sock`` what it takes; how many bytes.  OSError when the connection is lost."""
        pieces = self._pieces
        total = 0
        while pieces:
            with memoryview(pieces[0]) as whole, whole[self._sent :] as view:
                try:
                    sent = sock.send(view)
                except (BlockingIOError, InterruptedError):
                    break
                left = len(view) - sent
            total += sent
            self._sent += sent
            if left:
                break
            pieces.popleft()
            self._sent = 0
        if total:
            self.size -= total
            self.moved_at = now
        return total

    def unsent(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)[self._sent :]


def send_views(sock: socket.socket, views: Sequence[memoryview]) -> list[memoryview]:
    """Give ``sock`` what it takes of ``views``; the rest.  OSError when the connection is lost."""
    place = 0
    while place < len(views):
        batch = views[place : place + GATHER]
        try:
            sent = sock.send(batch[0]) if len(batch) == 1 else sock.sendmsg(batch)
        except (BlockingIOError, InterruptedError):
            return list(views[place:])
        for view in batch:
            if sent < len(view):
                return [view[sent:], *views[place + 1 :]]
            sent -= len(view)
            place += 1
    return []


def worst(endpoints: Iterable[Endpoint]) -> Endpoint:
    """Who is given up when all backlogs are too much: of the address that left most, the connection that did.

    By address, because whoever wants another to be given up needs only to stay below it with each of many connections.
    """
    waiting = [(endpoint, endpoint.backlog.size) for endpoint in endpoints if endpoint.backlog is not None]
    left: Counter[str] = Counter()
    for endpoint, size in waiting:
        left[household(endpoint.link.address)] += size
    return max(waiting, key=lambda entry: (left[household(entry[0].link.address)], entry[1]))[0]
