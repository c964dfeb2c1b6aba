"""Connections that go on elsewhere: the successor writes what the first would have written, to the byte."""

from __future__ import annotations

import msgspec
import pytest

from protocol import noise
from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits, Multiplexed, State
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.handover import (
    CircuitState,
    ConnectionState,
    HandshakeState,
    SessionState,
    StreamState,
    decode,
    restore,
    take,
)
from protocol.identity import Identity
from protocol.noise import StaticKey
from protocol.plain_connection import PlainConnection
from protocol.switching import Circuit, Switch
from protocol.yamux import DataReceived, Session, Stream, StreamOpened, YamuxLimits
from tests.support.peers import START, seeded

LIMITS = ConnectionLimits(yamux=YamuxLimits(max_inbound_streams=3))


def connection(name: str, *, initiator: bool, expected: str = "") -> Connection:
    static = StaticKey(Identity.from_seed(seeded(name)), seeded(name + " static"))
    wanted = Identity.from_seed(seeded(expected)).peer_id if expected else None
    return Connection(
        Switch(Arena()), static, seeded(name + " once"), START, initiator=initiator, limits=LIMITS, expected=wanted
    )


def moved(old: Connection, name: str) -> Connection:
    """``old`` as another process takes it up."""
    data = msgspec.msgpack.encode(take(old))
    static = StaticKey(Identity.from_seed(seeded(name)), seeded(name + " static"))
    return restore(decode(data, ConnectionState, 1 << 20), Switch(Arena()), static, old.limits)


def events(end: Connection) -> list[object]:
    found = []
    while (event := end.next_event()) is not None:
        found.append(event)
    return found


def conversation(cut: int, *, move: frozenset[str] = frozenset()) -> tuple[bytes, bytes, list[str]]:
    """A handshake, a stream, and a few words, carried in pieces of ``cut`` bytes; those in ``move`` are handed over
    after each piece.  What each wrote, and what happened."""
    ends = {
        "dialler": connection("dialler", initiator=True, expected="listener"),
        "listener": connection("listener", initiator=False),
    }
    wrote = {"dialler": b"", "listener": b""}
    under_way = {"dialler": b"", "listener": b""}
    happened: list[str] = []
    spoken = False
    for _ in range(20_000):
        for name, other in (("dialler", "listener"), ("listener", "dialler")):
            data = ends[name].data_to_send()
            wrote[name] += data
            under_way[other] += data
            piece, under_way[name] = under_way[name][:cut], under_way[name][cut:]
            if piece:
                ends[name].receive_data(piece, START + 1.0)
                for event in events(ends[name]):
                    happened.append(f"{name}: {type(event).__name__}")
                    if isinstance(event, DataReceived):
                        happened[-1] += f" {event.data!r}"
                        ends[name].session.consume(event.stream, len(event.data))
                    if isinstance(event, StreamOpened):
                        ends[name].session.send(event.stream, b"welcome")
                        ends[name].session.finish(event.stream)
                    if isinstance(event, Multiplexed) and name == "dialler" and not spoken:
                        spoken = True
                        stream = ends[name].session.open_stream()
                        ends[name].session.send(stream, b"hello")
                wrote[name] += (said := ends[name].data_to_send())
                under_way[other] += said
            if name in move:
                ends[name] = moved(ends[name], name)
        if spoken and not any(under_way.values()):
            break
    return wrote["dialler"], wrote["listener"], happened


