"""Peers that never become peers: they come, say too little or the wrong thing, or come in crowds."""

from __future__ import annotations

import os
import resource
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from protocol.multistream import encode_line
from tests.hostile.conftest import Bystanders, Start
from tests.support.peers import MemoryPeer
from tests.support.process import PATIENCE, NodeProcess, SocketPeer

MIB = 1 << 20
CROWD = 5_000


@pytest.fixture
def many_files() -> Iterator[None]:
    """Leave to open as many sockets as the crowd has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 500:
        pytest.skip(f"a crowd needs {CROWD + 500} open files: raise the hard limit (ulimit -Hn), which is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def dial(node: NodeProcess, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), PATIENCE, source_address=(source, 0))


def until_closed(sock: socket.socket, patience: float = PATIENCE) -> bytes:
    """What the node said until it hung up."""
    sock.settimeout(patience)
    said = b""
    try:
        while data := sock.recv(65536):
            said += data
    except ConnectionError:
        pass
    return said


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\x13/multistream/1.0.0\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(31),
    ],
    ids=["nothing", "header", "proposal", "half a key"],
)
def test_a_handshake_that_does_not_come_on_is_ended(start: Start, first: bytes) -> None:
    node = start("--handshake-timeout", "1")
    others = Bystanders(node)
    began = time.monotonic()
    slow = dial(node)
    slow.sendall(first)
    until_closed(slow)
    assert time.monotonic() - began >= 0.9
    others.unharmed()


def test_a_handshake_byte_by_byte_is_ended_too(start: Start) -> None:
    node = start("--handshake-timeout", "1")
    slow = dial(node)
    ended = time.monotonic() + PATIENCE
    line = encode_line("/multistream/1.0.0") + encode_line("/noise") + b"\x00\x20" + bytes(20)
    try:
        for byte in line * 100:
            assert time.monotonic() < ended
            slow.sendall(bytes([byte]))
            time.sleep(0.05)  # the attack itself: a byte now and then
    except ConnectionError:
        return
    pytest.fail("the node waited for ever")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: relay.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"\xff" * 100,
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x13/multistream/9.9.9\n",
        b"\x13/multistream/1.0.0\n\x80\x80\x01",
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32),
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x00",
        b"\x13/multistream/1.0.0\n" + encode_line("/tls/1.0.0") * 40,
    ],
    ids=["http", "tls", "ff", "long varint", "version", "oversized line", "oversized noise", "zero key", "empty", "na"],
)
def test_garbage_ends_the_connection_that_it_came_on_at_once(start: Start, garbage: bytes) -> None:
    node = start("--handshake-timeout", "600")
    others = Bystanders(node)
    bad = dial(node)
    began = time.monotonic()
    bad.sendall(garbage)
    until_closed(bad)
    assert time.monotonic() - began < 0.5
    others.unharmed()


def test_a_line_that_is_announced_and_does_not_come_is_ended_by_time(start: Start) -> None:
    """``G`` is a line of 71 bytes."""
    node = start("--handshake-timeout", "1")
    others = Bystanders(node)
    bad = dial(node)
    began = time.monotonic()
    bad.sendall(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n")
    until_closed(bad)
    assert 0.9 <= time.monotonic() - began < 3.0
    others.unharmed()


def test_random_bytes_at_every_depth(start: Start) -> None:
    node = start("--max-connections-per-ip", "200", "--rate-limits", "off")
    others = Bystanders(node)
    for turn in range(30):
        peer = SocketPeer(node, f"random {turn}")
        noise = os.urandom(200)
        if turn % 2:
            peer.sock.sendall(noise)  # at Noise: nothing authenticates
        else:
            peer.connection.session.control += noise  # at yamux: authentic nonsense
            peer.connection.mark_dirty()
        # It may happen to announce a message or a frame of up to 64 KiB or 16 MiB: more of it than either ends it.
        peer.poll(0.05)
        if not peer.gone:
            peer.connection.session.control += b"\xff" * 100_000
            peer.connection.mark_dirty()
            peer.until_gone()
    others.unharmed()


def test_a_truncated_noise_message_costs_its_connection_a_bounded_buffer(start: Start) -> None:
    node = start("--max-connections-per-ip", "300", "--rate-limits", "off")
    others = Bystanders(node)
    peers = [SocketPeer(node, f"half {index}", source="127.0.0.2") for index in range(200)]
    before = node.rss
    for peer in peers:
        peer.sock.sendall(struct.pack(">H", 65535) + bytes(60_000))
    others.unharmed()
    assert node.rss - before < 200 * 64 * 1024 + 8 * MIB
    for peer in peers:
        peer.sock.close()
    others.unharmed()


@pytest.mark.usefixtures("many_files")
def test_a_crowd_from_one_address_is_turned_away_and_leaves_nothing(start: Start) -> None:
    node = start("--max-connections-per-ip", "50", "--rate-limits", "off")
    others = Bystanders(node)
    files, memory = node.descriptors, node.rss
    crowd: list[socket.socket] = []
    refused = 0
    for _ in range(CROWD):
        try:
            crowd.append(dial(node, "127.0.0.9"))
        except ConnectionError:
            refused += 1
    ended = time.monotonic() + PATIENCE
    for sock in crowd:
        # Those that were let in are told nothing; the others are reset, when the node has got to them.
        sock.settimeout(max(ended - time.monotonic(), 0.01) if refused < CROWD - 50 else 0.01)
        try:
            refused += sock.recv(1) == b""
        except TimeoutError:
            sock.setblocking(False)
        except ConnectionError:
            refused += 1
    assert refused >= CROWD - 50
    assert node.descriptors <= files + 50
    assert node.rss - memory < 16 * MIB
    others.unharmed()
    # Another address is welcome all the while.
    SocketPeer(node, "elsewhere", source="127.0.0.10")
    for sock in crowd:
        sock.close()
    others.unharmed()


def test_a_rate_of_arrivals_is_limited(start: Start) -> None:
    node = start("--connection-rate-per-ip", "40")
    came = 0
    for index in range(40):
        try:
            SocketPeer(node, f"fast {index}", source="127.0.0.3").sock.close()
            came += 1
        except (AssertionError, ConnectionError):
            break
    assert came in range(8, 14)  # a quarter of a minute's worth at once
    SocketPeer(node, "elsewhere", source="127.0.0.4")


def test_half_open_connections_are_noticed(start: Start) -> None:
    """A peer that vanishes without a word: its host lost power."""
    node = start("--keepalive-interval", "0.5", "--keepalive-timeout", "1", "--handshake-timeout", "1")
    others = Bystanders(node)
    files = node.descriptors
    silent = SocketPeer(node, "silent")
    silent.reserve()
    # It answers no ping; the bystanders do, as their sockets are served.
    ended = time.monotonic() + PATIENCE
    while node.descriptors > files:
        assert time.monotonic() < ended
        others.alice.poll(0.1)
        others.bob.poll(0.1)
    others.unharmed()


def test_an_idle_connection_is_closed_and_a_reserved_one_is_not(start: Start) -> None:
    node = start("--idle-timeout", "1")
    kept, idle = SocketPeer(node, "kept"), SocketPeer(node, "idle")
    kept.reserve()
    idle.until_gone()
    assert not kept.poll(0.2) and not kept.gone
    assert isinstance(kept, MemoryPeer)
