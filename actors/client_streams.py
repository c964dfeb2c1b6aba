"""Streams of a client: those that it opens, those that carry its connections, and those that its application uses.

Each is the owner (actors/inbound_streams.py) of one yamux stream around one wire machine.  None of them waits: what
they find out they tell by a call that they were given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from actors.inbound_streams import QuietOwner, StreamOwner
from actors.receive_window import ReceiveWindow
from protocol import extend
from protocol.errors import RemoteProtocolError
from protocol.identify import IdentifyMessage, IdentifyReader
from protocol.identity import PeerId
from protocol.multistream import Dialer, Negotiated
from protocol.relay_hop import HopAnswer, HopClient, Limit, Status
from protocol.relay_stop import StopServer
from protocol.wire import FrameReader, frame
from protocol.yamux import Stream

Failed = Callable[[str], None]

RESET: Final = "the peer reset the stream"

#: Received bytes from which on they are kept as they came; fewer are put together: an object costs fifty.
PIECE: Final = 4096


def say(stream: Stream, data: bytes | memoryview) -> None:
    """Send on a stream that the peer may have ended meanwhile."""
    if data and not (stream.closed or stream.fin_sent or stream.fin_after_held):
        stream.session.send(stream, data)


class ClientOwner(QuietOwner):
    """An owner that is told why its stream ended, once."""

    __slots__ = ("_failed",)

    def __init__(self, stream: Stream, failed: Failed) -> None:
        super().__init__(stream)
        self._failed: Failed | None = failed

    def settled(self) -> None:
        """What was asked for has come: what happens to the stream from now on is no failure."""
        self._failed = None

    def fail(self, reason: str) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            failed(reason)

    def finished(self) -> None:
        if not self.stream.closed:
            self.stream.session.reset(self.stream)
        self.fail("the peer closed the stream before it answered")

    def was_reset(self) -> None:
        self.fail(RESET)


class Proposal(ClientOwner):
    """multistream-select on a stream that we opened; ``agreed(stream, protocol)`` makes the owner that follows."""

    __slots__ = ("_agreed", "_machine")

    def __init__(
        self, stream: Stream, protocols: Sequence[str], agreed: Callable[[Stream, str], StreamOwner], failed: Failed
    ) -> None:
        super().__init__(stream, failed)
        self._agreed = agreed
        self._machine = Dialer(protocols)
        say(stream, self._machine.data_to_send())

    def data_received(self, data: bytes) -> None:
        machine, stream = self._machine, self.stream
        machine.receive_data(data)
        event = machine.next_event()
        say(stream, machine.data_to_send())
        if event is None:
            return
        if not isinstance(event, Negotiated):
            stream.session.reset(stream)
            self.fail(f"the peer speaks none of {', '.join(event.protocols)}")
            return
        self.settled()
        owner = self._agreed(stream, event.protocol)
        stream.owner = owner
        trailing = machine.trailing_data()
        stream.session.consume(stream, len(data) - len(trailing))
        if trailing:
            owner.data_received(trailing)


class HopRequest(ClientOwner):
    """One request to a relay: RESERVE when ``target`` is None, else CONNECT.

    ``answered(request, answer)``: the stream is then finished, or a circuit whose first bytes ``trailing_data`` gives.
    """

    __slots__ = ("_answered", "_machine")

    def __init__(
        self, stream: Stream, target: PeerId | None, answered: Callable[[HopRequest, HopAnswer], None], failed: Failed
    ) -> None:
        super().__init__(stream, failed)
        self._answered = answered
        self._machine = HopClient()
        if target is None:
            self._machine.reserve()
        else:
            self._machine.connect(target)
        say(stream, self._machine.data_to_send())

    def data_received(self, data: bytes) -> None:
        self._machine.receive_data(data)
        answer = self._machine.next_event()
        if answer is not None:
            self.settled()
            self._answered(self, answer)

    def trailing_data(self) -> bytes:
        return self._machine.trailing_data()


class ExtendRequest(ClientOwner):
    """Asks a relay for a way on to another one; ``answered(request, problem)``: "" when the stream leads there, and
    its first bytes are what ``trailing_data`` gives."""

    __slots__ = ("_answered", "_reader")

    def __init__(
        self, stream: Stream, relay: PeerId, answered: Callable[[ExtendRequest, str], None], failed: Failed
    ) -> None:
        super().__init__(stream, failed)
        self._answered = answered
        self._reader = FrameReader(extend.MAX_MESSAGE)
        say(stream, frame(extend.encode(extend.ExtendWanted(relay.bytes))))

    def data_received(self, data: bytes) -> None:
        self._reader.receive_data(data)
        payload = self._reader.next_frame()
        if payload is None:
            return
        told = extend.decode(payload)
        if not isinstance(told, extend.ExtendTold):
            raise RemoteProtocolError("an answer of another kind", "unasked")
        self.settled()
        self._answered(self, told.problem)

    def trailing_data(self) -> bytes:
        return self._reader.trailing_data()


class StopAnswer(ClientOwner):
    """A relay says that somebody wants to talk to us: ``incoming(answer, peer, limit)`` accepts or refuses."""

    __slots__ = ("_incoming", "_machine")

    def __init__(self, stream: Stream, incoming: Callable[[StopAnswer, PeerId, Limit | None], None]) -> None:
        super().__init__(stream, lambda _: None)
        self._incoming = incoming
        self._machine = StopServer()

    def data_received(self, data: bytes) -> None:
        self._machine.receive_data(data)
        try:
            event = self._machine.next_event()
        except RemoteProtocolError:
            # The machine has written the status that says so; a reset would overtake it.
            self._finish()
            return
        if event is not None:
            self._incoming(self, event.peer, event.limit)

    def accept(self) -> bytes:
        """The stream is a circuit now; returns its first bytes."""
        self._machine.accept()
        say(self.stream, self._machine.data_to_send())
        return self._machine.trailing_data()

    def refuse(self, status: Status, reason: str) -> None:
        self._machine.refuse(status, reason)
        self._finish()

    def _finish(self) -> None:
        say(self.stream, self._machine.data_to_send())
        self.stream.session.finish(self.stream)
        self.stream.owner = QuietOwner(self.stream)


class IdentifyRequest(ClientOwner):
    """Asks the peer who it is; ``learnt`` gets what it says."""

    __slots__ = ("_learnt", "_machine")

    def __init__(self, stream: Stream, learnt: Callable[[IdentifyMessage], None]) -> None:
        super().__init__(stream, lambda _: None)
        self._learnt = learnt
        self._machine = IdentifyReader()
        stream.session.finish(stream)

    def data_received(self, data: bytes) -> None:
        self._machine.receive_data(data)
        event = self._machine.next_event()
        if event is not None:
            self._learnt(event.message)


class Carrier(QuietOwner):
    """A circuit's stream: its bytes are those of the connection within."""

    __slots__ = ("_drained", "_ended", "_received", "_window")

    def __init__(
        self, stream: Stream, received: Callable[[bytes], None], ended: Failed, drained: Callable[[], None]
    ) -> None:
        super().__init__(stream)
        self._received = received
        self._ended = ended
        self._drained = drained
        self._window = ReceiveWindow(held=False)

    def data_received(self, data: bytes) -> None:
        # What the connection within may send is bounded by its own streams' windows.
        self._window.consume(self.stream, len(data))
        self._received(data)

    def finished(self) -> None:
        self._ended("the peer closed the circuit")

    def was_reset(self) -> None:
        self._ended("the circuit was reset: its limit was reached, or the relay or the peer ended it")

    def writable(self) -> None:
        self._drained()


