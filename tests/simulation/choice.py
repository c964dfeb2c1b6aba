"""Which relays clients choose: their real RelayDirectory and ReputationTracker, over relays with a real RelayServer.

    spread     clients come within an hour, and each takes two reservations: how full the relays are beside each other
    liar       a relay that always says that it is idle, and takes everybody: what it has beside the honest ones
    dropper    relays that are always there and drop circuits: how many circuits are lost to them, hour by hour

What a client is told of relays is a part of them by chance, as a look-up brings, with descriptors that are as old as
the relay's own rule lets them be (actors/own_descriptor.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

from actors.actor import Send
from actors.own_descriptor import CHANGE, LIFE, RENEWAL
from actors.record_store import MemoryStore
from actors.relay_directory import RelayDirectory
from actors.relay_server import RelayServer, RelayServerPolicy
from actors.reputation_tracker import ReputationTracker
from protocol import messages, ping, relay_hop
from protocol.descriptor import Capacity, RelayDescriptor, Terms, seal_descriptor
from protocol.discovery_messages import (
    BestRelays,
    BestRelaysWanted,
    Observed,
    RelayFound,
    RelaysSearched,
    RelaysWanted,
)
from protocol.identity import PeerId
from protocol.relay_hop import HopClient, HopServer, RequestRefused, ReservationGranted, Status
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from protocol.wire import FrameReader, frame
from tests.simulation.network import FORWARDER, Host, Network

HOUR = 3600.0

#: Relays that one look-up tells of.
TOLD = 30

#: Reservations that a client keeps.
KEPT = 2

#: Seconds between two circuits of a client.
CIRCUIT_EVERY = 600.0

_CLIENT = "client"
_RESERVING = 1 << 40


def _unframed(data: bytes) -> bytes:
    reader = FrameReader(relay_hop.MAX_MESSAGE)
    reader.receive_data(data)
    return reader.next_frame() or b""


class RelayPeer:
    """A relay's ping, HOP and descriptor before its real RelayServer.  ``capacity``: reservations.  ``says``: the load
    that it claims, None: the true one.  ``drops``: the part of circuits that it drops."""

    def __init__(self, host: Host, capacity: int, *, says: float | None = None, drops: float = 0.0) -> None:
        policy = RelayServerPolicy(
            max_reservations=capacity,
            max_reservations_per_ip=capacity,
            max_reservations_per_group=capacity,
            rate_limits=False,
        )
        self.host = host
        self.capacity = capacity
        self.drops = drops
        self._says = says
        self._server = RelayServer(policy, forwarders=(FORWARDER,))
        self._server.handle_deadline(host.network.now)
        self._server.handle(messages.ForwarderReport(FORWARDER, 1, (), ()), host.network.now)
        #: Connections of those that hold a reservation.
        self._holders: dict[bytes, int] = {}
        host.parted = self._parted
        self._sequence = 0
        self._told = -1.0
        self._envelope = b""
        self._issued = 0.0

    @property
    def held(self) -> int:
        return len(self._holders)

    def descriptor(self, now: float) -> bytes:
        """What it says of itself at ``now``, signed anew when its rule says so."""
        load = min(self.held / self.capacity, 1.0) if self._says is None else self._says
        if abs(load - self._told) >= CHANGE or now >= self._issued + LIFE * RENEWAL:
            self._told, self._issued, self._sequence = load, now, self._sequence + 1
            left = max(self.capacity - self.held, 0)
            told = RelayDescriptor(
                self.host.peer.bytes,
                (self.host.address,),
                "dedicated",
                self._sequence,
                int(now),
                int(now) + LIFE,
                Capacity(left, left, None, load),
                Terms(0, 0, 3600),
            )
            self._envelope = seal_descriptor(told, self.host.identity)
        return self._envelope

    def handle(self, message: object, now: float) -> list[Send]:
        match message:
            case ForwarderReady():
                return [Send(FORWARDER, ProtocolsServed("relay", (ping.PROTOCOL, relay_hop.PROTOCOL)))]
            case StreamMessage(protocol=ping.PROTOCOL, stream=stream, payload=payload):
                return [Send(FORWARDER, StreamAnswer(stream, payload))]
            case StreamMessage():
                return [Send(FORWARDER, StreamAnswer(message.stream, self._reserve(message, now), finish=True))]
        return []

    def _parted(self, peer: PeerId) -> None:
        """Who was only trying gives its connection up, and its reservation with it."""
        if (connection := self._holders.pop(peer.bytes, None)) is not None:
            ended = messages.ReservationEnded(FORWARDER, connection, peer.bytes)
            self._server.handle(ended, self.host.network.now)

    def _reserve(self, asked: StreamMessage, now: float) -> bytes:
        machine = HopServer()
        machine.receive_data(frame(asked.payload))
        assert machine.next_event() is not None
        connection = self._holders.get(asked.peer, asked.stream)
        request = messages.ReserveAsked(1, FORWARDER, connection, asked.peer, asked.address)
        (send,) = self._server.handle(request, now)
        match send.message:
            case messages.ReserveGranted(expires_at=expires_at):
                self._holders[asked.peer] = connection
                machine.grant_reservation(int(expires_at), (), b"", None)
            case messages.ReserveRefused(status=status, reason=reason, retry_after=retry_after):
                machine.refuse(Status(status), reason, retry_after)
        return _unframed(machine.data_to_send())

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


class ClientPeer:
    """A client's directory and tracker, and what asks them.  ``told()``: what a look-up brings it.  ``chosen``: relays
    of the last answer, best first, those that would not take it last; ``reserved``: where it holds reservations."""

    def __init__(self, host: Host, told: Callable[[], list[RelayFound]]) -> None:
        self.host = host
        self.chosen: list[bytes] = []
        self.reserved: list[bytes] = []
        self.refused = 0
        self._told = told
        self._directory = RelayDirectory("directory", host.peer.bytes, ["dht"], "reputation", host.random_bytes)
        self._tracker = ReputationTracker("reputation", MemoryStore(), host.identity, relay_server="relay_server")
        self._numbers = 0
        self._wants: list[bytes] = []

    def handle(self, message: object, now: float) -> list[Send]:
        match message:
            case StreamMessage(request_id=number) | StreamOver(request_id=number) if number >= _RESERVING:
                return self._answered(message) if isinstance(message, StreamMessage) else []
            case Observed():
                return self._pass_on(self._tracker.handle(message, now), now)
        return self._pass_on(self._directory.handle(message, now), now)  # type: ignore[arg-type]

    def next_deadline(self) -> float | None:
        return min(
            (one for one in (self._directory.next_deadline(), self._tracker.next_deadline()) if one), default=None
        )

    def handle_deadline(self, now: float) -> list[Send]:
        sends = self._directory.handle_deadline(now)
        if (due := self._tracker.next_deadline()) is not None and due <= now:
            sends += self._tracker.handle_deadline(now)
        return self._pass_on(sends, now)

    def asks(self, *, search: bool) -> BestRelaysWanted:
        self._numbers += 1
        return BestRelaysWanted(self._numbers, _CLIENT, 5, 10.0, search)

    def _pass_on(self, sends: list[Send], now: float) -> list[Send]:
        """Between the actors of this node; what is for the forwarder is left."""
        left = []
        todo = list(sends)
        while todo:
            send = todo.pop(0)
            match send.receiver, send.message:
                case "dht", RelaysWanted(request_id=number):
                    for one in self._told():
                        todo += self._directory.handle(one, now)
                    todo += self._directory.handle(RelaysSearched("dht", number), now)
                case "reputation", message:
                    todo += self._tracker.handle(message, now)
                case "directory", message:
                    todo += self._directory.handle(message, now)
                case "client", BestRelays(relays=relays):
                    self.chosen = [one.peer for one in relays if one.answer in ("reserves", "unprobed")]
                    self._wants = [one for one in self.chosen if one not in self.reserved]
                    left += self._reserve_more()
                case receiver, _ if receiver == FORWARDER:
                    left.append(send)
        return left

    # Its reservations.

    def _reserve_more(self) -> list[Send]:
        if len(self.reserved) >= KEPT or not self._wants:
            return []
        self._numbers += 1
        asking = HopClient()
        asking.reserve()
        peer = self._wants.pop(0)
        return [
            Send(
                FORWARDER,
                StreamWanted(
                    _RESERVING + self._numbers,
                    _CLIENT,
                    peer,
                    (self.host.network.hosts[PeerId(peer)].address,),
                    relay_hop.PROTOCOL,
                    _unframed(asking.data_to_send()),
                    finish=True,
                ),
            )
        ]

    def _answered(self, message: StreamMessage) -> list[Send]:
        machine = HopClient()
        machine.reserve()
        machine.receive_data(frame(message.payload))
        match machine.next_event():
            case ReservationGranted():
                self.reserved.append(message.peer)
                self.host.kept.add(PeerId(message.peer))
            case RequestRefused():
                self.refused += 1
        return [Send(FORWARDER, StreamAnswer(message.stream, None, finish=True)), *self._reserve_more()]


@dataclass
class Market:
    """``relays``: capacity, load that is claimed (None: the true one) and part of circuits dropped, of each."""

    seed: int
    relays: list[tuple[int, float | None, float]]
    told: int = TOLD
    network: Network = field(init=False)
    peers: list[RelayPeer] = field(init=False, default_factory=list)
    clients: list[ClientPeer] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.network = Network(self.seed)
        for number, (capacity, says, drops) in enumerate(self.relays):

            def make(
                host: Host, capacity: int = capacity, says: float | None = says, drops: float = drops
            ) -> RelayPeer:
                peer = RelayPeer(host, capacity, says=says, drops=drops)
                self.peers.append(peer)
                return peer

            self.network.add(f"relay {number}", f"{20 + number % 80}.{number // 80}.1.1", make)
        self._by_id = {one.host.peer.bytes: one for one in self.peers}

    def come(self) -> ClientPeer:
        """A client more, which knows nobody."""
        number = len(self.clients)

        def make(host: Host) -> ClientPeer:
            client = ClientPeer(host, self._look_up)
            self.clients.append(client)
            return client

        host = self.network.add(f"client {number}", f"{120 + number % 80}.{number // 80}.1.1", make, reachable=False)
        client = self.clients[-1]
        assert host.core is client
        return client

    def _look_up(self) -> list[RelayFound]:
        now = self.network.now
        some = self.network.random.sample(self.peers, min(self.told, len(self.peers)))
        return [RelayFound("dht", one.host.peer.bytes, (), one.descriptor(now), 0) for one in some]

    def circuit(self, client: ClientPeer) -> RelayPeer | None:
        """One over the relay that is the best for it, and what came of it; None: it knows none."""
        if not client.chosen:
            return None
        relay = self._by_id[client.chosen[0]]
        dropped = self.network.random.random() < relay.drops
        kind = "dropped" if dropped else "circuit"
        client.host.post(Observed(relay.host.peer.bytes, kind, carried=0 if dropped else 1 << 20))
        return relay


@dataclass(frozen=True)
class Spread:
    """``fill``: of each relay, the part of its capacity that is held.  ``without``: clients that got fewer reservations
    than they keep.  ``refused``: requests."""

    fill: list[float]
    without: int
    refused: int

    @property
    def jain(self) -> float:
        """Jain's index of fairness: 1 when all are equally full, 1/n when one has all."""
        return sum(self.fill) ** 2 / (len(self.fill) * sum(one * one for one in self.fill))


