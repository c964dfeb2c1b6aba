"""What a peer tells its own relay, and asks it for: once, whatever strangers do."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.ports.receipts_client import OwnPass, OwnRelay, ReceiptsClient
from protocol.identity import Identity
from tests.support.peers import seeded

ALICE = Identity.from_seed(seeded("alice"))


class Own:
    """Our relay, which gives no pass."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.asked = 0

    async def give_pass(self) -> OwnPass | None:
        self.asked += 1
        await asyncio.sleep(0)
        return None

    async def spent(self, size: int) -> None:
        self.told.append(size)

    def client(self, consent: str = "off") -> ReceiptsClient:
        return ReceiptsClient(ALICE, consent, OwnRelay(self.give_pass, self.spent))


def relay(name: str) -> Any:
    """A connection that is over: nobody is asked for a receipt."""
    return type("Over", (), {"ended": "lost", "peer": Identity.from_seed(seeded(name)).peer_id})()


async def test_many_circuits_are_told_in_one_go() -> None:
    own = Own()
    client = own.client("kept")
    before = len(asyncio.all_tasks())
    for _ in range(500):
        client.used(relay("relay"), 3, 4)
    assert len(asyncio.all_tasks()) == before + 1
    await client.close()
    assert own.told == [3500]
    client.used(relay("relay"), 3, 4)
    assert len(asyncio.all_tasks()) == before, "nothing begins once it is closed"


async def test_a_relay_that_gives_no_pass_is_asked_once() -> None:
    own = Own()
    client = own.client()
    await asyncio.gather(*(client.before_use(relay("relay")) for _ in range(10)))
    await client.before_use(relay("another"))
    assert own.asked == 1
    await client.close()


async def test_who_has_no_relay_shows_and_tells_nothing() -> None:
    client = ReceiptsClient(ALICE, "off")
    await client.before_use(relay("relay"))
    client.used(relay("relay"), 1, 1)
    assert len(asyncio.all_tasks()) == 1
    await client.close()
