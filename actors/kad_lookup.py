"""An iterative look-up: ask the peers nearest to a target for nearer ones, until the nearest have all answered.

It is over when the k nearest that did not fail have answered, and on each of a few disjoint paths its beta nearest.  A
peer belongs to the path that first told of it, so one liar steers one path: the others still end among peers that it
did not choose.  Of one IP group only a few peers count, so that whoever has one network block cannot be all of the k.

What answers tell is bounded and doubted: nobody is told of itself or of us, addresses must be such that the teller may
know (kad_addresses.py), a network whose peers do not exist is soon asked no more, and the k nearest of an answer are
all that is taken of it.  An address that another peer told wrongly does not make a peer unreachable: it is tried again
once under what others tell.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "Peer routing"; disjoint paths: Baumgart and
Mies, "S/Kademlia" (2007), 4.3.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from actors.kad_addresses import MAX_DIALLED, group_of, groups_of, scope_of, to_dial
from protocol.kad import KadPeer
from protocol.kad_keys import keyspace

#: Times that one peer is asked in a look-up: again when somebody tells other addresses of it.
MAX_TRIES: Final = 2


@dataclass(frozen=True, slots=True)
class LookupPolicy:
    """``k``, ``alpha`` (asked at a time) and ``beta`` are the specification's.  ``paths``: each costs up to beta
    requests more.  ``per_group``: peers of one IP group that count among the nearest; after twice as many failed, its
    others are not asked.  ``max_asked``: requests; a network of a million peers needs about 60.  ``max_known``: peers
    remembered.  ``timeout``: seconds (go's)."""

    k: int = 20
    alpha: int = 10
    beta: int = 3
    paths: int = 3
    per_group: int = 3
    max_asked: int = 120
    max_known: int = 600
    timeout: float = 60.0


class State(Enum):
    HEARD = "heard"
    ASKED = "asked"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(slots=True, order=True)
class Candidate:
    """``distance``: of its place to the target.  ``address``: the IP that it answered from, "" before."""

    distance: int
    peer: bytes = field(compare=False)
    addresses: tuple[bytes, ...] = field(compare=False)
    path: int = field(compare=False)
    groups: frozenset[str] = field(compare=False)
    address: str = field(compare=False, default="")
    state: State = field(compare=False, default=State.HEARD)
    tries: int = field(compare=False, default=0)


class Lookup:
    """See the module.  ``own``: our peer id's bytes; ``key``: what is looked for, hashed to the target.

    ``refused``: what answers told that was not taken, by reason.
    """

    __slots__ = (
        "_asked",
        "_by_peer",
        "_failed_groups",
        "_goals",
        "_in_flight",
        "_latest",
        "_own",
        "_paths",
        "_policy",
        "_sorted",
        "_stopped",
        "deadline",
        "key",
        "refused",
        "target",
    )

    def __init__(self, own: bytes, key: bytes, policy: LookupPolicy, now: float, timeout: float | None = None) -> None:
        self.key = key
        self.target = keyspace(key)
        self._latest = self.deadline = now + (policy.timeout if timeout is None else min(timeout, policy.timeout))
        self.refused: Counter[str] = Counter()
        self._own = own
        self._policy = policy
        self._by_peer: dict[bytes, Candidate] = {}
        self._sorted: list[Candidate] = []
        self._paths: list[list[Candidate]] = [[] for _ in range(policy.paths)]
        self._in_flight = 0
        self._failed_groups: Counter[str] = Counter()
        self._goals: list[Candidate] | None = None  # None: something has changed since they were looked for
        self._asked = 0
        self._stopped = False

    def seed(self, peer: bytes, addresses: tuple[bytes, ...], address: str = "") -> None:
        """Begin with ``peer`` too.  ``address``: the IP that it was met at, "" when it was not."""
        if peer == self._own or peer in self._by_peer:
            return
        groups = frozenset({group_of(address)} - {""}) if address else groups_of(addresses)
        path = len(self._by_peer) % self._policy.paths
        self._know(Candidate(keyspace(peer) ^ self.target, peer, addresses, path, groups))

    def next(self, now: float) -> list[Candidate]:
        """Whom to ask now; they count as asked."""
        if self._stopped or now >= self.deadline:
            return []
        room = min(self._policy.alpha - self._in_flight, self._policy.max_asked - self._asked)
        wanted = list({one.peer: one for one in self._goal() if one.state is State.HEARD}.values())[: max(room, 0)]
        if wanted:
            self._goals = None
        for candidate in wanted:
            candidate.state = State.ASKED
            candidate.tries += 1
        self._asked += len(wanted)
        self._in_flight += len(wanted)
        return wanted

    def answered(self, peer: bytes, address: str, closer: Sequence[KadPeer]) -> None:
        """``peer``, at the IP ``address``, told of ``closer``."""
        candidate = self._by_peer.get(peer)
        if candidate is None or candidate.state is not State.ASKED:
            return
        self._goals = None
        candidate.state = State.ANSWERED
        self._in_flight -= 1
        candidate.address = address
        candidate.groups = frozenset({group_of(address)} - {""})
        teller = scope_of(address)
        near = sorted(closer, key=lambda told: keyspace(told.id) ^ self.target)
        if len(near) > self._policy.k:
            self.refused["too many"] += len(near) - self._policy.k
        for told in near[: self._policy.k]:
            if told.id in (self._own, peer):
                self.refused["self"] += 1
                continue
            addresses = to_dial(told.addresses, teller)
            known = self._by_peer.get(told.id)
            if not addresses:
                self.refused["address"] += known is None
            elif known is None:
                distance = keyspace(told.id) ^ self.target
                self._know(Candidate(distance, told.id, addresses, candidate.path, groups_of(addresses)))
            else:
                self._told_again(known, addresses)

    def failed(self, peer: bytes) -> None:
        """It could not be reached, or did not answer as it should."""
        candidate = self._by_peer.get(peer)
        if candidate is None or candidate.state is not State.ASKED:
            return
        self._goals = None
        candidate.state = State.FAILED
        self._in_flight -= 1
        self._failed_groups.update(candidate.groups)

    def be_over(self, at: float) -> None:
        """At the latest then, instead of when it was told before; but never later than it was begun for."""
        self.deadline = min(self._latest, at)

    def stop(self) -> None:
        """Enough was found."""
        self._stopped = True

    def finished(self, now: float) -> bool:
        """Whether nobody is to be asked or waited for any more."""
        if self._stopped or now >= self.deadline:
            return True
        states = [one.state for one in self._goal()]
        if State.ASKED in states:
            return False
        return State.HEARD not in states or (self._asked >= self._policy.max_asked and not self._in_flight)

    def closest(self) -> list[Candidate]:
        """Those of the k nearest that answered, nearest first."""
        return [one for one in self._nearest(self._sorted, self._policy.k) if one.state is State.ANSWERED]

    @property
    def wanted(self) -> int:
        """How many nearest it looks for."""
        return self._policy.k

    @property
    def known(self) -> int:
        return len(self._by_peer)

    @property
    def asked(self) -> int:
        """Requests made."""
        return self._asked

    def _goal(self) -> list[Candidate]:
        """Who must have answered, or failed, for the look-up to be over; the nearest first.  Some 30 us when something
        has changed, and it is asked for at each message."""
        if self._goals is None:
            self._goals = list(self._nearest(self._sorted, self._policy.k))
            for path in self._paths:
                self._goals += self._nearest(path, self._policy.beta)
        return self._goals

    def _nearest(self, candidates: Iterable[Candidate], count: int) -> Iterator[Candidate]:
        groups: dict[str, int] = {}
        failed = self._failed_groups
        limit = self._policy.per_group
        for one in candidates:
            if count <= 0:
                return
            if one.state is State.FAILED:
                continue
            for group in one.groups:
                if groups.get(group, 0) >= limit or (one.state is State.HEARD and failed.get(group, 0) >= 2 * limit):
                    break
            else:
                for group in one.groups:
                    groups[group] = groups.get(group, 0) + 1
                count -= 1
                yield one

    def _know(self, candidate: Candidate) -> None:
        path = self._paths[candidate.path]
        if len(path) >= self._policy.max_known // self._policy.paths:
            # The farthest that was not asked makes room: what is near is what is looked for.
            self.refused["too many"] += 1
            farthest = next((one for one in reversed(path) if one.state is State.HEARD), None)
            if farthest is None or farthest.distance <= candidate.distance:
                return
            path.remove(farthest)
            self._sorted.remove(farthest)
            del self._by_peer[farthest.peer]
        self._goals = None
        self._by_peer[candidate.peer] = candidate
        insort(self._sorted, candidate)
        insort(path, candidate)

    def _told_again(self, known: Candidate, addresses: tuple[bytes, ...]) -> None:
        new = tuple(one for one in addresses if one not in known.addresses)
        if not new:
            return
        self._goals = None
        if known.state is State.FAILED and known.tries < MAX_TRIES:
            known.addresses, known.groups, known.state = new, groups_of(new), State.HEARD
        elif known.state is State.HEARD:
            known.addresses = (*known.addresses, *new)[:MAX_DIALLED]
            known.groups = groups_of(known.addresses)
