"""The two streams of a circuit while it is being made: HOP from the dialler, STOP to the target.

Each owns its wire machine and turns its events into a call to the forwarder.  Once joined, the switch has the streams
and these objects are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from actors.circuit_steps import Steps
from actors.inbound_streams import QuietOwner
from actors.shares import PUBLIC
from protocol import relay_stop
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.multistream import Dialer, Negotiated
from protocol.relay_hop import ConnectRequested, HopServer, Limit, Status
from protocol.relay_stop import CircuitAccepted, CircuitRefused, StopClient
from protocol.yamux import Stream

if TYPE_CHECKING:
    from actors.links import Link

#: Bytes that a dialler may send ahead of the answer: a header and the first message of a handshake, which it knows it
#: will need.  Each waiting request may keep as many.
MAX_EARLY: Final = 4096

#: The codes that another forwarder may pass on.
STATUSES: Final = frozenset(Status)


@dataclass(eq=False, slots=True)
class Admission:
    """A circuit that RelayServer admitted and whose target has not answered yet.  ``duration`` s, ``data`` bytes.
    ``service_class``: whom it is for.

    ``stop`` is None while the bridge to the target's forwarder is being connected.
    """

    circuit: int
    hop: CircuitAsker
    stop: StopStream | None
    duration: float
    data: int
    service_class: str = PUBLIC


class CircuitAsker(Protocol):
    """Who wants a circuit: a dialler's HOP stream, or the bridge from the dialler's forwarder.

    ``source``: the dialler.  ``admission``: once the circuit is being made.  ``steps``: its trace.
    """

    stream: Stream
    steps: Steps | None
    admission: Admission | None

    @property
    def source(self) -> PeerId: ...

    def accept(self, limit: Limit | None) -> bytes:
        """The target accepted; returns what was sent behind the request."""
        ...

    def refuse(self, status: Status, reason: str, retry_after: int) -> None: ...


def told_limit(duration: float, data: int) -> Limit | None:
    """The limit as peers are told it, in whole seconds; None (no field) when there is none."""
    return Limit(duration=math.ceil(duration), data=data) if duration or data else None


class HopStream(QuietOwner):
    """One request of a peer.  ``asked``: it is complete (``target`` None: RESERVE).  ``gone``: the peer gave up."""

    __slots__ = ("_asked", "_gone", "_machine", "admission", "asked_again", "request_id", "steps", "target")

    def __init__(self, stream: Stream, asked: Callable[[HopStream], None], gone: Callable[[HopStream], None]) -> None:
        super().__init__(stream)
        self._machine = HopServer()
        self._asked = asked
        self._gone = gone
        self.request_id = 0
        self.asked_again = False
        self.steps: Steps | None = None
        self.target: PeerId | None = None
        self.admission: Admission | None = None

    @property
    def source(self) -> PeerId:
        link: Link = self.stream.session.connection.owner
        return link.peer

    def data_received(self, data: bytes) -> None:
        machine = self._machine
        asked = machine.request is not None
        machine.receive_data(data)
        if asked:
            machine.next_event()
            self._bound_early()
            return
        try:
            event = machine.next_event()
        except RemoteProtocolError:
            # The machine has written the status that says so.  A reset would overtake it: the stream is finished,
            # and its deadline ends it if the peer does not.
            self._end()
            return
        if event is None:
            return
        self._bound_early()
        if isinstance(event, ConnectRequested):
            self.target = event.peer
        self._asked(self)

    def _bound_early(self) -> None:
        """RemoteProtocolError when the peer does not wait for the answer: it costs it this stream."""
        if self._machine.trailing_size > MAX_EARLY:
            raise RemoteProtocolError(f"more than {MAX_EARLY} bytes ahead of the answer", "early")

    def finished(self) -> None:
        # A dialler may close its side while it waits; the answer still reaches it.  One that closes before it
        # asked for anything will never be answered.
        if not self.request_id:
            self.stream.session.reset(self.stream)

    def was_reset(self) -> None:
        self._gone(self)

    def grant(self, expires_at: int, addresses: Sequence[bytes], voucher: bytes, limit: Limit | None) -> None:
        self._machine.grant_reservation(expires_at, addresses, voucher, limit)
        self._end()

    def refuse(self, status: Status, reason: str, retry_after: int) -> None:
        self._machine.refuse(status, reason, retry_after)
        self._end()

    def _end(self) -> None:
        """Say what is to be said, and no more; what came early is nobody's."""
        self._flush()
        self.stream.session.finish(self.stream)
        self.stream.owner = None if self.stream.closed else QuietOwner(self.stream)

    def accept(self, limit: Limit | None) -> bytes:
        """Answer CONNECT with OK; returns what the dialler sent behind its request."""
        self._machine.accept_connect(limit)
        self._flush()
        return self._machine.trailing_data()

    def _flush(self) -> None:
        output = self._machine.data_to_send()
        if output and self.stream.sendable:
            self.stream.session.send(self.stream, output)


class StopStream(QuietOwner):
    """Our request to the target.  ``answered(stop, status, reason)``: status OK when it accepted.

    ``token``: to the target's forwarder, which passes the request on; a bridge needs no negotiation.
    """

    __slots__ = ("_answered", "_bridged", "_machine", "_negotiation", "admission")

    def __init__(
        self,
        stream: Stream,
        source: PeerId,
        limit: Limit | None,
        answered: Callable[[StopStream, Status, str], None],
        token: bytes = b"",
    ) -> None:
        super().__init__(stream)
        stream.owner = self
        self.admission: Admission | None = None
        self._answered = answered
        self._bridged = bool(token)
        self._negotiation: Dialer | None = None if token else Dialer((relay_stop.PROTOCOL,))
        self._machine = StopClient(source, limit)
        # One write: a target with a reservation speaks STOP, so its consent is not awaited before asking.
        first = token if self._negotiation is None else self._negotiation.data_to_send()
        stream.session.send(stream, first + self._machine.data_to_send())

    def data_received(self, data: bytes) -> None:
        try:
            negotiation = self._negotiation
            if negotiation is not None:
                negotiation.receive_data(data)
                agreed = negotiation.next_event()
                if agreed is None:
                    return
                if not isinstance(agreed, Negotiated):
                    self._failed("the target does not speak the STOP protocol")
                    return
                self._negotiation = None
                data = negotiation.trailing_data()
            self._machine.receive_data(data)
            match self._machine.next_event():
                case CircuitAccepted():
                    self._answered(self, Status.OK, "")
                case CircuitRefused(status=status, reason=reason) if self._bridged and status in STATUSES:
                    self._answered(self, Status(status), reason)
                case CircuitRefused(status=status, reason=reason):
                    self._failed(f"the target refused: {reason or status}")
                case None:
                    pass
        except RemoteProtocolError as error:
            self._failed(f"the target broke the protocol: {error}")
            raise

    def finished(self) -> None:
        self._failed("the target closed the stream")

    def was_reset(self) -> None:
        self._failed("the target reset the stream")

    def _failed(self, reason: str) -> None:
        self._answered(self, Status.CONNECTION_FAILED, reason)

    def trailing_data(self) -> bytes:
        return self._machine.trailing_data()
