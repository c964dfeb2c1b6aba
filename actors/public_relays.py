"""PublicRelays: the relays that a person has configured (the setting ``public_relays``), by address or by name.

They are the way in: at the start they are told to those who want to know whom to begin with.  They are the fallback
too: whoever searches hears of them beside all others.  Names are resolved by its port (actors/ports/names.py), which
takes ``wanted`` and answers with NameResolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from actors.actor import Send
from actors.dial_address import DialAddress, parse_dial_address
from protocol.addresses import encode_tcp
from protocol.discovery_messages import NameResolved, RelayFound, RelaysSearched, RelaysWanted
from protocol.messages import ActorDown, ActorUp

SOURCE: Final = "public"

#: Seconds for which an answer is used again.  The resolver keeps records for as long as their owner says; this spares
#: asking it.
FRESH: Final = 60.0

#: Relays of one name: those of a small network's list.
MAX_OF_NAME: Final = 32

#: Seconds after which a name that could not be resolved is asked for again, at the start: the network may come late.
RETRY: Final = 30.0

#: Searches that may wait for names.
MAX_WAITING: Final = 64

_Relays = dict[bytes, tuple[bytes, ...]]


@dataclass(slots=True)
class _Name:
    """``asked``: its port is at it.  ``known_at``: 0.0: never."""

    relays: _Relays = field(default_factory=dict)
    problem: str = ""
    known_at: float = 0.0
    asked: bool = False


class PublicRelays:
    """See the module.  ``relays``: multiaddrs as the setting has them.  ``told``: actors that hear of them unasked.

    ``wanted``: names that the port is to resolve; it takes them."""

    def __init__(self, relays: Sequence[str], told: Sequence[str]) -> None:
        self.wanted: list[str] = []
        self._told = tuple(told)
        self._given: _Relays = {}
        self._names: dict[str, _Name] = {}
        self._waiting: list[tuple[float, RelaysWanted]] = []
        self._start_at: float | None = 0.0
        for text in relays:
            address = parse_dial_address(text)
            if address.named:
                self._names[text] = _Name()
            else:
                _add(self._given, address)

    def handle(self, message: RelaysWanted | NameResolved | ActorUp | ActorDown, now: float) -> list[Send]:
        match message:
            case RelaysWanted():
                return self._search(message, now)
            case NameResolved():
                return self._resolved(message, now)
            case ActorUp(actor=actor) if actor in self._told:
                return [Send(actor, found) for found in self._all()]
        return []

    def next_deadline(self) -> float | None:
        times = [when for when, _ in self._waiting]
        if self._start_at is not None:
            times.append(self._start_at)
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[Send]:
        sends: list[Send] = []
        if self._start_at is not None and self._start_at <= now:
            first, self._start_at = not self._start_at, None
            if first:
                sends += [Send(name, found) for found in self._all() for name in self._told]
            self._ask_names(now)
        late = [asked for when, asked in self._waiting if when <= now]
        self._waiting = [one for one in self._waiting if one[0] > now]
        return [*sends, *(self._end(asked) for asked in late)]

    def _search(self, asked: RelaysWanted, now: float) -> list[Send]:
        sends = [Send(asked.asker, found) for found in self._all(asked.request_id)]
        self._ask_names(now)
        if any(name.asked for name in self._names.values()) and len(self._waiting) < MAX_WAITING:
            self._waiting.append((now + asked.timeout, asked))
            return sends
        return [*sends, self._end(asked)]

    def _ask_names(self, now: float) -> None:
        for text, name in self._names.items():
            if not name.asked and (name.problem or not name.known_at or now - name.known_at > FRESH):
                name.asked = True
                self.wanted.append(text)

    def _resolved(self, resolved: NameResolved, now: float) -> list[Send]:
        name = self._names.get(resolved.name)
        if name is None:
            return []
        name.asked, name.problem = False, resolved.problem
        if resolved.problem:
            # What it stood for before is worth a try.
            if not name.known_at and self._start_at is None:
                self._start_at = now + RETRY
        else:
            name.known_at, before, name.relays = now, name.relays, {}
            for text in resolved.addresses:
                if len(name.relays) < MAX_OF_NAME:
                    _add(name.relays, parse_dial_address(text))
            new = {peer: addresses for peer, addresses in name.relays.items() if before.get(peer) != addresses}
            sends = [Send(to, RelayFound(SOURCE, *one)) for one in new.items() for to in self._told]
            sends += [
                Send(asked.asker, RelayFound(SOURCE, *one, b"", asked.request_id))
                for one in name.relays.items()
                for _, asked in self._waiting
            ]
            return [*sends, *self._settle()]
        return self._settle()

    def _settle(self) -> list[Send]:
        if any(name.asked for name in self._names.values()):
            return []
        over, self._waiting = self._waiting, []
        return [self._end(asked) for _, asked in over]

    def _end(self, asked: RelaysWanted) -> Send:
        problems = [name.problem for name in self._names.values() if name.problem]
        return Send(asked.asker, RelaysSearched(SOURCE, asked.request_id, "; ".join(problems)))

    def _all(self, request_id: int = 0) -> list[RelayFound]:
        found: _Relays = dict(self._given)
        for name in self._names.values():
            for peer, addresses in name.relays.items():
                found[peer] = tuple(dict.fromkeys((*found.get(peer, ()), *addresses)))
        return [RelayFound(SOURCE, peer, addresses, b"", request_id) for peer, addresses in found.items()]


def _add(relays: _Relays, address: DialAddress) -> None:
    """One of whom it is not known who must answer there is none that can be trusted to be itself."""
    if address.peer is not None and not address.named:
        binary = encode_tcp(ip_address(address.value), address.port)
        relays[address.peer.bytes] = (*relays.get(address.peer.bytes, ()), binary)
