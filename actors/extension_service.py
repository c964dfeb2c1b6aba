"""ExtensionService: who may have a circuit extended through this relay, and to where.

    a peer asks   ExtendWanted(relay) ─► BestRelaysWanted to the directory ─► its addresses ─► StreamExtended
                                         unknown: once more, with a search ─► unknown still: ExtendTold(problem)

From then on its bytes are the forwarder's (extensions.py).  Only relays that the directory knows are gone on to, and
only where they have proved their peer id to this node: what a relay says of where it is could be anybody's address, so
nobody can have this node connect to a host of his choice.  While a cap
on bandwidth holds nothing is extended, because these bytes are not metered.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from actors.actor import Send
from actors.rate_limit import KeyedBuckets
from actors.reservations import household
from protocol import extend
from protocol.discovery_messages import BestRelays, BestRelaysWanted, FoundRelay
from protocol.errors import RemoteProtocolError
from protocol.extend import ExtendTold, ExtendWanted
from protocol.messages import ActorDown, CountsAsked, CountsTold, Undeliverable
from protocol.quota_messages import ModeTold
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    ServiceMessage,
    StreamAnswer,
    StreamExtended,
    StreamMessage,
    StreamOver,
)

#: Requests a second of one household, and at once: a client extends once for each peer that it talks to.
RATE: Final = 1.0
AT_ONCE: Final = 30.0
MAX_RATE_KEYS: Final = 8192

#: Relays that the directory is asked for: as many as it tells at a time.
KNOWN: Final = 64

#: Seconds for which its answer is good.
FRESH: Final = 10.0

#: Seconds that a search for relays that are not known may take, and between two of them: strangers cause them.
SEARCH: Final = 5.0
SEARCH_AGAIN: Final = 60.0

#: Requests that wait for it.
MAX_WAITING: Final = 256

_UNREACHED: Final = ("unreachable", "norelay")


class ExtensionService:
    """See the module.  ``directory``: the actor that knows relays.  ``metered``: a cap on bandwidth holds."""

    def __init__(self, name: str, directory: str, *, serves: bool, metered: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._name = name
        self._directory = directory
        self._serves = serves
        self._metered = metered
        self._forwarders: list[str] = []
        self._waiting: dict[tuple[str, int], bytes] = {}
        self._relays: dict[bytes, FoundRelay] = {}
        self._fresh_until = float("-inf")
        self._asked = 0
        self._searching = False
        self._asking = False
        self._search_at = float("-inf")
        self._rates = KeyedBuckets(RATE, AT_ONCE, MAX_RATE_KEYS)

    def handle(
        self,
        message: ServiceMessage | BestRelays | ModeTold | CountsAsked | Undeliverable | ActorDown,
        now: float,
    ) -> list[Send]:
        match message:
            case ForwarderReady(forwarder=forwarder, replaces=replaces):
                self._forwarders = [one for one in self._forwarders if one not in (forwarder, replaces)]
                self._forwarders.append(forwarder)
                return [self._say(forwarder)]
            case ModeTold(relays=serves, metered=metered):
                changed = (self._serves, self._metered) != (serves, metered)
                self._serves, self._metered = serves, metered
                return [self._say(forwarder) for forwarder in self._forwarders] if changed else []
            case StreamMessage():
                return self._wanted(message, now)
            case StreamOver(forwarder=forwarder, stream=stream):
                self._waiting.pop((forwarder, stream), None)
            case BestRelays(request_id=number, relays=relays) if number == self._asked:
                self._asking = False
                self._relays = {one.peer: one for one in relays}
                self._fresh_until = now + FRESH
                unknown = any(not self._usable(relay) for relay in self._waiting.values())
                if unknown and not self._searching and now >= self._search_at:
                    self._search_at = now + SEARCH_AGAIN
                    return [*self._settle(keep_unknown=True), self._ask(search=True)]
                self._searching = False
                return self._settle()
            case Undeliverable(receiver=actor) | ActorDown(actor=actor):
                if actor == self._directory:
                    self._searching = self._asking = False
                    return self._settle()  # with what was known last
                if actor in self._forwarders:
                    self._forwarders.remove(actor)
                    self._waiting = {key: relay for key, relay in self._waiting.items() if key[0] != actor}
            case CountsAsked(request_id=number, asker=asker):
                sizes: dict[str, float] = {"waiting": len(self._waiting)}
                return [Send(asker, CountsTold(number, self._name, dict(self.counts), sizes))]
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    def _say(self, forwarder: str) -> Send:
        serves = self._serves and not self._metered
        return Send(forwarder, ProtocolsServed(self._name, (extend.PROTOCOL,) if serves else ()))

    def _wanted(self, message: StreamMessage, now: float) -> list[Send]:
        try:
            if not self._serves or self._metered:
                raise RemoteProtocolError("this node extends nothing", "mode")
            request = extend.decode(message.payload)
            if not isinstance(request, ExtendWanted):
                raise RemoteProtocolError("an answer that nobody asked for", "unasked")
            if not self._rates.take(household(message.address), now):
                raise RemoteProtocolError("too many requests", "rate")
            if len(self._waiting) >= MAX_WAITING:
                raise RemoteProtocolError("too many requests at a time", "busy")
        except RemoteProtocolError as error:
            self.counts[f"refused: {error.code}"] += 1
            return [Send(message.forwarder, StreamAnswer(message.stream, None, reset=True))]
        self._waiting[message.forwarder, message.stream] = request.relay
        may_search = now >= self._search_at and not self._searching
        if now < self._fresh_until and (self._usable(request.relay) or not may_search):
            return self._settle(keep_unknown=self._asking)
        return [] if self._asking else [self._ask()]  # an answer that is on its way serves this one too

    def _ask(self, *, search: bool = False) -> Send:
        self._asked += 1
        self._asking, self._searching = True, search
        within = SEARCH if search else 0.0
        return Send(self._directory, BestRelaysWanted(self._asked, self._name, KNOWN, within, search=search))

    def _usable(self, relay: bytes) -> FoundRelay | None:
        known = self._relays.get(relay)
        return known if known is not None and known.proved and known.answer not in _UNREACHED else None

    def _settle(self, *, keep_unknown: bool = False) -> list[Send]:
        """Answer who waits; ``keep_unknown``: but those whose relay is still looked for."""
        waiting, self._waiting = self._waiting, {}
        sends = []
        for (forwarder, stream), relay in waiting.items():
            known = self._usable(relay)
            if known is None and keep_unknown:
                self._waiting[forwarder, stream] = relay
            elif known is None:
                self.counts["refused: unknown"] += 1
                told = extend.encode(ExtendTold("that relay is not known here, or was not reached"))
                sends.append(Send(forwarder, StreamAnswer(stream, told, finish=True)))
            else:
                self.counts["extended"] += 1
                sends.append(Send(forwarder, StreamExtended(stream, known.proved)))
        return sends
