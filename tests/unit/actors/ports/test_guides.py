"""Who is asked where a peer is reached, and who is asked next when that leads nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from actors.ports.attempts import Late
from actors.ports.connections import DialError
from actors.ports.guides import Guides, Way
from actors.ports.peer_terms import NoPath, PeerPolicy
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import Level, RelayAt, RelaysChosen
from tests.support.peers import seeded

BOB = Identity.from_seed(seeded("bob")).peer_id
RELAYS = tuple(RelayAt(Identity.from_seed(seeded(name)).peer_id.bytes, ()) for name in ("r1", "r2", "r3"))
STALE, FRESH = (b"stale",), (b"fresh",)


class Known:
    """A Router that knows all of RELAYS."""

    async def relays(self, level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen:
        return RelaysChosen(0, RELAYS)

    async def paths(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("ways are not asked for here")

    def observe(self, seen: Any) -> None: ...


class Asked(Guides):
    """``says``: by relay, where it says that bob is; None: it does not know."""

    def __init__(self, *says: tuple[bytes, ...] | None) -> None:
        clock: Any = type("Clock", (), {"now": staticmethod(lambda: 0.0)})
        super().__init__(Known(), PeerPolicy(), None, Late(), lambda: clock)  # type: ignore[arg-type]
        self.says = dict(zip((one.peer for one in RELAYS), says, strict=True))
        self.asked: list[bytes] = []
        self.gone: list[tuple[bytes, ...]] = []

    async def _ask(self, way: Way, peer: PeerId) -> tuple[bytes, ...]:
        self.asked.append(way[-1].peer)
        if (found := self.says[way[-1].peer]) is None:
            raise DialError("does not know")
        return found

    async def go(self, addresses: tuple[bytes, ...]) -> Any:
        self.gone.append(addresses)
        if addresses == STALE:
            raise DialError("no reservation")
        return addresses

    async def reached(self) -> Any:
        return await self.reach(BOB, self.go, lambda _: None, afar=False)


async def test_one_who_tells_of_yesterday_is_not_the_last_who_is_asked() -> None:
    guides = Asked(STALE, FRESH, None)
    assert await guides.reached() == FRESH
    assert guides.asked == [RELAYS[0].peer, RELAYS[1].peer] and guides.gone == [STALE, FRESH]
    assert await guides.reached() == FRESH
    assert len(guides.asked) == 2, "it is remembered"


async def test_when_all_tell_of_yesterday_it_is_said_that_the_way_failed() -> None:
    guides = Asked(STALE, STALE, None)
    with pytest.raises(DialError, match="no reservation"):
        await guides.reached()
    guides.says[RELAYS[0].peer] = FRESH
    assert await guides.reached() == FRESH, "nothing of that is remembered"


async def test_a_peer_that_nobody_knows_is_asked_for_once() -> None:
    guides = Asked(None, None, None)
    with pytest.raises(NoPath, match="nobody says where"):
        await guides.reached()
    assert sorted(guides.asked) == sorted(one.peer for one in RELAYS) and guides.gone == []
