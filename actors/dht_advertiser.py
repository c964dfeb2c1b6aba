"""DHTAdvertiser: this node's part in Kademlia.  It publishes our descriptor, finds relays, and serves others.

It has no sockets: forwarders carry its streams (protocol/service_messages.py).  What it knows is in parts of their own:

    kad_routing     who is a server, and where           kad_server     what others are answered
    kad_walks       look-ups under way                   kad_records    what is kept for others
    kad_requests    what we ask of whom                  kad_upkeep     joining, and staying in
    kad_region      who was crowded out
    relay_publisher our descriptor                       relay_search   others' descriptors
    kad_whereabouts peers' whereabouts, for those who look for them or want to be found

A server takes part in all of it; a client announces no protocol and answers nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.actor import Send
from actors.dial_policy import network_of
from actors.kad_addresses import at, scope_of, to_dial
from actors.kad_lookup import LookupPolicy
from actors.kad_records import WHEREABOUTS, ProviderRecords, RecordPolicy, SignedRecords, Validate
from actors.kad_region import NetworkSize, Region
from actors.kad_requests import Reply, Requests
from actors.kad_routing import RoutingTable, TablePolicy
from actors.kad_server import IdleStreams, KadServer
from actors.kad_upkeep import Upkeep, UpkeepPolicy
from actors.kad_walks import Walks
from actors.kad_whereabouts import WhereaboutsWalks
from actors.rate_limit import KeyedBuckets
from actors.record_store import RecordStore
from actors.relay_publisher import PublishPolicy, RelayPublisher
from actors.relay_search import RelaySearch, SearchPolicy
from actors.reservations import household
from protocol import identify, kad
from protocol.discovery_messages import (
    DescriptorChanged,
    DhtModeChanged,
    DiscoveryMessage,
    RelayFound,
    RelaysWanted,
)
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad_keys import RELAYS, provider_key, whereabouts_peer
from protocol.mapping_messages import AddressObserved
from protocol.messages import ActorDown, ActorUp, CountsAsked, CountsTold
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    ServiceMessage,
    StreamAnswer,
    StreamMessage,
    StreamOver,
)
from protocol.whereabouts import open_whereabouts
from protocol.whereabouts_messages import WhereaboutsDhtMessage, WhereaboutsGiven, WhereaboutsSought
from protocol.wire import frame

DhtMessage = ServiceMessage | DiscoveryMessage | WhereaboutsDhtMessage | RelayFound | CountsAsked | ActorDown | ActorUp

#: Peers that asked us and are asked who they are, at a time; each household as often as once a minute, four at first.
MAX_IDENTIFYING: Final = 16
IDENTIFY_RATE: Final = 1 / 60
IDENTIFY_AT_ONCE: Final = 4.0
MAX_RATE_KEYS: Final = 4096


#: Seconds between clearings of old records.
CLEAN: Final = 600.0


@dataclass(frozen=True, slots=True)
class DhtPolicy:
    """Of each part."""

    table: TablePolicy = field(default_factory=TablePolicy)
    lookup: LookupPolicy = field(default_factory=LookupPolicy)
    records: RecordPolicy = field(default_factory=RecordPolicy)
    publish: PublishPolicy = field(default_factory=PublishPolicy)
    search: SearchPolicy = field(default_factory=SearchPolicy)
    upkeep: UpkeepPolicy = field(default_factory=UpkeepPolicy)


class DHTAdvertiser:
    """See the module.  ``name``: the actor's.  ``own``: our peer id.  ``validate``: of descriptors
    (actors/kad_records.py).  ``randomness(n)``: n random bytes.  ``store``: where records and peers outlive a restart.
    ``bootstrap``: peers to join by, as (peer id or b"" for whoever answers, binary multiaddrs without /p2p).
    ``protocol``: the network's; ``kad.PUBLIC_PROTOCOL`` is that of everybody.  ``server``: whether others reach us.
    ``observer``: the actor that is told where peers see us, "": nobody is."""

    def __init__(
        self,
        name: str,
        own: PeerId,
        validate: Validate,
        randomness: Callable[[int], bytes],
        store: RecordStore,
        *,
        bootstrap: Sequence[tuple[bytes, Sequence[bytes]]] = (),
        protocol: str = kad.PROTOCOL,
        server: bool = True,
        policy: DhtPolicy | None = None,
        observer: str = "",
    ) -> None:
        self._observer = observer
        self.policy = policy or DhtPolicy()
        #: What was done, refused and not believed, by reason.
        self.counts: Counter[str] = Counter()
        self.table = RoutingTable(own.bytes, self.policy.table)
        self.providers = ProviderRecords(store, self.policy.records)
        self.descriptors = SignedRecords(store, validate, self.policy.records)
        self.whereabouts = SignedRecords(
            store, open_whereabouts, self.policy.records, peer_of=whereabouts_peer, row=WHEREABOUTS
        )
        self._name = name
        self._own = own.bytes
        self._randomness = randomness
        self._protocol = protocol
        self._serves = server
        self._requests = Requests(name)
        self._walks = Walks(own.bytes, self.table, self._requests, protocol, self.policy.lookup, self.counts)
        self._server = KadServer(own.bytes, self.table, self.providers, self.descriptors, self.whereabouts, randomness)
        self._idle = IdleStreams()
        size = NetworkSize()
        region = Region(self._walks, size, randomness, self.counts)
        self._publisher = RelayPublisher(
            own, self._walks, validate, self._jitter, self.counts, region, self.policy.publish
        )
        self._search = RelaySearch(
            own.bytes,
            self._walks,
            self.providers,
            self.descriptors,
            validate,
            lambda: len(self.table),
            lambda: self._upkeep.hopeful,
            randomness,
            self._jitter,
            self.counts,
            region,
            self.policy.search,
        )
        self._whereabouts = WhereaboutsWalks(self._walks, region, self.whereabouts, self.counts)
        self._upkeep = Upkeep(
            own.bytes,
            self.table,
            self._walks,
            store,
            [(peer, tuple(addresses)) for peer, addresses in bootstrap],
            randomness,
            self._jitter,
            self._joined,
            size,
            self.policy.upkeep,
        )
        self._sends: list[Send] = []
        self._started = False
        self._clean_at = 0.0
        self._identifying = 0
        self._identify_rates = KeyedBuckets(IDENTIFY_RATE, IDENTIFY_AT_ONCE, MAX_RATE_KEYS)

    # The actor.

    def handle(self, message: DhtMessage, now: float) -> list[Send]:
        """Take one message of the inbox."""
        self._start(now)
        match message:
            case ForwarderReady():
                self._forwarder_ready(message, now)
            case StreamMessage(request_id=0):
                self._serve(message, now)
            case StreamMessage():
                self._requests.message(message, now)
            case StreamOver(request_id=0):
                self._idle.over(message.forwarder, message.stream)
            case StreamOver():
                self._requests.over(message, now)
            case DescriptorChanged(envelope=envelope):
                self._publisher.changed(envelope, now)
                self._tell_server()
            case DhtModeChanged(server=server):
                self._mode_changed(server)
            case RelayFound(source=source, peer=peer, addresses=addresses):
                self._upkeep.hint(peer, addresses, now, configured=source == "public")
            case RelaysWanted():
                self._search.wanted(message, now)
            case WhereaboutsSought():
                self._whereabouts.seek(message, now)
            case WhereaboutsGiven():
                self._whereabouts.keep(message, now)
            case CountsAsked(request_id=number, asker=asker):
                self._sends.append(Send(asker, CountsTold(number, self._name, dict(self.counts), self._sizes())))
            case ActorDown(actor=actor):
                self._forwarder_lost(actor, now)
            case ActorUp():
                pass
        return self._settle(now)

    def _sizes(self) -> dict[str, float]:
        return {
            "contacts": len(self.table),
            "provider records": len(self.providers),
            "descriptors": len(self.descriptors),
            "whereabouts": len(self.whereabouts),
        }

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` is to be called."""
        if not self._started:
            return 0.0
        times = [self._clean_at, *(part.next_deadline() for part in self._parts())]
        return min(time for time in times if time is not None)

    def handle_deadline(self, now: float) -> list[Send]:
        """That time has come."""
        self._start(now)
        for part in self._parts():
            part.handle_deadline(now)
        if self._clean_at <= now:
            self._clean_at = now + CLEAN
            self.providers.expire(now)
            self.descriptors.expire(now)
            self.whereabouts.expire(now)
        self._tell_server()
        return self._settle(now)

    def _parts(self) -> tuple[Requests, Walks, Upkeep, RelayPublisher, RelaySearch]:
        return self._requests, self._walks, self._upkeep, self._publisher, self._search

    def _settle(self, now: float) -> list[Send]:
        self._requests.settle(now)
        sends = [*self._sends, *self._requests.sends, *self._search.sends, *self._whereabouts.sends]
        self._sends.clear()
        self._whereabouts.sends.clear()
        self._requests.sends.clear()
        self._search.sends.clear()
        return sends

    def _start(self, now: float) -> None:
        if self._started:
            return
        self._started = True
        self._clean_at = now + CLEAN
        self.providers.load(now)
        self.descriptors.load(now)
        self.whereabouts.load(now)
        self._upkeep.start(now)

    def _jitter(self) -> float:
        return int.from_bytes(self._randomness(4), "big") / (1 << 32)

    # Forwarders, and what we are.

    def _forwarder_ready(self, ready: ForwarderReady, now: float) -> None:
        if ready.replaces:
            self._forwarder_lost(ready.replaces, now)
        if not self._requests.forwarders:
            self._upkeep.reachable(now)
        self._requests.forwarders[ready.forwarder] = ready.addresses
        self._say_protocols(ready.forwarder)
        self._tell_server()

    def _forwarder_lost(self, forwarder: str, now: float) -> None:
        self._idle.lost(forwarder)
        if forwarder in self._requests.forwarders:
            self._requests.lost(forwarder, now)
            self._tell_server()

    def _mode_changed(self, server: bool) -> None:
        if server != self._serves:
            self._serves = server
            for forwarder in self._requests.forwarders:
                self._say_protocols(forwarder)

    def _say_protocols(self, forwarder: str) -> None:
        protocols = (self._protocol,) if self._serves else ()
        self._sends.append(Send(forwarder, ProtocolsServed(self._name, protocols)))

    def _tell_server(self) -> None:
        """Our own records are answered from what is published, not from what is kept for others."""
        here = [address for addresses in self._requests.forwarders.values() for address in addresses]
        self._publisher.reached_at = tuple(dict.fromkeys(here))
        self._server.addresses = self._publisher.addresses
        self._server.envelope = self._publisher.envelope
        self._server.provided = frozenset({provider_key(RELAYS)} if self._publisher.envelope else ())

    # Those who ask us.

    def _serve(self, message: StreamMessage, now: float) -> None:
        payload = None
        refused = ""
        try:
            if not self._serves:
                raise RemoteProtocolError("only servers answer", "client")
            request = kad.decode_request(message.payload)
            if not self._idle.may_ask(message.address, request.type, now):
                raise RemoteProtocolError("too many requests", "rate")
            answer = self._server.answer(request, message.peer, message.address, now)
            payload = None if answer is None else kad.encode(answer)
            self.counts[f"served {request.type.name}"] += 1
        except RemoteProtocolError as error:
            refused = error.code
        if refused:
            self.counts[f"refused: {refused}"] += 1
            self._idle.over(message.forwarder, message.stream)
            self._sends.append(Send(message.forwarder, StreamAnswer(message.stream, None, reset=True)))
            return
        self._sends.append(Send(message.forwarder, StreamAnswer(message.stream, payload)))
        victim = self._idle.answered(message.forwarder, message.stream, message.address)
        if victim is not None:
            self.counts["idle stream let go"] += 1
            self._sends.append(Send(victim[0], StreamAnswer(victim[1], None, reset=True)))
        self._meet(message, now)

    def _meet(self, message: StreamMessage, now: float) -> None:
        """Ask who asked us whether it is a server too, if the table has a place for it."""
        if self._identifying >= MAX_IDENTIFYING or not self.table.wanted(message.peer, message.address):
            return
        if not self._identify_rates.take(household(message.address), now):
            return
        self._identifying += 1

        def told(reply: Reply, now: float) -> None:
            self._identifying -= 1
            if reply.message is not None:
                self._identified(reply.message, now)

        self._requests.ask(message.peer, (), identify.PROTOCOL, None, told, now, forwarder=message.forwarder)

    def _identified(self, message: StreamMessage, now: float) -> None:
        reader = identify.IdentifyReader()
        reader.receive_data(frame(message.payload))
        try:
            event = reader.next_event()
        except RemoteProtocolError:
            event = None
        if event is not None and event.message.observed_addr and self._observer:
            network = network_of(message.observed)
            self._sends.append(Send(self._observer, AddressObserved(event.message.observed_addr[:64], network)))
        if event is None or self._protocol not in event.message.protocols:
            self.counts["peer no server"] += 1
            return
        # Only where we met it: anything else it may say of anybody.
        listens = kad.well_formed(event.message.listen_addrs)[0]
        addresses = to_dial(at(listens, message.address), scope_of(message.address))
        self._walks.proved(message.peer, addresses, message.address, now)
        self._upkeep.met(now)

    def _joined(self, now: float) -> None:
        """There are peers to ask."""
        self._publisher.again(now)
        self._search.peers_known(now)