class ByteStream(QuietOwner):
    """A stream that an application reads and writes.

    ``received``: bytes not taken yet, in pieces; the peer may send more only as they are taken.  ``ended``: the peer
    will send no more.  ``failure``: why the stream is gone, "" while it is not.  ``changed``: called after each of
    these changed, and when the stream may take more.
    """

    __slots__ = ("_window", "changed", "ended", "failure", "protocol", "received")

    def __init__(self, stream: Stream, protocol: str) -> None:
        super().__init__(stream)
        self.protocol = protocol
        self._window = ReceiveWindow(held=True)
        self.received: deque[bytes | bytearray] = deque()
        self.ended = False
        self.failure = ""
        self.changed: Callable[[], None] = lambda: None

    def data_received(self, data: bytes) -> None:
        pieces = self.received
        if len(data) >= PIECE:
            pieces.append(data)
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += data
        elif data:
            pieces.append(bytearray(data))
        self.changed()

    def finished(self) -> None:
        self.ended = True
        self.changed()

    def was_reset(self) -> None:
        self.fail(RESET)

    def fail(self, reason: str) -> None:
        if not self.failure:
            self.failure = reason
            self.changed()

    def writable(self) -> None:
        self.changed()

    def take(self, most: int) -> bytes:
        """Up to ``most`` received bytes: the first piece, uncopied if it is long; b"" while there are none."""
        if not self.received:
            return b""
        piece = self.received[0]
        if len(piece) <= most:
            data = bytes(piece)
            self.received.popleft()
        else:
            if isinstance(piece, bytes):
                piece = self.received[0] = bytearray(piece)  # of which the next parts cost no copy of the rest
            data = bytes(memoryview(piece)[:most])
            del piece[:most]
        self._window.consume(self.stream, len(data))
        return data
