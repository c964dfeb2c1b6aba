"""PrivacyRouter: a privacy level and a peer in, ways to it out.

    PathsWanted         ─► what is known of relays (directory) ─► privacy_levels.paths ─► PathsTold
    RelaysChosenWanted  ─► the best that are known, or can be found ─► select_relays ─► RelaysChosen

It decides and carries nothing: streams live where the sockets are, and every dial there asks whether its level allows
it (actors/ports/diallers.py).  What it cannot have at a level it refuses, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from actors.actor import Send
from actors.privacy_levels import SystemOf, paths, select_relays
from protocol.discovery_messages import BestRelays, BestRelaysWanted, FoundRelay
from protocol.messages import ActorDown, CountsAsked, CountsTold, Undeliverable
from protocol.privacy_messages import (
    MAX_OFFERED,
    Level,
    PathsTold,
    PathsWanted,
    PrivacyMessage,
    RelayAt,
    RelaysChosen,
    RelaysChosenWanted,
)

#: Relays that the directory is asked for: enough that some are left when those that are full or bad are not counted.
KNOWN: Final = 64

#: Addresses of one relay that are handed on.
MAX_ADDRESSES: Final = 8

#: Questions that wait for the directory.  A client asks a few at a time.
MAX_WAITING: Final = 1024

#: Relays that are chosen at a time.
MAX_CHOSEN: Final = 16


class PrivacyRouter:
    """See the module.  ``directory``: the actor that knows relays.  ``randomness(n)``: n random bytes.
    ``system_of``: whose network a binary multiaddr is in, as "AS64500"; "": it is not known."""

    def __init__(
        self,
        name: str,
        directory: str,
        randomness: Callable[[int], bytes],
        system_of: SystemOf = lambda _: "",
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._name = name
        self._directory = directory
        self._randomness = randomness
        self._system_of = system_of
        self._waiting: dict[int, PrivacyMessage] = {}
        self._number = 0

    def handle(
        self, message: PrivacyMessage | BestRelays | CountsAsked | Undeliverable | ActorDown, now: float
    ) -> list[Send]:
        match message:
            case PathsWanted(level=level):
                self.counts[f"asked: {level}"] += 1
                if level is Level.HIGH or (level is Level.LOW and message.relayed):
                    return self._ask(message)
                return [self._tell(message, ())]
            case RelaysChosenWanted(level=level):
                if level is Level.MAXIMUM:
                    return [self._tell(message, (), "at maximum no relay is used: Tor is the way")]
                return self._ask(message)
            case BestRelays(request_id=number, relays=relays, problems=problems):
                wanted = self._waiting.pop(number, None)
                if wanted is None:
                    return []
                if isinstance(wanted, RelaysChosenWanted) and wanted.timeout:
                    usable = select_relays(relays, self._draw, wanted.avoid)
                    if len(usable) < wanted.count:  # look for more, once
                        return self._ask(replace(wanted, timeout=0.0), wanted.timeout)
                return [self._tell(wanted, relays, *problems[:1])]
            case Undeliverable(receiver=actor) | ActorDown(actor=actor) if actor == self._directory:
                wanting, self._waiting = self._waiting, {}
                return [self._tell(one, ()) for one in wanting.values()]
            case CountsAsked(request_id=number, asker=asker):
                sizes: dict[str, float] = {"waiting": len(self._waiting)}
                return [Send(asker, CountsTold(number, self._name, dict(self.counts), sizes))]
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    def _ask(self, wanted: PrivacyMessage, search: float = 0.0) -> list[Send]:
        """The directory: what it knows, or, with ``search`` seconds, what it can find."""
        if len(self._waiting) >= MAX_WAITING:
            self.counts["refused: busy"] += 1
            return [self._tell(wanted, (), "too many questions at a time")]
        self._number += 1
        self._waiting[self._number] = wanted
        ask = BestRelaysWanted(self._number, self._name, KNOWN, search, search=search > 0)
        return [Send(self._directory, ask)]

    def _tell(self, wanted: PrivacyMessage, relays: tuple[FoundRelay, ...], problem: str = "") -> Send:
        match wanted:
            case PathsWanted():
                found, why = paths(
                    wanted.level,
                    wanted.target,
                    wanted.offered[:MAX_OFFERED],
                    relays,
                    self._draw,
                    chosen=wanted.chosen,
                    relayed=wanted.relayed,
                    hops=wanted.hops,
                    avoid=wanted.avoid,
                    system_of=self._system_of,
                )
                if why:
                    problem = f"{why} ({problem})" if problem else why
                self.counts["paths found" if found else "no path"] += 1
                return Send(wanted.asker, PathsTold(wanted.request_id, tuple(found), "" if found else problem))
            case RelaysChosenWanted():
                chosen = select_relays(relays, self._draw, wanted.avoid)[: min(wanted.count, MAX_CHOSEN)]
                told = tuple(RelayAt(one.peer, one.addresses[:MAX_ADDRESSES]) for one in chosen)
                self.counts["relays chosen" if told else "no relay"] += 1
                problem = "" if told else problem or "no relay is known that will do"
                return Send(wanted.asker, RelaysChosen(wanted.request_id, told, problem))

    def _draw(self) -> float:
        return int.from_bytes(self._randomness(4), "big") / 2**32
