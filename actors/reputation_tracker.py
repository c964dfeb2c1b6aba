"""ReputationTracker: what this node saw of relays, what it did for others, and what peers have signed of that.

    Observed                       the directory tried a relay, or a circuit through it came to an end
    RatingsWanted -> Ratings       how good relays are, by that
    ClassTold                      to RelayServer: whose relay works, and how much that counts
    Contributed                    RelayServer: so much was relayed since
    ContributionWanted -> Contribution
    CircuitUsed, PriorityWanted    receipts (actors/receipts.py), for others and for us
    PassWanted, BytesUsed          who talks for this node's owner wants to be served as this node, and used so much
    ModeTold                       what the node relays for

A score is of what this node saw itself; others' word counts for standing alone (actors/vouching.py).  Its own score is
that of a node which looked at it when it looked at others: their round trip is its own, circuits that were lost with a
forwarder failed, and it was missed in the hours in which nothing was seen, for it was off.  All of it is in
its store (actors/record_store.py) within a moment, and is read from there when the first message comes: so a process
that takes over from another finds what that one wrote.
"""

from __future__ import annotations

from typing import Final

import msgspec

from actors import vouching
from actors.actor import Send
from actors.contribution_months import ContributionMonths
from actors.receipt_rows import ReceiptRows
from actors.receipts import Receipts
from actors.record_store import RecordStore
from actors.reputation import MAX_WINDOWS, WINDOW, RelayReputation
from protocol import receipts
from protocol.codec import CodecError, decode_untrusted
from protocol.discovery_messages import ClassTold, Observed, Rating, Ratings, RatingsWanted, ReputationMessage
from protocol.identity import Identity
from protocol.messages import ActorDown, ActorUp, CountsAsked, CountsTold
from protocol.quota_messages import ModeTold
from protocol.reputation_messages import (
    BytesUsed,
    CircuitUsed,
    Contributed,
    Contribution,
    ContributionMessage,
    ContributionWanted,
    PassTold,
    PassWanted,
    PriorityTold,
    PriorityWanted,
    Served,
)
from protocol.service_messages import ForwarderReady, ProtocolsServed, ServiceMessage, StreamMessage, StreamOver

#: Relays that are remembered: twice what all sources of the directory may hold at a time.  12 kB each at most.
MAX_PEERS: Final = 2048

#: Bytes of a relay's row on disk: 168 windows of at most 31.
MAX_ROW: Final = 8192

#: Seconds for which a peer whose relay worked is served as one who relays for others.
OPERATOR_TIME: Final = 86_400.0

#: First byte of a key: of a relay, before its peer id; of a month, before its name; of the node itself, all of it.
#: Receipts have theirs.
_PEER: Final = b"p"
_OWN: Final = b"o"
_MONTH: Final = b"m"