@pytest.mark.parametrize("early_muxer", [True, False])
@pytest.mark.parametrize("mover", ["dialler", "listener"])
@pytest.mark.parametrize("cut", [1, 7, 200])
def test_a_connection_moves_at_any_byte(
    cut: int, mover: str, early_muxer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not early_muxer:
        monkeypatch.setattr(noise, "_choose", lambda preferred, other: None)
    stayed = conversation(cut)
    assert "listener: DataReceived b'hello'" in stayed[2] and "dialler: DataReceived b'welcome'" in stayed[2]
    assert conversation(cut, move=frozenset({mover})) == stayed


def test_who_was_expected_is_still_expected() -> None:
    dialler = connection("dialler", initiator=True, expected="listener")
    impostor = connection("impostor", initiator=False)
    impostor.receive_data(dialler.data_to_send(), START)
    dialler = moved(dialler, "dialler")
    for _ in range(3):
        dialler.receive_data(impostor.data_to_send(), START)
        impostor.receive_data(dialler.data_to_send(), START)
    with pytest.raises(RemoteProtocolError, match="expected peer"):
        events(dialler)


def test_times_go_on_by_the_clock_of_the_successor() -> None:
    old = connection("listener", initiator=False)
    static = StaticKey(Identity.from_seed(seeded("listener")), seeded("listener static"))
    new = restore(take(old), Switch(Arena()), static, LIMITS, shift=100.0)
    assert new.next_deadline() == START + 100 + LIMITS.handshake_timeout
    new.handle_deadline(START + 100 + LIMITS.handshake_timeout)
    assert new.state is State.CLOSED and new.error is not None and new.error.code == "timeout"


def test_a_body_that_belongs_to_no_stream_any_more_is_still_thrown_away() -> None:
    dialler, listener = connection("dialler", initiator=True), connection("listener", initiator=False)
    for _ in range(3):
        listener.receive_data(dialler.data_to_send(), START)
        dialler.receive_data(listener.data_to_send(), START)
    events(listener)
    stream = dialler.session.open_stream()
    dialler.session.send(stream, b"begun")
    listener.receive_data(dialler.data_to_send(), START)
    opened, *_ = events(listener)
    assert isinstance(opened, StreamOpened)
    # The frame's header has come when its stream is reset.
    listener.session.body_left, listener.session.body_stream = 50_000, opened.stream
    listener.session.reset(opened.stream)
    listener.data_to_send()
    new = moved(listener, "listener")
    body = new.session.body_stream
    assert body is not None and body.closed and new.session.body_left == 50_000
    assert new.session.discardable == listener.session.discardable


def test_there_is_nothing_to_take_of_a_closed_connection_or_amid_a_turn() -> None:
    old = connection("listener", initiator=False)
    old.receive_data(b"\x13/multistream/1.0.0\n", START)
    with pytest.raises(LocalProtocolError, match="between turns"):
        take(old)
    old.data_to_send()
    take(old)
    old.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        take(old)


def test_what_is_made_of_a_state_has_that_state() -> None:
    """Every field at a value that no new connection has."""
    streams = (
        StreamState(5, True, 11, 12, 13, 14, True, False, True, True, b"held", False, 15, 3),
        StreamState(2, False, 21, 22, 23, 24, False, True, False, False, b"", False, 25, 0),
    )
    session = SessionState(streams, 8, b"control", b"part", 31, 5, 4, 32, True, True, 33, 34)
    key = Identity.from_seed(seeded("someone")).public_key.encode()
    times = (START + 1, START + 2, START + 3, START + 4)
    state = ConnectionState(
        "noise", True, "MULTIPLEXED", key, *times, b"pending", seeded("out"), 41, seeded("in"), 42, session, None, None
    )
    static = StaticKey(Identity.from_seed(seeded("listener")), seeded("listener static"))
    new = restore(state, Switch(Arena()), static, LIMITS)
    assert (new.session.inbound_streams, new.session.unacknowledged) == (1, 1)
    assert take(new) == state
    plain = msgspec.structs.replace(
        state, kind="plain", send_key=b"", receive_key=b"", send_counter=0, receive_counter=0
    )
    new = restore(plain, Switch(Arena()), static, LIMITS)
    assert isinstance(new, PlainConnection) and take(new) == plain


def test_states_print_no_key() -> None:
    old = connection("listener", initiator=False)
    state = take(old)
    assert state.handshake is not None
    for text in (repr(state), repr(state.handshake)):
        assert "scrubbed" in text and str(seeded("listener once")) not in text


def test_no_field_is_forgotten() -> None:
    """Whoever adds a slot decides whether it moves, and raises protocol.handover.VERSION if it does."""
    caches = {"arena", "switch", "limits", "owner", "events", "error", "dirty", "blocked", "waiting", "_segments"}
    renamed = {"state", "peer", "_sealer", "_opener", "_stage"}
    fields = {"_" + name for name in ConnectionState.__struct_fields__} | set(ConnectionState.__struct_fields__)
    assert set(Connection.__slots__) - caches - renamed <= fields
    fields = {"_" + name for name in SessionState.__struct_fields__} | set(SessionState.__struct_fields__)
    assert set(Session.__slots__) - fields == {
        "limits", "mark_dirty", "connection", "events", "dear",  # the successor's own
        "inbound_streams", "unacknowledged",  # counted from the streams
        "_parity",  # from initiator
    }  # fmt: skip
    assert set(Stream.__slots__) - set(StreamState.__struct_fields__) == {"session", "owner", "out", "circuit"}
    assert set(Circuit.__slots__) - set(CircuitState.__struct_fields__) == {"_limit", "reason"}
    assert set(noise.Handshake.__slots__) == {
        "_private", "_heard", "_pending", "_expected",  # move
        "_error", "_event", "_output",  # empty between turns
        "_muxers", "_public", "_static", "_steps",  # made again
    }  # fmt: skip
    assert len(HandshakeState.__struct_fields__) == 4
