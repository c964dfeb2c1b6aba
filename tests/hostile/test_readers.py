"""Peers that do not read, or make the relay work for frames that carry nothing: what they cost, and whom."""

from __future__ import annotations

import threading
import time

import pytest

from protocol import identify, ping
from protocol.multistream import HEADER as MULTISTREAM
from protocol.multistream import encode_line
from protocol.wire import frame
from protocol.yamux import DATA, HEADER, SYN, WINDOW_UPDATE
from tests.hostile.conftest import Bystanders, Start
from tests.hostile.test_streams import header, inject
from tests.support.process import PATIENCE, NodeProcess, SocketPeer, readable

MIB = 1 << 20


def test_small_pieces_for_one_who_does_not_read_cost_what_they_weigh(start: Start) -> None:
    """Frames of one byte, in turn for two receivers, so that none can be sealed with its neighbour."""
    node = start("--rate-limits", "off")
    receivers = [SocketPeer(node, f"receiver {number}", window=4 * MIB) for number in range(2)]
    sender = SocketPeer(node, "sender")
    for receiver in receivers:
        receiver.reserve()
    # All but the last circuit of each fill what the kernel keeps for one who does not read.
    views = [[sender.circuit(receiver)[0] for _ in range(12)] for receiver in receivers]
    sender.until(lambda: all(view.stream.send_window > 900_000 for several in views for view in several))
    for several in views:
        for view in several[:-1]:
            view.send(bytes(view.stream.send_window))
    at_rest(sender, node)
    memory, kept = node.rss, 0
    first, second = (HEADER.pack(DATA, several[-1].stream.id, 1) + b"q" for several in views)
    for _ in range(150):
        inject(sender, (first + second) * 2400)
        kept += 2 * 2400 * 31
    at_rest(sender, node)
    assert node.rss - memory < 2 * kept + 4 * MIB, f"{(node.rss - memory) / MIB} MiB for {kept / MIB}"
    assert not sender.gone


def at_rest(sender: SocketPeer, node: NodeProcess) -> None:
    """Until the node has worked off what it was sent."""
    while True:
        spent = node.cpu
        sender.poll(0.5)
        if node.cpu - spent < 0.03:
            return


def test_one_who_takes_nothing_is_given_up_though_it_pings(start: Start) -> None:
    node = start("--write-timeout", "2", "--keepalive-interval", "2", "--keepalive-timeout", "2")
    others = Bystanders(node)
    receiver = SocketPeer(node, "receiver", window=16 * MIB)
    receiver.reserve()
    sender = SocketPeer(node, "sender")
    views = [sender.circuit(receiver)[0] for _ in range(12)]
    for view in views:
        view.send(bytes(16 * MIB))
    sender.flush()
    end = time.monotonic() + PATIENCE
    while not all(view.reset for view in views):
        assert time.monotonic() < end, "it was never given up"
        receiver.connection.session.ping(1)
        try:
            receiver.sock.send(receiver.output())
        except OSError:
            pass  # it was given up
        sender.poll(0.2)
    others.unharmed()


@pytest.mark.parametrize("kind", ["data of one byte", "window updates", "window updates of no stream"])
def test_frames_that_carry_nothing_do_not_hold_up_the_others(start: Start, kind: str) -> None:
    """Five thousand of them fit a receive and took 40 ms; others waited for every one."""
    node = start("--frame-rate-per-ip", "2000")
    bystander = SocketPeer(node, "bystander", source="127.0.0.2")
    view = bystander.open(ping.PROTOCOL)
    bystander.until(lambda: view.sink is None)

    def round_trip() -> float:
        began = time.perf_counter()
        view.take()
        view.send(bytes(32))
        bystander.until(lambda: len(view.received) >= 32)
        return time.perf_counter() - began

    bad = SocketPeer(node, "bad")
    if kind == "data of one byte":
        opening = encode_line(MULTISTREAM) + encode_line(identify.PUSH_PROTOCOL) + frame(b"x" * 4000)[:2]
        inject(bad, HEADER.pack(SYN, 99, len(opening)) + opening)
        flood = (HEADER.pack(DATA, 99, 1) + b"x") * 4000
    else:
        flood = header(WINDOW_UPDATE, 0, 99, 0) * 5000
        if kind == "window updates":
            inject(bad, header(DATA, SYN, 99, 0))
    over = threading.Event()

    def attack() -> None:
        bad.sock.settimeout(0.2)
        while not over.is_set() and not bad.gone:
            try:
                inject(bad, flood)
                bad.poll(0)
            except OSError:
                return  # the node reads no more for now: what was sent in part can go on no more

    attacker = threading.Thread(target=attack)
    cpu, began = node.cpu, time.monotonic()
    attacker.start()
    try:
        trips = sorted(round_trip() for _ in range(100))
    finally:
        over.set()
        attacker.join()
    assert trips[50] < 0.02, trips[50]
    assert readable(0, bystander.sock) == set()
    # Whatever it sends in a second costs a good deal less than a second.
    while time.monotonic() - began < 3:
        bystander.poll(0.2)
    assert node.cpu - cpu < 0.5 * (time.monotonic() - began)
