"""Attempts beside each other: the first answer counts, and nothing of the others is left."""

from __future__ import annotations

import asyncio

import pytest

from actors.ports.attempts import LATE, AllFailed, Attempt, GiveWay, Late, first_answer
from actors.ports.connections import ClientError
from protocol.identity import Identity
from protocol.privacy_messages import RelayAt
from tests.support.peers import seeded

ONE, OTHER = (Identity.from_seed(seeded(name)).peer_id for name in ("one", "other"))


class Tries:
    """Attempts whose ends the test decides."""

    def __init__(self) -> None:
        self.begun: list[tuple[GiveWay, asyncio.Future[str]]] = []
        self.cancelled = 0
        self.dropped: list[str] = []
        self.more = asyncio.Event()

    async def attempt(self, give_way: GiveWay) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.begun.append((give_way, answer))
        self.more.set()
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def race(self, count: int, *, after_failure: bool = True) -> asyncio.Task[str]:
        attempts: list[Attempt[str]] = [self.attempt] * count
        return asyncio.ensure_future(first_answer(attempts, self.dropped.append, after_failure=after_failure))

    async def until(self, count: int) -> None:
        while len(self.begun) < count:
            self.more.clear()
            await self.more.wait()


async def test_the_next_begins_when_one_gives_way_and_the_first_answer_counts() -> None:
    tries = Tries()
    race = tries.race(3)
    await tries.until(1)
    tries.begun[0][0]()
    tries.begun[0][0]()  # once is enough
    await tries.until(2)
    tries.begun[1][1].set_result("second")
    assert await race == "second"
    assert len(tries.begun) == 2 and tries.cancelled == 1 and tries.dropped == []


async def test_one_that_gave_way_may_still_win() -> None:
    tries = Tries()
    race = tries.race(2)
    await tries.until(1)
    tries.begun[0][0]()
    await tries.until(2)
    tries.begun[1][1].set_exception(ClientError("no"))
    tries.begun[0][1].set_result("first")
    assert await race == "first"


async def test_what_came_at_the_same_moment_is_dropped() -> None:
    tries = Tries()
    race = tries.race(2)
    await tries.until(1)
    tries.begun[0][0]()
    await tries.until(2)
    for number, (_, answer) in enumerate(tries.begun):
        answer.set_result(str(number))
    won = await race
    assert {won, *tries.dropped} == {"0", "1"}


async def test_a_failure_begins_the_next_and_all_are_told() -> None:
    tries = Tries()
    race = tries.race(2)
    for number in range(2):
        await tries.until(number + 1)
        tries.begun[number][1].set_exception(ClientError(f"no {number}"))
    with pytest.raises(AllFailed, match="no 0; no 1"):
        await race


async def test_one_that_is_silent_and_one_that_fails_do_not_keep_the_third_waiting() -> None:
    tries = Tries()
    race = tries.race(3)
    await tries.until(1)
    tries.begun[0][0]()
    await tries.until(2)
    tries.begun[1][1].set_exception(ClientError("no reservation"))
    await tries.until(3)
    tries.begun[2][1].set_result("third")
    assert await race == "third"


async def test_a_failure_may_be_the_answer() -> None:
    tries = Tries()
    race = tries.race(2, after_failure=False)
    await tries.until(1)
    tries.begun[0][1].set_exception(ClientError("no"))
    with pytest.raises(AllFailed):
        await race
    assert len(tries.begun) == 1


async def test_a_fault_goes_through_and_a_cancellation_ends_all() -> None:
    tries = Tries()
    race = tries.race(2)
    await tries.until(1)
    tries.begun[0][1].set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await race
    race = tries.race(2)
    await tries.until(2)
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    assert tries.cancelled == 1


def test_who_was_late_is_tried_last_for_a_while() -> None:
    now = 100.0
    late = Late(lambda: now)
    relays = [RelayAt(ONE.bytes, ()), RelayAt(OTHER.bytes, ())]
    assert late.last(relays, lambda one: one) == relays
    late.tell(ONE)
    late.tell(None)
    assert late.last(relays, lambda one: one) == relays[::-1]
    now += LATE
    assert late.last(relays, lambda one: one) == relays
