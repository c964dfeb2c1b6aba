"""RelayDirectory: which relays there are, tried and rated, best first.

It asks every source at once (DHTAdvertiser, MdnsDiscovery, the configured ones), merges what they tell by peer, tries
the promising ones over the node's connections (actors/relay_probe.py), has ReputationTracker rate them, and answers
with the best.  What it knows is kept on disk, so that a node that starts needs no network to begin with.  Between
questions it tries a few now and then: a relay's uptime is known only to who looks over time.

    BestRelaysWanted -> RelaysWanted to each source -> RelayFound ... -> probes -> RatingsWanted -> BestRelays

Those who ask while a search is under way share it.  A source, tracker or forwarder that fails costs what it would have
told, and is named in ``problems``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from actors.actor import Send
from actors.relay_book import USELESS, KnownRelay, RelayBook
from actors.relay_probe import ProbeResult, Probes
from actors.reputation import expected_score
from protocol.descriptor import open_descriptor
from protocol.discovery_messages import (
    BestRelays,
    BestRelaysWanted,
    DirectoryMessage,
    FoundRelay,
    Observed,
    Rating,
    Ratings,
    RatingsWanted,
    RelayFound,
    RelaysSearched,
    RelaysWanted,
)
from protocol.errors import RemoteProtocolError
from protocol.messages import ActorDown, ActorUp, CountsAsked, CountsTold, Undeliverable
from protocol.service_messages import ForwarderReady, ServiceMessage, StreamMessage, StreamOver

#: Relays that are tried at a time, and in one search.  Each costs a connection for a few round trips.
MAX_PROBES: Final = 8
MAX_PROBED: Final = 32

#: Seconds for which a relay's answer is good: searches that follow each other do not ask again.
FRESH: Final = 60.0

#: And that it was not reached: one that restarts is back sooner than that.
FRESH_LOSS: Final = 10.0

#: Seconds from the first stranger that is told of until strangers are tried, while sources are still searching: so that
#: chance chooses among them, and not who speaks first.
GATHER: Final = 0.5

#: Part of a search's time after which it ends when enough relays would take us, though sources are still searching.
EARLY: Final = 0.5

#: Seconds that ReputationTracker has.  Without it relays are given unrated.
RATING_TIME: Final = 0.5

#: Seconds between two looks at relays that nobody asked for, and how many are tried then.
LOOK_INTERVAL: Final = 600.0
LOOKED_AT: Final = 4

#: Seconds after which what changed is written to disk, and relays that are written.
SAVE_INTERVAL: Final = 30.0
SAVED: Final = 64

#: Most relays, and seconds, that one may ask for.
MAX_WANTED: Final = 64
MAX_TIME: Final = 120.0

#: Those who may wait for an answer.
MAX_WAITING: Final = 256

#: Points within which relays are as good as each other: among them chance decides, so that not all choose the same.
_SAME: Final = 5.0

#: How likely a full relay is to be chosen beside an idle one as good as it.  What is in use of a relay is its own word,
#: so this is also what a lie gains at most: twice what it would have got.
_FULL_CHANCE: Final = 0.5

#: The load of one that did not say.
_LOAD: Final = 0.5

#: Answers of one that relays, though it may have no room.
WORKING: Final = ("reserves", "full")

_ORDER: Final = ("reserves", "unprobed", "full", "refuses")


@dataclass(frozen=True, slots=True)
class CachedRelay:
    """A relay as it is kept on disk.  ``envelope``: its signed descriptor, b"": none.  ``latency``: seconds."""

    peer: bytes
    addresses: tuple[bytes, ...]
    envelope: bytes
    latency: float | None
    reached_at: float


class RelayCache(Protocol):
    """Where relays are kept (actors/ports/relay_cache.py).  Neither raises nor waits."""

    def load(self) -> Sequence[CachedRelay]: ...
    def save(self, relays: Sequence[CachedRelay]) -> None: ...


@dataclass(slots=True)
class _Search:
    """``early``: when enough is enough, None: from now on.  ``strangers``: when those are tried that were never
    reached, None: from now on; inf: none is known.  ``silent``: sources that have not finished.  ``probed``:
    how many were tried.  ``rating``: it is over but for the scores."""

    deadline: float
    early: float | None
    waiting: list[BestRelaysWanted]
    silent: set[str]
    problems: list[str] = field(default_factory=list)
    strangers: float | None = math.inf
    probed: int = 0
    rating: bool = False
    scores: dict[bytes, Rating] = field(default_factory=dict)


class RelayDirectory:
    """See the module.  ``sources``: the actors to ask.  ``tracker``: ReputationTracker, "": none.  ``own``: this
    node's peer id.  ``private``: private
    addresses are dialled whoever tells them."""

    def __init__(
        self,
        name: str,
        own: bytes,
        sources: Sequence[str],
        tracker: str,
        randomness: Callable[[int], bytes],
        cache: RelayCache | None = None,
        *,
        private: bool = False,
    ) -> None:
        self.book = RelayBook(own, private=private)
        self._name = name
        self._sources = tuple(sources)
        self._tracker = tracker
        self._randomness = randomness
        self._cache = cache
        self._probes = Probes(name, randomness)
        self._forwarders: list[str] = []
        self._turn = 0
        self._search: _Search | None = None
        self._number = 0
        self._asked_as = 0
        #: Who asked for what is known alone, until when the tracker has time to rate it, by the number it was asked.
        self._unrated: dict[int, tuple[float, BestRelaysWanted]] = {}
        self._down: set[str] = set()
        self._loaded = False
        self._changed_at: float | None = None
        self._next_look: float | None = None

    # The actor.

    def handle(
        self, message: DirectoryMessage | ServiceMessage | CountsAsked | Undeliverable | ActorDown | ActorUp, now: float
    ) -> list[Send]:
        self._load(now)
        match message:
            case CountsAsked(request_id=number, asker=asker):
                return [Send(asker, CountsTold(number, self._name, self._counts(), self._sizes()))]
            case BestRelaysWanted():
                return self._wanted(message, now)
            case RelayFound():
                return self._found(message, now)
            case RelaysSearched(source=source, request_id=number, problem=problem):
                return self._searched(source, number, problem, now)
            case Ratings(request_id=number, ratings=ratings):
                return self._rated(number, ratings, now)
            case Undeliverable(receiver=actor):
                return self._silent(actor, now)
            case ForwarderReady(forwarder=forwarder, replaces=replaces):
                self._forwarders = [one for one in self._forwarders if one not in (forwarder, replaces)]
                self._forwarders.append(forwarder)
                return self._settle(self._probes.forwarder_lost(replaces) if replaces else [], now)
            case StreamMessage():
                sends, result = self._probes.message(message, now)
                return [*sends, *self._settle([result] if result else [], now)]
            case StreamOver():
                result = self._probes.over(message)
                return self._settle([result] if result else [], now)
            case ActorDown(actor=actor):
                self._down.add(actor)
                if actor in self._forwarders:
                    self._forwarders.remove(actor)
                    return self._settle(self._probes.forwarder_lost(actor), now)
                return self._silent(actor, now)
            case ActorUp(actor=actor):
                self._down.discard(actor)
        return []

    def next_deadline(self) -> float | None:
        if not self._loaded:
            return 0.0
        times = [] if self._next_look is None else [self._next_look]
        if self._changed_at is not None:
            times.append(self._changed_at + SAVE_INTERVAL)
        times += [deadline for deadline, _ in self._unrated.values()]
        if (search := self._search) is not None:
            times.append(search.deadline)
            if not search.rating:
                times += [when for when in (search.early, search.strangers) if when not in (None, math.inf)]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[Send]:
        self._load(now)
        if self._changed_at is not None and self._changed_at + SAVE_INTERVAL <= now:
            self._save()
        if self._search is not None and self._search.early is not None and self._search.early <= now:
            self._search.early = None
        if self._search is not None and self._search.strangers is not None and self._search.strangers <= now:
            self._search.strangers = None
        sends = self._without_ratings(now, now)
        if self._next_look is not None and self._next_look <= now:
            self._next_look = now + LOOK_INTERVAL * (0.5 + self._random())
            sends += self._look(now)
        return [*sends, *self._advance(now)]

    # What is asked.

    def _wanted(self, asked: BestRelaysWanted, now: float) -> list[Send]:
        if not asked.search:
            return self._from_the_book(asked, now)
        search = self._search
        if search is not None and not search.rating:
            if len(search.waiting) >= MAX_WAITING:
                return [Send(asked.asker, BestRelays(asked.request_id, (), ("too many are asking",)))]
            search.waiting.append(asked)
            return []
        waiting = [asked]
        if search is not None:
            waiting = [*search.waiting, asked]  # they get what is found anew
        self._number += 1
        time = min(max(asked.timeout, 0.0), MAX_TIME)
        asked_now = {source for source in self._sources if source not in self._down}
        problems = [f"{source} is being restarted" for source in self._sources if source in self._down]
        self._search = _Search(now + time, now + time * EARLY, waiting, set(asked_now), problems)
        self._asked_as = self._number
        sends = [Send(source, RelaysWanted(self._number, self._name, time)) for source in sorted(asked_now)]
        return [*sends, *self._advance(now)]

    def _from_the_book(self, asked: BestRelaysWanted, now: float) -> list[Send]:
        """What is known already, rated.  No search is begun, and none is waited for."""
        if not self._tracker or self._tracker in self._down or len(self._unrated) >= MAX_WAITING:
            return [self._answer(asked, {}, (), now)]
        self._number += 1
        self._unrated[self._number] = now + RATING_TIME, asked
        return [Send(self._tracker, RatingsWanted(self._number, self._name, tuple(self.book.relays)))]

    def _found(self, found: RelayFound, now: float) -> list[Send]:
        descriptor, envelope = None, found.descriptor
        if envelope:
            try:
                descriptor = open_descriptor(envelope, now)
                if descriptor.peer_id != found.peer:
                    raise RemoteProtocolError("the descriptor of another relay", "forged")
            except RemoteProtocolError as error:
                self.book.refused[error.code] += 1
                return []
        if self.book.learn(found.source, found.peer, found.addresses, now, descriptor, envelope) is not None:
            self._changed(now)
        return self._advance(now)

    def _searched(self, source: str, number: int, problem: str, now: float) -> list[Send]:
        search = self._search
        if search is None or number != self._asked_as:
            return []
        search.silent.discard(source)
        if problem:
            search.problems.append(problem)
        return self._advance(now)

    def _silent(self, actor: str, now: float) -> list[Send]:
        """``actor`` will not answer what it was asked."""
        sends = self._without_ratings(now, math.inf) if actor == self._tracker else []
        search = self._search
        if search is None:
            return sends
        if actor == self._tracker and search.rating:
            return [*sends, *self._finish(search, now)]
        if actor in search.silent:
            search.silent.discard(actor)
            search.problems.append(f"{actor} fell while it was searching")
        return [*sends, *self._advance(now)]

    def _without_ratings(self, now: float, until: float) -> list[Send]:
        """The tracker's time is up for those of whom it was asked ``until`` then."""
        late = [number for number, (deadline, _) in self._unrated.items() if deadline <= until]
        return [self._answer(self._unrated.pop(number)[1], {}, (), now) for number in late]

    def _counts(self) -> dict[str, int]:
        return {f"not kept: {reason}": count for reason, count in self.book.refused.items()}

    def _sizes(self) -> dict[str, float]:
        answers = Counter(one.answer for one in self.book.relays.values())
        return {f"relays: {answer}": count for answer, count in answers.items()}

    # Probes.

    def _settle(self, results: Sequence[ProbeResult], now: float) -> list[Send]:
        sends = []
        for result in results:
            if result.latency is not None:
                self.book.met(result.peer, result.met_at)
                self.book.reached(result.peer, result.latency, now)
            if result.latency is None or result.answer != "unprobed":
                self.book.answered(result.peer, result.answer, result.retry_after, now)
            if self._tracker and (result.latency is not None or result.answer == "unreachable"):
                kind = "unreachable" if result.latency is None else "probe"
                works = result.answer in WORKING
                sends.append(Send(self._tracker, Observed(result.peer, kind, result.latency or 0.0, works=works)))
            self._changed(now)
        return [*sends, *self._advance(now)]

    def _advance(self, now: float) -> list[Send]:
        """Try who is worth it, and end the search when there is nothing more to come of it."""
        search = self._search
        if search is None:
            return []
        if search.rating:
            return self._finish(search, now) if search.deadline <= now else []
        sends = self._probe_more(search, now)
        wanted = max(asked.count for asked in search.waiting)
        willing = sum(1 for one in self.book.relays.values() if one.answer == "reserves" and _fresh(one, now))
        exhausted = not search.silent and not len(self._probes)
        early = willing >= wanted and (not search.silent or search.early is None)
        if exhausted or early or search.deadline <= now:
            sends += self._rate(search, now)
        return sends

    def _probe_more(self, search: _Search, now: float) -> list[Send]:
        sends: list[Send] = []
        if not self._forwarders:
            return sends
        room = min(MAX_PROBES - len(self._probes), MAX_PROBED - search.probed)
        if room <= 0:
            return sends
        candidates = [
            one
            for one in self.book.relays.values()
            if one.peer not in self._probes.peers and not _fresh(one, now) and one.retry_at <= now
        ]
        if search.silent and search.strangers is not None:
            if not all(one.reached_at for one in candidates):
                search.strangers = min(search.strangers, now + GATHER)
            candidates = [one for one in candidates if one.reached_at]
        # Those that served before first, the nearest of them; then rather those that say that they have room.
        candidates.sort(key=lambda one: (not one.reached_at, one.latency or 0.0, self._lot(one)))
        for one in candidates[:room]:
            search.probed += 1
            sends += self._probe(one, reserve=True)
        return sends

    def _probe(self, relay: KnownRelay, *, reserve: bool) -> list[Send]:
        self._turn += 1
        forwarder = self._forwarders[self._turn % len(self._forwarders)]
        return self._probes.begin(forwarder, relay.peer, relay.addresses, reserve=reserve, fresh=not relay.proved)

    def _look(self, now: float) -> list[Send]:
        """Whether a few relays are still there, those first that were not looked at for longest."""
        if not self._forwarders or self._search is not None:
            return []
        oldest = sorted(self.book.relays.values(), key=lambda one: one.probed_at)
        chosen = [one for one in oldest if one.peer not in self._probes.peers and not _fresh(one, now)][:LOOKED_AT]
        return [send for one in chosen for send in self._probe(one, reserve=True)]

    # Answers.

    def _rate(self, search: _Search, now: float) -> list[Send]:
        if not self._tracker or self._tracker in self._down or not self.book.relays:
            return self._finish(search, now)
        search.rating = True
        search.deadline = now + RATING_TIME
        return [Send(self._tracker, RatingsWanted(self._asked_as, self._name, tuple(self.book.relays)))]

    def _rated(self, number: int, ratings: Sequence[Rating], now: float) -> list[Send]:
        scores = {rating.peer: rating for rating in ratings}
        if (waiting := self._unrated.pop(number, None)) is not None:
            return [self._answer(waiting[1], scores, (), now)]
        search = self._search
        if search is None or not search.rating or number != self._asked_as:
            return []
        search.scores = scores
        return self._finish(search, now)

    def _finish(self, search: _Search, now: float) -> list[Send]:
        self._search = None
        problems = list(search.problems) + [f"{source} did not finish in time" for source in sorted(search.silent)]
        return [self._answer(asked, search.scores, problems, now) for asked in search.waiting]

    def _answer(
        self, asked: BestRelaysWanted, scores: dict[bytes, Rating], problems: Sequence[str], now: float
    ) -> Send:
        found = []
        for known in self.book.relays.values():
            known.forget_stale(now)
            if known.answer in USELESS:
                continue
            rating = scores.get(known.peer)
            found.append((self._rank(known, rating, now), _told(known, rating, now)))
        found.sort(key=lambda entry: entry[0])
        count = min(max(asked.count, 0), MAX_WANTED)
        return Send(asked.asker, BestRelays(asked.request_id, tuple(one for _, one in found[:count]), tuple(problems)))

    def _rank(self, known: KnownRelay, rating: Rating | None, now: float) -> tuple[int, bool, float, float]:
        """Less is better: what it answers, whether it failed more often than not, the score to expect of it in steps,
        and chance."""
        answer = known.answer if known.retry_at <= now or known.answer != "full" else "full"
        if rating is None:
            merit = expected_score(None, known.latency, 0, 0)
        else:
            merit = expected_score(rating.uptime, rating.latency or known.latency, rating.succeeded, rating.failed)
        # Points for being there do not make up for failing: whoever drops circuits is always there.
        fails = rating is not None and rating.failed > rating.succeeded
        return _ORDER.index(answer), fails, -(merit // _SAME), self._lot(known)

    def _lot(self, known: KnownRelay) -> float:
        """The least is drawn: each as likely as its chance is to the sum of all (an exponential race)."""
        load = _LOAD if known.load is None else known.load
        return -math.log(1.0 - self._random()) / (1.0 - load * (1.0 - _FULL_CHANCE))

    def _random(self) -> float:
        return int.from_bytes(self._randomness(4), "big") / 2**32

    # The disk.

    def _load(self, now: float) -> None:
        if self._loaded:
            return
        self._loaded = True
        self._next_look = now + LOOK_INTERVAL * self._random()
        for cached in self._cache.load() if self._cache is not None else ():
            descriptor, envelope = None, cached.envelope
            if envelope:
                try:
                    descriptor = open_descriptor(envelope, now)
                except RemoteProtocolError:
                    envelope = b""  # it has expired; where the relay was is worth a try
            known = self.book.learn("cache", cached.peer, cached.addresses, now, descriptor, envelope)
            if known is not None:
                known.latency, known.reached_at = cached.latency, cached.reached_at

    def _changed(self, now: float) -> None:
        if self._cache is not None and self._changed_at is None:
            self._changed_at = now

    def _save(self) -> None:
        self._changed_at = None
        if self._cache is None:
            return
        kept = [one for one in self.book.relays.values() if one.reached_at and one.answer not in USELESS]
        kept.sort(key=lambda one: -one.reached_at)
        self._cache.save(
            [CachedRelay(one.peer, one.addresses, one.envelope, one.latency, one.reached_at) for one in kept[:SAVED]]
        )

    def close(self) -> None:
        """The node ends: what is to be kept is handed to the disk."""
        if self._changed_at is not None:
            self._save()


def _fresh(known: KnownRelay, now: float) -> bool:
    good_for = FRESH_LOSS if known.answer == "unreachable" else FRESH
    return bool(known.probed_at) and now - known.probed_at < good_for and known.answer != "unprobed"


def _told(known: KnownRelay, rating: Rating | None, now: float) -> FoundRelay:
    return FoundRelay(
        peer=known.peer,
        addresses=known.addresses,
        sources=tuple(sorted(known.sources)),
        latency=known.latency,
        load=known.load,
        score=None if rating is None else rating.score,
        answer=known.answer,
        retry_after=max(round(known.retry_at - now), 0) if known.retry_at else 0,
        agent="" if known.descriptor is None else known.descriptor.agent,
        last_seen=known.reached_at,
        proved=known.proved,
    )
