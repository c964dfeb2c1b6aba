"""How much a peer may send before it is read: more on a stream that is read as fast as it comes.

A window of 256 KiB, which yamux begins with, has a sender wait for the receiver 8,000 times a GiB, and each time costs
both of them a system call and a wake-up, and every connection around theirs too.  So the window of a stream whose
bytes are used up is doubled, to :data:`MOST`: an end then costs 2.1 CPU-s/GiB instead of 2.9, and the relay between 1.5
instead of 2.3 (`python -m tests.benchmarks.ends`).  One that nobody reads keeps the window that it has.
"""

from __future__ import annotations

from typing import Final

from protocol.yamux import INITIAL_WINDOW, Stream

#: Bytes.  As many as a relay lets lie between two ends (protocol/switching.py, WINDOW_CAP), so more would do nothing.
MOST: Final = 1024 * 1024

#: Streams of one connection up to which windows grow.  A window grows only while no more are open, so that no more
#: than these ever have a grown one, and a peer that fills all of them costs 16 MiB.
GROWING: Final = 16


class ReceiveWindow:
    """The window of one stream.  ``held``: whether what is received waits to be read, so that windows cost memory.
    ``most``: bytes to which it grows."""

    __slots__ = ("_held", "_most", "_size", "_used")

    def __init__(self, *, held: bool, most: int = MOST) -> None:
        self._held = held
        self._most = most
        self._size = INITIAL_WINDOW
        self._used = 0

    def consume(self, stream: Stream, size: int) -> None:
        """``size`` bytes are used up: let the peer send as many, and more, in steps of half a window."""
        self._used += size
        if self._used * 2 < self._size or stream.fin_received or stream.closed:
            return
        session = stream.session
        grown = min(self._size, self._most - self._size) if not self._held or len(session.streams) <= GROWING else 0
        session.grant(stream, self._used + grown)
        self._size += grown
        self._used = 0
