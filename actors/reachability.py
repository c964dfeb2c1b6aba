"""Reachability: at which addresses others reach this node, by asking them; and telling others the same (AutoNAT v2).

    own addresses, those that peers dialled ─► candidates ─► rounds: three servers of different networks each
    ─► votes ─► confirmed or withdrawn ─► ReachabilityChanged, DhtModeChanged

An address is confirmed when ``quorum`` networks have reached it and fewer say that they could not, and withdrawn when
it is the other way round, or when nobody could be asked for long.  So one server alone can neither confirm nor deny.
To have reached us is proved, and not to have is a mere word: who would deny what was not denied before has as many
servers again asked, at once, and the most of all decide.

The DHT's part begins as a server's.  It becomes a client's when every address is denied, or when there is none that
could be reached; while there are too few servers to tell, it stays what it is, for somebody must be the first.

Its parts: autonat_server (answers others), autonat_asks (a question), autonat_servers (whom to ask).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.actor import Send
from actors.autonat_asks import Asked, Asks
from actors.autonat_server import AutonatServer
from actors.autonat_servers import AutonatServers
from actors.dial_policy import dialable, may_dial
from actors.outer_addresses import VOICES, OuterAddresses
from protocol import autonat
from protocol.discovery_messages import (
    DhtModeChanged,
    ReachabilityChanged,
    RelayFound,
    RelaysSearched,
    RelaysWanted,
)
from protocol.mapping_messages import AddressObserved, ExternalAddresses
from protocol.messages import ActorDown, ActorUp, AddressesChanged, CountsAsked, CountsTold
from protocol.service_messages import ForwarderReady, ProtocolsServed, ServiceMessage, StreamMessage, StreamOver

ReachabilityInbox = (
    ServiceMessage
    | AddressesChanged
    | ExternalAddresses
    | AddressObserved
    | RelayFound
    | RelaysSearched
    | CountsAsked
    | ActorUp
    | ActorDown
)

#: Addresses that are asked about: those of a host with a few interfaces, of both IP versions.
MAX_CANDIDATES: Final = 8

#: Addresses at which peers have reached us and that are not known to be ours, kept for so many seconds.
MAX_SEEN: Final = 4
SEEN_LIFE: Final = 6 * 3600.0

#: Servers that are asked in a round, and that are tried for that.
ASKED: Final = 3
TRIES: Final = 10

#: Seconds for which a vote counts that decided nothing yet.
VOTE_LIFE: Final = 3600.0

#: Seconds for which an address stays confirmed when nobody can be asked: as long as a descriptor holds.
CONFIRMED_LIFE: Final = 7200.0

#: Seconds from the start after which a node without an address to be reached at is no server of the DHT.
GRACE: Final = 120.0

#: Seconds of a search for servers, and between two.
SEARCH_TIME: Final = 20.0
SEARCH_INTERVAL: Final = 900.0


@dataclass(frozen=True, slots=True)
class ReachabilityPolicy:
    """``quorum``: networks that confirm or deny.  ``private``: private addresses may be reached, asked about and
    dialled.  Seconds: ``settle``: from a new address or server to the first round, so that more become known;
    ``certain``: between rounds about a confirmed address; ``unsure``: after a round that did not confirm, doubling up
    to ``certain``; each a fifth more or less."""

    quorum: int = 2
    private: bool = False
    settle: float = 5.0
    unsure: float = 60.0
    certain: float = 1800.0


@dataclass(slots=True)
class _Candidate:
    """``votes``: by network, whether it reached us and when it said so, of those that decided nothing yet.
    ``verdict``: None: none yet.  ``starved``: the last round, at ``last``, had fewer voices than the quorum."""

    due: float
    verdict: bool | None = None
    votes: dict[str, tuple[bool, float]] = field(default_factory=dict)
    rounds: int = 0
    last: float = 0.0
    starved: bool = True
    confirmed_at: float = 0.0


@dataclass(slots=True)
class _Round:
    address: bytes
    wanted: int
    tries: int = 0
    doubted: bool = False
    voices: int = 0
    peers: set[bytes] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)


class Reachability:
    """See the module.  ``own``: our peer id's bytes.  ``told``: actors that get ReachabilityChanged; ``dht``: the one
    that gets DhtModeChanged, "": none.  ``sources``: actors that are asked for relays (RelaysWanted) when there are too
    few servers; others may tell of them unasked (RelayFound).

    ``addresses``: where others reach us.  ``counts``: what was asked and answered, by outcome."""

    def __init__(
        self,
        name: str,
        own: bytes,
        told: Sequence[str],
        dht: str,
        sources: Sequence[str],
        randomness: Callable[[int], bytes],
        policy: ReachabilityPolicy | None = None,
    ) -> None:
        self.policy = policy or ReachabilityPolicy()
        self.addresses: tuple[bytes, ...] = ()
        self.counts: Counter[str] = Counter()
        self._name = name
        self._told = tuple(told)
        self._dht = dht
        self._sources = tuple(sources)
        self._randomness = randomness
        self._server = AutonatServer(name, randomness, self.counts, private=self.policy.private)
        self._asks = Asks(name, randomness, lambda: self._own)
        self._servers = AutonatServers(own, self._random, private=self.policy.private)
        self._forwarders: dict[str, tuple[bytes, ...]] = {}
        self._listed: tuple[bytes, ...] | None = None
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._outer = OuterAddresses(1 if self.policy.private else VOICES)
        self._candidates: dict[bytes, _Candidate] = {}
        self._round: _Round | None = None
        self._serves: bool | None = None
        self._started_at: float | None = None
        self._searched_at = 0.0
        self._searches = 0
        self._sends: list[Send] = []

    # The actor.

    def handle(self, message: ReachabilityInbox, now: float) -> list[Send]:
        match message:
            case ForwarderReady():
                self._forwarder_ready(message)
            case AddressesChanged(addresses=addresses):
                self._listed = addresses
                self._seen.clear()  # of the interfaces of before
            case RelayFound(peer=peer, addresses=addresses):
                if self._servers.learn(peer, addresses):
                    self._server_known(now)
            case ExternalAddresses(addresses=addresses):
                self._outer.mapped = addresses
            case AddressObserved(address=address, network=network):
                self._outer.observed(address, network, now)
            case StreamMessage():
                self._heard(message, now)
            case StreamOver(request_id=0):
                self._server.asker_gone((message.forwarder, message.stream))
            case StreamOver(protocol=autonat.DIAL_BACK):
                self._server.dial_over(message)
            case StreamOver():
                self._asks.over(message)
            case CountsAsked(request_id=number, asker=asker):
                sizes = {"confirmed addresses": float(len(self.addresses)), "servers": float(len(self._servers))}
                self._sends.append(Send(asker, CountsTold(number, self._name, dict(self.counts), sizes)))
            case ActorDown(actor=actor):
                self._forwarder_lost(actor)
            case ActorUp(actor=actor):
                self._rose(actor)
            case RelaysSearched():
                pass
        return self._settle(now)

    def next_deadline(self) -> float | None:
        if self._started_at is None:
            return None
        times = [self._server.next_deadline(), self._asks.next_deadline()]
        if self._round is None and self._forwarders:
            times += [one.due for one in self._candidates.values()]
        if self._serves is None and not self._candidates:
            times.append(self._started_at + GRACE)
        return min((one for one in times if one is not None), default=None)

    def handle_deadline(self, now: float) -> list[Send]:
        self._server.handle_deadline(now)
        self._asks.handle_deadline(now)
        return self._settle(now)

    def _settle(self, now: float) -> list[Send]:
        if self._started_at is None and self._forwarders:
            self._started_at = now
        self._find_candidates(now)
        self._take_results(now)
        self._begin_round(now)
        self._take_results(now)
        self._tell(now)
        sends = [*self._sends, *self._server.sends, *self._asks.sends]
        for taken in (self._sends, self._server.sends, self._asks.sends):
            taken.clear()
        return sends

    # Forwarders, and those who are told.

    def _forwarder_ready(self, ready: ForwarderReady) -> None:
        if ready.replaces:
            self._forwarder_lost(ready.replaces)
        self._forwarders[ready.forwarder] = ready.addresses
        served = ProtocolsServed(self._name, (autonat.DIAL_REQUEST, autonat.DIAL_BACK))
        self._sends.append(Send(ready.forwarder, served))

    def _forwarder_lost(self, forwarder: str) -> None:
        if self._forwarders.pop(forwarder, None) is not None:
            self._server.forwarder_lost(forwarder)
            self._asks.forwarder_lost(forwarder)

    def _rose(self, actor: str) -> None:
        """It knows nothing."""
        if actor in self._told and self.addresses:
            self._sends.append(Send(actor, ReachabilityChanged(self.addresses)))
        if actor == self._dht and self._serves is not None:
            self._sends.append(Send(actor, DhtModeChanged(self._serves)))

    def _tell(self, now: float) -> None:
        reached = tuple(address for address, one in self._candidates.items() if one.verdict)
        if reached != self.addresses:
            self.addresses = reached
            self._sends += [Send(name, ReachabilityChanged(reached)) for name in self._told]
        serves = self._serves
        if reached:
            serves = True
        elif self._candidates:
            if all(one.verdict is False for one in self._candidates.values()):
                serves = False
        elif self._started_at is not None and now >= self._started_at + GRACE:
            serves = False
        if serves != self._serves and serves is not None:
            self._serves = serves
            if self._dht:
                self._sends.append(Send(self._dht, DhtModeChanged(serves)))

    # Streams.

    def _heard(self, message: StreamMessage, now: float) -> None:
        match message.protocol, message.request_id:
            case autonat.DIAL_REQUEST, 0:
                if not message.dialled:
                    self._reached_at(message.local, now)
                self._server.own = self._own
                self._server.asked(message, now)
            case autonat.DIAL_BACK, 0:
                if not self._asks.dial_back(message):
                    self.counts["refused: dial-back"] += 1
            case autonat.DIAL_BACK, _:
                self._server.received(message)
            case _:
                self._asks.message(message, now)

    def _reached_at(self, local: bytes, now: float) -> None:
        if local not in self._own and may_dial(local, private=self.policy.private):
            self._seen[local] = now
            self._seen.move_to_end(local)
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)

    # Candidates.

    @property
    def _own(self) -> tuple[bytes, ...]:
        if self._listed is not None:
            return self._listed
        return tuple(dict.fromkeys(one for addresses in self._forwarders.values() for one in addresses))

    def _find_candidates(self, now: float) -> None:
        for address in [address for address, when in self._seen.items() if when + SEEN_LIFE <= now]:
            del self._seen[address]
        if not self._forwarders:
            return  # it is being replaced: nothing is known to have changed
        outer = self._outer.all(self._own, now)
        found = dialable((*self._own, *outer, *self._seen), private=self.policy.private, most=MAX_CANDIDATES)
        if found != tuple(self._candidates):
            before = self._candidates
            self._candidates = {one: before.get(one) or _Candidate(now + self.policy.settle) for one in found}

    def _server_known(self, now: float) -> None:
        """There is one more: those who were asked about in vain need not wait for long."""
        for one in self._candidates.values():
            if one.starved and one.last:
                one.due = min(one.due, max(now + self.policy.settle, one.last + self.policy.unsure / 2))

    # Rounds, one at a time: servers bear few questions at once.

    def _begin_round(self, now: float) -> None:
        while self._round is None and self._forwarders:
            due = [(one.due, address) for address, one in self._candidates.items() if one.due <= now]
            if not due:
                return
            address = min(due)[1]
            candidate = self._candidates[address]
            candidate.votes = {at: one for at, one in candidate.votes.items() if one[1] + VOTE_LIFE > now}
            self._round = _Round(address, max(ASKED, self.policy.quorum))
            self._ask_more(self._round, now)
            self._end_round(now)

    def _ask_more(self, asking: _Round, now: float) -> None:
        while len(self._asks) + asking.voices < asking.wanted and asking.tries < TRIES:
            chosen = self._servers.choose(asking.address, asking.networks, asking.peers, now)
            if chosen is None or not self._forwarders:
                return
            peer, addresses = chosen
            asking.tries += 1
            asking.peers.add(peer)
            asking.networks.add(self._servers.network(peer))
            self._asks.begin(next(iter(self._forwarders)), peer, addresses, asking.address, now)

    def _take_results(self, now: float) -> None:
        while self._asks.done:
            result = self._asks.done.pop()
            self.counts[f"asked: {result.outcome}"] += 1
            self._result(result, now)

    def _result(self, result: Asked, now: float) -> None:
        asking = self._round
        told = self._servers.network(result.server)
        network = self._servers.asked(result, now)
        if asking is None:
            return
        candidate = self._candidates.get(asking.address)
        if network and candidate is not None and not self._servers.beside(network, asking.address):
            candidate.votes[network] = (result.outcome == "reached", now)
            asking.networks.add(network)
            asking.voices += 1
        elif not network:
            asking.networks.discard(told)  # another of it may be there
        if candidate is not None:
            self._ask_more(asking, now)
        self._end_round(now)

    def _end_round(self, now: float) -> None:
        asking = self._round
        if asking is None or len(self._asks):
            return
        self._round = None
        candidate = self._candidates.get(asking.address)
        if candidate is None:
            return
        quorum = self.policy.quorum
        if not asking.doubted and candidate.verdict is not False and _denied(candidate, quorum):
            asking.doubted = True
            asking.wanted, asking.tries = 2 * asking.wanted, 0
            asking.networks.update(candidate.votes)
            self._ask_more(asking, now)
            if len(self._asks):
                self._round = asking
                return
        reached = sum(reached for reached, _ in candidate.votes.values())
        candidate.last, candidate.starved = now, asking.voices < quorum
        wait = self.policy.certain
        if reached >= quorum and 2 * reached > len(candidate.votes):
            candidate.verdict, candidate.confirmed_at, candidate.rounds = True, now, 0
            candidate.votes.clear()
        else:
            if _denied(candidate, quorum):
                candidate.rounds = 0 if candidate.verdict else candidate.rounds
                candidate.verdict = False
                candidate.votes.clear()
            elif candidate.verdict and candidate.confirmed_at + CONFIRMED_LIFE <= now:
                candidate.verdict = None
            wait = min(self.policy.unsure * 2.0 ** min(candidate.rounds, 16), wait)
            candidate.rounds += 1
        candidate.due = now + wait * (0.8 + 0.4 * self._random())
        if candidate.starved:
            self._search(now)

    def _search(self, now: float) -> None:
        if self._searched_at and self._searched_at + SEARCH_INTERVAL > now:
            return
        self._searched_at = now
        self._searches += 1
        wanted = RelaysWanted(self._searches, self._name, SEARCH_TIME)
        self._sends += [Send(source, wanted) for source in self._sources]

    def _random(self) -> float:
        """From 0 to 1."""
        return int.from_bytes(self._randomness(4), "big") / (1 << 32)


def _denied(candidate: _Candidate, quorum: int) -> bool:
    failed = sum(not reached for reached, _ in candidate.votes.values())
    return failed >= quorum and 2 * failed > len(candidate.votes)
