"""CircuitForwarder: the connections of one process, and the circuits between them.

It owns each connection from accept to close: its handshake, its streams, and what passes from one to the other.  Who
may reserve and connect is not its decision: it asks RelayServer, and does what the answer says (circuit_setup.py).

Messages are for decisions.  Bytes come from the host port (actors/ports/host.py), which calls :meth:`received` after
it filled the arena, and writes what the arena's dirty connections have to say; they are passed on by the switch
without coming here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from actors import moves
from actors.actor import Send
from actors.bridges import Bridges, BridgeStream, Dial
from actors.circuit_setup import CircuitSetup
from actors.circuit_steps import CircuitSteps
from actors.crowd import Counted
from actors.deadlines import Deadlines
from actors.dialling import Attempt
from actors.forwarder_report import count, report
from actors.forwarder_terms import ForwarderTerms
from actors.inbound_streams import Negotiation, StreamOwner, deliver
from actors.links import ForwarderPolicy, Link, Links
from actors.moves import Move
from actors.own_protocols import OwnProtocols
from actors.refusals import CONNECTION_ERROR, STREAM_ERROR, loss
from actors.relay_streams import HopStream, StopStream
from actors.services import LATE_READERS, Services
from protocol import messages, perf, ping, quota_messages, service_messages
from protocol.arena import Arena
from protocol.connection import Multiplexed, State
from protocol.errors import RemoteProtocolError
from protocol.noise import StaticKey
from protocol.switching import Switch
from protocol.yamux import (
    DataReceived,
    GoAway,
    Stream,
    StreamFinished,
    StreamOpened,
    StreamReset,
    StreamWritable,
)
from tracing.tracer import AnyTracer

#: Seconds between two reports of what was forwarded.
COUNTERS_INTERVAL: Final = 1.0

#: Peers a second that are told new addresses: each costs about 0.2 ms.
PUSHES_PER_SECOND: Final = 250


class CircuitForwarder:
    """See the module.  ``randomness(n)``: n random bytes.  ``addresses``: ours, binary multiaddrs without /p2p.
    ``wall``: from a time as we have it to what clocks show then (actors/ports/clock.py).
    ``note``: takes what a log at debug says, as ``logging.debug`` does.
    ``host``, ``bridges``: where it runs, and where its fellow forwarders reach it (messages.ForwarderReport).
    ``crowd``: counts its connections, together with those of others if they share their limits.
    ``services``: actors that speak protocols of their own on its connections (actors/services.py).

    ``adopting``: it takes over from another forwarder, of which more is to come, and reports when all has
    (:meth:`adopted`).

    ``handle``, ``next_deadline`` and ``handle_deadline`` make it an actor; the methods under "What the host calls"
    are for its host, and what they cause to be sent is taken with :meth:`take_sends`.  ``metrics``: the actor that is
    told what is measured, "": none.
    """

    def __init__(
        self,
        name: str,
        policy: ForwarderPolicy,
        static: StaticKey,
        randomness: Callable[[int], bytes],
        *,
        pid: int = 0,
        now: float = 0.0,
        wall: Callable[[float], float] = lambda when: when,
        note: Callable[..., None] = lambda *_: None,
        addresses: Sequence[bytes] = (),
        relay_server: str = "relay_server",
        arena: Arena | None = None,
        host: str = "",
        bridges: Sequence[str] = (),
        adopting: bool = False,
        crowd: Counted | None = None,
        tracer: AnyTracer | None = None,
        metrics: str = "",
        services: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.policy = policy
        self.arena = arena or Arena()
        self.switch = Switch(self.arena, policy.circuit_window)
        self.refusals: Counter[str] = Counter()
        self.static = static
        self._note = note
        self._pid = pid
        self._host = host
        self._bridge_addresses = tuple(bridges)
        self._relay_server = relay_server
        self._metrics = metrics
        self._measured: object = None
        self.steps = CircuitSteps(name, tracer)
        self.steps.now = now
        self._deadlines = Deadlines()
        self._links = Links(policy, self.switch, static, randomness, self._deadlines, self.refusals, crowd)
        self.links = self._links.table
        self._sends: list[Send] = []
        self._reported: object = None
        self.own = OwnProtocols.make(static.identity, serve_perf=policy.serve_perf, wall=wall)
        self.description = self.own.description
        self.description.set_addresses(addresses, now)
        self._bridges = Bridges(policy, self.switch, self._links, static, randomness, self._deadlines)
        self._setup = CircuitSetup(
            name,
            policy,
            static.identity,
            self.switch,
            self.links,
            self._bridges,
            self._deadlines,
            self.description,
            self.refusals,
            self._tell,
            self.steps,
            self._expire_stream_at,
            wall,
            note,
        )
        self.circuits = self._setup.circuits
        served, hop, push = self.own.served, self._setup.serve, self._push_to_all
        self._terms = ForwarderTerms(
            name, policy, self.switch, self.circuits, self._deadlines, self._tell, served, hop, push
        )
        self.services = Services(
            name,
            services,
            static.identity,
            self.own.served,
            self._links,
            self._deadlines,
            randomness,
            lambda receiver, message: self._sends.append(Send(receiver, message)),
            lambda: self.steps.now,
            self._push_to_all,
            self.refusals,
        )
        self.adopting = adopting
        self._retired = False
        self._handing_to: str | None = None
        self._may_release: Callable[[], None] = lambda: None
        if not adopting:
            self._tell(self._report())
            self.services.announce(addresses)

    # What other actors say.

    def handle(self, message: messages.ForwarderMessage, now: float) -> list[Send]:
        self.steps.now = now
        match message:
            case messages.ReserveGranted():
                self._setup.reserve_granted(message)
            case messages.ConnectAdmitted():
                self._setup.connect_admitted(message, now)
            case messages.BridgeExpected():
                self._bridges.expect(message, now)
            case messages.ReserveRefused() | messages.ConnectRefused():
                self._setup.refused(message)
            case _ if isinstance(message, service_messages.ServiceForwarderMessage):
                self.services.handle(message)
            case quota_messages.TermsChanged() | quota_messages.QuotaGranted():
                self._terms.handle(message, now)
            case messages.ActorDown(actor=actor):
                self.services.down(actor)
            case messages.ActorUp(actor=actor) if not self.adopting:
                self.services.announce(self.description.addresses, to=actor)
            case messages.ReportWanted() if self.adopting:
                pass  # it hears of all when all has come
            case messages.AddressesChanged(addresses=addresses):
                self.set_addresses(addresses, now)
            case messages.ReportWanted():
                if self._reported is not None:
                    self._tell(self._counters())  # first, for what it knows is complete when all have reported
                self._tell(self._report())
                self._terms.quota.begin_anew()
                self._setup.ask_again()
                if self._handing_to is not None:
                    self._tell(messages.HandoverBegins(self.name, self._handing_to))
            case messages.HandoverReady():
                may_release, self._may_release = self._may_release, lambda: None
                may_release()
            case _:
                pass  # another actor going down or up: what was asked of it is asked again when it wants a report
        return self.take_sends()

    def next_deadline(self) -> float | None:
        return 0.0 if self.own.producing else self._deadlines.next()

    def handle_deadline(self, now: float) -> list[Send]:
        self.steps.now = now
        self.own.produce()
        self._deadlines.run(now)
        return self.take_sends()

    # Handing over (actors/handover.py).

    def begin_handover(self, successor: str, may_release: Callable[[], None]) -> None:
        """Another forwarder takes over, ``successor``, "" when it is another RelayServer's.  ``may_release`` is called
        when RelayServer has no answer for us under way: from then on nothing but peers changes what is here."""
        self._handing_to, self._may_release = successor, may_release
        self.services.leave()
        self._tell(messages.HandoverBegins(self.name, successor))

    def connection_counts(self) -> dict[str, int]:
        """Connections of each household (actors/reservations.py)."""
        return self._links.counts()

    def expect(self, counts: Mapping[str, int]) -> None:
        """So many connections of each household will be adopted, and count already."""
        self._links.expect(counts)

    def retire(self) -> None:
        """All is handed over.  Nothing is said any more: it would be said of what is another's now."""
        self._retired = True

    def handover_failed(self) -> None:
        """What was not handed over stays: RelayServer goes on answering for it."""
        self._handing_to, self._may_release = None, lambda: None
        self._tell(self._report())
        self.services.announce(self.description.addresses)
        self._setup.ask_again(suspect=False)

    def adopted(self, predecessor: str = "") -> None:
        """All that was handed over has come.  RelayServer hears of it in place of what ``predecessor`` held."""
        self.adopting = False
        self._links.expect_no_more()
        self._tell(self._report(replaces=predecessor))
        self.services.announce(self.description.addresses, replaces=predecessor)

    # What the host calls.

    def set_addresses(self, addresses: Sequence[bytes], now: float) -> None:
        """These are our addresses from now on: peers are told, one after the other (identify push)."""
        if self.description.set_addresses(addresses, now):
            self._push_to_all()

    def _push_to_all(self) -> None:
        for index, link in enumerate(self.links.values()):
            when = self.steps.now + index / PUSHES_PER_SECOND
            self._deadlines.set(("push", link.id), when, partial(self._push_to, link))

    def _push_to(self, link: Link, now: float) -> None:
        if self.links.get(link.id) is link and link.connection.state is State.MULTIPLEXED:
            stream = self.description.push(link.connection.session, link.remote)
            if stream is not None:
                self._expire_stream_at(stream, now + self.policy.stream_timeout)

    def admit(self, address: str, now: float) -> str:
        """Whether a connection from ``address`` may be accepted: "" or the limit that forbids it."""
        return self._links.admit(address, now)

    def accept(self, address: str, remote: bytes, local: bytes, now: float, *, relayed: bool = False) -> Link:
        """A connection that :meth:`admit` let in.  The host fills and flushes ``link.connection``."""
        link = self._links.accept(address, remote, local, now, relayed=relayed)
        self._schedule_counters(now)
        return link

    def accept_bridge(self, now: float, *, plain: bool) -> Link:
        """Another forwarder connected to our end of its bridges.  ``plain``: on the unix socket, else over TCP."""
        return self._bridges.accept(now, plain=plain)

    @property
    def has_moves(self) -> bool:
        """Whether there are connections to be sent to another forwarder."""
        return bool(self._setup.moves)

    def take_moves(self, now: float) -> list[Move]:
        """Connections that the host is to send to another forwarder."""
        wanted, self._setup.moves = self._setup.moves, []
        for move in wanted:
            if not move.possible:
                self._setup.stays(move, now)
        return [move for move in wanted if move.possible]

    def move_out(self, move: Move, now: float) -> moves.MoveState:
        """The connection as it is sent; it is no longer ours.  Between turns: what it had to write was written."""
        return moves.release(self, move, now)

    def stays(self, move: Move, now: float, state: moves.MoveState | None = None) -> Link:
        """It cannot be sent; ``state``: what :meth:`move_out` gave.  The circuit is bridged."""
        link = move.link if state is None else moves.take_back(self, state, now)
        self._setup.stays(move, now)
        return link

    def move_in(self, state: moves.MoveState, now: float) -> Link:
        """A dialler's connection comes from another forwarder.  LocalProtocolError: nothing of it is kept."""
        link = moves.take_back(self, state, now)
        for token in state.tokens:
            self._bridges.arrived(token, now)
        return link

    def take_attempts(self) -> list[Attempt]:
        """TCP connections that the host is to open."""
        dialling = self.services.dialling
        attempts, dialling.wanted = dialling.wanted, []
        return attempts

    def dialled(self, attempt: Attempt, remote: bytes, local: bytes, now: float) -> Link | None:
        """Its socket is connected; None: close it."""
        link = self.services.dialling.connected(attempt, remote, local, now)
        self._schedule_counters(now)
        return link

    def dial_failed(self, attempt: Attempt, reason: str, now: float) -> None:
        self.services.dialling.failed(attempt, reason, now)

    def take_dials(self) -> list[Dial]:
        """Bridges that the host is to connect."""
        dials, self._bridges.dials = self._bridges.dials, []
        return dials

    def received(self, link: Link, now: float) -> None:
        """The connection's buffer was filled: act on what came of it.  A connection in error ends up closed."""
        connection = link.connection
        self.steps.now = now
        try:
            while (event := connection.next_event()) is not None:
                match event:
                    case DataReceived(stream, data):
                        self._data_received(stream, data)
                    case StreamOpened(stream):
                        self._stream_opened(link, stream, now)
                    case StreamFinished(stream):
                        if stream.out is not None:
                            self.switch.finish(stream)  # came in the same receive as what made the circuit
                        elif (owner := stream.owner) is not None:
                            self._deliver(stream, owner.finished)
                        if stream.closed:
                            self._ended(stream)
                    case StreamReset(stream):
                        if (owner := stream.owner) is not None:
                            self._deliver(stream, owner.was_reset)
                        self._ended(stream)
                    case StreamWritable(stream):
                        if (owner := stream.owner) is not None:
                            self._deliver(stream, owner.writable)
                    case Multiplexed() if link.bridge:
                        self._bridges.proved(link, event)
                        if link.beyond is not None:
                            self._setup.bridge_ready(link)
                    case Multiplexed():
                        self._links.proved(link)
                        self.services.proved(link)
                    case _:
                        pass  # acknowledgements, pongs and good-byes change nothing here
        except RemoteProtocolError as error:
            self.refusals[CONNECTION_ERROR + error.code] += 1
            connection.close()

    def lost(self, link: Link, reason: str, now: float | None = None) -> None:
        """The connection is gone, by whoever's will: its circuits, streams and reservation with it."""
        if not self._links.remove(link):
            return
        if now is not None:
            self.steps.now = now
        connection = link.connection
        if link.dial is not None:
            self.services.lost(link, reason)
        elif connection.peer is None and not link.bridge:
            self.steps.handshake_failed(connection, reason)
        if code := loss(link, reason):
            self.refusals[code] += 1
        self._note("connection of %s is over: %s", link.agent or "a peer", code or connection.error or reason)
        connection.state = State.CLOSED
        session = connection.session
        self.switch.abandon(session, reason)
        if link.bridge:
            self._setup.bridge_lost(link)
        for stream in list(session.streams.values()):
            session.forget(stream)
            if stream.owner is not None:
                deliver(stream, stream.owner.was_reset)
            self._ended(stream)
        if link.may_hold:
            self._tell(messages.ReservationEnded(forwarder=self.name, connection=link.id, peer=link.peer.bytes))
        self._setup.report_ended()

    def drained(self, link: Link) -> None:
        """The socket takes bytes again."""
        self.switch.drained(link.connection.waiting)
        self.services.extensions.drained(link.connection)

    def close_all(self) -> None:
        """Say good-bye to every peer.  The host flushes, and then shuts the sockets."""
        for link in self.links.values():
            link.connection.close(GoAway.NORMAL)
            link.connection.mark_dirty()

    def settle(self) -> None:
        """Give out quota and credit, once the turn's bytes were written; what that adds is to be written too."""
        if self.switch.meter.hungry:
            self._terms.quota.settle()
        if self.switch.ended:
            self._setup.report_ended()
        self.switch.settle()
        if self.steps.watched:
            self.steps.look()

    def take_sends(self) -> list[Send]:
        sends, self._sends = self._sends, []
        return [] if self._retired else sends

    # Streams.

    def _ended(self, stream: Stream) -> None:
        """Nobody will hear of it again.  Stream and owner know each other: let them go, for the garbage collector finds
        what lived for a while only when it looks at everything."""
        self._deadlines.cancel(stream)
        stream.owner = None

    def _stream_opened(self, link: Link, stream: Stream, now: float) -> None:
        if stream.closed:
            return
        link.idle_since = None
        if link.bridge:
            stream.owner = self._bridges.serve(stream, self._setup.bridge_gone)
        else:
            stream.owner = Negotiation(stream, self.own.served, self._negotiated)
        self._expire_stream_at(stream, now + self.policy.stream_timeout)

    def _expire_stream_at(self, stream: Stream, when: float) -> None:
        self._deadlines.set(stream, when, lambda _: self._stream_expired(stream))

    def _negotiated(self, stream: Stream, protocol: str) -> None:
        # Those that ask once have until the deadline to ask, and to close; pings and perf may go on.
        if protocol in (ping.PROTOCOL, perf.PROTOCOL):
            self._deadlines.cancel(stream)

    def _stream_expired(self, stream: Stream) -> None:
        owner = stream.owner
        if isinstance(owner, HopStream) and self._setup.expired(owner):
            return
        if not stream.closed:
            stream.session.reset(stream)
            if owner is not None:
                deliver(stream, owner.was_reset)
        stream.owner = None

    def _data_received(self, stream: Stream, data: bytes) -> None:
        if stream.out is not None:
            self.switch.push(stream, data)  # came in the same receive as what made the circuit
        elif stream.owner is not None and (not stream.closed or isinstance(stream.owner, LATE_READERS)):
            owner: StreamOwner = stream.owner
            self._deliver(stream, lambda: owner.data_received(data))

    def _deliver(self, stream: Stream, action: Callable[[], None]) -> None:
        error = deliver(stream, action)
        if error is not None:
            self.refusals[STREAM_ERROR + error.code] += 1
            if isinstance(stream.owner, HopStream | StopStream | BridgeStream):
                stream.owner.was_reset()
            self._ended(stream)

    # Reports.

    def _report(self, replaces: str = "") -> messages.ForwarderReport:
        about = {"host": self._host, "bridges": self._bridge_addresses, "replaces": replaces, **self._terms.told()}
        held = self.links.values(), self.circuits.values(), self._setup.opening.values()
        return report(self._counters(), self._pid, *held, **about)

    def _schedule_counters(self, now: float) -> None:
        if self._reported is None:
            self._reported = ()
            self._deadlines.set("counters", now + COUNTERS_INTERVAL, self._count)

    def _counters(self) -> messages.ForwarderCounters:
        switched = self.arena.bytes_switched - self._setup.bytes_counted_elsewhere()
        return count(self.name, self.links, self.circuits, switched, self.refusals)

    def _count(self, now: float) -> None:
        """Report what changed; say nothing while nothing does."""
        counters = self._counters()
        if counters != self._reported:
            self._reported = counters
            self._tell(counters)
        if self._metrics and (told := self.steps.metrics(counters, self.services.extensions.moved)) != self._measured:
            self._measured = told
            self._sends.append(Send(self._metrics, told))
        self.steps.look_at_late()
        self._deadlines.set("counters", now + COUNTERS_INTERVAL, self._count)

    def _tell(self, message: messages.RelayServerMessage, traceparent: str = "") -> None:
        self._sends.append(Send(self._relay_server, message, traceparent))
