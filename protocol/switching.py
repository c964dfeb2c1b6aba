"""The label switch: two yamux streams joined into a circuit.

A circuit is two streams of two connections, each the other's ``out``.  A DATA frame of one leaves as a DATA frame
of the other: its header is rewritten where it lies in the arena's plaintext, and the bytes from there on are sealed
into the outbound buffer.  Frames that lie side by side and leave on one connection are one run, sealed together, so
that many small messages cost one Noise message and one write.  Nothing is copied, queued or awaited, and no object
is made for a frame.

**Credit.**  For each direction the switch knows what the receiver still allows (``out.send_window``) and what it has
itself allowed the sender (``stream.receive_window``), and grants ``min(receiver's, cap) - outstanding``.  So what
arrives may always leave at once; a receiver that opens its window wide keeps its speed; a receiver that stops costs
at most the cap; and the relay never has to stop reading a connection because one of its circuits is slow.  The one
exception is the slack between two first windows, from which HOP and STOP messages of different length were taken:
those few bytes are held in ``out.held``.

**Budget.**  ``stream.budget`` is what may still pass from that stream ("data: the limit, in bytes, of data
transferred in each direction", specs/relay/circuit-v2, "Reservation").  Exactly the budget passes, and the byte
after it resets both streams.

**Cap.**  What the node relays in all is bounded by the same comparison: under a cap a stream's budget is what has been
paid for, and a frame beyond it takes the way by :meth:`Switch.push`, where more is paid for or the bytes are held
(protocol/metering.py).  A node without a cap pays nothing for that.

The walk over frames is here, and not in yamux.py, because it is the code that costs: about 0.4 us for a frame that
is passed on, beside the ciphers (tests/benchmarks, "1.2 kB").
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from protocol.errors import LocalProtocolError
from protocol.metering import MOST_OWED, Meter, window
from protocol.yamux import DATA, FIN, HEADER, HEADER_SIZE, RST, UNLIMITED, WINDOW_UPDATE, Session, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocol.arena import Arena

#: The stream id within a header, at offset 4: all that changes when a whole frame is passed on.
LABEL: Final = struct.Struct(">I")

#: Bytes of a frame below which its header costs more than they do: sixteen such count as one that is not passed on.
SMALL_FRAME: Final = 64

#: Default of the most bytes that a sender may have outstanding on a circuit: what a stalled receiver costs.  One
#: mebibyte keeps 100 Mbit/s over a round trip of 80 ms.
WINDOW_CAP: Final = 1024 * 1024


class Circuit:
    """Two joined streams.

    ``source``: the stream of the peer that dialled; ``target``: that of the peer with the reservation.
    ``bytes_to_target``, ``bytes_to_source``: payload passed, without yamux headers.  ``reason``: why it ended, ""
    while it lives.  ``overrun``: more than the limit came, and what is within it waits for quota.  ``service_class``:
    whom it is for, ``weight``: what that counts when quota is scarce.
    """

    __slots__ = ("_limit", "id", "opened_at", "overrun", "reason", "service_class", "source", "target", "weight")

    def __init__(self, circuit_id: int, source: Stream, target: Stream, data_limit: int, opened_at: float) -> None:
        self.id = circuit_id
        self.source = source
        self.target = target
        self.opened_at = opened_at
        self.reason = ""
        self.overrun = False
        self.service_class = "public"
        self.weight = 1
        self._limit = data_limit or UNLIMITED

    @property
    def bytes_to_target(self) -> int:
        return self._limit - self.source.budget - self.source.beyond - self.target.owed

    @property
    def bytes_to_source(self) -> int:
        return self._limit - self.target.budget - self.target.beyond - self.source.owed


class Switch:
    """The circuits of one arena.

    ``window_cap``: see :data:`WINDOW_CAP`.  ``ended``: circuits that ended since the owner last emptied the list.
    ``meter``: the quota of this forwarder.
    """

    __slots__ = ("_credited", "_most", "_step", "arena", "ended", "meter", "window_cap")

    def __init__(self, arena: Arena, window_cap: int = WINDOW_CAP) -> None:
        self.arena = arena
        self.window_cap = self._most = window_cap
        self.ended: list[Circuit] = []
        self.meter = Meter()
        # A grant is worth a frame when it is a good part of the cap, or of what the sender has left.
        self._step = window_cap // 4
        self._credited: set[Stream] = set()

    def set_rate(self, rate: float, circuits: Iterable[Circuit]) -> None:
        """From now on ``circuits``, all that there are, pass what quota is there for; 0: all that comes.  ``rate``:
        bytes a second of the whole node."""
        self.window_cap = window(rate, self._most) if rate else self._most
        self._step = self.window_cap // 4
        if rate and not self.meter.on:
            self.meter.start(circuits)
        elif not rate and self.meter.on:
            self.meter.stop(circuits)
            self.receive_quota(0)

    def receive_quota(self, amount: int) -> None:
        """So many more bytes may pass: those that wait go first."""
        meter, owed = self.meter, self.meter.owed
        paid = meter.share_out(amount)
        self.arena.bytes_switched += owed - meter.owed
        for out in paid:
            source, circuit = out.out, out.circuit
            if source is None or circuit is None:
                continue
            out.session.send_held(out)
            self._credited.add(source)
            if out.owed:
                continue
            if circuit.overrun:
                self.end(circuit, "data limit")
                continue
            if source.fin_received and source.fin_sent:
                source.session.forget(source)
            self._end_if_finished(circuit)

    def join(
        self,
        circuit_id: int,
        source: Stream,
        target: Stream,
        *,
        data_limit: int = 0,
        opened_at: float = 0.0,
        service_class: str = "public",
        weight: int = 1,
    ) -> Circuit:
        """Make two open streams one circuit.  ``data_limit``: bytes each way, 0 = unlimited.

        A stream whose peer has finished already is to be finished (:meth:`finish`), once what it sent before was passed
        on (:meth:`push`).  LocalProtocolError if either is closed or already part of a circuit.
        """
        if source.closed or target.closed or source.out is not None or target.out is not None:
            raise LocalProtocolError("only two open, unjoined streams make a circuit")
        circuit = Circuit(circuit_id, source, target, data_limit, opened_at)
        circuit.service_class, circuit.weight = service_class, weight
        for stream, out in ((source, target), (target, source)):
            stream.out = out
            stream.circuit = circuit
            stream.budget = data_limit or UNLIMITED
            stream.owner = None
            self._credited.add(stream)
        self.meter.join(circuit)
        return circuit

    def end(self, circuit: Circuit, reason: str, origin: Stream | None = None) -> None:
        """Reset both streams of ``circuit`` (``origin`` is already gone at its peer: it is only forgotten)."""
        if circuit.reason:
            return
        circuit.reason = reason
        self.meter.leave(circuit)
        for stream in (circuit.source, circuit.target):
            if stream is origin:
                stream.session.forget(stream)
            else:
                stream.session.reset(stream)
            stream.out = None
            stream.circuit = None
        self.ended.append(circuit)

    def abandon(self, session: Session, reason: str) -> None:
        """The connection of ``session`` is gone: so are its circuits."""
        for stream in list(session.streams.values()):
            if stream.circuit is not None:
                self.end(stream.circuit, reason, origin=stream)

    def push(self, stream: Stream, data: bytes | bytearray | memoryview) -> None:
        """Pass bytes that do not lie in the arena, or exceed credit or budget, from ``stream`` to its ``out``."""
        out, circuit = stream.out, stream.circuit
        if out is None or circuit is None:
            return
        view = memoryview(data)
        size = len(view)
        if stream.budget < size and stream.beyond:
            self.meter.pay(stream, size)
        paid = min(size, stream.budget)
        owed = min(size - paid, stream.beyond)
        stream.budget -= paid
        self.arena.bytes_switched += paid
        if not (out.fin_sent or out.fin_after_held):
            if paid:
                out.session.send(out, view[:paid])
            if owed:
                self.meter.owe(stream, out, view[paid : paid + owed])
        if paid + owed < size:
            if out.owed:
                circuit.overrun = True
            else:
                self.end(circuit, "data limit")
        if self.meter.owed > MOST_OWED:
            self.end(self.meter.worst(), "the cap left more bytes waiting than are kept")

    def forward(self, session: Session, start: int, end: int) -> None:
        """Walk the frames in ``plain[start:end]``: pass on what belongs to circuits, give the session the rest.

        RemoteProtocolError when the peer breaks yamux; frames before that took effect.
        """
        arena = self.arena
        buffer = arena.plain
        unpack, pack, relabel = HEADER.unpack_from, HEADER.pack_into, LABEL.pack_into
        find = session.streams.get
        partial = session.partial
        if partial:
            start -= len(partial)
            buffer[start : start + len(partial)] = partial
            session.partial = b""
        position = start
        run: Session | None = None
        run_start = run_end = switched = 0
        stream: Stream | None
        try:
            if session.body_left:
                size = min(session.body_left, end - position)
                stream = session.body_stream
                if (
                    stream is not None
                    and (out := stream.out) is not None
                    and size <= out.send_window
                    and size <= stream.budget
                ):
                    # The body goes on where the last receive ended: it leaves as a frame of its own.
                    run = out.session
                    run_start, run_end = position - HEADER_SIZE, position + size
                    pack(buffer, run_start, 0, out.id, size)
                    stream.receive_window -= size
                    stream.budget -= size
                    out.send_window -= size
                    switched += size
                    if out.send_window > stream.receive_window:
                        self._credited.add(stream)
                else:
                    self._body(session, stream, position, size)
                session.body_left -= size
                position += size
                if not session.body_left:
                    if session.body_flags and stream is not None:
                        if run is not None:
                            run.connection.seal(arena.plain_view[run_start:run_end])
                            run = None
                        self._end_frame(session, stream, session.body_flags)
                    session.body_stream = None
            while end - position >= HEADER_SIZE:
                word, stream_id, length = unpack(buffer, position)
                body = position + HEADER_SIZE
                size = end - body
                if size > length:
                    size = length
                if (
                    word == 0
                    and size
                    and (stream := find(stream_id)) is not None
                    and (out := stream.out) is not None
                    and length <= (window := stream.receive_window)
                    and size <= (credit := out.send_window)
                    and size <= (budget := stream.budget)
                    and not stream.fin_received
                ):
                    label = out.id
                    first = position
                    pack(buffer, position, 0, label, size)
                    if run is not out.session or run_end != position:
                        if run is not None:
                            run.connection.seal(arena.plain_view[run_start:run_end])
                        run = out.session
                        run_start = position
                    moved = size
                    position = body + size
                    if size != length:
                        session.body_left = length - size
                        session.body_stream = stream
                        session.body_flags = 0
                    else:
                        # Whole frames of the same circuit behind it, which most are: what they may take is known,
                        # and is settled once.
                        allowed = min(window, credit, budget) - size
                        last = end - HEADER_SIZE
                        while position <= last:
                            word, next_id, length = unpack(buffer, position)
                            if word or next_id != stream_id or not 0 < length <= allowed or length > last - position:
                                break
                            relabel(buffer, position + 4, label)
                            allowed -= length
                            moved += length
                            position += HEADER_SIZE + length
                    stream.receive_window = window - moved
                    stream.budget = budget - moved
                    out.send_window = credit - moved
                    run_end = position
                    switched += moved
                    if moved < SMALL_FRAME * (heads := (position - first - moved) // HEADER_SIZE):
                        session.dear += heads >> 4
                    if credit > window:
                        self._credited.add(stream)
                    continue
                # Anything else is rare, and may write: what lies before it leaves before it.
                session.dear += 1
                if run is not None:
                    run.connection.seal(arena.plain_view[run_start:run_end])
                    run = None
                if word >> 16 == DATA:
                    flags = word & 0xFFFF
                    stream = session.begin_data(flags, stream_id, length)
                    self._body(session, stream, body, size)
                    position = body + size
                    if size != length:
                        session.body_left = length - size
                        session.body_stream = stream
                        session.body_flags = flags
                    elif stream is not None and flags:
                        self._end_frame(session, stream, flags)
                else:
                    stream = session.receive_control(word, stream_id, length)
                    position = body
                    if stream is not None:
                        self._credit(session, stream, word)
        finally:
            if run is not None:
                run.connection.seal(arena.plain_view[run_start:run_end])
            arena.bytes_switched += switched
        if position < end:
            session.partial = bytes(buffer[position:end])

    def settle(self) -> None:
        """Grant senders what their receivers allow.  Called once a turn, when its bytes were written."""
        credited = self._credited
        if not credited:
            return
        cap, step = self.window_cap, self._step
        for stream in credited:
            out = stream.out
            if out is None or stream.fin_received:
                continue
            connection = out.session.connection
            if connection.blocked:
                # The receiver's socket takes no more for now: its senders wait, and are settled when it drains.
                connection.waiting.add(stream)
                continue
            outstanding = stream.receive_window
            allowed = out.send_window
            want = (allowed if allowed < cap else cap) - outstanding
            if out.held:
                want -= len(out.held)
                if want < step:
                    continue
            if want > 0 and (want >= outstanding or want >= step):
                stream.session.grant(stream, want)
        credited.clear()

    def drained(self, waiting: set[Stream]) -> None:
        """A connection takes bytes again: settle the senders in ``waiting`` with the next turn."""
        self._credited |= waiting
        waiting.clear()

    def _credit(self, session: Session, stream: Stream, word: int) -> None:
        if word >> 16 == WINDOW_UPDATE:
            out = stream.out
            if stream.held is not None:
                session.send_held(stream)
                if stream.circuit is not None:
                    self._end_if_finished(stream.circuit)
            elif out is None and not word & (FIN | RST):
                session.send_held(stream)
            if out is not None:
                self._credited.add(out)
        if word & (FIN | RST):
            self._end_frame(session, stream, word & 0xFFFF)

    def _body(self, session: Session, stream: Stream | None, start: int, size: int) -> None:
        """A body that cannot simply be passed on."""
        if not size or stream is None:
            return
        view = self.arena.plain_view[start : start + size]
        if stream.closed:
            session.discardable = max(session.discardable - size, 0)
        elif stream.out is not None:
            stream.receive_window -= size
            self.push(stream, view)
        else:
            session.deliver(stream, bytes(view))

    def _end_frame(self, session: Session, stream: Stream, flags: int) -> None:
        if not flags & (FIN | RST) or stream.closed:
            return
        if stream.circuit is None:
            session.end_frame(stream, flags)
        elif flags & RST:
            self.end(stream.circuit, "reset", origin=stream)
        elif not stream.fin_received:
            stream.fin_received = True
            self.finish(stream)

    def finish(self, stream: Stream) -> None:
        """Pass the end of ``stream`` on; when both ends have come the circuit is over."""
        out, circuit = stream.out, stream.circuit
        if out is None or circuit is None:
            return
        out.session.finish(out)
        if stream.fin_sent and not out.owed:
            stream.session.forget(stream)
        self._end_if_finished(circuit)

    def _end_if_finished(self, circuit: Circuit) -> None:
        if circuit.reason or not (circuit.source.closed and circuit.target.closed):
            return
        circuit.reason = "finished"
        self.meter.leave(circuit)
        for stream in (circuit.source, circuit.target):
            stream.out = None
            stream.circuit = None
        self.ended.append(circuit)
