"""Finding relays: who provides the directory's key, then the signed descriptor of each.

A relay is asked for its own descriptor first, which is one request and the latest word; if it does not answer soon, the
peers nearest to the descriptor's key are.  Of what one peer tells no more is followed than of what others tell, so a
liar with a long list fills at most its share of a search.

All who ask while a search runs share it; soon after one they get what it found; and after those that found nothing the
next waits for a growing, random time.  So however often relays are wanted, the network is searched now and then.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.actor import Send
from actors.kad_addresses import Scope, scope_of, to_dial, to_tell
from actors.kad_lookup import Candidate
from actors.kad_records import ProviderRecords, SignedRecords, Validate, Validated
from actors.kad_region import Region
from actors.kad_walks import Walk, Walks
from protocol.discovery_messages import RelayFound, RelaysSearched, RelaysWanted
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad import MAX_PROVIDERS, KadMessage, KadPeer, MessageType
from protocol.kad_keys import RELAYS, descriptor_key, provider_key

SOURCE: Final = "dht"

#: Those that wait for one search.
MAX_ASKERS: Final = 64

#: Copies of a descriptor, not from the relay itself, after which no more are looked for: the latest of them counts.
ENOUGH_COPIES: Final = 2


@dataclass(frozen=True, slots=True)
class SearchPolicy:
    """``most_followed``: relays whose descriptors are looked for in a search.  ``at_a_time``: of them.  ``hedge``:
    seconds after which others are asked beside the relay.  ``rest``, ``most_rest``: seconds until the next search,
    doubling while nothing is found.  ``fresh``: seconds for which a descriptor need not be looked for again.
    ``remembered``: relays that are."""

    most_followed: int = 32
    at_a_time: int = 8
    hedge: float = 2.0
    rest: float = 30.0
    most_rest: float = 900.0
    fresh: float = 600.0
    remembered: int = 512


@dataclass(slots=True)
class _Asker:
    name: str
    request_id: int
    deadline: float


@dataclass(slots=True)
class _Fetch:
    """A descriptor that is being looked for.  ``hedge_at``: when others are asked too, None: they are."""

    peer: KadPeer
    hedge_at: float | None
    best: tuple[bytes, Validated] | None = None
    copies: int = 0
    direct: bool = True
    walk: Walk | None = None
    over: bool = False


@dataclass(slots=True)
class _Search:
    walk: Walk | None = None
    walked: bool = False
    #: What is still to be followed, by who told of it.
    told: dict[bytes, deque[KadPeer]] = field(default_factory=dict)
    heard: set[bytes] = field(default_factory=set)
    fetches: dict[bytes, _Fetch] = field(default_factory=dict)
    followed: int = 0
    found: dict[bytes, RelayFound] = field(default_factory=dict)


class RelaySearch:
    """``own``: our peer id's bytes.  ``known()``: how many peers the routing table has.  ``hopeful()``: whether it may
    have some by and by.  ``jitter()``: 0 to 1, random.

    ``sends``: what is to be sent, taken by the actor."""

    def __init__(
        self,
        own: bytes,
        walks: Walks,
        providers: ProviderRecords,
        descriptors: SignedRecords,
        validate: Validate,
        known: Callable[[], int],
        hopeful: Callable[[], bool],
        randomness: Callable[[int], bytes],
        jitter: Callable[[], float],
        counts: Counter[str],
        region: Region,
        policy: SearchPolicy | None = None,
    ) -> None:
        self.sends: list[Send] = []
        self._own = own
        self._walks = walks
        self._providers = providers
        self._descriptors = descriptors
        self._validate = validate
        self._known = known
        self._hopeful = hopeful
        self._randomness = randomness
        self._jitter = jitter
        self._counts = counts
        self._region = region
        self._policy = policy or SearchPolicy()
        self._askers: list[_Asker] = []
        self._search: _Search | None = None
        self._remembered: OrderedDict[bytes, tuple[RelayFound, float, float]] = OrderedDict()
        self._not_before = 0.0
        self._in_vain = 0

    def wanted(self, wanted: RelaysWanted, now: float) -> None:
        """Search for ``wanted.asker``, or give it what the last search found."""
        self._askers = [one for one in self._askers if (one.name, one.request_id) != (wanted.asker, wanted.request_id)]
        if len(self._askers) >= MAX_ASKERS:
            self._tell_end(wanted.asker, wanted.request_id, "too many wait for this search already")
            return
        asker = _Asker(wanted.asker, wanted.request_id, now + wanted.timeout)
        if self._search is None and now < self._not_before:
            self._tell_remembered(asker, now)
            wait = self._not_before - now
            problem = "" if not self._in_vain else f"nothing was found; the DHT is searched again in {wait:.0f} s"
            self._tell_end(asker.name, asker.request_id, problem)
            return
        if self._search is None and not self._hopeful():
            self._tell_remembered(asker, now)
            self._tell_end(asker.name, asker.request_id, "nobody is known by whom to join the DHT (public_relays)")
            return
        self._askers.append(asker)
        if self._search is None:
            if self._known():
                self._begin(now)
        else:
            for found in self._search.found.values():
                self._tell(asker, found)

    def peers_known(self, now: float) -> None:
        """The routing table has somebody to ask: those who waited for that need not any more."""
        if self._askers and self._search is None and self._known():
            self._begin(now)

    def next_deadline(self) -> float | None:
        times = [one.deadline for one in self._askers]
        if self._search is not None:
            times += [one.hedge_at for one in self._search.fetches.values() if one.hedge_at is not None]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> None:
        late = [one for one in self._askers if one.deadline <= now]
        self._askers = [one for one in self._askers if one.deadline > now]
        for asker in late:
            if self._search is None:
                self._tell_remembered(asker, now)
                self._tell_end(asker.name, asker.request_id, "no peer of the DHT is known: none answered yet")
            else:
                self._tell_end(asker.name, asker.request_id, "the time was up before all had answered")
        if self._search is not None:
            for fetch in list(self._search.fetches.values()):
                if fetch.hedge_at is not None and fetch.hedge_at <= now:
                    self._ask_others(self._search, fetch, now)
            if late and not self._askers:
                self._end(self._search, now)

    # The search.

    def _begin(self, now: float) -> None:
        search = self._search = _Search()
        self._counts["search"] += 1
        key = provider_key(RELAYS)
        # What is held here was doubted when it came.
        self._heard(search, self._own, self._providers.find(key, MAX_PROVIDERS, now, self._randomness), Scope.HOST)

        def answered(answer: KadMessage, peer: bytes, address: str, now: float) -> None:
            if self._search is search:
                self._heard(search, peer, answer.providers, scope_of(address))
                self._follow(search, now)

        request = KadMessage(MessageType.GET_PROVIDERS, key)
        asked: set[bytes] = set()

        def walked(walk: Walk, now: float) -> None:
            asked.update(one.peer for one in walk.closest())
            if self._search is search:
                self._region.around(walk, now, around)

        def around(nearest: Sequence[Candidate], now: float) -> None:
            """Those too are asked whom others have crowded out."""
            more = [one for one in nearest if one.peer not in asked] if self._search is search else []
            left = len(more)

            def told(answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
                nonlocal left
                left -= 1
                search.walked = not left
                if answer is not None:
                    answered(answer, peer, address, now)
                if not left:
                    self._follow(search, now)

            search.walked = not left
            for one in more:
                self._walks.ask(one.peer, one.addresses, request, told, now)
            self._follow(search, now)

        search.walk = self._walks.start(request, now, walked, answered=answered)
        self._follow(search, now)

    def _heard(self, search: _Search, teller: bytes, peers: Sequence[KadPeer], scope: Scope) -> None:
        for told in peers:
            peer = KadPeer(told.id, to_tell(told.addresses, scope))
            if peer.id != self._own and peer.id not in search.heard and len(search.heard) < 4 * MAX_PROVIDERS:
                search.heard.add(peer.id)
                search.told.setdefault(teller, deque()).append(peer)

    def _follow(self, search: _Search, now: float) -> None:
        """Take from each teller's list in turn while there is room; end when nothing is left."""
        if self._search is not search:
            return
        while search.told and len(search.fetches) < self._policy.at_a_time:
            teller = next(iter(search.told))
            waiting = search.told.pop(teller)
            peer = waiting.popleft()
            if waiting:
                search.told[teller] = waiting  # at the end
            if search.followed < self._policy.most_followed:
                self._fetch(search, peer, now)
            elif peer.addresses:
                self._found(search, RelayFound(SOURCE, peer.id, peer.addresses))
        if search.walked and not search.told and not search.fetches:
            self._end(search, now)

    def _end(self, search: _Search, now: float) -> None:
        if self._search is not search:
            return
        self._search = None
        if search.walk is not None and not search.walked:
            self._walks.stop(search.walk, now)
        for fetch in list(search.fetches.values()):
            fetch.over = True
            if fetch.walk is not None:
                self._walks.stop(fetch.walk, now)
        self._in_vain = 0 if search.found else self._in_vain + 1
        rest = min(self._policy.rest * 2.0 ** min(max(self._in_vain - 1, 0), 16), self._policy.most_rest)
        self._not_before = now + rest * (0.75 + self._jitter() / 2)
        for asker in self._askers:
            self._tell_end(asker.name, asker.request_id, "" if search.found else "nobody in the DHT offers a relay")
        self._askers = []

    # One descriptor.

    def _fetch(self, search: _Search, peer: KadPeer, now: float) -> None:
        remembered = self._remembered.get(peer.id)
        if remembered is not None and now < min(remembered[1] + self._policy.fresh, remembered[2]):
            self._found(search, remembered[0])
            return
        search.followed += 1
        fetch = search.fetches[peer.id] = _Fetch(peer, now + self._policy.hedge)
        held = self._descriptors.find(descriptor_key(PeerId(peer.id)), now)
        if held is not None:
            self._copy(fetch, held[0], now)
        addresses = to_dial(peer.addresses, Scope.HOST)

        def done(answer: KadMessage | None, asked: bytes, address: str, now: float) -> None:
            fetch.direct = False
            if fetch.over:
                return
            if answer is not None and answer.record is not None and self._copy(fetch, answer.record.value, now):
                self._settle(search, fetch, now)
            elif fetch.walk is None:
                self._ask_others(search, fetch, now)
            elif fetch.walk.over:
                self._settle(search, fetch, now)

        if addresses:
            request = KadMessage(MessageType.GET_VALUE, descriptor_key(PeerId(peer.id)))
            self._walks.ask(peer.id, addresses, request, done, now)
        else:
            fetch.direct = False
            self._ask_others(search, fetch, now)

    def _ask_others(self, search: _Search, fetch: _Fetch, now: float) -> None:
        fetch.hedge_at = None

        def answered(answer: KadMessage, peer: bytes, address: str, now: float) -> None:
            if answer.record is not None and self._copy(fetch, answer.record.value, now):
                fetch.copies += 1
                if fetch.copies >= ENOUGH_COPIES and fetch.walk is not None:
                    self._walks.stop(fetch.walk, now)

        def done(walk: Walk, now: float) -> None:
            fetch.walk = walk
            if not fetch.over and (fetch.best is not None or not fetch.direct):
                self._settle(search, fetch, now)

        request = KadMessage(MessageType.GET_VALUE, descriptor_key(PeerId(fetch.peer.id)))
        fetch.walk = self._walks.start(request, now, done, answered=answered)

    def _copy(self, fetch: _Fetch, envelope: bytes, now: float) -> bool:
        """Whether ``envelope`` is the relay's descriptor; the latest is kept."""
        try:
            validated = self._validate(envelope, now)
        except RemoteProtocolError as error:
            self._counts[f"descriptor not believed: {error.code}"] += 1
            return False
        if validated.peer.bytes != fetch.peer.id or validated.expires_at <= now:
            self._counts["descriptor not believed: foreign"] += 1
            return False
        if fetch.best is None or validated.sequence > fetch.best[1].sequence:
            fetch.best = (envelope, validated)
        return True

    def _settle(self, search: _Search, fetch: _Fetch, now: float) -> None:
        if fetch.over:
            return
        fetch.over = True
        del search.fetches[fetch.peer.id]
        if fetch.walk is not None:
            self._walks.stop(fetch.walk, now)
        peer = fetch.peer
        if fetch.best is not None:
            envelope, validated = fetch.best
            found = RelayFound(SOURCE, peer.id, tuple(validated.addresses) or peer.addresses, envelope)
            self._remembered.pop(peer.id, None)
            self._remembered[peer.id] = (found, now, validated.expires_at)
            if len(self._remembered) > self._policy.remembered:
                self._remembered.popitem(last=False)
            self._found(search, found)
        elif peer.addresses:
            self._counts["relay without a descriptor"] += 1
            self._found(search, RelayFound(SOURCE, peer.id, peer.addresses))
        self._follow(search, now)

    # What askers hear.

    def _found(self, search: _Search, found: RelayFound) -> None:
        search.found[found.peer] = found
        for asker in self._askers:
            self._tell(asker, found)

    def _tell(self, asker: _Asker, found: RelayFound) -> None:
        told = RelayFound(found.source, found.peer, found.addresses, found.descriptor, asker.request_id)
        self.sends.append(Send(asker.name, told))

    def _tell_remembered(self, asker: _Asker, now: float) -> None:
        for found, _, expires_at in self._remembered.values():
            if now < expires_at:
                self._tell(asker, found)

    def _tell_end(self, asker: str, request_id: int, problem: str) -> None:
        self.sends.append(Send(asker, RelaysSearched(SOURCE, request_id, problem)))
