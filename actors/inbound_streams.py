"""Streams that end at this node: negotiation first, then one small protocol each.

Whoever owns a stream (``Stream.owner``) is told what arrives on it.  An inbound stream is owned by a
:class:`Negotiation` until the peer has named a protocol that is served here, then by that protocol's owner.  The
owners are plain objects around a wire machine of protocol/; none of them waits, and none keeps more than its machine's
bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from protocol import identify, perf, ping
from protocol.errors import RemoteProtocolError
from protocol.multistream import Listener, Negotiated
from protocol.yamux import Stream

#: Bytes that a perf stream lays ahead in a peer's window at a time.
PERF_CHUNK: Final = 64 * 1024


class StreamOwner(Protocol):
    """What a stream that ends here is handed to.  Methods may raise RemoteProtocolError: the stream is reset."""

    def data_received(self, data: bytes) -> None: ...
    def finished(self) -> None: ...
    def was_reset(self) -> None: ...
    def writable(self) -> None: ...


OwnerFactory = Callable[[Stream], StreamOwner]


class QuietOwner:
    """An owner that reacts to nothing: the base of those that react to some of it."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        self.stream.session.consume(self.stream, len(data))

    def finished(self) -> None:
        self.stream.session.finish(self.stream)

    def was_reset(self) -> None: ...

    def writable(self) -> None: ...


class Negotiation(QuietOwner):
    """multistream-select on a new stream.  ``negotiated`` is called with the protocol's name when it is over."""

    __slots__ = ("_machine", "_negotiated", "_served")

    def __init__(
        self, stream: Stream, served: Mapping[str, OwnerFactory], negotiated: Callable[[Stream, str], None]
    ) -> None:
        super().__init__(stream)
        self._served = served
        self._machine = Listener(served)
        self._negotiated = negotiated

    def data_received(self, data: bytes) -> None:
        stream, machine = self.stream, self._machine
        machine.receive_data(data)
        try:
            event = machine.next_event()
        finally:
            output = machine.data_to_send()
            if output:
                stream.session.send(stream, output)
        if not isinstance(event, Negotiated):
            return
        owner = self._served[event.protocol](stream)
        stream.owner = owner
        self._negotiated(stream, event.protocol)
        trailing = machine.trailing_data()
        if trailing:
            owner.data_received(trailing)

    def finished(self) -> None:
        self._machine.receive_eof()
        self.stream.session.reset(self.stream)


class IdentifyAnswer(QuietOwner):
    """``/ipfs/id/1.0.0``: the answer is sent at once and the stream finished."""

    __slots__ = ()

    def __init__(self, stream: Stream, message: bytes) -> None:
        super().__init__(stream)
        stream.session.send(stream, message)
        stream.session.finish(stream)


class IdentifyPush(QuietOwner):
    """``/ipfs/id/push/1.0.0``: what the peer says of itself, bounded, checked and told to ``learnt``."""

    __slots__ = ("_learnt", "_machine")

    def __init__(self, stream: Stream, learnt: Callable[[identify.IdentifyMessage], None]) -> None:
        super().__init__(stream)
        self._machine = identify.IdentifyReader()
        self._learnt = learnt

    def data_received(self, data: bytes) -> None:
        self._machine.receive_data(data)
        self._read()

    def finished(self) -> None:
        self._machine.receive_eof()
        self._read()
        super().finished()

    def _read(self) -> None:
        event = self._machine.next_event()
        if event is not None:
            self._learnt(event.message)


class PingAnswer(QuietOwner):
    """``/ipfs/ping/1.0.0``: 32 bytes back for 32 bytes, as often as the peer likes and its window allows.

    A peer that sends pings and does not read the answers is held by its own window: what it sent is given back to it
    only when the answer has left.
    """

    __slots__ = ("_machine", "_unread")

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._machine = ping.PingResponder()
        self._unread = 0

    def data_received(self, data: bytes) -> None:
        stream = self.stream
        self._machine.receive_data(data)
        while (pinged := self._machine.next_event()) is not None:
            stream.session.count_pings(pinged.count)
        self._unread += len(data)
        output = self._machine.data_to_send()
        if output and not stream.fin_sent and not stream.fin_after_held:
            stream.session.send(stream, output)
        self.writable()

    def writable(self) -> None:
        stream = self.stream
        if self._unread and not stream.held:
            unread, self._unread = self._unread, 0
            stream.session.consume(stream, unread)


class PerfAnswer(QuietOwner):
    """``/perf/1.0.0``: takes what comes, then sends as many bytes as the peer asked for.

    The bytes are made a chunk a turn, and only while the socket takes them: ``producing`` is told when there is more
    to make, and calls :meth:`produce` in a later turn.
    """

    __slots__ = ("_machine", "_producing")

    def __init__(self, stream: Stream, producing: Callable[[PerfAnswer], None]) -> None:
        super().__init__(stream)
        self._machine = perf.PerfServer()
        self._producing = producing

    def data_received(self, data: bytes) -> None:
        self._machine.receive_data(data)
        self._machine.next_event()
        self.stream.session.consume(self.stream, len(data))

    def finished(self) -> None:
        self._machine.receive_eof()
        self._machine.next_event()
        self._producing(self)

    def writable(self) -> None:
        if self.stream.fin_received:
            self._producing(self)

    def produce(self) -> bool:
        """Send a chunk if the peer's window allows; True while there is more to send at once."""
        stream, machine = self.stream, self._machine
        if stream.closed or stream.fin_sent:
            return False
        if machine.remaining and stream.send_window and not stream.held:
            stream.session.send(stream, machine.produce(min(PERF_CHUNK, stream.send_window)))
        if machine.remaining == 0:
            stream.session.finish(stream)
            return False
        return stream.send_window > 0


def deliver(stream: Stream, action: Callable[[], None]) -> RemoteProtocolError | None:
    """Run one of the owner's methods; an error of the peer's costs it this stream and nothing else."""
    try:
        action()
    except RemoteProtocolError as error:
        if not stream.closed:
            stream.session.reset(stream)
        return error.bare()
    return None
