"""When the attacks are over the node is idle again, and as large as it was."""

from __future__ import annotations

import time

from protocol.yamux import HEADER, PING, RST, SYN, WINDOW_UPDATE
from tests.hostile.conftest import Bystanders, Start
from tests.support.process import SocketPeer

MIB = 1 << 20


def test_nothing_of_a_flood_goes_on_after_it(start: Start) -> None:
    node = start("--rate-limits", "off", "--stream-timeout", "1")
    others = Bystanders(node)
    files, memory = node.descriptors, node.rss
    opened = [HEADER.pack(WINDOW_UPDATE << 16 | SYN, stream, 0) for stream in range(1, 4001, 2)]
    closed = [HEADER.pack(WINDOW_UPDATE << 16 | RST, stream, 0) for stream in range(1, 4001, 2)]
    resets = [frame for both in zip(opened, closed, strict=True) for frame in both]
    pings = [HEADER.pack(PING << 16 | SYN, 0, 1)] * 20_000
    floods = (pings, resets, opened)
    bad = [SocketPeer(node, f"bad {number}") for number in range(len(floods))]
    for peer, frames in zip(bad, floods, strict=True):
        peer.connection.session.control += b"".join(frames)
        peer.connection.mark_dirty()
        peer.flush()
    others.unharmed()
    for peer in bad:
        peer.sock.close()
    ended = time.monotonic() + 20
    while node.descriptors > files:
        assert time.monotonic() < ended, "connections were left behind"
        others.unharmed(1000)
    spent = node.cpu
    time.sleep(2)  # measuring idleness takes time
    assert node.cpu - spent <= 0.1, "5% of a core at most, with whatever else the machine does"
    assert node.rss - memory < 8 * MIB
    others.unharmed()
