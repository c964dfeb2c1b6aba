"""What each privacy level allows: which addresses of a peer lead to it, and through which relays.

    LOW       its own addresses; through a relay only if the caller says so (Peer does: to agree there on a direct one)
    HIGH      through a relay, never its own addresses
    MAXIMUM   its onion addresses alone

A relay for HIGH is, in this order: a person's, of more than 70 points and with room, the fastest first; one that the
settings name as public; one of which nothing is known yet but that takes reservations.  One that was rated and did not
reach 70 is never chosen.  Times within a factor of two count as one, and among those the lot decides, so that not all
clients crowd on the fastest.

Pure functions: what is random is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from actors.dial_policy import network_of
from protocol.addresses import with_peer
from protocol.discovery_messages import FoundRelay
from protocol.errors import RemoteProtocolError
from protocol.multiaddr_form import IP4, IP6, NAMES, P2P, TCP, parts
from protocol.privacy_messages import MAX_HOPS, Level, Path, RelayAt
from protocol.whereabouts import ONION3, is_hidden

#: Points of a person's relay above which it is chosen (the design's number).
GOOD_SCORE: Final = 70.0

#: How the agents of relays begin that can extend a circuit (protocol/extend.py).
EXTENDING: Final = "descord-relay/"

#: Chains to one last relay that are tried, each with another first one.
MAX_TRIES: Final = 6

#: The source that names the relays of the settings (actors/network_names.py).
PUBLIC_SOURCE: Final = "public"

#: What a relay answered when it was tried last, of which there is no use in asking it.
_NO_ROOM: Final = ("full", "refuses", "unreachable")

#: Where a relay stands that is not known here, beside tiers 0 to 2.
_UNKNOWN: Final = 3

#: /p2p-circuit in a binary multiaddr (multiaddr protocol table, 290).
_CIRCUIT: Final = b"\xa2\x02"

Draw = Callable[[], float]

#: From a binary multiaddr to the autonomous system that it is in, "": not known.
SystemOf = Callable[[bytes], str]


def tier(relay: FoundRelay) -> int | None:
    """0: a person's, good and with room; 1: public; 2: unrated, takes reservations; None: not to be chosen."""
    if relay.answer in _NO_ROOM or (relay.load is not None and relay.load >= 1.0):
        return None
    if relay.score is not None and relay.score > GOOD_SCORE:
        return 0
    if PUBLIC_SOURCE in relay.sources:
        return 1
    if relay.score is None and relay.answer == "reserves":
        return 2
    return None


def select_relays(relays: Iterable[FoundRelay], draw: Draw, avoid: Sequence[bytes] = ()) -> list[FoundRelay]:
    """Those that may be used at HIGH, best first.  ``draw``: a number from 0 to 1, another each time."""
    usable = [(rank, one) for one in relays if one.peer not in avoid and (rank := tier(one)) is not None]
    return [one for rank, one in sorted(usable, key=lambda each: (each[0], _octave(each[1].latency), draw()))]


def paths(
    level: Level,
    target: bytes,
    offered: Sequence[bytes],
    relays: Sequence[FoundRelay],
    draw: Draw,
    *,
    chosen: bool = False,
    relayed: bool = False,
    hops: int = 1,
    avoid: Sequence[bytes] = (),
    system_of: SystemOf = lambda _: "",
) -> tuple[list[Path], str]:
    """(ways to ``target``, best first; why there is none, for a person).  See PathsWanted.  ``system_of``: as of
    PrivacyRouter."""
    own, circuits, onions = _sorted(offered)
    match level:
        case Level.MAXIMUM:
            if onions:
                return [Path((), one) for one in onions], ""
            return [], "no onion address of the peer is known: at maximum it is reached at one and by no other way"
        case Level.LOW:
            found = [Path((), one) for one in own]
            if relayed:
                found += _through(circuits, target, relays, draw, avoid, chosen=chosen)
            if found:
                return found, ""
            if circuits and not relayed:
                return [], "no address of the peer itself is known, and a relay was not allowed"
            return [], "no address of the peer is known"
        case Level.HIGH if hops > 1:
            return _chains(circuits, target, relays, draw, avoid, hops, system_of)
        case Level.HIGH:
            found = _through(circuits, target, relays, draw, avoid, chosen=chosen)
            if found:
                return found, ""
            if circuits:
                return [], (
                    "none of the relays through which the peer is reached will do: they are bad, or nothing is known "
                    "of them but what they and the peer say; name one that you trust (public_relays), give the peer's "
                    "whole address, or go through several (--hops 2)"
                )
            return [], "no relay is known through which the peer is reached"


