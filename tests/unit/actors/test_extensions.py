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
