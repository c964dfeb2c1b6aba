"""An actor's place is taken by a successor that has all that it had, and whatever goes wrong it is filled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from actors.runtime import succession
from actors.runtime.local import ActorFailed
from actors.supervisor import RestartPolicy
from protocol import messages as m
from tests.runtimes.stage import PATIENCE, Stage
from tests.runtimes.stage import spec as other
from tests.support import tree
from tests.trials.hoard import spec

if TYPE_CHECKING:
    from actors.runtime.ray import RaySession

Begin = Callable[..., Awaitable[Stage]]

#: Questions that the first hoard was asked before anything happens.
ASKED = 7


@pytest.fixture
async def begin(ray_session: RaySession) -> AsyncIterator[Begin]:
    from actors.runtime.ray import RayRuntime

    stages: list[Stage] = []

    async def start(*giving: str, **options: Any) -> Stage:
        """A place for each of ``giving``; the first was asked :data:`ASKED` questions."""
        stage = Stage(partial(RayRuntime, session=ray_session, spares=0), **options)
        stages.append(stage)
        for number, one in enumerate(giving):
            stage.runtime.add(f"hoard/{number}", spec(giving=one))
        stage.runtime.add("listener", other("Listener"))
        await stage.runtime.start()
        for _ in range(ASKED):
            await ask(stage, "hoard/0")
        return stage

    yield start
    for stage in stages:
        await stage.runtime.stop()


async def ask(stage: Stage, name: str) -> tuple[int, int, int]:
    """What it has of others and of its own, and its process."""
    stage.say(name, m.StatusAsked(1, "inbox"))
    while not isinstance(answer := await stage.inbox.next(), m.StatusAnswer):
        pass
    return answer.reservations, answer.circuits, answer.connections


async def told(stage: Stage, *expected: m.Message) -> None:
    """Until the inbox, and the listener in its process, were told of the actors' ups and downs."""
    left = list(expected) * 2
    while left:
        left.remove(await stage.inbox.next())


