"""The buffers that every connection of one forwarder shares.

A relay holds thousands of connections of which a few move bytes at any instant, so buffers belong to the
moment and not to the connection: bytes are received into one place, opened into a second, sealed into a third,
and the third is written to sockets before the next read.  What must outlive the moment (half a Noise message,
bytes a socket did not take) is copied into the connection that it belongs to.  An idle connection therefore owns
no buffer at all, and one that moves bytes copies none.

A forwarder has one arena and uses it from one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from protocol.connection import Connection

#: Bytes received in one go.  Large enough that the cost of a system call and of a loop turn vanishes beside the
#: two cipher passes over it; small enough that the three buffers stay near the core and that one busy connection
#: holds the others up for less than a tenth of a millisecond.  Measured at 64, 128 and 256 KiB: 1.07, 1.13 and 1.20
#: CPU-seconds a GiB with 64 KiB writes, 1.08, 1.10 and 1.24 with 16 KiB.
RECEIVE_SIZE: Final = 64 * 1024

#: Largest Noise message with its length prefix: what may be left over from the receive before.
LEFTOVER_SIZE: Final = 2 + 65535

#: Free bytes in front of opened data: room for a 12-byte yamux header in front of a body that continues, and for
#: up to 11 bytes of a header that an earlier receive cut.
HEADROOM: Final = 24


class Arena:
    """Receive, plaintext and send buffers, and the connections with something to write.

    ``inbound``: ``LEFTOVER_SIZE + receive_size`` bytes, filled by ``recv_into``.
    ``plain``: the same plus ``HEADROOM``; opened frames lie in it from ``HEADROOM`` on.
    ``outbound``: twice the inbound size; sealed messages, in order, until :meth:`reset`.
    """

    __slots__ = (
        "bytes_switched",
        "dirty",
        "inbound",
        "inbound_view",
        "outbound",
        "outbound_used",
        "outbound_view",
        "plain",
        "plain_view",
    )

    def __init__(self, receive_size: int = RECEIVE_SIZE) -> None:
        inbound = LEFTOVER_SIZE + receive_size
        self.inbound = bytearray(inbound)
        self.plain = bytearray(HEADROOM + inbound)
        self.outbound = bytearray(2 * inbound)
        self.inbound_view = memoryview(self.inbound)
        self.plain_view = memoryview(self.plain)
        self.outbound_view = memoryview(self.outbound)
        self.outbound_used = 0
        self.dirty: list[Connection] = []
        self.bytes_switched = 0

    def reset(self) -> None:
        """Forget the outbound bytes.  The caller has written or copied all of them."""
        self.outbound_used = 0
