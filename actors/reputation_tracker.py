"""ReputationTracker: what this node saw of relays, and what it did for others itself.

    Observed                       the directory tried a relay, or a circuit through it came to an end
    RatingsWanted -> Ratings       how good relays are, by that
    Contributed                    RelayServer: so much was relayed since
    ContributionWanted -> Contribution

Only what this node saw itself is counted.  All of it is in its store (actors/record_store.py) within a moment, and is
read from there when the first message comes: so a process that takes over from another finds what that one wrote.
"""

from __future__ import annotations

from typing import Final

import msgspec

from actors.actor import Send
from actors.contribution_months import ContributionMonths
from actors.record_store import RecordStore
from actors.reputation import RelayReputation
from protocol.codec import CodecError, decode_untrusted
from protocol.discovery_messages import Observed, Rating, Ratings, RatingsWanted, ReputationMessage
from protocol.messages import ActorDown, ActorUp
from protocol.reputation_messages import Contributed, Contribution, ContributionMessage, ContributionWanted

#: Relays that are remembered: twice what all sources of the directory may hold at a time.  12 kB each at most.
MAX_PEERS: Final = 2048

#: Bytes of a relay's row on disk: 168 windows of at most 31.
MAX_ROW: Final = 8192

#: First byte of a key: of a relay, before its peer id; of a month, before its name.
_PEER: Final = b"p"
_MONTH: Final = b"m"


class ReputationTracker:
    """``own``: this node's peer id: its own score is what was seen of it.  ``unread``: rows of the store that could not
    be read, and are left there."""

    def __init__(self, store: RecordStore, own: bytes, *, max_peers: int = MAX_PEERS) -> None:
        self.unread = 0
        self._store = store
        self._own = own
        self._max_peers = max_peers
        self._peers: dict[bytes, RelayReputation] = {}
        self._months = ContributionMonths()
        self._loaded = False

    def __len__(self) -> int:
        """Relays that are remembered."""
        return len(self._peers)

    # The actor.

    def handle(self, message: ReputationMessage | ContributionMessage | ActorDown | ActorUp, now: float) -> list[Send]:
        if isinstance(message, ActorDown | ActorUp):
            return []  # nobody owes it an answer
        self._load(now)
        match message:
            case Observed():
                self._observe(message, now)
            case RatingsWanted(request_id=number, asker=asker, peers=peers):
                return [Send(asker, Ratings(number, tuple(self.rating(peer, now) for peer in peers)))]
            case Contributed(carried=carried, circuits=circuits):
                for month, row in self._months.add(carried, circuits, now).items():
                    key = _MONTH + month.encode()
                    if row is None:
                        self._store.delete(key)
                    else:
                        self._store.put(key, row)
            case ContributionWanted(request_id=number, asker=asker):
                current, score = self._months.at(now), self.rating(self._own, now).score
                told = Contribution(
                    number, current.month, current.carried, current.circuits, score, self._months.before(now)
                )
                return [Send(asker, told)]
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    # Relays.

    def rating(self, peer: bytes, now: float) -> Rating:
        """Of one of which nothing is known, too: unrated."""
        return self._peers.get(peer, _UNKNOWN).rating(peer, now)

    def _observe(self, seen: Observed, now: float) -> None:
        known = self._peers.get(seen.peer)
        if known is None:
            known = self._peers[seen.peer] = RelayReputation()
        match seen.kind:
            case "probe":
                known.reached(seen.latency, now)
            case "unreachable":
                known.missed(now)
            case "circuit":
                known.circuit(seen.carried, now)
            case "circuit_failed" | "dropped":
                known.circuit_failed(now)
        self._store.put(_PEER + seen.peer, msgspec.msgpack.encode(known))
        self._make_room(now, newest=seen.peer)

    def _make_room(self, now: float, newest: bytes = b"") -> None:
        """Forget those of which least is known: to be seen badly is to be known, so nobody is cleared by newcomers."""
        while len(self._peers) > self._max_peers:
            others = (peer for peer in self._peers if peer != newest)
            least = min(others, key=lambda peer: (self._peers[peer].evidence(now), self._peers[peer].last_seen))
            del self._peers[least]
            self._store.delete(_PEER + least)

    # The disk.

    def _load(self, now: float) -> None:
        if self._loaded:
            return
        self._loaded = True
        for key, row in self._store.load():
            try:
                match key[:1]:
                    case b"p":
                        self._peers[key[1:]] = decode_untrusted(row, RelayReputation, MAX_ROW)
                    case b"m":
                        self._months.take(key[1:].decode("ascii", "replace"), row)
            except CodecError:
                self.unread += 1
        self._make_room(now)


_UNKNOWN: Final = RelayReputation()
