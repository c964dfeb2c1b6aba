"""Asking relays where a peer is reached at the privacy level HIGH: they ask the DHT, which does not see who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from actors.newest import keep_newest
from actors.ports.attempts import AllFailed, GiveWay, Late, first_answer, in_a_while
from actors.ports.client import Client
from actors.ports.connections import DialError, PeerConnection
from actors.ports.peer_terms import NoPath, PeerPolicy, Router, way_of
from actors.ports.ways import Ways
from actors.ports.whereabouts_client import ask_whereabouts
from actors.privacy_levels import networks_of
from protocol.identity import PeerId
from protocol.privacy_messages import Level, RelayAt

#: Seconds in which the settings' and the network's relays are looked for.
RELAY_SEARCH: Final = 10.0

#: Relays that are asked where a peer is reached.
GUIDES: Final = 3

#: Relays of which two are drawn to ask from afar.
CHOICE: Final = 8

#: Seconds for which an answer is used again, and peers for which one is remembered.
REMEMBERED: Final = 600.0
MAX_REMEMBERED: Final = 256

#: The relays that lead to the one that is asked, which is the last.
Way = tuple[RelayAt, ...]

Ask = Callable[[Way, PeerId], Awaitable[tuple[bytes, ...]]]


class NobodyElse(NoPath):
    """All that know of the peer have been asked."""


class Guides:
    """``late``: relays that were silent, which are asked last.  ``client``: asks them, as who we are at its level."""

    def __init__(
        self, router: Router, policy: PeerPolicy, ways: Ways, late: Late, client: Callable[[], Client]
    ) -> None:
        self._router = router
        self._policy = policy
        self._ways = ways
        self._late = late
        self._client = client
        self._known: dict[PeerId, tuple[float, tuple[bytes, ...]]] = {}

    async def reach(
        self,
        peer: PeerId,
        go: Callable[[tuple[bytes, ...]], Coroutine[Any, Any, PeerConnection]],
        drop: Callable[[PeerConnection], None],
        *,
        afar: bool,
    ) -> PeerConnection:
        """What ``go(addresses)`` gives: where ``peer`` was reached not long ago, or where relays say that it is.
        ``drop``: as of first_answer.  ``afar``: see :meth:`ask_from_afar`.  NoPath, DialError."""
        since, addresses = self._known.get(peer, (-REMEMBERED, ()))
        told: set[bytes] = set()  # the relays that have said where it is

        async def as_remembered(give_way: GiveWay) -> PeerConnection:
            with in_a_while(self._policy.next_path_after, give_way):
                return await go(addresses)

        async def as_told(_: GiveWay) -> PeerConnection:
            return await go(await (self.ask_from_afar(peer, told) if afar else self.ask(peer, told)))

        async def as_others_tell(give_way: GiveWay) -> PeerConnection:
            if not told:
                raise NobodyElse(f"nobody says where {peer} is reached")
            return await as_told(give_way)

        fresh = time.monotonic() - since < REMEMBERED
        attempts = [as_told, as_others_tell]  # what one says may be of yesterday
        try:
            return await first_answer([as_remembered, *attempts] if fresh else attempts, drop)
        except AllFailed as failed:
            self._known.pop(peer, None)
            raise next(one for one in reversed(failed.failures) if not isinstance(one, NobodyElse)) from None

    async def ask(self, peer: PeerId, told: set[bytes]) -> tuple[bytes, ...]:
        """Where ``peer`` is reached: binary multiaddrs.  ``told``: relays that are not asked any more; who answers is
        added.  NoPath."""
        return await self._search(peer, told, GUIDES, self._ask, lambda several: [(one,) for one in several])

    async def ask_from_afar(self, peer: PeerId, told: set[bytes]) -> tuple[bytes, ...]:
        """The same, asked through another relay under a new peer id: who is asked does not see who asks."""
        return await self._search(peer, told, CHOICE, self._ask_through, self._pairs)

    async def _search(
        self,
        peer: PeerId,
        told: set[bytes],
        count: int,
        ask: Ask,
        ways_of: Callable[[Sequence[RelayAt]], list[Way]],
    ) -> tuple[bytes, ...]:
        """Ask those that are known; where they are few and do not know, others are looked for, which takes a while."""
        why: NoPath | None = None
        for search in (0.0, RELAY_SEARCH):
            # Not itself, though it be a relay too: it would see who looks for it.
            chosen = await self._router.relays(Level.HIGH, count, search, (peer.bytes,))
            if ways := ways_of(chosen.relays):
                try:
                    return await self._first(peer, told, ways[: 2 * GUIDES], ask)
                except NoPath as error:
                    why = error
                    if len(chosen.relays) >= count:
                        break
        raise why or NoPath(f"no relays to ask where {peer} is reached: {chosen.problem or 'too few are known'}")

    async def _first(self, peer: PeerId, told: set[bytes], ways: Sequence[Way], ask: Ask) -> tuple[bytes, ...]:
        async def attempt(way: Way, give_way: GiveWay) -> tuple[bytes, ...]:
            def look() -> None:
                self._late.tell(relay := PeerId(way[0].peer))
                if known is not None:
                    known.doubt(relay, began)
                give_way()

            known = self._client() if len(way) == 1 else None
            began = known.now() if known is not None else 0.0
            try:
                async with asyncio.timeout(self._policy.path_timeout):
                    with in_a_while(self._policy.next_path_after, look):
                        found = await ask(way, peer)
                told.add(way[-1].peer)
                return found
            except TimeoutError:
                raise DialError(f"{PeerId(way[-1].peer)}: no answer within {self._policy.path_timeout:g} s") from None

        left = [way for way in self._late.last(ways, lambda way: way[0]) if way[-1].peer not in told]
        if not left:
            raise NobodyElse(f"nobody else says where {peer} is reached")
        attempts = [partial(attempt, way) for way in left]
        try:
            found = await first_answer(attempts, lambda _: None)
        except AllFailed as failed:
            raise NoPath(f"nobody says where {peer} is reached: {failed}") from None
        keep_newest(self._known, peer, (time.monotonic(), found), MAX_REMEMBERED)
        return found

    def _pairs(self, several: Sequence[RelayAt]) -> list[Way]:
        """One of them through another, of different networks and providers; another first one each time."""
        of = {one.peer: networks_of(one.addresses, self._policy.system_of) for one in several}
        return [
            (first, guide)
            for step in range(1, len(several))
            for first, guide in zip(several, [*several[step:], *several[:step]], strict=True)
            if not of[first.peer] & of[guide.peer]
        ]

    async def _ask(self, way: Way, peer: PeerId) -> tuple[bytes, ...]:
        (guide,) = way
        return (await ask_whereabouts(await self._ways.relay(guide, self._client()), peer, time.time())).addresses

    async def _ask_through(self, way: Way, peer: PeerId) -> tuple[bytes, ...]:
        first, _ = way
        dialler = self._ways.relay_dialler()
        dialler.allow([PeerId(first.peer)])
        async with self._ways.context(dialler) as client:
            connection = await client.through(way_of(first.addresses[0], way), known=True)
            return (await ask_whereabouts(connection, peer, time.time())).addresses
