"""Whereabouts: this relay looks in the DHT for those who ask, and publishes for those who want to be found.

    a peer asks   WhereaboutsWanted ─► WhereaboutsSought to the DHT ─► WhereaboutsFound ─► WhereaboutsTold
    a peer says   WhereaboutsSaid ─► WhereaboutsGiven ─► WhereaboutsStored ─► WhereaboutsKept

So neither shows its IP to the peers near the key (protocol/whereabouts.py).  A look-up costs this node some forty
requests, so households have a rate, and so has everybody together.  Whatever a peer does wrong ends its stream.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from actors.actor import Send
from actors.rate_limit import KeyedBuckets, TokenBucket
from actors.reservations import household
from protocol import whereabouts
from protocol.errors import RemoteProtocolError
from protocol.messages import ActorDown, CountsAsked, CountsTold, Undeliverable
from protocol.quota_messages import ModeTold
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    ServiceMessage,
    StreamAnswer,
    StreamMessage,
    StreamOver,
)
from protocol.whereabouts import (
    WhereaboutsKept,
    WhereaboutsSaid,
    WhereaboutsTold,
    WhereaboutsWanted,
    open_whereabouts,
)
from protocol.whereabouts_messages import (
    WhereaboutsAnswer,
    WhereaboutsFound,
    WhereaboutsGiven,
    WhereaboutsSought,
    WhereaboutsStored,
)

#: Requests a second in all, of one household, and at once.  A client asks once for each peer that it talks to, and says
#: each hour where it is.
RATE: Final = 20.0
AT_ONCE: Final = 200.0
RATE_OF_ONE: Final = 1.0
AT_ONCE_OF_ONE: Final = 20.0

#: Households whose rate is remembered.
MAX_RATE_KEYS: Final = 8192

#: Requests under way: in all, and of one household.
MAX_JOBS: Final = 128
MAX_JOBS_OF_HOUSEHOLD: Final = 8

#: Seconds that the DHT has.
TIMEOUT: Final = 15.0


@dataclass(slots=True)
class _Job:
    forwarder: str
    stream: int
    home: str


class WhereaboutsService:
    """See the module.  ``name``: of this actor; ``dht``: of the one that is asked."""

    def __init__(self, name: str, dht: str, *, serves: bool = True) -> None:
        self.counts: Counter[str] = Counter()
        self._name = name
        self._dht = dht
        self._serves = serves
        self._forwarders: list[str] = []
        self._jobs: dict[int, _Job] = {}
        self._homes: Counter[str] = Counter()
        self._number = 0
        self._rate: TokenBucket | None = None
        self._rates = KeyedBuckets(RATE_OF_ONE, AT_ONCE_OF_ONE, MAX_RATE_KEYS)

    def handle(
        self,
        message: ServiceMessage | WhereaboutsAnswer | ModeTold | CountsAsked | Undeliverable | ActorDown,
        now: float,
    ) -> list[Send]:
        match message:
            case ForwarderReady(forwarder=forwarder, replaces=replaces):
                self._forwarders = [one for one in self._forwarders if one not in (forwarder, replaces)]
                self._forwarders.append(forwarder)
                return [self._say(forwarder)]
            case ModeTold(relays=serves):
                changed, self._serves = serves != self._serves, serves
                return [self._say(forwarder) for forwarder in self._forwarders] if changed else []
            case StreamMessage():
                return self._asked(message, now)
            case StreamOver(forwarder=forwarder, stream=stream):
                for number in [
                    n for n, job in self._jobs.items() if (job.forwarder, job.stream) == (forwarder, stream)
                ]:
                    self._end(number)
            case WhereaboutsFound(request_id=number, record=record, problem=problem):
                return self._answer(number, WhereaboutsTold(record, problem[:256]))
            case WhereaboutsStored(request_id=number, copies=copies, problem=problem):
                return self._answer(number, WhereaboutsKept(min(copies, 1024), problem[:256]))
            case Undeliverable(receiver=actor) | ActorDown(actor=actor):
                return self._lost(actor)
            case CountsAsked(request_id=number, asker=asker):
                return [Send(asker, CountsTold(number, self._name, dict(self.counts), {"under way": len(self._jobs)}))]
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    def _say(self, forwarder: str) -> Send:
        return Send(forwarder, ProtocolsServed(self._name, (whereabouts.PROTOCOL,) if self._serves else ()))

    def _asked(self, message: StreamMessage, now: float) -> list[Send]:
        home = household(message.address)
        self._number += 1
        number = self._number
        try:
            if not self._serves:
                raise RemoteProtocolError("this node relays for nobody", "mode")
            request = whereabouts.decode(message.payload)
            self._rate = self._rate or TokenBucket(RATE, AT_ONCE, now)
            if not self._rates.take(home, now) or not self._rate.take(now):
                raise RemoteProtocolError("too many questions", "rate")
            if len(self._jobs) >= MAX_JOBS or self._homes[home] >= MAX_JOBS_OF_HOUSEHOLD:
                raise RemoteProtocolError("too many questions at a time", "busy")
            match request:
                case WhereaboutsWanted(peer=peer):
                    ask: WhereaboutsSought | WhereaboutsGiven = WhereaboutsSought(number, self._name, peer, TIMEOUT)
                case WhereaboutsSaid(record=record):
                    if open_whereabouts(record, now).peer.bytes != message.peer:
                        raise RemoteProtocolError("whereabouts of another peer", "foreign")
                    ask = WhereaboutsGiven(number, self._name, record, message.address, TIMEOUT)
                case _:
                    raise RemoteProtocolError("an answer that nobody asked for", "unasked")
        except RemoteProtocolError as error:
            self.counts[f"refused: {error.code}"] += 1
            return [Send(message.forwarder, StreamAnswer(message.stream, None, reset=True))]
        self.counts["asked" if isinstance(ask, WhereaboutsSought) else "said"] += 1
        self._jobs[number] = _Job(message.forwarder, message.stream, home)
        self._homes[home] += 1
        return [Send(self._dht, ask)]

    def _answer(self, number: int, answer: WhereaboutsTold | WhereaboutsKept) -> list[Send]:
        job = self._end(number)
        if job is None:
            return []  # who asked has gone
        return [Send(job.forwarder, StreamAnswer(job.stream, whereabouts.encode(answer), finish=True))]

    def _lost(self, actor: str) -> list[Send]:
        if actor in self._forwarders:
            self._forwarders.remove(actor)
            for number in [number for number, job in self._jobs.items() if job.forwarder == actor]:
                self._end(number)
            return []
        if actor != self._dht:
            return []
        jobs = [job for number in list(self._jobs) if (job := self._end(number)) is not None]
        return [Send(job.forwarder, StreamAnswer(job.stream, None, reset=True)) for job in jobs]

    def _end(self, number: int) -> _Job | None:
        job = self._jobs.pop(number, None)
        if job is not None:
            self._homes[job.home] -= 1
            if not self._homes[job.home]:
                del self._homes[job.home]
        return job