class ReputationTracker:
    """``name``: of this actor.  ``identity``: this node's, whose own score is what was seen of it, and which signs
    receipts.  ``relay_server``: the actor that is told whose relay works.  ``consent``: the setting ``receipts``.
    ``incentive``: what the node wants for what it does for others: ``priority``, to be served first; ``credits``, the
    same as long as it did more for others than they for it; ``volunteer``, nothing.

    ``unread``: rows of the store that could not be read, and are left there."""

    def __init__(
        self,
        name: str,
        store: RecordStore,
        identity: Identity,
        *,
        relay_server: str,
        consent: str = "kept",
        incentive: str = "volunteer",
        max_peers: int = MAX_PEERS,
    ) -> None:
        self.unread = 0
        self._name = name
        self._store = store
        self._own = identity.peer_id.bytes
        self._relay_server = relay_server
        self._incentive = incentive
        self._max_peers = max_peers
        self._peers: dict[bytes, RelayReputation] = {}
        self._own_seen = RelayReputation()
        self._months = ContributionMonths()
        self.receipts = Receipts(
            name, identity, relay_server, consent, ReceiptRows(store), self._worked, self._operator_until
        )
        self._loaded = False

    def __len__(self) -> int:
        """Relays that are remembered."""
        return len(self._peers)

    # The actor.

    def handle(
        self,
        message: ReputationMessage
        | ContributionMessage
        | ServiceMessage
        | ModeTold
        | CountsAsked
        | ActorDown
        | ActorUp,
        now: float,
    ) -> list[Send]:
        sends: list[Send] = []
        if not self._loaded and not isinstance(message, ActorDown | ActorUp | ForwarderReady | ModeTold):
            # Not before: a process that this one takes over from writes until it ends.
            self._load(now)
            sends = self._operators(now)
        match message:
            case Observed():
                sends += self._observe(message, now)
            case RatingsWanted(request_id=number, asker=asker, peers=peers):
                sends += [Send(asker, Ratings(number, tuple(self.rating(peer, now) for peer in peers)))]
            case Contributed(carried=carried, circuits=circuits, lost=lost):
                self._keep(self._months.add(now, carried=carried, circuits=circuits))
                self._relayed(carried, circuits, lost, now)
            case ContributionWanted():
                sends += [self._contribution(message, now)]
            case CountsAsked(request_id=number, asker=asker):
                counts = {f"receipts: {what}": count for what, count in self.receipts.counts.items()}
                sizes = {
                    "relays": float(len(self)),
                    "receipts": float(len(self.receipts.rows)),
                    "vouched for": float(len(self.receipts.vouchers)),
                }
                sends += [Send(asker, CountsTold(number, self._name, counts, sizes))]
            case PriorityWanted() | PassWanted():
                sends += self._priority(message, now)
            case BytesUsed(used=used):
                self._keep(self._months.add(now, used=used))
            case CircuitUsed(sent=sent, received=received):
                self._keep(self._months.add(now, used=sent + received))
                self.receipts.used(message, now)
            case ModeTold(incentive=incentive):
                self._incentive = incentive
            case StreamMessage():
                self.receipts.message(message, now)
            case StreamOver():
                self.receipts.over(message, now)
            case Served():
                self.receipts.served(message, now)
            case ForwarderReady(forwarder=forwarder, replaces=replaces):
                if replaces:
                    self.receipts.forwarder_lost(replaces, now)
                self.receipts.forwarder_ready(forwarder)
                sends += [Send(forwarder, ProtocolsServed(self._name, (receipts.PROTOCOL,)))]
            case ActorDown(actor=actor):
                self.receipts.forwarder_lost(actor, now)
                if actor == self._relay_server:
                    self.receipts.relay_server_lost()
            case ActorUp(actor=actor):
                if actor == self._relay_server:  # it knows nothing
                    sends += self._operators(now)
        return sends + self._settle(now)

    def next_deadline(self) -> float | None:
        return self.receipts.next_deadline()

    def handle_deadline(self, now: float) -> list[Send]:
        self.receipts.handle_deadline(now)
        return self._settle(now)

    def _settle(self, now: float) -> list[Send]:
        confirmed, self.receipts.confirmed = self.receipts.confirmed, 0
        if confirmed:
            self._keep(self._months.add(now, confirmed=confirmed))
        sends, self.receipts.sends = self.receipts.sends, []
        raised, self.receipts.raised = self.receipts.raised, []
        return sends + [send for peer in raised for send in self._operator(peer, now)]

    # What this node did, and what it gets for it.

    def _contribution(self, wanted: ContributionWanted, now: float) -> Send:
        score = self.rating(self._own, now).score
        before = self._months.before(now)
        told = Contribution(wanted.request_id, self._months.at(now), score, before, len(self.receipts.rows))
        return Send(wanted.asker, told)

    def _priority(self, wanted: PriorityWanted | PassWanted, now: float) -> list[Send]:
        problem = ""
        if self._incentive == "volunteer":
            problem = "this node wants nothing for what it does (incentive = volunteer)"
        elif self._incentive == "credits" and self._months.balance <= 0:
            problem = "all credits are spent: others have relayed more for this node than it for them"
        match wanted:
            case PriorityWanted() if problem:
                return [Send(wanted.asker, PriorityTold(wanted.request_id, 0.0, 0, problem))]
            case PassWanted() if problem:
                return [Send(wanted.asker, PassTold(wanted.request_id, problem=problem))]
            case PriorityWanted():
                self.receipts.show(wanted, now)
            case PassWanted():
                self.receipts.give(wanted, now)
        return []

    def _keep(self, months: dict[str, bytes | None]) -> None:
        for month, row in months.items():
            if row is None:
                self._store.delete(_MONTH + month.encode())
            else:
                self._store.put(_MONTH + month.encode(), row)

    # Relays.

    def rating(self, peer: bytes, now: float) -> Rating:
        """Of one of which nothing is known, too: unrated."""
        seen = self._own_seen if peer == self._own else self._peers.get(peer, _UNKNOWN)
        return seen.rating(peer, now)

    def _worked(self, peer: bytes, now: float) -> float:
        """How much it was seen to relay, 0 to 1."""
        known = self._peers.get(peer)
        return 0.0 if known is None else vouching.own(known.hours_worked(now))

    def _operator_until(self, peer: bytes) -> float:
        known = self._peers.get(peer)
        return known.worked_at + OPERATOR_TIME if known is not None and known.worked_at else 0.0

    def _operator(self, peer: bytes, now: float) -> list[Send]:
        """That it is one, if it is, or has the pass of one."""
        told = []
        if (own := self._operator_until(peer)) > now:
            told.append(ClassTold(peer, own, self.receipts.vouchers.standing(peer, now)))
        given, _ = self.receipts.passes.get(peer, (None, 0.0))
        if given is not None and (until := min(self._operator_until(given.relay), float(given.until))) > now:
            told.append(ClassTold(peer, until, self.receipts.vouchers.standing(given.relay, now), given.relay))
        return [Send(self._relay_server, max(told, key=lambda one: one.standing))] if told else []

    def _operators(self, now: float) -> list[Send]:
        return [send for peer in (*self._peers, *self.receipts.passes) for send in self._operator(peer, now)]

    def _observe(self, seen: Observed, now: float) -> list[Send]:
        known = self._peers.get(seen.peer)
        if known is None:
            known = self._peers[seen.peer] = RelayReputation()
        match seen.kind:
            case "probe":
                known.reached(seen.latency, now, works=seen.works)
            case "unreachable":
                known.missed(now)
            case "circuit":
                known.circuit(seen.carried, now)
            case "circuit_failed" | "dropped":
                known.circuit_failed(now)
        self._store.put(_PEER + seen.peer, msgspec.msgpack.encode(known))
        self._make_room(now, newest=seen.peer)
        if seen.kind == "probe":
            # It could have tried this node as well: the round trip is as long from there.
            self._here(now).reached(seen.latency, now)
            self._keep_own()
        return self._operator(seen.peer, now) if seen.works else []

    # This node, as others would see it.

    def _relayed(self, carried: int, circuits: int, lost: int, now: float) -> None:
        own = self._here(now)
        own.circuit(carried, now, circuits)
        own.circuit_failed(now, lost)
        self._keep_own()

    def _here(self, now: float) -> RelayReputation:
        """Its own.  Whoever looked for it in hours in which it was off missed it."""
        own = self._own_seen
        last, this = int(own.last_seen // WINDOW), int(now // WINDOW)
        if own.last_seen and last + 1 < this:
            for hour in range(max(last + 1, this - MAX_WINDOWS), this):
                own.missed(hour * WINDOW)
        return own

    def _keep_own(self) -> None:
        self._store.put(_OWN, msgspec.msgpack.encode(self._own_seen))

    def _make_room(self, now: float, newest: bytes = b"") -> None:
        """Forget those of which least is known: to be seen badly is to be known, so nobody is cleared by newcomers."""
        while len(self._peers) > self._max_peers:
            others = (peer for peer in self._peers if peer != newest)
            least = min(others, key=lambda peer: (self._peers[peer].evidence(now), self._peers[peer].last_seen))
            del self._peers[least]
            self._store.delete(_PEER + least)

    # The disk.

    def _load(self, now: float) -> None:
        self._loaded = True
        for key, row in self._store.load():
            try:
                match key[:1]:
                    case b"p":
                        self._peers[key[1:]] = decode_untrusted(row, RelayReputation, MAX_ROW)
                    case b"o":
                        self._own_seen = decode_untrusted(row, RelayReputation, MAX_ROW)
                    case b"m":
                        self._months.take(key[1:].decode("ascii", "replace"), row)
                    case b"r":
                        self.receipts.rows.read(key, row)
            except CodecError:
                self.unread += 1
        self._make_room(now)
        self.receipts.rows.tidy(now)


_UNKNOWN: Final = RelayReputation()