def _through(
    circuits: Sequence[tuple[bytes, bytes]],
    target: bytes,
    relays: Sequence[FoundRelay],
    draw: Draw,
    avoid: Sequence[bytes],
    *,
    chosen: bool,
    far: bool = False,
) -> list[Path]:
    """Through the relays that the target has chosen for itself.  Unless the caller chose them too, they are dialled
    where the directory knows them, for the target could name an address of its own; and one that is neither known to
    be good nor named in the settings is not used, for anybody's second peer id can be found as a relay."""
    known = {one.peer: one for one in relays}
    addresses: dict[bytes, list[bytes]] = {}
    for relay, address in circuits:
        if relay != target and relay not in avoid:
            addresses.setdefault(relay, []).append(address)
    ranked = []
    for relay, at in addresses.items():
        one = known.get(relay)
        rank = (_UNKNOWN if chosen else None) if one is None else _rank_of_known(one, chosen=chosen)
        if rank is not None:
            latency = None if one is None else one.latency
            where = tuple(at) if one is None or (chosen and not far) else one.addresses
            ranked.append(((rank, _octave(latency), draw()), Path((RelayAt(relay, where),))))
    return [path for _, path in sorted(ranked, key=lambda each: each[0])]


def _chains(
    circuits: Sequence[tuple[bytes, bytes]],
    target: bytes,
    relays: Sequence[FoundRelay],
    draw: Draw,
    avoid: Sequence[bytes],
    hops: int,
    system_of: SystemOf,
) -> tuple[list[Path], str]:
    """Chains of ``hops`` relays, of which the last is the target's choice: it sees no more than the one before it, and
    is never dialled from here.
    Those before are ours, of networks and so, likely, of operators of their own, and such as can extend."""
    if not 1 < hops <= MAX_HOPS:
        return [], f"{hops} relays in a row: from 1 to {MAX_HOPS} can be had"
    last = _through(circuits, target, relays, draw, avoid, chosen=True, far=True)
    if not last:
        return [], "no relay is known through which the peer is reached"
    usable = [one for one in select_relays(relays, draw, (*avoid, target)) if not one.agent or _extends(one)]
    leading = sorted(usable, key=_extends, reverse=True)  # of those without a descriptor, trying tells
    found = []
    for path in last:
        for turn in range(min(len(leading), MAX_TRIES)):
            chain = _chain(path.relays[0], leading[turn:] + leading[:turn], hops, system_of)
            if chain is not None and chain not in found:
                found.append(chain)
    if found:
        return found, ""
    return [], f"too few relays of different networks are known for {hops} in a row, such as can extend a circuit"


def _extends(relay: FoundRelay) -> bool:
    return relay.agent.startswith(EXTENDING)


def _chain(last: RelayAt, leading: Sequence[FoundRelay], hops: int, system_of: SystemOf) -> Path | None:
    """``hops`` relays of as many networks and, where that is known, providers; the first that fit.  None: there are
    too few."""
    chain: list[RelayAt] = []
    taken = networks_of(last.addresses, system_of)
    for one in leading:
        networks = networks_of(one.addresses, system_of)
        if one.peer != last.peer and not networks & taken and len(chain) < hops - 1:
            taken |= networks
            chain.append(RelayAt(one.peer, one.addresses))
    return Path((*chain, last)) if len(chain) == hops - 1 else None


def networks_of(addresses: Sequence[bytes], system_of: SystemOf) -> set[str]:
    """Whose: by network and, where that is known, by autonomous system."""
    return {network_of(one) for one in addresses} | {system for one in addresses if (system := system_of(one))}


def _rank_of_known(relay: FoundRelay, *, chosen: bool) -> int | None:
    rank = tier(relay)
    if relay.score is not None and relay.score <= GOOD_SCORE and PUBLIC_SOURCE not in relay.sources:
        return None
    trusted = chosen or relay.score is not None or PUBLIC_SOURCE in relay.sources
    if not trusted:
        return None
    # One that takes nobody new, or seemed unreachable a while ago, may still serve those who are there.
    return _UNKNOWN if rank is None else rank


def _octave(latency: float | None) -> float:
    return math.inf if latency is None else math.floor(math.log2(max(latency, 0.001)))


def _sorted(offered: Sequence[bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]], list[bytes]]:
    """(the peer's own addresses, (relay, its address) of those through one, onions); what is neither is left out."""
    own, circuits, onions = [], [], []
    for address in dict.fromkeys(offered):
        try:
            found = parts(address)
        except RemoteProtocolError:
            continue
        codes = tuple(code for code, _ in found)
        if codes == (ONION3,):
            onions.append(address)
        elif is_hidden(address):
            relay = next(value for code, value in found if code == P2P)
            circuits.append((relay, address.removesuffix(with_peer(b"", relay) + _CIRCUIT)))
        elif len(codes) == 2 and codes[1] == TCP and (codes[0] in (IP4, IP6) or codes[0] in NAMES):
            own.append(address)
    return own, circuits, onions
