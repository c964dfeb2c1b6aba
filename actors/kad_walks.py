"""Look-ups under way, and what every answer means for the routing table.

Whoever answers a Kademlia request has proved to be a server, and where it is; whoever does not answer loses its place
in time.  Answers that are malformed count as none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from actors.kad_addresses import at, scope_of, to_dial
from actors.kad_lookup import Candidate, Lookup, LookupPolicy
from actors.kad_requests import Reply, Requests
from actors.kad_routing import RoutingTable
from protocol.errors import RemoteProtocolError
from protocol.kad import KadMessage, decode_answer, encode

#: Look-ups under way at a time; more fail at once.
MAX_WALKS: Final = 64

#: Codes of failures that are not the peer's (protocol/service_messages.py).
_OURS: Final = ("gone", "limit")

#: Whom to begin with: a peer, its addresses, and the IP that it was met at ("": it was not).
Seed = tuple[bytes, tuple[bytes, ...], str]

#: ``answered(answer, peer, address, now)``.
Answered = Callable[[KadMessage, bytes, str, float], None]

#: ``done(answer, peer, address, now)``: None: there is no answer, and ``address`` says why.
Done = Callable[[KadMessage | None, bytes, str, float], None]


class Walk:
    """A look-up and what it asks.  ``done(walk, now)``: called once, when it is over."""

    __slots__ = ("answered", "done", "lookup", "over", "request")

    def __init__(
        self, lookup: Lookup, request: KadMessage, answered: Answered | None, done: Callable[[Walk, float], None]
    ) -> None:
        self.lookup = lookup
        self.request = request
        self.answered = answered
        self.done = done
        self.over = False

    def closest(self) -> list[Candidate]:
        """Those of the k nearest that answered."""
        return self.lookup.closest()


class Walks:
    """``own``: our peer id's bytes.  ``protocol``: Kademlia's name in this network.  ``counts``: what came of it."""

    def __init__(
        self,
        own: bytes,
        table: RoutingTable,
        requests: Requests,
        protocol: str,
        policy: LookupPolicy,
        counts: Counter[str],
    ) -> None:
        self._own = own
        self._table = table
        self._requests = requests
        self._protocol = protocol
        self._policy = policy
        self._counts = counts
        self._walks: dict[Walk, None] = {}

    def __len__(self) -> int:
        return len(self._walks)

    def start(
        self,
        request: KadMessage,
        now: float,
        done: Callable[[Walk, float], None],
        *,
        answered: Answered | None = None,
        seeds: Iterable[Seed] = (),
        timeout: float | None = None,
    ) -> Walk:
        """Ask the peers nearest to the request's key.  ``timeout``: seconds, at most the policy's."""
        lookup = Lookup(self._own, request.key, self._policy, now, timeout)
        walk = Walk(lookup, request, answered, done)
        self._table.looked_for(lookup.target, now)
        if len(self._walks) >= MAX_WALKS:
            lookup.stop()
        for contact in self._table.closest(lookup.target, self._policy.k):
            lookup.seed(contact.peer, contact.addresses, contact.address)
        for peer, addresses, address in seeds:
            lookup.seed(peer, addresses, address)
        self._walks[walk] = None
        self._counts["lookup"] += 1
        self._advance(walk, now)
        return walk

    def stop(self, walk: Walk, now: float) -> None:
        """It is over, with what it has."""
        walk.lookup.stop()
        self._advance(walk, now)

    def ask(self, peer: bytes, addresses: tuple[bytes, ...], request: KadMessage, done: Done, now: float) -> None:
        """One request of one peer.  ``peer``: b"": whoever answers there."""

        def replied(reply: Reply, now: float) -> None:
            message = reply.message
            if message is None:
                self._counts[f"no answer: {reply.code}"] += 1
                self._failed(reply.peer, reply.code, now)
                done(None, reply.peer, reply.code, now)
                return
            try:
                answer = decode_answer(message.payload, request)
            except RemoteProtocolError as error:
                self._counts[f"bad answer: {error.code}"] += 1
                self._failed(reply.peer, "malformed", now)
                done(None, reply.peer, "malformed", now)
                return
            self._counts["answer"] += 1
            self._counts["left out of answers"] += answer.left_out
            where = to_dial((message.observed,), scope_of(message.address)) if message.dialled else ()
            where = where or to_dial(at(addresses, message.address), scope_of(message.address))
            self.proved(message.peer, where, message.address, now)
            done(answer, message.peer, message.address, now)

        self._requests.ask(peer, addresses, self._protocol, encode(request), replied, now)

    def tell(self, peer: bytes, addresses: tuple[bytes, ...], message: KadMessage, now: float) -> None:
        """One message that has no answer (ADD_PROVIDER)."""

        def over(reply: Reply, now: float) -> None:
            self._counts[f"told: {reply.code}"] += 1

        self._requests.ask(peer, addresses, self._protocol, encode(message), over, now, unanswered=True)

    def proved(self, peer: bytes, addresses: tuple[bytes, ...], address: str, now: float) -> None:
        """``peer`` is a server, at the IP ``address``; ``addresses``: where to dial it."""
        if addresses or peer in self._table:
            self._counts[f"peer {self._table.proved(peer, addresses, address, now)}"] += 1

    def next_deadline(self) -> float | None:
        return min((walk.lookup.deadline for walk in self._walks), default=None)

    def handle_deadline(self, now: float) -> None:
        for walk in [walk for walk in self._walks if walk.lookup.deadline <= now]:
            self._advance(walk, now)

    def _advance(self, walk: Walk, now: float) -> None:
        if walk.over:
            return
        for candidate in walk.lookup.next(now):
            self._ask(walk, candidate, now)
        if walk.lookup.finished(now):
            walk.over = True
            del self._walks[walk]
            for reason, count in walk.lookup.refused.items():
                self._counts[f"not believed: {reason}"] += count
            walk.done(walk, now)

    def _ask(self, walk: Walk, candidate: Candidate, now: float) -> None:
        asked = candidate.peer

        def done(answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
            if walk.over:
                return
            if answer is None:
                walk.lookup.failed(asked)
            else:
                walk.lookup.answered(asked, address, answer.closer)
                if walk.answered is not None:
                    walk.answered(answer, peer, address, now)
            self._advance(walk, now)

        self.ask(asked, candidate.addresses, walk.request, done, now)

    def _failed(self, peer: bytes, code: str, now: float) -> None:
        if code == "protocol":
            self._table.remove(peer)  # it says so itself
        elif code not in _OURS:
            self._table.failed(peer, now)
