"""The stack as one machine: negotiate, secure, negotiate, multiplex.

    TCP bytes -> multistream-select "/noise" -> Noise XX -> (multistream-select "/yamux/1.0.0") -> yamux

The negotiation in brackets is skipped when both sides named a multiplexer in the Noise handshake.  Until yamux runs
the bytes are few and are handled as bytes objects; from then on they move in the arena, from ``receive_buffer`` to
``take_output``, and this machine only says what happened to streams that end here.

By the machine contract: receiving never raises; events that came before an error come out before it; a connection in
error stays so and closes.  Over a stream of another connection (a circuit dialled through a relay) the same machine
runs unchanged, fed by ``receive_data`` and drained by ``data_to_send``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from protocol import multistream, noise, yamux
from protocol.arena import HEADROOM, Arena
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId, PublicKey
from protocol.yamux import GoAway, Session, Stream, YamuxEvent, YamuxLimits

if TYPE_CHECKING:
    from protocol.switching import Switch

MUXERS: Final = (yamux.PROTOCOL,)


class State(Enum):
    """Where a connection stands; each step is entered once, in this order."""

    NEGOTIATING_SECURITY = "negotiating security"
    SECURING = "securing"
    NEGOTIATING_MUXER = "negotiating a multiplexer"
    MULTIPLEXED = "multiplexed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may cost.  Durations in seconds.

    ``handshake_timeout``: from accept or dial until streams can be opened.  ``keepalive_interval``: silence after
    which we ping, 0 = never.  ``keepalive_timeout``: further silence after which the peer counts as gone.
    """

    handshake_timeout: float = 10.0
    keepalive_interval: float = 60.0
    keepalive_timeout: float = 20.0
    yamux: YamuxLimits = field(default_factory=YamuxLimits)


@dataclass(frozen=True, slots=True)
class Multiplexed:
    """The peer proved who it is and streams can be opened."""

    public_key: PublicKey
    peer: PeerId


ConnectionEvent = Multiplexed | YamuxEvent


class Sealing(Protocol):
    """What makes of frames what is written: :class:`protocol.noise.Sealer`, or nothing between forwarders."""

    def seal(self, arena: Arena, plain: memoryview) -> tuple[memoryview, int, int]: ...


