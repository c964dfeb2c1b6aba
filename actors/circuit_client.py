"""CircuitClient: the connections of a peer that uses relays, direct ones and those within circuits.

A connection is the same machine whatever carries it: a :class:`Wire` (a socket, in actors/ports/client.py), or a
stream of another connection that a relay joined to its target.  What arrives goes up that chain, from the socket to
the connection within; what is to be written goes down it, in :meth:`flush`.

    dial a relay:     wire -> Connection -> HOP CONNECT -> circuit stream -> Connection (initiator) -> streams
    be reached:       wire -> Connection -> HOP RESERVE;  STOP -> circuit stream -> Connection (responder) -> streams

It does no I/O and knows no clock: whoever owns it brings bytes and the time, and is called when something came of
them.  The relay is trusted with nothing: the peer within a circuit proves who it is, and a voucher is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from actors.client_streams import (
    ByteStream,
    Carrier,
    ClientOwner,
    ExtendRequest,
    HopRequest,
    Proposal,
    StopAnswer,
    say,
)
from actors.deadlines import Deadlines
from actors.inbound_streams import (
    Negotiation,
    StreamOwner,
    deliver,
)
from actors.peer_link import PeerLink, Refusal, Wire, link_of
from actors.served_protocols import Handler, ServedProtocols, ask_identity
from protocol import extend, identify, relay_hop, relay_stop
from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits, Multiplexed, State
from protocol.envelope import open_voucher
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.noise import StaticKey
from protocol.relay_hop import ConnectAccepted, HopAnswer, Limit, RequestRefused, ReservationGranted, Status
from protocol.switching import Switch
from protocol.yamux import DataReceived, Stream, StreamFinished, StreamOpened, StreamReset, StreamWritable


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """``stream_timeout``: seconds from opening a stream until its request is answered; a circuit's target needs its
    part of them.  ``close_grace``: seconds that a peer has to take our last bytes within a circuit.
    ``max_circuits``: circuits that others may hold open to this peer at a time; and
    connections to its onion."""

    stream_timeout: float = 30.0
    close_grace: float = 2.0
    max_circuits: int = 256
    connection: ConnectionLimits = field(default_factory=ConnectionLimits)


Reserved = Callable[[ReservationGranted | Refusal], None]
Connected = Callable[[PeerLink | Refusal], None]


class CircuitClient:
    """See the module.  ``randomness(n)``: n random bytes.  ``handlers``: by protocol, what is done with a stream that
    a peer opens; ``served_direct``: also where no relay is between.  ``accepted``: told of each connection that came
    through a relay, when its peer has proved itself.
    ``bare``: who takes the streams that a peer at the other end of a circuit opens, before any protocol was agreed on;
    it speaks identify too, so that nothing is served or asked there.
    ``hop``: who we are to each relay that only leads to others, so that no two relays know us as the same.
    Every method takes the time; :meth:`flush` is to be called after it, and :meth:`handle_deadline` when due.
    """

    def __init__(
        self,
        policy: ClientPolicy,
        static: StaticKey,
        randomness: Callable[[int], bytes],
        *,
        hop: Callable[[], StaticKey] | None = None,
        handlers: Mapping[str, Handler] | None = None,
        served_direct: bool = True,
        accepted: Callable[[PeerLink], None] = lambda _: None,
        bare: Callable[[PeerLink, ByteStream], None] | None = None,
    ) -> None:
        self.policy = policy
        self.peer_id = static.identity.peer_id
        self.links: set[PeerLink] = set()
        self._static = static
        self._passing = hop or (lambda: static)
        self._randomness = randomness
        self._accepted = accepted
        self._bare = bare
        self._arena = Arena()
        self._switch = Switch(self._arena)
        self._deadlines = Deadlines()
        self._now = 0.0
        self._ended: list[PeerLink] = []
        self.served = ServedProtocols(handlers or {}, self._incoming, direct=served_direct)

    # Connections.

    def attach(
        self, wire: Wire, expected: PeerId | None, now: float, *, observed: bytes = b"", inbound: bool = False
    ) -> PeerLink:
        """We dialled, or were dialled (``inbound``), and ``wire`` carries what is said.  ``expected``: who must
        answer.  ``observed``: where we see the peer, a binary multiaddr; b"": it is not told."""
        link = self._link(now, expected, inbound=inbound, static=self._static if inbound else self._passing())
        link.wire = wire
        link.observed = observed
        return link

    def filled(self, link: PeerLink, size: int, now: float) -> None:
        """``size`` bytes came on a link's wire, into ``link.connection.receive_buffer()``."""
        self._now = now
        if not link.ended:
            link.connection.buffer_filled(size, now)
            self._read_events(link)

    def lost(self, link: PeerLink, reason: str, now: float) -> None:
        """A link's wire is gone."""
        self._now = now
        self._end(link, reason)

    def drained(self, link: PeerLink) -> None:
        """A link's wire takes bytes again: so do its streams, and the connections within them."""
        for stream in list(link.connection.session.streams.values()):
            if stream.owner is not None and not stream.held:
                stream.owner.writable()

    def ask_for_sign(self, link: PeerLink, now: float) -> None:
        """Have the other end say something: a yamux ping."""
        self._now = now
        if link.ready:
            link.connection.session.ping(int(now) & 0xFFFFFFFF)

    def close(self, link: PeerLink, now: float) -> None:
        """Say good-bye and end the connection, with all that is within it."""
        self._now = now
        if not link.ended:
            for inner in list(link.circuits):
                self.close(inner, now)
            link.connection.close()
            self._end(link, "closed")

    def flush(self) -> None:
        """Write what there is to write, from the connections within down to the wires; then close what has ended."""
        self._write_dirty()
        while self._ended:
            link = self._ended.pop()
            carrier = link.carrier
            if carrier is not None and link.relay is not None and not link.relay.ended and not carrier.closed:
                # Finish, so that the good-bye arrives; a peer that does not finish in turn is reset.
                carrier.session.finish(carrier)
                grace = self._now + self.policy.close_grace
                self._deadlines.set(carrier, grace, partial(self._reset, carrier))
                self._write_dirty()
            if link.wire is not None:
                link.wire.close()

    @staticmethod
    def _reset(stream: Stream, _: float) -> None:
        stream.session.reset(stream)

    def _write_dirty(self) -> None:
        dirty = self._arena.dirty
        while dirty:
            connection = dirty[-1]
            link = connection.owner
            if isinstance(link, PeerLink) and link.wire is None and link.carrier is not None:
                # Sealed bytes go from the arena into the frame of the connection around them: not by a copy of them.
                dirty.pop()
                for part in connection.take_output():
                    link.sent += len(part)
                    say(link.carrier, part)
                continue
            data = connection.data_to_send()
            if data and isinstance(link, PeerLink) and link.wire is not None:
                link.wire.write(data)

    def next_deadline(self) -> float | None:
        return self._deadlines.next()

    def handle_deadline(self, now: float) -> None:
        self._now = now
        self._deadlines.run(now)

    # Streams.

    def open(
        self,
        link: PeerLink,
        protocols: Sequence[str],
        opened: Callable[[ByteStream], None],
        failed: Callable[[str], None],
        now: float,
    ) -> None:
        """A stream for the first of ``protocols`` that the peer speaks."""

        def agreed(stream: Stream, protocol: str) -> StreamOwner:
            self._deadlines.cancel(stream)
            view = stream.owner = ByteStream(stream, protocol)
            opened(view)
            return view

        self._open(link, protocols, agreed, failed, now)

    def open_bare(self, link: PeerLink, now: float) -> ByteStream:
        """A stream on which no protocol was agreed on: that is whoever writes it.  LocalProtocolError."""
        self._now = now
        if not link.ready:
            raise LocalProtocolError(link.ended or "the peer takes no more streams on this connection")
        stream = link.connection.session.open_stream()
        view = stream.owner = ByteStream(stream, "")
        return view

    @staticmethod
    def takes(view: ByteStream) -> bool:
        """Whether a write would go on its way now, and not wait in memory."""
        stream = view.stream
        return stream.send_window > 0 and not stream.held and not link_of(stream).congested

    def reserve(self, link: PeerLink, answered: Reserved, now: float) -> None:
        """Ask the relay at the other end for a reservation, or to refresh it."""
        # From now on: a relay may announce a circuit in the very bytes that carry its answer.
        link.reserved = True

        def reserved(request: HopRequest, answer: HopAnswer) -> None:
            request.stream.session.finish(request.stream)
            match answer:
                case ReservationGranted() if (wrong := self._voucher_fault(link, answer)) is not None:
                    answered(Refusal(0, wrong))
                case ReservationGranted():
                    answered(answer)
                case RequestRefused():
                    answered(Refusal(answer.status, answer.reason, answer.retry_after))
                case ConnectAccepted():
                    answered(Refusal(0, "the relay answered RESERVE as if it were CONNECT"))

        self._hop(link, None, reserved, lambda reason: answered(Refusal(0, reason)), now)

    def connect(self, link: PeerLink, target: PeerId, answered: Connected, now: float) -> None:
        """A circuit through the relay at the other end to ``target``, and the connection within it.  The link that
        ``answered`` gets is not ready yet: its handshake has just begun."""

        def connected(request: HopRequest, answer: HopAnswer) -> None:
            stream = request.stream
            match answer:
                case ConnectAccepted(limit):
                    self._deadlines.cancel(stream)
                    inner = self._carry(link, stream, target, limit, inbound=False)
                    answered(inner)
                    trailing = request.trailing_data()
                    if trailing:
                        self._receive(inner, trailing)
                case RequestRefused():
                    stream.session.finish(stream)
                    answered(Refusal(answer.status, answer.reason, answer.retry_after))
                case ReservationGranted():
                    stream.session.reset(stream)
                    answered(Refusal(0, "the relay answered CONNECT as if it were RESERVE"))

        self._hop(link, target, connected, lambda reason: answered(Refusal(0, reason)), now)

    def extend(self, link: PeerLink, relay: PeerId, answered: Connected, now: float, *, last: bool) -> None:
        """A connection to ``relay`` through the one at the other end.  ``last``: the target is reached through it, so
        we are to it who we are to the target.  As for :meth:`connect`."""

        def extended(request: ExtendRequest, problem: str) -> None:
            stream = request.stream
            if problem:
                stream.session.finish(stream)
                answered(Refusal(0, problem))
                return
            self._deadlines.cancel(stream)
            static = self._static if last else self._passing()
            inner = self._carry(link, stream, relay, None, inbound=False, static=static)
            answered(inner)
            trailing = request.trailing_data()
            if trailing:
                self._receive(inner, trailing)

        def fail(reason: str) -> None:
            answered(Refusal(0, reason))

        def agreed(stream: Stream, _: str) -> StreamOwner:
            return ExtendRequest(stream, relay, extended, fail)

        self._open(link, (extend.PROTOCOL,), agreed, fail, now)

    # What arrives.

    def _receive(self, link: PeerLink, data: bytes) -> None:
        if not link.ended:
            link.received += len(data)
            link.connection.receive_data(data, self._now)
            self._read_events(link)

    def _read_events(self, link: PeerLink) -> None:
        connection = link.connection
        try:
            while (event := connection.next_event()) is not None:
                match event:
                    case Multiplexed(peer=peer):
                        link.peer = peer
                        if self._bare is None or link.relay is None:
                            self._open(link, (identify.PROTOCOL,), ask_identity, lambda _: None, self._now)
                        if link.inbound:
                            self._accepted(link)
                        link.changed()
                    case StreamOpened(stream) if self._bare is not None and link.relay is not None:
                        view = stream.owner = ByteStream(stream, "")
                        self._bare(link, view)
                    case StreamOpened(stream):
                        stream.owner = Negotiation(stream, self.served.on(link), self._negotiated)
                        self._expire(stream, self._now)
                    case DataReceived(stream, data):
                        owner = stream.owner
                        # What is read may have come before an end that is known already; what answers needs a stream.
                        if isinstance(owner, ByteStream | ClientOwner | Carrier) or not stream.closed:
                            self._deliver(stream, partial(owner.data_received, data))
                    case StreamFinished(stream):
                        self._deliver(stream, stream.owner.finished)
                    case StreamReset(stream):
                        self._deliver(stream, stream.owner.was_reset)
                    case StreamWritable(stream):
                        self._deliver(stream, stream.owner.writable)
                    case _:
                        pass  # acknowledgements, pongs and good-byes change nothing here
                if link.ended:
                    return
        except RemoteProtocolError as error:
            self._end(link, str(error))
        if connection.state is State.CLOSED:
            self._end(link, "the peer closed the connection")

    def _deliver(self, stream: Stream, action: Callable[[], None]) -> None:
        error = deliver(stream, action)
        if stream.closed or error is not None:
            self._deadlines.cancel(stream)
        if error is not None:
            self._tell_failure(stream, str(error))

    @staticmethod
    def _tell_failure(stream: Stream, reason: str) -> None:
        if isinstance(stream.owner, ClientOwner | ByteStream):
            stream.owner.fail(reason)
        elif stream.owner is not None:
            stream.owner.was_reset()

    def _negotiated(self, stream: Stream, protocol: str) -> None:
        if protocol not in (identify.PROTOCOL, identify.PUSH_PROTOCOL, relay_stop.PROTOCOL):
            self._deadlines.cancel(stream)

    def _incoming(self, answer: StopAnswer, peer: PeerId, limit: Limit | None) -> None:
        stream = answer.stream
        link = link_of(stream)
        if not link.reserved:
            answer.refuse(Status.PERMISSION_DENIED, "no reservation was asked of this relay")
        elif sum(inner.inbound for inner in self.links if inner.relay is not None) >= self.policy.max_circuits:
            answer.refuse(Status.RESOURCE_LIMIT_EXCEEDED, f"{self.policy.max_circuits} circuits are open")
        else:
            self._deadlines.cancel(stream)
            first = answer.accept()
            inner = self._carry(link, stream, peer, limit, inbound=True)
            if first:
                self._receive(inner, first)

    # Steps.

    def _link(self, now: float, expected: PeerId | None, *, inbound: bool, static: StaticKey | None = None) -> PeerLink:
        self._now = now
        connection = Connection(
            self._switch,
            static or self._static,
            self._randomness(32),
            now,
            initiator=not inbound,
            limits=self.policy.connection,
            expected=expected,
        )
        link = PeerLink(connection, (static or self._static).identity, inbound=inbound)
        connection.owner = link
        self.links.add(link)
        self._watch(link)
        return link

    def _carry(
        self,
        relay: PeerLink,
        stream: Stream,
        peer: PeerId,
        limit: Limit | None,
        *,
        inbound: bool,
        static: StaticKey | None = None,
    ) -> PeerLink:
        """The connection within a circuit.  ``peer`` must prove that it is the one the relay named."""
        link = self._link(self._now, peer, inbound=inbound, static=static)
        link.relay, link.carrier, link.limit = relay, stream, limit
        relay.circuits.add(link)
        stream.owner = Carrier(
            stream,
            lambda data: self._receive(link, data),
            lambda reason: self._end(link, reason),
            lambda: self.drained(link),
        )
        return link

    def _watch(self, link: PeerLink) -> None:
        # Looked at then, and not moved by what is received until then: a busy connection costs one look an interval.
        when = link.connection.next_deadline()
        if when is not None:
            self._deadlines.set(link, when, lambda _: self._look_at(link))

    def _look_at(self, link: PeerLink) -> None:
        link.connection.handle_deadline(self._now)
        self._read_events(link)
        if not link.ended:
            self._watch(link)

    def _open(
        self,
        link: PeerLink,
        protocols: Sequence[str],
        agreed: Callable[[Stream, str], StreamOwner],
        failed: Callable[[str], None],
        now: float,
    ) -> None:
        self._now = now
        if not link.ready:
            failed(link.ended or "the peer takes no more streams on this connection")
            return
        try:
            stream = link.connection.session.open_stream()
        except LocalProtocolError as error:
            failed(str(error))
            return
        stream.owner = Proposal(stream, protocols, agreed, failed)
        self._expire(stream, now)

    def _hop(
        self,
        link: PeerLink,
        target: PeerId | None,
        answered: Callable[[HopRequest, HopAnswer], None],
        failed: Callable[[str], None],
        now: float,
    ) -> None:
        def agreed(stream: Stream, _: str) -> StreamOwner:
            return HopRequest(stream, target, answered, failed)

        self._open(link, (relay_hop.PROTOCOL,), agreed, failed, now)

    def _expire(self, stream: Stream, now: float) -> None:
        self._deadlines.set(stream, now + self.policy.stream_timeout, lambda _: self._expired(stream))

    def _expired(self, stream: Stream) -> None:
        stream.session.reset(stream)
        self._tell_failure(stream, f"no answer within {self.policy.stream_timeout:g} s")

    def _voucher_fault(self, link: PeerLink, granted: ReservationGranted) -> str | None:
        """What is wrong with the relay's voucher.  It may give none: the specification leaves that to it."""
        if not granted.voucher:
            return None
        try:
            voucher = open_voucher(granted.voucher)
        except RemoteProtocolError as error:
            return f"the relay's voucher is not valid: {error}"
        if voucher.relay != link.peer or voucher.peer != self.peer_id:
            return "the relay's voucher is for another peer or from another relay"
        return None

    # Ends.

    def _end(self, link: PeerLink, reason: str) -> None:
        """The connection is over: everything that was on it is told why.  What it has to say is still written."""
        if link.ended:
            return
        link.ended = reason
        link.connection.state = State.CLOSED
        self._deadlines.cancel(link)
        self.links.discard(link)
        self._ended.append(link)
        if link.relay is not None:
            link.relay.circuits.discard(link)
        for inner in list(link.circuits):
            self._end(inner, f"the connection to its relay is over: {reason}")  # ports/ways.py reads it
        for stream in list(link.connection.session.streams.values()):
            self._deadlines.cancel(stream)
            self._tell_failure(stream, reason)
        link.changed()
