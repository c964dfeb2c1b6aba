"""Yamux between two connections in memory, the cipher in place."""

from __future__ import annotations

import pytest

from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits, Multiplexed, State
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity
from protocol.noise import StaticKey
from protocol.switching import Switch
from protocol.yamux import (
    ACK,
    DATA,
    FIN,
    HEADER,
    INITIAL_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    DataReceived,
    GoAway,
    GoAwayReceived,
    PongReceived,
    Stream,
    StreamAcknowledged,
    StreamFinished,
    StreamOpened,
    StreamReset,
    StreamWritable,
    YamuxLimits,
)
from tests.support.peers import START, seeded


class Pair:
    """Two connections and the events of each; ``piece``: bytes carried at a time, 0: all."""

    def __init__(self, *, piece: int = 0, expected: Identity | None = None, **limits: int) -> None:
        self.now = START
        self.piece = piece
        yamux = YamuxLimits(**limits)
        policy = ConnectionLimits(handshake_timeout=10, keepalive_interval=30, keepalive_timeout=15, yamux=yamux)
        self.ends = [
            Connection(
                Switch(Arena()),
                StaticKey(Identity.from_seed(seeded(name)), seeded(name + " static")),
                seeded(name + " ephemeral"),
                START,
                initiator=name == "dialer",
                limits=policy,
                expected=expected.peer_id if expected and name == "dialer" else None,
            )
            for name in ("dialer", "listener")
        ]
        self.events: list[list[object]] = [[], []]
        self.errors: list[RemoteProtocolError | None] = [None, None]
        self.run()

    def run(self) -> None:
        while moved := [end.data_to_send() for end in self.ends]:
            if not any(moved):
                return
            for index, data in enumerate(reversed(moved)):
                end = self.ends[index]
                for start in range(0, len(data), self.piece or max(len(data), 1)):
                    end.receive_data(data[start : start + (self.piece or len(data))], self.now)
                try:
                    while (event := end.next_event()) is not None:
                        self.events[index].append(event)
                except RemoteProtocolError as error:
                    self.errors[index] = error

    def inject(self, *frames: tuple[int, int, int, int]) -> None:
        """Frames of the dialer's that its session would not send: (kind, flags, stream, length)."""
        control = self.ends[0].session.control
        for kind, flags, stream, length in frames:
            control += HEADER.pack(kind << 16 | flags, stream, length)
        self.ends[0].mark_dirty()
        self.run()

    def take(self, index: int) -> list[object]:
        self.run()
        events, self.events[index] = self.events[index], []
        return events

    def stream(self) -> tuple[Stream, Stream]:
        ours = self.ends[0].session.open_stream()
        opened = [event for event in self.take(1) if isinstance(event, StreamOpened)]
        self.take(0)
        return ours, opened[0].stream


@pytest.mark.parametrize("piece", [0, 1, 17])
def test_both_know_each_other_and_speak(piece: int) -> None:
    pair = Pair(piece=piece)
    for index, name in enumerate(("listener", "dialer")):
        (event,) = pair.take(index)
        assert isinstance(event, Multiplexed) and event.peer == Identity.from_seed(seeded(name)).peer_id
    ours, theirs = pair.stream()
    ours.session.send(ours, b"question")
    theirs.session.send(theirs, b"answer")
    got = b"".join(event.data for event in pair.take(1) if isinstance(event, DataReceived))
    back = b"".join(event.data for event in pair.take(0) if isinstance(event, DataReceived))
    assert (got, back) == (b"question", b"answer")


def test_another_peer_than_expected() -> None:
    pair = Pair(expected=Identity.from_seed(seeded("somebody else")))
    assert pair.errors[0] is not None and pair.errors[0].code == "wrong-peer"
    assert pair.ends[0].state is State.CLOSED


def test_a_stream_lives_and_ends() -> None:
    pair = Pair()
    ours = pair.ends[0].session.open_stream()
    assert StreamAcknowledged(ours) in pair.take(0)
    theirs = next(event.stream for event in pair.take(1) if isinstance(event, StreamOpened))
    assert (ours.id, theirs.id) == (1, 1) and pair.ends[1].session.open_stream().id == 2
    ours.session.finish(ours)
    assert StreamFinished(theirs) in pair.take(1) and not theirs.closed
    theirs.session.send(theirs, b"more")
    theirs.session.finish(theirs)
    assert [type(event) for event in pair.take(0)[-2:]] == [DataReceived, StreamFinished]
    assert ours.closed and theirs.closed
    with pytest.raises(LocalProtocolError):
        ours.session.send(ours, b"late")


def test_a_reset_ends_both_ways_and_what_is_on_its_way_is_dropped() -> None:
    pair = Pair()
    ours, theirs = pair.stream()
    ours.session.send(ours, b"x" * 100_000)
    theirs.session.reset(theirs)
    assert StreamReset(ours) in pair.take(0)
    assert not any(isinstance(event, DataReceived) for event in pair.take(1)) and pair.errors == [None, None]
    assert pair.ends[1].session.discardable == INITIAL_WINDOW - 100_000