async def until_up(stage: Stage, name: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while m.ActorUp(name) != await stage.inbox.next():
            pass


async def test_a_new_process_has_all(begin: Begin) -> None:
    stage = await begin("")
    _, asked, pid = await ask(stage, "hoard/0")
    assert dict(await succession.succeed(stage.runtime.fleet, "hoard/0", spec(), 1.0)) == {"taken": asked}
    await told(stage, m.ActorUp("hoard/0.1"), m.ActorDown("hoard/0"))
    had, own, new = await ask(stage, "hoard/0.1")
    assert (had, own) == (asked, 1) and new != pid
    tree.until(lambda: not tree.alive(pid), PATIENCE, "the former process stayed")
    # And so on: its spec is the new one's.
    for number in (2, 3, 4):
        await succession.succeed(stage.runtime.fleet, "hoard/0", spec(), 1.0)
        assert (await ask(stage, f"hoard/0.{number}"))[1] == 1
    assert stage.fatal.empty() and stage.runtime.restarted == 0


@pytest.mark.parametrize("taking", ["no", "raise", "die", "raise midway", "die midway"])
async def test_a_successor_that_fails_costs_only_what_it_had_taken(begin: Begin, taking: str) -> None:
    stage = await begin("")
    pid = (await ask(stage, "hoard/0"))[2]
    with pytest.raises(succession.HandoverFailed, match="hoard/0: "):
        await succession.succeed(stage.runtime.fleet, "hoard/0", spec(taking=taking), 1.0)
    _, asked, same = await ask(stage, "hoard/0")
    kept = ASKED + 1 - (ASKED + 1) // 2 if "midway" in taking else ASKED + 1
    assert (asked, same) == (kept + 1, pid)
    # The next one has a name of its own, and gets all.
    await succession.succeed(stage.runtime.fleet, "hoard/0", spec(), 1.0)
    await until_up(stage, "hoard/0.3")
    assert await ask(stage, "hoard/0.3") == (kept + 1, 1, (await ask(stage, "hoard/0.3"))[2])


@pytest.mark.parametrize("giving", ["raise", "raise midway"])
async def test_one_that_cannot_hand_over_goes_on(begin: Begin, giving: str) -> None:
    stage = await begin(giving)
    with pytest.raises(succession.HandoverFailed):
        await succession.succeed(stage.runtime.fleet, "hoard/0", spec(), 1.0)
    assert (await ask(stage, "hoard/0"))[1] == (ASKED + 1 - ASKED // 2 if "midway" in giving else ASKED + 1)


async def test_one_that_dies_midway_is_succeeded_by_who_has_half(begin: Begin) -> None:
    stage = await begin("die midway")
    await succession.succeed(stage.runtime.fleet, "hoard/0", spec(), 1.0)
    await told(stage, m.ActorUp("hoard/0.1"), m.ActorDown("hoard/0"))
    assert (await ask(stage, "hoard/0.1"))[:2] == (ASKED // 2, 1)
    assert stage.runtime.restarted == 1 and stage.fatal.empty()


@pytest.mark.parametrize(("giving", "taking"), [("die", ""), ("die midway", "die midway"), ("die", "no")])
async def test_when_both_fail_the_place_is_filled_as_after_any_fall(begin: Begin, giving: str, taking: str) -> None:
    stage = await begin(giving)
    with pytest.raises(succession.HandoverFailed):
        await succession.succeed(stage.runtime.fleet, "hoard/0", spec(taking=taking), 1.0)
    if (giving, taking) == ("die", "no"):
        assert (await ask(stage, "hoard/0"))[1] == ASKED + 1, "who was not asked to hand over goes on"
        return
    await until_up(stage, "hoard/0.3")
    assert (await ask(stage, "hoard/0.3"))[:2] == (0, 1)


async def test_those_that_keep_dying_end_the_node(begin: Begin) -> None:
    stage = await begin("die midway", restarts=RestartPolicy(max_restarts=1, window=60.0))
    for _ in range(2):
        await succession.succeed(stage.runtime.fleet, "hoard/0", spec(giving="die midway"), 1.0)
    error = await asyncio.wait_for(stage.fatal.get(), PATIENCE)
    assert isinstance(error, ActorFailed) and "hoard/0 failed too often" in str(error)


async def test_one_that_is_killed_after_it_took_over_is_replaced(begin: Begin) -> None:
    stage = await begin("")
    await succession.succeed(stage.runtime.fleet, "hoard/0", spec(), 1.0)
    os.kill((await ask(stage, "hoard/0.1"))[2], 9)
    await until_up(stage, "hoard/0.2")
    assert (await ask(stage, "hoard/0.2"))[:2] == (0, 1)


async def test_a_place_that_is_no_more_and_comes_again(begin: Begin) -> None:
    stage = await begin("", "")
    fleet = stage.runtime.fleet
    await ask(stage, "hoard/1")
    pid = (await ask(stage, "hoard/0"))[2]
    await succession.merge(fleet, "hoard/0", "hoard/1", 1.0)
    await told(stage, m.ActorDown("hoard/0"))
    assert (await ask(stage, "hoard/1"))[:2] == (ASKED + 1, 2)
    assert set(fleet.pids()) == {"hoard/1", "listener"}
    tree.until(lambda: not tree.alive(pid), PATIENCE, "its process stayed")
    await succession.enlarge(fleet, "hoard/0", spec())
    await told(stage, m.ActorUp("hoard/0.1"))  # its name is none that was said to be gone
    assert (await ask(stage, "hoard/0.1"))[:2] == (0, 1)
    os.kill((await ask(stage, "hoard/0.1"))[2], 9)
    await until_up(stage, "hoard/0.2")


@pytest.mark.parametrize("giving", ["raise", "die midway"])
async def test_a_merger_that_fails(begin: Begin, giving: str) -> None:
    stage = await begin(giving, "")
    with pytest.raises(succession.HandoverFailed):
        await succession.merge(stage.runtime.fleet, "hoard/0", "hoard/1", 1.0)
    if giving == "raise":
        assert (await ask(stage, "hoard/0"))[1] == ASKED + 1
        assert (await ask(stage, "hoard/1"))[:2] == (0, 1)
    else:
        await told(stage, m.ActorDown("hoard/0"))
        assert (await ask(stage, "hoard/1"))[:2] == (ASKED // 2, 1)


async def test_a_place_more_that_cannot_be_filled_is_none(begin: Begin, tmp_path: Any) -> None:
    stage = await begin("")
    flaky = other("Flaky", counter=str(tmp_path / "times"), fails=[1])
    with pytest.raises(succession.HandoverFailed, match="not now"):
        await succession.enlarge(stage.runtime.fleet, "flaky", flaky)
    assert "flaky" not in stage.runtime.fleet.pids()
    await succession.enlarge(stage.runtime.fleet, "flaky", flaky)
    assert "flaky" in stage.runtime.fleet.pids()


async def test_an_actor_that_begins_anew_keeps_its_name(begin: Begin) -> None:
    stage = await begin("")
    before = stage.runtime.fleet.pids()["listener"]
    await succession.renew(stage.runtime.fleet, "listener", other("Listener"), 1.0)
    assert stage.runtime.fleet.pids()["listener"] != before
    stage.say("listener", m.CircuitOpened(5, "test"))
    async with asyncio.timeout(PATIENCE):
        while (await stage.inbox.next()) != m.CircuitOpened(5, "test"):
            pass
    assert stage.runtime.restarted == 0
    tree.until(lambda: not tree.alive(before), PATIENCE, "its process stayed")
