"""Peers in memory: our own wire machines as a client, without sockets, loop or clock.

A :class:`MemoryPeer` is joined to a CircuitForwarder by :meth:`MemoryRelay.attach`; :meth:`MemoryRelay.run` carries
bytes to and fro, and messages between forwarder and RelayServer, until nobody has anything to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy, Link
from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import identify, relay_hop, relay_stop
from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits, Multiplexed, State
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId
from protocol.multistream import Dialer, Listener, Negotiated
from protocol.noise import StaticKey
from protocol.relay_hop import HopClient
from protocol.relay_stop import StopServer
from protocol.switching import Switch
from protocol.yamux import DataReceived, Stream, StreamFinished, StreamOpened, StreamReset, YamuxLimits
from tracing.tracer import AnyTracer, NullTracer

START = 1_800_000_000.0


def seeded(name: str) -> bytes:
    """32 bytes that look random and are always the same."""
    return hashlib.sha256(name.encode()).digest()


class MemoryStream:
    """What a peer in memory sees of one of its streams."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.received = bytearray()
        self.finished = False
        self.reset = False
        #: Called with new bytes in place of keeping them.
        self.sink: Callable[[bytes], None] | None = None
        self.reading = True

    def send(self, data: bytes) -> None:
        self.stream.session.send(self.stream, data)

    def finish(self) -> None:
        self.stream.session.finish(self.stream)

    def take(self) -> bytes:
        data = bytes(self.received)
        self.received.clear()
        return data


class MemoryPeer:
    """A libp2p peer made of our machines.  It accepts circuits when ``accepts`` is true."""

    def __init__(self, name: str, *, window: int = 256 * 1024, muxers_early: bool = True) -> None:
        self.identity = Identity.from_seed(seeded(name))
        self.peer_id = self.identity.peer_id
        self.switch = Switch(Arena())
        limits = ConnectionLimits(
            keepalive_interval=0, yamux=YamuxLimits(window=window, pings_per_second=0, streams_per_second=0)
        )
        self.connection = Connection(
            self.switch,
            StaticKey(self.identity, seeded(name + " static")),
            seeded(name + " ephemeral"),
            START,
            initiator=True,
            limits=limits,
        )
        self.streams: dict[Stream, MemoryStream] = {}
        self.accepted: list[MemoryStream] = []
        #: Identify messages that came unasked.
        self.pushed: list[MemoryStream] = []
        self.accepts = True
        #: While False, requests for circuits are left waiting; :meth:`answer_late` answers them.
        self.answers = True
        self._late: list[Callable[[], None]] = []
        self.ready = False
        self.error: RemoteProtocolError | None = None

    # Bytes.

    def receive(self, data: bytes, now: float) -> None:
        self.connection.receive_data(data, now)
        try:
            while (event := self.connection.next_event()) is not None:
                match event:
                    case Multiplexed():
                        self.ready = True
                    case StreamOpened(stream):
                        self._opened(stream)
                    case DataReceived(stream, data):
                        self._data(stream, data)
                    case StreamFinished(stream):
                        if stream in self.streams:
                            self.streams[stream].finished = True
                    case StreamReset(stream):
                        if stream in self.streams:
                            self.streams[stream].reset = True
                    case _:
                        pass
        except RemoteProtocolError as error:
            self.error = error

    def output(self) -> bytes:
        self.switch.settle()
        return self.connection.data_to_send()

    def _data(self, stream: Stream, data: bytes) -> None:
        view = self.streams.get(stream)
        if view is None:
            return
        if view.sink is not None:
            view.sink(data)
        else:
            view.received += data
        if view.reading:
            stream.session.consume(stream, len(data))

    def _opened(self, stream: Stream) -> None:
        view = self.streams[stream] = MemoryStream(stream)
        listener = Listener((relay_stop.PROTOCOL, identify.PUSH_PROTOCOL))
        stop = StopServer()
        negotiating = True

        def sink(data: bytes) -> None:
            nonlocal negotiating
            if stream.closed:
                return  # it was reset behind what came
            if negotiating:
                listener.receive_data(data)
                agreed = listener.next_event()
                view.send(listener.data_to_send())
                if not isinstance(agreed, Negotiated):
                    return
                negotiating = False
                data = listener.trailing_data()
                if agreed.protocol == identify.PUSH_PROTOCOL:
                    view.sink = None
                    view.received += data
                    self.pushed.append(view)
                    view.finish()
                    return
            stop.receive_data(data)
            if stop.next_event() is None:
                return
            if self.answers:
                answer()
            else:
                self._late.append(answer)

        def answer() -> None:
            if stream.closed:
                return  # the relay gave up waiting
            if self.accepts:
                stop.accept()
                view.send(stop.data_to_send())
                view.sink = None
                view.received += stop.trailing_data()
                self.accepted.append(view)
            else:
                stop.refuse(relay_hop.Status.PERMISSION_DENIED, "not now")
                view.send(stop.data_to_send())

        view.sink = sink

    def answer_late(self) -> None:
        """Answer what was left waiting."""
        late, self._late = self._late, []
        for answer in late:
            answer()

    # What it asks for.

    def open(self, protocol: str, first: bytes = b"") -> MemoryStream:
        """A stream for ``protocol``; what the other side says after agreeing is in ``received``."""
        stream = self.connection.session.open_stream()
        view = self.streams[stream] = MemoryStream(stream)
        dialer = Dialer((protocol,))
        view.send(dialer.data_to_send() + first)

        def sink(data: bytes) -> None:
            dialer.receive_data(data)
            agreed = dialer.next_event()
            if isinstance(agreed, Negotiated):
                view.sink = None
                view.received += dialer.trailing_data()

        view.sink = sink
        return view

    def hop(self) -> tuple[MemoryStream, HopClient]:
        return self.open(relay_hop.PROTOCOL), HopClient()


