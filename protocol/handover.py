"""A live connection as plain data, and back: how a connection goes on in another process.

What moves is what a peer could notice the lack of: keys and their counters, bytes that are not used up yet, every
stream with its windows, and the times that deadlines are counted from.  What is only a cache (a second cipher, the
arena's buffers) does not.  :func:`take` reads a connection between two turns, when nothing of it lies in the arena;
:func:`restore` makes its successor, which writes the bytes that the first would have written, to the byte.

A handshake moves too.  Noise XX with the same static key, the same ephemeral key and the same first message gives the
same state, so what goes along is the ephemeral key and the message that came; the successor reads it again and throws
away the answer, which was sent.

The data holds keys: it goes over a private socket between processes of one node, and to no log or file.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Final, TypeVar

import msgspec

from protocol import multistream, noise
from protocol.codec import decode_untrusted
from protocol.connection import MUXERS, Connection, ConnectionLimits, State
from protocol.errors import LocalProtocolError
from protocol.identity import PeerId, PublicKey
from protocol.machine_state import NegotiationState, restore_dialer, restore_listener, take_negotiation
from protocol.plain_connection import PlainConnection, Unsealed
from protocol.switching import Circuit, Switch
from protocol.yamux import UNLIMITED, Session, Stream

#: Of all that is handed over, in protocol/ and in actors/: raised when a field comes, goes or changes its meaning.  A
#: successor says which it can read; one that cannot read ours is refused, and nothing is given up.
VERSION: Final = 2

#: Kinds of connections.
NOISE: Final = "noise"
PLAIN: Final = "plain"

_Key = Annotated[bytes, msgspec.Meta(max_length=noise.KEY)]

#: What of a Noise message has come is at most one message with its length.
_Pending = Annotated[bytes, msgspec.Meta(max_length=2 + noise.MAX_MESSAGE)]

T = TypeVar("T")


class StreamState(msgspec.Struct, frozen=True, array_like=True):
    """A stream of a session's table (protocol/yamux.py says what the fields are).  ``waits``: for the socket of the
    other half of its circuit to take bytes again before it is given credit."""

    id: int
    inbound: bool
    send_window: int
    receive_window: int
    budget: int
    consumed: int
    acknowledged: bool
    fin_sent: bool
    fin_received: bool
    fin_after_held: bool
    held: bytes
    waits: bool
    beyond: int
    owed: int


class SessionState(msgspec.Struct, frozen=True, array_like=True):
    """A yamux session.  ``body_stream``: 0 when the body that is under way belongs to none."""

    streams: tuple[StreamState, ...]
    next_id: int
    control: bytes
    partial: Annotated[bytes, msgspec.Meta(max_length=11)]
    body_left: int
    body_stream: int
    body_flags: int
    discardable: int
    going_away: bool
    remote_going_away: bool
    pings: int
    streams_opened: int


class HandshakeState(msgspec.Struct, frozen=True, array_like=True):
    """A Noise handshake that is not over.  ``heard``: the whole messages that came, ``pending``: of the next, what did.
    ``expected``: the peer id that we dialled, b"" for none."""

    ephemeral: _Key
    heard: tuple[bytes, ...]
    pending: bytes
    expected: bytes

    def __repr__(self) -> str:
        return "HandshakeState([scrubbed])"


class ConnectionState(msgspec.Struct, frozen=True, array_like=True):
    """A connection.  ``step``: the name of its :class:`~protocol.connection.State`.  ``public_key``: the peer's, b""
    before it is proved.  ``negotiation``, ``handshake``: while they last.  Times: seconds of the clock that the
    connection was told."""

    kind: str
    initiator: bool
    step: str
    public_key: bytes
    opened_at: float
    last_received: float
    second_end: float
    ping_sent_at: float
    pending: _Pending
    send_key: _Key
    send_counter: int
    receive_key: _Key
    receive_counter: int
    session: SessionState
    negotiation: NegotiationState | None
    handshake: HandshakeState | None

    def __repr__(self) -> str:
        return f"ConnectionState({self.step}, [scrubbed])"


class CircuitState(msgspec.Struct, frozen=True, array_like=True):
    """A circuit.  Ends are (number of the connection within what is handed over, stream id).  ``data_limit``: bytes
    each way, 0: none.  ``service_class``, ``weight``: as protocol/switching.py has them."""

    id: int
    source: tuple[int, int]
    target: tuple[int, int]
    data_limit: int
    opened_at: float
    overrun: bool = False
    service_class: str = "public"
    weight: int = 1


def decode(data: bytes, kind: type[T], max_bytes: int) -> T:
    """A state out of what another process of this node wrote; CodecError."""
    return decode_untrusted(data, kind, max_bytes)


# Connections.


def take(connection: Connection) -> ConnectionState:
    """The state of ``connection``, which is not to be used any more.

    LocalProtocolError when there is none to take: it is closed, or amid a turn (events or output not fetched).
    """
    session = connection.session
    if connection.state is State.CLOSED:
        raise LocalProtocolError("a closed connection has no state to hand over")
    if connection.events or session.events or connection._segments:
        raise LocalProtocolError("a connection is handed over between turns")
    sealer, opener = connection._sealer, connection._opener
    stage = connection._stage
    negotiating = stage is not None and connection.state is not State.SECURING
    return ConnectionState(
        kind=PLAIN if isinstance(connection, PlainConnection) else NOISE,
        initiator=connection.initiator,
        step=connection.state.name,
        public_key=b"" if connection.public_key is None else connection.public_key.encode(),
        opened_at=connection.opened_at,
        last_received=connection.last_received,
        second_end=connection._second_end,
        ping_sent_at=connection._ping_sent_at,
        pending=connection._pending,
        send_key=sealer.key if isinstance(sealer, noise.Sealer) else b"",
        send_counter=sealer.counter if isinstance(sealer, noise.Sealer) else 0,
        receive_key=b"" if opener is None else opener.key,
        receive_counter=0 if opener is None else opener.counter,
        session=_take_session(session),
        negotiation=take_negotiation(stage[0]) if stage is not None and negotiating else None,
        handshake=_take_handshake(stage[1]) if stage is not None and sealer is None else None,
    )


def restore(
    state: ConnectionState, switch: Switch, static: noise.StaticKey, limits: ConnectionLimits, shift: float = 0.0
) -> Connection:
    """The connection that goes on from ``state``.  Its circuits are joined by :func:`rejoin`.

    ``static``: the key of the process that took the state.  ``shift``: seconds by which this process' clock is ahead.
    """
    connection = Connection.__new__(PlainConnection if state.kind == PLAIN else Connection)
    connection._prepare(switch, state.opened_at + shift, initiator=state.initiator, limits=limits)
    connection.state = State[state.step]
    connection.last_received = state.last_received + shift
    connection._second_end = state.second_end + shift
    connection._ping_sent_at = state.ping_sent_at + shift if state.ping_sent_at else 0.0
    connection._pending = state.pending
    if state.public_key:
        connection.public_key = PublicKey.decode(state.public_key)
        connection.peer = connection.public_key.peer_id
    if state.kind == PLAIN:
        connection._sealer = Unsealed()
    elif state.send_key:
        connection._sealer = noise.Sealer(state.send_key, state.send_counter)
        connection._opener = noise.Opener(state.receive_key, state.receive_counter)
    if connection.state is not State.MULTIPLEXED:
        _restore_stage(connection, state, static)
    _restore_session(connection.session, state.session)
    return connection


def _restore_stage(connection: Connection, state: ConnectionState, static: noise.StaticKey) -> None:
    """The handshake again, up to where it was.  Once keys are agreed only the negotiation behind it goes on."""
    heard = state.handshake
    handshake = noise.Handshake(
        static,
        heard.ephemeral if heard is not None else bytes(noise.KEY),
        initiator=state.initiator,
        muxers=MUXERS,
        expected=PeerId(heard.expected) if heard is not None and heard.expected else None,
    )
    if heard is not None:
        handshake.hear_again(heard.heard, heard.pending)
    # What it says first is written when the security protocol is agreed; later it has been.
    if connection.state is not State.NEGOTIATING_SECURITY:
        handshake.data_to_send()
    protocols = (noise.PROTOCOL,) if connection.state is State.NEGOTIATING_SECURITY else MUXERS
    negotiation: multistream.Dialer | multistream.Listener
    if state.negotiation is None:
        negotiation = multistream.Listener(protocols)  # over: it is not looked at again
    elif state.initiator:
        negotiation = restore_dialer(state.negotiation, protocols)
    else:
        negotiation = restore_listener(state.negotiation, protocols)
    connection._stage = (negotiation, handshake)


def _take_handshake(handshake: noise.Handshake) -> HandshakeState:
    expected = handshake._expected
    return HandshakeState(
        ephemeral=handshake._private,
        heard=tuple(handshake._heard),
        pending=bytes(handshake._pending),
        expected=b"" if expected is None else expected.bytes,
    )


# Sessions.


def _take_session(session: Session) -> SessionState:
    body = session.body_stream
    return SessionState(
        streams=tuple(_take_stream(stream) for stream in session.streams.values()),
        next_id=session._next_id,
        control=bytes(session.control),
        partial=session.partial,
        body_left=session.body_left,
        body_stream=0 if body is None else body.id,
        body_flags=session.body_flags,
        discardable=session.discardable,
        going_away=session.going_away,
        remote_going_away=session.remote_going_away,
        pings=session._pings,
        streams_opened=session._streams_opened,
    )


def _take_stream(stream: Stream) -> StreamState:
    out = stream.out
    return StreamState(
        id=stream.id,
        inbound=stream.inbound,
        send_window=stream.send_window,
        receive_window=stream.receive_window,
        budget=stream.budget,
        consumed=stream.consumed,
        acknowledged=stream.acknowledged,
        fin_sent=stream.fin_sent,
        fin_received=stream.fin_received,
        fin_after_held=stream.fin_after_held,
        held=b"" if stream.held is None else bytes(stream.held),
        waits=out is not None and stream in out.session.connection.waiting,
        beyond=stream.beyond,
        owed=stream.owed,
    )


def _restore_session(session: Session, state: SessionState) -> None:
    for one in state.streams:
        stream = Stream(session, one.id, inbound=one.inbound)
        stream.send_window = one.send_window
        stream.receive_window = one.receive_window
        stream.budget = one.budget
        stream.consumed = one.consumed
        stream.acknowledged = one.acknowledged
        stream.fin_sent = one.fin_sent
        stream.fin_received = one.fin_received
        stream.fin_after_held = one.fin_after_held
        stream.held = bytearray(one.held) if one.held else None
        stream.beyond = one.beyond
        stream.owed = one.owed
        session.streams[stream.id] = stream
        session.inbound_streams += one.inbound
        session.unacknowledged += not one.inbound and not one.acknowledged
    session._next_id = state.next_id
    session.control += state.control
    session.partial = state.partial
    session.body_left = state.body_left
    session.body_flags = state.body_flags
    if state.body_stream:
        # A stream that was reset while its frame was under way is in no table, and its rest is thrown away.
        body = session.streams.get(state.body_stream)
        session.body_stream = body or Stream(session, state.body_stream, inbound=True)
    session.discardable = state.discardable
    session.going_away = state.going_away
    session.remote_going_away = state.remote_going_away
    session._pings = state.pings
    session._streams_opened = state.streams_opened
    session.events = deque()
    if session.control:
        session.mark_dirty()


# Circuits.


def rejoin(switch: Switch, state: CircuitState, source: Stream, target: Stream, shift: float = 0.0) -> Circuit:
    """Make two restored streams the circuit that they were."""
    circuit = Circuit(state.id, source, target, state.data_limit, state.opened_at + shift)
    for stream, out in ((source, target), (target, source)):
        stream.out = out
        stream.circuit = circuit
    circuit.overrun = state.overrun
    circuit.service_class, circuit.weight = state.service_class, state.weight
    switch.meter.join(circuit)
    return circuit


def data_limit(circuit: Circuit) -> int:
    """What the circuit may carry each way, 0: unlimited."""
    return 0 if circuit._limit == UNLIMITED else circuit._limit