def come_within(market: Market, clients: int, seconds: float) -> None:
    for _ in range(clients):
        client = market.come()
        client.host.post(client.asks(search=True))
        market.network.run(seconds / clients)
    # Those that got too little look again.
    for client in market.clients:
        if len(client.reserved) < KEPT:
            client.host.post(client.asks(search=True))
    market.network.run(30.0)


def spread(seed: int, relays: int = 100, clients: int = 1000, wanted: float = 0.5) -> Spread:
    """Relays of three sizes, which together have room for all the clients' reservations / ``wanted``."""
    sizes = [1, 2, 4]
    unit = clients * KEPT / wanted / relays / fmean(sizes)
    market = Market(seed, [(max(round(unit * sizes[number % 3]), 1), None, 0.0) for number in range(relays)])
    come_within(market, clients, HOUR)
    return Spread(
        [one.held / one.capacity for one in market.peers],
        sum(len(one.reserved) < KEPT for one in market.clients),
        sum(one.refused for one in market.clients),
    )


def liar(seed: int, relays: int = 50, clients: int = 500, liars: int = 1) -> float:
    """Reservations that a liar got, beside an honest relay: relays are of one size, and half full in the end; a liar
    takes as many as come."""
    room = round(clients * KEPT / 0.5 / relays)
    market = Market(seed, [*[(clients * KEPT, 0.0, 0.0)] * liars, *[(room, None, 0.0)] * (relays - liars)])
    come_within(market, clients, HOUR)
    held = [one.held for one in market.peers]
    return fmean(held[:liars]) / fmean(held[liars:])


def dropper(
    seed: int, drops: float, part: float = 0.2, relays: int = 50, clients: int = 50, hours: int = 12
) -> list[tuple[float, float]]:
    """Of each hour, the part of circuits that went over droppers, and the part that was lost.  A ``part`` of the relays
    drop that part of their circuits.  Each client makes a circuit every ten minutes, and looks for relays each hour."""
    bad = round(relays * part)
    market = Market(seed, [(10**6, None, drops if number < bad else 0.0) for number in range(relays)])
    for _ in range(clients):
        market.come()
    result = []
    steps = round(HOUR / CIRCUIT_EVERY)
    for _ in range(hours):
        over = lost = made = 0.0
        for step in range(steps):
            for client in market.clients:
                client.host.post(client.asks(search=step == 0))
            market.network.run(CIRCUIT_EVERY)
            for client in market.clients:
                relay = market.circuit(client)
                made += relay is not None
                if relay is not None and relay.drops:
                    over += 1
                    lost += relay.drops
        result.append((over / made, lost / made))
    return result