class Tracers(dict[str, AnyTracer]):
    """Of each actor, by its name."""

    def __init__(self, make: Callable[[str], AnyTracer] | None) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> AnyTracer:
        self[name] = made = NullTracer() if self._make is None else self._make(name)
        return made


class MemoryRelay:
    """RelayServer and one CircuitForwarder, their messages carried by hand."""

    def __init__(
        self,
        policy: RelayServerPolicy | None = None,
        forwarder_policy: ForwarderPolicy | None = None,
        *,
        piece: int = 0,
        tracer: Callable[[str], AnyTracer] | None = None,
        wall: Callable[[float], float] = lambda when: when,
        services: Sequence[str] = (),
    ) -> None:
        self.now = START
        #: What services were told.
        self.told: list[Any] = []
        #: Of each actor, as if it were a process of its own.
        self.tracers = Tracers(tracer)
        self.piece = piece
        self.identity = Identity.from_seed(seeded("relay"))
        self.peer_id: PeerId = self.identity.peer_id
        self._counter = 0
        self.forwarder = CircuitForwarder(
            "forwarder/0",
            forwarder_policy or ForwarderPolicy(rate_limits=False, max_connections_per_ip=10_000),
            StaticKey(self.identity, seeded("relay static")),
            self._random,
            wall=wall,
            addresses=[bytes.fromhex("04010203040610e1")],
            tracer=self.tracers["forwarder/0"],
            services=services,
        )
        self.services = frozenset(services)
        self.relay_server = RelayServer(
            policy or RelayServerPolicy(rate_limits=False),
            forwarders=("forwarder/0",),
            tracer=self.tracers["relay_server"],
        )
        self.links: dict[MemoryPeer, Link] = {}
        #: Peers whose socket takes nothing: bytes for them pile up here.
        self.stalled: set[MemoryPeer] = set()
        self.backlog: dict[MemoryPeer, bytearray] = {}

    def _random(self, size: int) -> bytes:
        self._counter += 1
        return seeded(f"relay ephemeral {self._counter}")[:size]

    def attach(self, peer: MemoryPeer, address: str = "192.0.2.7", *, relayed: bool = False) -> Link:
        refused = self.forwarder.admit(address, self.now)
        assert not refused, refused
        link = self.forwarder.accept(address, bytes.fromhex("04c0000207061f90"), b"", self.now, relayed=relayed)
        self.links[peer] = link
        self.run()
        return link

    def detach(self, peer: MemoryPeer) -> None:
        self.forwarder.lost(self.links.pop(peer), "connection closed by the peer")
        self.run()

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps no longer than a second, running what is due."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self._post(self.forwarder.handle_deadline(self.now))
            deadline = self.relay_server.next_deadline()
            if deadline is not None and deadline <= self.now:
                self._post(self.relay_server.handle_deadline(self.now))
            self.run()

    def run(self, turns: int = 100_000) -> None:
        """Carry bytes and messages until all are silent."""
        for _ in range(turns):
            if not self._turn():
                return
        raise AssertionError("the relay and its peers never fall silent")

    def _post(self, sends: list) -> bool:
        for send in sends:
            if send.receiver in self.services:
                self.told.append(send.message)
                continue
            actor = self.relay_server if send.receiver == "relay_server" else self.forwarder
            self.tracers[send.receiver].current = send.traceparent
            self._post(actor.handle(send.message, self.now))
        return bool(sends)

    def _turn(self) -> bool:
        moved = self._post(self.forwarder.take_sends())
        for peer in list(self.links):
            data = peer.output()
            if data:
                moved = True
                for piece in self._pieces(data):
                    link = self.links[peer]
                    if link.connection.state is not State.CLOSED:
                        link.connection.receive_data(piece, self.now)
                        self.forwarder.received(link, self.now)
                    self._flush()
                    self.between_turns()
        self._post(self.forwarder.take_sends())
        self._flush()
        for peer, data in list(self.backlog.items()):
            if peer not in self.stalled and data:
                moved = True
                del self.backlog[peer]
                for piece in self._pieces(bytes(data)):
                    peer.receive(piece, self.now)
                if peer in self.links and self.links[peer].connection.blocked:
                    self.links[peer].connection.blocked = False
                    self.forwarder.drained(self.links[peer])
                    self._flush()
        return moved

    def between_turns(self) -> None:
        """Called when the relay has received something and written what came of it: for those who want to know."""

    def _flush(self) -> None:
        by_connection = {link.connection: peer for peer, link in self.links.items()}
        arena = self.forwarder.arena
        while True:
            dirty, arena.dirty = arena.dirty, []
            for connection in dirty:
                data = b"".join(connection.take_output())
                peer = by_connection.get(connection)
                if peer is not None:
                    waiting = self.backlog.setdefault(peer, bytearray())
                    waiting += data
                    if peer in self.stalled:
                        connection.blocked = len(waiting) > 64 * 1024
            self.forwarder.settle()
            if not arena.dirty:
                break
        arena.reset()

    def _pieces(self, data: bytes) -> list[bytes]:
        if not self.piece:
            return [data]
        return [data[start : start + self.piece] for start in range(0, len(data), self.piece)]

    # What peers do.

    def reserve(self, peer: MemoryPeer) -> object:
        view, client = peer.hop()
        client.reserve()
        view.send(client.data_to_send())
        self.run()
        client.receive_data(view.take())
        view.finish()
        self.run()
        return client.next_event()

    def connect(self, peer: MemoryPeer, target: PeerId) -> tuple[MemoryStream, object]:
        view, client = peer.hop()
        client.connect(target)
        view.send(client.data_to_send())
        self.run()
        client.receive_data(view.take())
        event = client.next_event()
        view.received += client.trailing_data()
        return view, event

    def circuit(self, source: MemoryPeer, target: MemoryPeer) -> tuple[MemoryStream, MemoryStream]:
        """Both ends of a new circuit between two attached peers."""
        self.reserve(target)
        view, event = self.connect(source, target.peer_id)
        assert isinstance(event, relay_hop.ConnectAccepted), event
        return view, target.accepted[-1]