def test_what_the_window_does_not_allow_waits() -> None:
    pair = Pair()
    ours, theirs = pair.stream()
    data = bytes(range(256)) * 4096
    ours.session.send(ours, data)
    ours.session.finish(ours)
    got = b"".join(event.data for event in pair.take(1) if isinstance(event, DataReceived))
    assert len(got) == INITIAL_WINDOW and len(ours.held or b"") == len(data) - INITIAL_WINDOW
    while not theirs.fin_received:
        theirs.session.consume(theirs, INITIAL_WINDOW)
        got += b"".join(event.data for event in pair.take(1) if isinstance(event, DataReceived))
    assert got == data and ours.fin_sent and ours.held is None


def test_an_opened_window_is_told() -> None:
    pair = Pair()
    ours, theirs = pair.stream()
    theirs.session.grant(theirs, 1000)
    assert StreamWritable(ours) in pair.take(0) and ours.send_window == INITIAL_WINDOW + 1000


@pytest.mark.parametrize(
    "frames",
    [
        [(DATA, 0, 1, INITIAL_WINDOW + 1)],
        [(DATA, 0, 5, 1)],
        [(WINDOW_UPDATE, SYN, 1, 0)],
        [(WINDOW_UPDATE, SYN, 4, 0)],
        [(WINDOW_UPDATE, SYN, 0, 0)],
        [(WINDOW_UPDATE, FIN, 1, 0), (DATA, 0, 1, 1)],
        [(4, 0, 0, 0)],
        [(256, 0, 0, 0)],
        [(PING, SYN, 0, 0)] * 101,
        [(WINDOW_UPDATE, SYN, number, 0) for number in range(3, 500, 2)],
    ],
    ids=["window", "no stream", "twice", "parity", "zero", "after the end", "type", "version", "pings", "streams"],
)
def test_what_breaks_the_protocol_ends_the_connection(frames: list[tuple[int, int, int, int]]) -> None:
    pair = Pair()
    pair.stream()
    pair.inject(*frames)
    error = pair.errors[1]
    assert error is not None and pair.ends[1].state is State.CLOSED
    assert GoAwayReceived(GoAway.PROTOCOL_ERROR) in pair.take(0)
    with pytest.raises(RemoteProtocolError) as again:
        pair.ends[1].next_event()
    assert (str(again.value), again.value.code) == (str(error), error.code)


@pytest.mark.parametrize(
    "frames", [[(WINDOW_UPDATE, 0, 77, 9)], [(WINDOW_UPDATE, RST, 77, 0)], [(DATA, ACK, 77, 0)], [(PING, ACK, 0, 5)]]
)
def test_stray_frames_are_borne(frames: list[tuple[int, int, int, int]]) -> None:
    pair = Pair()
    pair.inject(*frames)
    assert pair.errors == [None, None]
    pair.stream()


def test_streams_beyond_the_limit_are_reset_one_by_one() -> None:
    pair = Pair(max_inbound_streams=2)
    streams = [pair.ends[0].session.open_stream() for _ in range(3)]
    assert StreamReset(streams[2]) in pair.take(0) and len(pair.ends[1].session.streams) == 2
    streams[0].session.reset(streams[0])
    pair.stream()


def test_a_peer_that_acknowledges_nothing_gets_no_more_streams() -> None:
    session = Pair(max_unacknowledged=3).ends[0].session
    for _ in range(3):
        session.open_stream()
    with pytest.raises(LocalProtocolError, match="acknowledgement"):
        session.open_stream()


def test_pings_and_good_byes() -> None:
    pair = Pair()
    pair.ends[0].session.ping(7)
    assert PongReceived(7) in pair.take(0)
    pair.ends[0].session.go_away(GoAway.NORMAL)
    assert GoAwayReceived(GoAway.NORMAL) in pair.take(1)
    for end in pair.ends:
        with pytest.raises(LocalProtocolError):
            end.session.open_stream()


def test_a_handshake_that_takes_too_long() -> None:
    connection = Pair().ends[1]
    fresh = Connection(
        Switch(Arena()), StaticKey(Identity.from_seed(bytes(32)), bytes(32)), seeded("e"), START,
        initiator=False, limits=connection.limits,
    )  # fmt: skip
    assert fresh.next_deadline() == START + 10
    fresh.handle_deadline(START + 9)
    assert fresh.state is State.NEGOTIATING_SECURITY
    fresh.handle_deadline(START + 10)
    assert fresh.state is State.CLOSED and fresh.error is not None and fresh.error.code == "timeout"


def test_silence_is_asked_and_then_believed() -> None:
    connection = Pair().ends[1]
    assert connection.next_deadline() == START + 30
    connection.handle_deadline(START + 30)
    assert connection.state is State.MULTIPLEXED and connection.next_deadline() == START + 45
    connection.handle_deadline(START + 45)
    assert connection.state is State.CLOSED and connection.error is not None and connection.next_deadline() is None


def test_the_end_between_messages_is_no_error() -> None:
    pair = Pair()
    pair.ends[1].receive_eof()
    assert pair.ends[1].state is State.CLOSED and pair.ends[1].error is None
