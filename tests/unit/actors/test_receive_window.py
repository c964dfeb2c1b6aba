"""Windows grow for those who read, and for no more streams than can be paid for."""

from __future__ import annotations

from actors.client_streams import PIECE, ByteStream
from actors.receive_window import GROWING, MOST, ReceiveWindow
from protocol.yamux import HEADER, INITIAL_WINDOW, Session, Stream, YamuxLimits


def session_of(streams: int) -> Session:
    session = Session(initiator=True, limits=YamuxLimits(), mark_dirty=lambda: None)
    for _ in range(streams):
        session.open_stream()
    session.control.clear()
    return session


def first(session: Session) -> Stream:
    return next(iter(session.streams.values()))


def read(session: Session, window: ReceiveWindow, stream: Stream, size: int) -> int:
    """``size`` bytes come and are read; how many more are then allowed."""
    stream.receive_window -= size
    session.control.clear()
    window.consume(stream, size)
    return sum(length for _, _, length in HEADER.iter_unpack(session.control))


def test_a_stream_that_is_read_is_granted_more_each_time_and_not_without_end() -> None:
    session = session_of(1)
    stream, window = first(session), ReceiveWindow(held=True)
    seen = []
    for _ in range(6):
        while not read(session, window, stream, 64 * 1024):
            pass
        seen.append(stream.receive_window)
    assert seen == [2 * INITIAL_WINDOW, *[MOST] * 5]


def test_nothing_is_said_before_half_a_window_is_used_up() -> None:
    session = session_of(1)
    stream, window = first(session), ReceiveWindow(held=True)
    assert read(session, window, stream, INITIAL_WINDOW // 2 - 1) == 0
    assert read(session, window, stream, 1) == INITIAL_WINDOW // 2 + INITIAL_WINDOW


def test_windows_of_many_streams_do_not_grow() -> None:
    session = session_of(GROWING + 1)
    stream = first(session)
    assert read(session, ReceiveWindow(held=True), stream, INITIAL_WINDOW) == INITIAL_WINDOW
    assert read(session, ReceiveWindow(held=False), stream, INITIAL_WINDOW) == 2 * INITIAL_WINDOW, "nothing waits there"


def test_one_that_the_peer_has_finished_is_granted_nothing() -> None:
    session = session_of(1)
    stream = first(session)
    stream.fin_received = True
    assert read(session, ReceiveWindow(held=True), stream, INITIAL_WINDOW) == 0


def test_many_small_pieces_are_kept_as_one_and_parts_of_long_ones_are_had() -> None:
    session = session_of(1)
    view = ByteStream(first(session), "/test/1.0.0")
    for number in range(1000):
        view.data_received(bytes([number % 251]))
    view.data_received(b"long" * PIECE)
    assert len(view.received) == 2
    taken = b""
    while part := view.take(7):
        assert len(part) <= 7
        taken += part
    assert taken == bytes(number % 251 for number in range(1000)) + b"long" * PIECE
