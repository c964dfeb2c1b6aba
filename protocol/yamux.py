"""Yamux: many streams over one connection, each with a window of its own.

A frame is a 12-byte header (version, type, flags, stream id, length) and, for DATA, ``length`` bytes of body.  A
sender may send what the receiver's window allows: 256 KiB at first, more with each WINDOW_UPDATE.

This file holds the frame format, :class:`Stream` and :class:`Session`.  The session keeps the table of streams,
obeys and hands out windows, and says what happened as events.  It does not walk the received bytes: the label
switch does (protocol/switching.py), because for most bytes of a relay there is nothing to say; it hands the
session every frame that is not simply passed on.

Frames to be sent gather in ``Session.control``; the connection seals them, together, when the turn ends.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md; https://github.com/libp2p/specs/blob/master/yamux/README.md.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from protocol.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.switching import Circuit

PROTOCOL: Final = "/yamux/1.0.0"

#: (version << 24 | type << 16 | flags, stream id, length): a first word of 0 is a DATA frame without flags, which
#: is what nearly every frame is.
HEADER: Final = struct.Struct(">III")
HEADER_SIZE: Final = 12

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

#: "The initial window size is 256KB" (yamux specification, "Flow Control"); it cannot be negotiated.
INITIAL_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 0xFFFFFFFF
MAX_STREAM_ID: Final = 0xFFFFFFFF

#: A body that we write ourselves is cut at this size, so that a frame and its header just fit one Noise message.
MAX_BODY: Final = 65535 - 16 - HEADER_SIZE

#: More windows than any circuit uses: a stream without a data limit.
UNLIMITED: Final = 1 << 62


class GoAway(IntEnum):
    """Reasons of a GO_AWAY frame (yamux specification, "Go Away")."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """What a peer may do to one session.

    ``max_inbound_streams``: streams the peer may hold open.  ``max_unacknowledged``: streams of ours that wait for
    the peer's ACK (the libp2p specification's ACK backlog is 256).  ``max_frame``: bytes of a DATA body.
    ``pings_per_second``, ``streams_per_second``: 0 = unlimited.  ``window``: bytes granted on a stream that this
    node itself reads.
    """

    max_inbound_streams: int = 512
    max_unacknowledged: int = 256
    max_frame: int = 16 * 1024 * 1024
    pings_per_second: int = 100
    streams_per_second: int = 200
    window: int = INITIAL_WINDOW


class Stream:
    """One stream, from the side of this node.

    ``send_window``: bytes that the peer still allows.  ``receive_window``: bytes that we allowed and that have not
    come yet.  ``held``: bytes for the peer that its window does not allow yet.  ``out``: the stream that this one
    is switched to, None for a stream that ends here.  ``budget``: bytes that may still be switched from here;
    ``beyond``: and so many more, once quota is there for them.  ``owed``: of ``held``, how many at its end no quota
    was there for yet (protocol/metering.py).  ``owner``: what the owner of the session attaches.
    """

    __slots__ = (
        "acknowledged",
        "beyond",
        "budget",
        "circuit",
        "consumed",
        "fin_after_held",
        "fin_received",
        "fin_sent",
        "held",
        "id",
        "inbound",
        "out",
        "owed",
        "owner",
        "receive_window",
        "send_window",
        "session",
    )

    def __init__(self, session: Session, stream_id: int, *, inbound: bool) -> None:
        self.session = session
        self.id = stream_id
        self.inbound = inbound
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW
        self.budget = UNLIMITED
        self.beyond = self.owed = 0
        self.out: Stream | None = None
        self.circuit: Circuit | None = None
        self.owner: Any = None
        self.held: bytearray | None = None
        self.consumed = 0
        self.acknowledged = inbound
        self.fin_sent = False
        self.fin_received = False
        self.fin_after_held = False

    @property
    def closed(self) -> bool:
        """True once the stream is in no table: reset, or finished both ways."""
        return self.session.streams.get(self.id) is not self

    @property
    def sendable(self) -> bool:
        """Whether :meth:`Session.send` takes more."""
        return not (self.fin_sent or self.fin_after_held or self.closed)

    def __repr__(self) -> str:
        return f"Stream({self.id}, send_window={self.send_window}, receive_window={self.receive_window})"


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened ``stream``."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class DataReceived:
    """``data`` came on a stream that ends here.  Say so with ``Session.consume`` when it is used up."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The peer will send no more on ``stream``; it may still read."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamReset:
    """``stream`` is gone, in both directions."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamWritable:
    """The peer's window opened and nothing is held: ``stream`` takes more."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamAcknowledged:
    """The peer accepted ``stream``, which we opened."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to our ping ``value``."""

    value: int


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer accepts no more streams; ``code`` is a :class:`GoAway` or unknown."""

    code: int


YamuxEvent = (
    StreamOpened
    | DataReceived
    | StreamFinished
    | StreamReset
    | StreamWritable
    | StreamAcknowledged
    | PongReceived
    | GoAwayReceived
)


class Session:
    """The streams of one connection.

    ``initiator``: we dialled, so our stream ids are odd ("client side should use odd IDs").  ``mark_dirty``: called
    when ``control`` holds something to write.
    """

    __slots__ = (
        "_next_id",
        "_parity",
        "_pings",
        "_streams_opened",
        "body_flags",
        "body_left",
        "body_stream",
        "connection",
        "control",
        "dear",
        "discardable",
        "events",
        "going_away",
        "inbound_streams",
        "limits",
        "mark_dirty",
        "partial",
        "remote_going_away",
        "streams",
        "unacknowledged",
    )

    def __init__(
        self, *, initiator: bool, limits: YamuxLimits, mark_dirty: Callable[[], None], connection: Any = None
    ) -> None:
        self.limits = limits
        self.mark_dirty = mark_dirty
        self.connection = connection
        self.streams: dict[int, Stream] = {}
        self.events: deque[YamuxEvent] = deque()
        self.control = bytearray()
        # Frames that cost more than their bytes, since whoever bounds them last looked (protocol/switching.py).
        self.dear = 0
        # The frame that the last received bytes cut: of its header the first bytes, or of its body the rest.
        self.partial = b""
        self.body_left = 0
        self.body_stream: Stream | None = None
        self.body_flags = 0
        # Bytes that may still arrive for streams that we reset: they were allowed, and left before our reset came.
        self.discardable = 0
        self.going_away = False
        self.remote_going_away = False
        self.inbound_streams = 0
        self.unacknowledged = 0
        self._next_id = 1 if initiator else 2
        self._parity = 0 if initiator else 1
        self._pings = 0
        self._streams_opened = 0

    # What this node does.

    def open_stream(self) -> Stream:
        """Open a stream; the peer's ACK comes as an event.

        LocalProtocolError when either side is going away, ids are used up, or the peer leaves
        ``max_unacknowledged`` streams unacknowledged.
        """
        if self.going_away or self.remote_going_away:
            raise LocalProtocolError("the session is going away: it takes no new stream")
        if self.unacknowledged >= self.limits.max_unacknowledged:
            raise LocalProtocolError(f"{self.unacknowledged} streams already wait for the peer's acknowledgement")
        if self._next_id > MAX_STREAM_ID:
            raise LocalProtocolError("the session has used up its stream ids")
        stream = Stream(self, self._next_id, inbound=False)
        self._next_id += 2
        self.streams[stream.id] = stream
        self.unacknowledged += 1
        self._frame(WINDOW_UPDATE, SYN, stream.id, self._raise_window(stream))
        return stream

    def send(self, stream: Stream, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, now as far as the peer's window allows, the rest as it opens.  The caller bounds the rest."""
        if not stream.sendable:
            raise LocalProtocolError(f"stream {stream.id} is closed for sending")
        view = memoryview(data)
        if not stream.held:
            now = min(stream.send_window, len(view))
            self._data(stream, view[:now])
            view = view[now:]
        if view:
            if stream.held is None:
                stream.held = bytearray()
            stream.held += view

    def finish(self, stream: Stream) -> None:
        """Send no more: FIN, behind what is held."""
        if stream.fin_sent or stream.fin_after_held or stream.closed:
            return
        if stream.held:
            stream.fin_after_held = True
            return
        stream.fin_sent = True
        self._frame(WINDOW_UPDATE, FIN, stream.id, 0)
        if stream.fin_received:
            self.forget(stream)

    def reset(self, stream: Stream) -> None:
        """End the stream both ways at once.  What the peer had been allowed to send is thrown away when it comes."""
        if stream.closed:
            return
        self._frame(WINDOW_UPDATE, RST, stream.id, 0)
        self.discardable += stream.receive_window
        self.forget(stream)

    def grant(self, stream: Stream, size: int) -> None:
        """Allow the peer ``size`` bytes more."""
        stream.receive_window += size
        self._frame(WINDOW_UPDATE, 0, stream.id, size)

    def consume(self, stream: Stream, size: int) -> None:
        """``size`` received bytes are used up: let the peer send as many, in steps of half a window."""
        stream.consumed += size
        if stream.consumed * 2 >= self.limits.window and not stream.fin_received and not stream.closed:
            self.grant(stream, stream.consumed)
            stream.consumed = 0

    def ping(self, value: int) -> None:
        self._frame(PING, SYN, 0, value)

    def go_away(self, code: GoAway) -> None:
        """Tell the peer that no new stream is accepted; streams that exist go on."""
        if not self.going_away:
            self.going_away = True
            self._frame(GO_AWAY, 0, 0, code)

    def count_pings(self, number: int) -> None:
        """The peer pinged, by yamux or on a stream; RemoteProtocolError above ``pings_per_second``."""
        self._pings += number
        limit = self.limits.pings_per_second
        if limit and self._pings > limit:
            raise RemoteProtocolError(f"more than {limit} pings in a second", "flood")

    def begin_second(self) -> None:
        """A second has passed: pings and new streams are counted anew."""
        self._pings = 0
        self._streams_opened = 0

    # What the peer did.  Called by the label switch, frame by frame.

    def begin_data(self, flags: int, stream_id: int, length: int) -> Stream | None:
        """The header of a DATA frame.  None: its body belongs to no stream and is to be thrown away.

        RemoteProtocolError when the body is larger than what the peer may send.
        """
        if length > self.limits.max_frame:
            raise RemoteProtocolError(f"yamux: a frame of {length} bytes, at most {self.limits.max_frame}", "oversized")
        stream = self._open_or_find(flags, stream_id)
        if stream is None:
            if length > self.discardable:
                raise RemoteProtocolError(f"yamux: {length} bytes for stream {stream_id}, which is not open", "window")
            self.discardable -= length
            return None
        if length > stream.receive_window:
            raise RemoteProtocolError(
                f"yamux: {length} bytes on stream {stream_id} whose window is {stream.receive_window}", "window"
            )
        if length and stream.fin_received:
            raise RemoteProtocolError(f"yamux: data on stream {stream_id} after its end", "yamux")
        return stream

    def deliver(self, stream: Stream, data: bytes) -> None:
        stream.receive_window -= len(data)
        self.events.append(DataReceived(stream, data))

    def receive_control(self, word: int, stream_id: int, length: int) -> Stream | None:
        """A frame without a body.  The stream whose window opened, if one did."""
        kind, flags = word >> 16, word & 0xFFFF
        if kind == WINDOW_UPDATE:
            stream = self._open_or_find(flags, stream_id)
            if stream is not None and length:
                stream.send_window = min(stream.send_window + length, MAX_WINDOW)
            return stream
        if kind == PING:
            self._receive_ping(flags, length)
        elif kind == GO_AWAY:
            self.remote_going_away = True
            self.events.append(GoAwayReceived(length))
        else:
            raise RemoteProtocolError(f"yamux: a frame of version {word >> 24} and type {kind & 0xFF}", "yamux")
        return None

    def send_held(self, stream: Stream) -> None:
        """The window opened, or quota came: send what was held for it."""
        held = stream.held
        if held:
            now = min(stream.send_window, len(held) - stream.owed)
            with memoryview(held) as view:
                self._data(stream, view[:now])
            del held[:now]
            if held:
                return
            stream.held = None
            if stream.fin_after_held:
                stream.fin_after_held = False
                self.finish(stream)
                return
        if stream.out is None and not stream.fin_sent and not stream.closed:
            self.events.append(StreamWritable(stream))

    def end_frame(self, stream: Stream, flags: int) -> None:
        """FIN and RST take effect when the frame that carries them is complete."""
        if flags & RST:
            self.forget(stream)
            self.events.append(StreamReset(stream))
        elif flags & FIN and not stream.fin_received:
            stream.fin_received = True
            self.events.append(StreamFinished(stream))
            if stream.fin_sent:
                self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Take the stream out of the table."""
        if self.streams.pop(stream.id, None) is None:
            return
        stream.held = None
        if stream.inbound:
            self.inbound_streams -= 1
        elif not stream.acknowledged:
            stream.acknowledged = True
            self.unacknowledged -= 1

    def _open_or_find(self, flags: int, stream_id: int) -> Stream | None:
        stream = self.streams.get(stream_id)
        if flags & SYN:
            if stream is not None or stream_id & 1 != self._parity or stream_id == 0:
                raise RemoteProtocolError(f"yamux: the peer may not open stream {stream_id}", "yamux")
            return self._accept(stream_id)
        if stream is not None and not stream.acknowledged and (flags & ACK or not flags):
            # An answer is an acknowledgement, whether the flag is on it or not.
            stream.acknowledged = True
            self.unacknowledged -= 1
            self.events.append(StreamAcknowledged(stream))
        return stream

    def _accept(self, stream_id: int) -> Stream | None:
        self._streams_opened += 1
        limit = self.limits.streams_per_second
        if limit and self._streams_opened > limit:
            raise RemoteProtocolError(f"yamux: more than {limit} new streams in a second", "flood")
        if self.going_away or self.inbound_streams >= self.limits.max_inbound_streams:
            self._frame(WINDOW_UPDATE, RST, stream_id, 0)
            self.discardable += INITIAL_WINDOW
            return None
        stream = Stream(self, stream_id, inbound=True)
        self.streams[stream_id] = stream
        self.inbound_streams += 1
        self._frame(WINDOW_UPDATE, ACK, stream_id, self._raise_window(stream))
        self.events.append(StreamOpened(stream))
        return stream

    def _receive_ping(self, flags: int, value: int) -> None:
        self.count_pings(1)
        if flags & SYN:
            self._frame(PING, ACK, 0, value)
        else:
            self.events.append(PongReceived(value))

    def _raise_window(self, stream: Stream) -> int:
        extra = max(self.limits.window - INITIAL_WINDOW, 0)
        stream.receive_window += extra
        return extra

    def _data(self, stream: Stream, view: memoryview) -> None:
        for start in range(0, len(view), MAX_BODY):
            part = view[start : start + MAX_BODY]
            self.control += HEADER.pack(DATA, stream.id, len(part))
            self.control += part
        if view:
            stream.send_window -= len(view)
            self.mark_dirty()

    def _frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self.control += HEADER.pack(kind << 16 | flags, stream_id, length)
        self.mark_dirty()
