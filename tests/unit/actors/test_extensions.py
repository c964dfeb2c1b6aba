"""An extension passes on libp2p and nothing else, and holds nothing when it is over."""

from __future__ import annotations

import pytest

from actors.extensions import PROLOGUE, Extension
from protocol.yamux import Stream


class Session:
    """As much of a session as an extension uses."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.consumed = 0
        self.was_reset = False

    def consume(self, stream: Stream, size: int) -> None:
        self.consumed += size

    def reset(self, stream: Stream) -> None:
        self.was_reset = True


def extension() -> tuple[Extension, Session, list[Extension]]:
    session, gone = Session(), []
    stream = session.streams[1] = Stream(session, 1, inbound=True)  # type: ignore[arg-type]
    return Extension(stream, (), gone.append), session, gone


@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_libp2p_connection_passes_in_any_cuts(size: int) -> None:
    made, session, gone = extension()
    data = PROLOGUE + b"\x07/noise\n"
    for start in range(0, len(data), size):
        made.data_received(data[start : start + size])
    assert bytes(made.outgoing) == data and not gone and not session.was_reset


@pytest.mark.parametrize(
    "data", [b"EHLO spam.example\r\n", b"GET / HTTP/1.1\r\n", PROLOGUE[:5] + b"x", b"\x16\x03\x01"]
)
def test_nothing_else_leaves(data: bytes) -> None:
    made, session, gone = extension()
    for byte in data:
        made.data_received(bytes((byte,)))
    assert gone == [made] and session.was_reset and not made.outgoing


def test_what_came_before_it_was_known_is_held_back() -> None:
    made, _, _ = extension()
    made.data_received(PROLOGUE[:7])
    assert not made.sendable
    made.data_received(PROLOGUE[7:])
    assert made.sendable


class Socket:
    """Takes ``room`` bytes at once; 0: it is full."""

    def __init__(self, room: int) -> None:
        self.room, self.taken, self.wanted = room, b"", 0

    def send(self, data: bytes) -> int:
        size = min(self.room, len(data))
        self.room -= size
        self.taken += data[:size]
        return size

    def want(self) -> None:
        self.wanted += 1

    def abort(self) -> None:
        pass


def test_what_the_socket_takes_at_once_is_not_held_and_the_order_stays() -> None:
    made, _, _ = extension()
    socket = made.socket = Socket(room=30)
    made.data_received(PROLOGUE)
    assert made.outgoing == PROLOGUE and not socket.taken, "it is not connected yet"
    made.connected = True
    made.data_received(b"behind it")
    assert not socket.taken, "what came before goes before"
    made.taken(len(made.outgoing))
    made.data_received(b"a" * 40)
    assert socket.taken == b"a" * 30 and made.outgoing == b"a" * 10 and socket.wanted
    assert made.moved == len(PROLOGUE) + len(b"behind it") + 30
    made.taken(10)
    assert made.moved == len(PROLOGUE) + len(b"behind it") + 40 and not made.outgoing


def test_a_socket_that_breaks_meanwhile_ends_it_and_nothing_is_kept() -> None:
    made, session, gone = extension()

    class Broken(Socket):
        def send(self, data: bytes) -> int:
            made.end()
            return 0

    made.socket, made.connected, made.begun = Broken(0), True, PROLOGUE
    made.data_received(b"lost")
    assert gone == [made] and session.was_reset and not made.outgoing