class Connection:
    """One connection, from its first byte to its last.

    ``ephemeral``: 32 fresh random bytes for this handshake.  ``expected``: the peer that a dialler wants.
    ``blocked``, ``waiting``: set and used by who writes the output and by the switch: while the socket takes no
    more, the senders in ``waiting`` get no credit.  ``owner``: what the owner attaches.
    """

    __slots__ = (
        "_opener",
        "_pending",
        "_ping_sent_at",
        "_sealer",
        "_second_end",
        "_segments",
        "_stage",
        "arena",
        "blocked",
        "dirty",
        "error",
        "events",
        "initiator",
        "last_received",
        "limits",
        "opened_at",
        "owner",
        "peer",
        "public_key",
        "session",
        "state",
        "switch",
        "waiting",
    )
    _stage: tuple[multistream.Dialer | multistream.Listener, noise.Handshake] | None

    def __init__(
        self,
        switch: Switch,
        static: noise.StaticKey,
        ephemeral: bytes,
        now: float,
        *,
        initiator: bool,
        limits: ConnectionLimits,
        expected: PeerId | None = None,
    ) -> None:
        self._prepare(switch, now, initiator=initiator, limits=limits)
        handshake = noise.Handshake(static, ephemeral, initiator=initiator, muxers=MUXERS, expected=expected)
        security = (noise.PROTOCOL,)
        negotiation = multistream.Dialer(security) if initiator else multistream.Listener(security)
        self._stage = negotiation, handshake
        self._write_plain(negotiation.data_to_send())

    def _prepare(self, switch: Switch, now: float, *, initiator: bool, limits: ConnectionLimits) -> None:
        self.switch = switch
        self.arena: Arena = switch.arena
        self.initiator = initiator
        self.limits = limits
        self.state = State.NEGOTIATING_SECURITY
        self.error: RemoteProtocolError | None = None
        self.events: deque[ConnectionEvent] = deque()
        self.peer: PeerId | None = None
        self.public_key: PublicKey | None = None
        self.owner: object = None
        self.blocked = False
        self.waiting: set[Stream] = set()
        self.dirty = False
        self.opened_at = now
        self.last_received = now
        self._second_end = now + 1.0
        self._ping_sent_at = 0.0
        self._pending = b""
        self._segments: list[tuple[memoryview, int, int]] = []
        self._stage = None
        self._sealer: Sealing | None = None
        self._opener: noise.Opener | None = None
        self.session = Session(initiator=initiator, limits=limits.yamux, mark_dirty=self.mark_dirty, connection=self)

    # Bytes in.

    def receive_buffer(self) -> memoryview:
        """Where the next bytes go: ``recv_into`` this, then call :meth:`buffer_filled`, before anything else."""
        pending = self._pending
        if not pending:
            return self.arena.inbound_view
        self.arena.inbound[: len(pending)] = pending
        return self.arena.inbound_view[len(pending) :]

    def buffer_filled(self, size: int, now: float) -> None:
        """``size`` bytes were put into :meth:`receive_buffer` at ``now``."""
        self.last_received = now
        if now >= self._second_end:
            self._second_end = now + 1.0
            self.session.begin_second()
        end = len(self._pending) + size
        try:
            if self.state is State.MULTIPLEXED:
                self._receive_frames(end)
            elif self.state is not State.CLOSED:
                self._pending = b""
                self._advance(bytes(self.arena.inbound_view[:end]))
        except RemoteProtocolError as error:
            self._fail(error.bare())

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """Any number of bytes, copied into the arena piece by piece."""
        view = memoryview(data)
        while view:
            buffer = self.receive_buffer()
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self.buffer_filled(size, now)
            view = view[size:]

    def receive_eof(self) -> None:
        """The peer closed its side: between messages that is an end, within one an error."""
        if self.state is State.CLOSED:
            return
        if self.state is not State.MULTIPLEXED:
            self._fail(RemoteProtocolError(f"the peer closed while {self.state.value}", "closed"))
        else:
            self.state = State.CLOSED

    # Events out.

    def next_event(self) -> ConnectionEvent | None:
        """The next thing that happened; None when more bytes are needed; raises the error, ever after."""
        if self.events:
            return self.events.popleft()
        if self.session.events:
            return self.session.events.popleft()
        if self.error is not None:
            raise self.error.bare()
        return None

    # Bytes out.

    def mark_dirty(self) -> None:
        """Be among the arena's connections with something to write."""
        if not self.dirty:
            self.dirty = True
            self.arena.dirty.append(self)

    def seal(self, plain: memoryview) -> None:
        """Send ``plain``, whole yamux frames, behind what the session has to say."""
        if self._sealer is None:
            raise LocalProtocolError("frames can be sent only on a secured connection")
        if self.session.control:
            self._seal_control()
        self._append(*self._sealer.seal(self.arena, plain))

    def take_output(self) -> list[memoryview]:
        """What is to be written, in order.  The views lie in the arena: use them before its reset."""
        if self.session.control and self._sealer is not None and self.state is not State.NEGOTIATING_MUXER:
            self._seal_control()
        # Only now: sealing must not put a connection back among the dirty that is being written.
        self.dirty = False
        segments, self._segments = self._segments, []
        return [buffer[start:end] for buffer, start, end in segments]

    def data_to_send(self) -> bytes:
        """The same as one bytes object, for those who do not write from the arena; resets it."""
        data = b"".join(self.take_output())
        if self in self.arena.dirty:
            self.arena.dirty.remove(self)
            self.dirty = False
        if not self.arena.dirty:
            self.arena.reset()
        return data

    def close(self, code: GoAway = GoAway.NORMAL) -> None:
        """Say good-bye (yamux GO_AWAY) and be closed: what output remains is to be written, then the socket shut."""
        if self.state is State.MULTIPLEXED:
            self.session.go_away(code)
        self.state = State.CLOSED

    # Time.

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` is to be called if nothing is received before."""
        if self.state is State.CLOSED:
            return None
        if self.state is not State.MULTIPLEXED:
            return self.opened_at + self.limits.handshake_timeout
        interval = self.limits.keepalive_interval
        if not interval:
            return None
        if self._ping_sent_at > self.last_received:
            return self._ping_sent_at + self.limits.keepalive_timeout
        return self.last_received + interval

    def handle_deadline(self, now: float) -> None:
        """Give up a handshake that takes too long; ping a silent peer; give up one that stays silent."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return
        if self.state is not State.MULTIPLEXED:
            seconds = self.limits.handshake_timeout
            self._fail(RemoteProtocolError(f"still {self.state.value} after {seconds:g} s", "timeout"))
        elif self._ping_sent_at > self.last_received:
            self._fail(RemoteProtocolError("no answer to a keep-alive ping", "timeout"))
        else:
            self._ping_sent_at = now
            self.session.ping(int(now) & 0xFFFFFFFF)

    # Steps.

    def _receive_frames(self, end: int) -> None:
        arena, opener = self.arena, self._opener
        assert opener is not None
        consumed, plain_end = opener.open(arena, end, HEADROOM)
        self._pending = bytes(arena.inbound_view[consumed:end]) if consumed < end else b""
        if plain_end > HEADROOM:
            self.switch.forward(self.session, HEADROOM, plain_end)

    def _advance(self, data: bytes) -> None:
        """The handshake, whose steps may end anywhere in ``data``."""
        while data and self._stage is not None:
            negotiation, handshake = self._stage
            if self.state is State.NEGOTIATING_SECURITY:
                negotiation.receive_data(data)
                event = negotiation.next_event()
                self._write_plain(negotiation.data_to_send())
                if event is None:
                    return
                if not isinstance(event, multistream.Negotiated):
                    raise RemoteProtocolError(f"the peer speaks none of {noise.PROTOCOL}", "negotiation")
                data = negotiation.trailing_data()
                self.state = State.SECURING
                self._write_plain(handshake.data_to_send())
            elif self.state is State.SECURING:
                handshake.receive_data(data)
                completed = handshake.next_event()
                self._write_plain(handshake.data_to_send())
                if completed is None:
                    return
                data = handshake.trailing_data()
                self._secure(completed)
            else:
                data = self._negotiate_muxer(data)
        if data:
            self._resume(data)

    def _secure(self, completed: noise.HandshakeCompleted) -> None:
        self.public_key = completed.public_key
        self.peer = completed.peer
        self._sealer = noise.Sealer(completed.send_key)
        self._opener = noise.Opener(completed.receive_key)
        if completed.muxer is not None:
            self._multiplex()
            return
        self.state = State.NEGOTIATING_MUXER
        negotiation: multistream.Dialer | multistream.Listener
        negotiation = multistream.Dialer(MUXERS) if self.initiator else multistream.Listener(MUXERS)
        assert self._stage is not None
        self._stage = (negotiation, self._stage[1])
        self._write_sealed(negotiation.data_to_send())

    def _negotiate_muxer(self, data: bytes) -> bytes:
        """Feed sealed ``data`` to the negotiation; what follows it is passed on as frames.  Returns b""."""
        assert self._stage is not None and self._opener is not None
        negotiation = self._stage[0]
        arena = self.arena
        arena.inbound[: len(data)] = data
        consumed, plain_end = self._opener.open(arena, len(data), HEADROOM)
        self._pending = data[consumed:]
        negotiation.receive_data(bytes(arena.plain_view[HEADROOM:plain_end]))
        event = negotiation.next_event()
        self._write_sealed(negotiation.data_to_send())
        if event is None:
            return b""
        if not isinstance(event, multistream.Negotiated):
            raise RemoteProtocolError(f"the peer speaks none of {', '.join(MUXERS)}", "negotiation")
        self._multiplex()
        trailing = negotiation.trailing_data()
        if trailing:
            arena.plain[HEADROOM : HEADROOM + len(trailing)] = trailing
            self.switch.forward(self.session, HEADROOM, HEADROOM + len(trailing))
        return b""

    def _resume(self, data: bytes) -> None:
        """``data`` came with the end of the handshake: it is the transport's already."""
        self.arena.inbound[: len(data)] = data
        self._receive_frames(len(data))

    def _multiplex(self) -> None:
        assert self.public_key is not None and self.peer is not None
        self._stage = None
        self.state = State.MULTIPLEXED
        self.events.append(Multiplexed(self.public_key, self.peer))

    def _fail(self, error: RemoteProtocolError) -> None:
        if self.state is State.MULTIPLEXED:
            self.session.go_away(GoAway.NORMAL if error.code == "timeout" else GoAway.PROTOCOL_ERROR)
        self.error = error
        self.state = State.CLOSED
        self._pending = b""
        self._stage = None
        self.mark_dirty()

    def _write_plain(self, data: bytes) -> None:
        if data:
            self._append(memoryview(data), 0, len(data))

    def _write_sealed(self, data: bytes) -> None:
        if data:
            assert self._sealer is not None
            self._append(*self._sealer.seal(self.arena, memoryview(data)))

    def _seal_control(self) -> None:
        assert self._sealer is not None
        control = self.session.control
        with memoryview(control) as view:
            self._append(*self._sealer.seal(self.arena, view))
        control.clear()

    def _append(self, buffer: memoryview, start: int, end: int) -> None:
        if self._segments:
            last, last_start, last_end = self._segments[-1]
            if last is buffer and last_end == start:
                self._segments[-1] = (buffer, last_start, end)
                return
        self._segments.append((buffer, start, end))
        self.mark_dirty()
