"""What every runtime does for its actors: one suite, run over each of them.

What an actor did is seen by what it says to ``inbox``, the one actor that the test holds in its hand; so nothing here
asks where an actor runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.runtime.local import LocalRuntime
from actors.runtime.spec import ActorSpec
from actors.supervisor import RestartPolicy
from protocol import messages as m
from tests.runtimes.stage import PATIENCE, Stage, spec

Begin = Callable[..., Awaitable[Stage]]

ANSWERER = ("answerer", spec("Answerer"))


@pytest.fixture(params=["local", "ray"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A runtime.  Ray is started once for all tests."""
    if request.param == "local":
        return LocalRuntime
    session = request.getfixturevalue("ray_session")
    from actors.runtime.ray import RayRuntime

    return partial(RayRuntime, session=session, spares=0)


@pytest.fixture
async def begin(make: Callable[..., Any]) -> AsyncIterator[Begin]:
    stages: list[Stage] = []

    async def start(*actors: tuple[str, ActorSpec], **options: Any) -> Stage:
        stage = Stage(make, **options)
        stages.append(stage)
        for name, source in actors:
            stage.runtime.add(name, source)
        await stage.runtime.start()
        return stage

    yield start
    for stage in stages:
        await stage.runtime.stop()


async def test_a_question_is_answered(begin: Begin) -> None:
    stage = await begin(ANSWERER)
    stage.say("answerer", m.StatusAsked(7, "inbox"))
    assert await stage.inbox.next() == m.StatusAnswer(7, 0, 1, 0, 0, {})


async def test_messages_of_one_sender_keep_their_order(begin: Begin) -> None:
    stage = await begin()
    for number in range(500):
        stage.say("inbox", m.CircuitOpened(number, "test"))
    assert [(await stage.inbox.next()).circuit for _ in range(500)] == list(range(500))


async def test_what_is_said_before_the_start_is_heard_after_it(make: Callable[..., Any]) -> None:
    stage = Stage(make)
    stage.say("inbox", m.ReportWanted())
    await stage.runtime.start()
    assert await stage.inbox.next() == m.ReportWanted()
    await stage.runtime.stop()


async def test_no_object_is_shared(begin: Begin) -> None:
    stage = await begin()
    refusals = {"full": 1}
    said = m.ForwarderCounters("test", 0, 0, 0, refusals)
    stage.say("inbox", said)
    refusals["full"] = 2
    heard = await stage.inbox.next()
    assert heard.refusals == {"full": 1} and heard is not said


async def test_an_alarm_goes_off_at_its_time_and_as_often_as_it_is_set(begin: Begin) -> None:
    stage = await begin(("clockwork", spec("Clockwork")))
    assert [(await stage.inbox.next()).circuit for _ in range(3)] == [2, 1, 0]


async def test_an_actor_that_talks_to_itself_lets_others_speak(begin: Begin) -> None:
    stage = await begin(("relayed", spec("Relayed")), ANSWERER)
    stage.say("relayed", m.CircuitOpened(50_000, "test"))
    stage.say("answerer", m.StatusAsked(1, "inbox"))
    assert isinstance(await stage.inbox.next(), m.StatusAnswer)
    assert await stage.inbox.next() == m.CircuitOpened(0, "test")


async def test_what_nobody_waits_for_any_more_is_dropped(begin: Begin) -> None:
    stage = await begin()
    stage.say("inbox", m.CircuitOpened(1, "test"), deadline=stage.runtime.now() - 1)
    stage.say("inbox", m.CircuitOpened(2, "test"), deadline=stage.runtime.now() + 100)
    assert (await stage.inbox.next()).circuit == 2
    assert stage.runtime.expired == 1


async def test_control_goes_before_data(begin: Begin) -> None:
    stage = await begin()
    for number in range(3):
        stage.say("inbox", m.CircuitOpened(number, "test"))
    stage.say("inbox", m.ReportWanted())
    assert await stage.inbox.next() == m.ReportWanted()
    assert [(await stage.inbox.next()).circuit for _ in range(3)] == [0, 1, 2]


async def test_a_full_mailbox_takes_control(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    stage = await begin(mailbox_capacity=1)
    for number in range(100):
        stage.say("inbox", m.CircuitOpened(number, "test"))
    stage.say("inbox", m.ReportWanted())
    assert [type(await stage.inbox.next()) for _ in range(2)] == [m.ReportWanted, m.CircuitOpened]
    said = [record.getMessage() for record in caplog.records if "inbox" in record.getMessage()]
    assert "mailbox_capacity" in said[0] and len(said) < 10, "the log is not filled by whoever fills a mailbox"


async def test_a_message_to_nobody_harms_nobody(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    stage = await begin(ANSWERER)
    stage.say("nobody", m.ReportWanted())
    assert "nobody" in caplog.text
    stage.say("answerer", m.StatusAsked(1, "nobody"))
    assert await stage.status("answerer") == 2


async def test_a_full_mailbox_refuses_and_the_actor_goes_on(begin: Begin) -> None:
    stage = await begin(ANSWERER, mailbox_capacity=5)
    for _ in range(8):
        stage.say("answerer", m.StatusAsked(1, "inbox"))
    assert [(await stage.inbox.next()).circuits for _ in range(5)] == [1, 2, 3, 4, 5]
    assert stage.runtime.refused == 3
    assert await stage.status("answerer") == 6


# Failures.


@pytest.mark.parametrize("wrong", ["raise", "alarm", "junk"])
async def test_an_actor_that_fails_is_replaced_and_the_others_are_told(begin: Begin, wrong: str) -> None:
    stage = await begin(ANSWERER, ("witness", spec("Answerer")))
    assert await stage.status("answerer") == 1
    stage.say("answerer", m.CircuitOpened(1, wrong))
    told = [await stage.inbox.next() for _ in range(4)]
    # To the inbox itself, and to the witness, which passes it on.
    assert [type(message) for message in told].count(m.ActorDown) == 2
    assert [type(message) for message in told].count(m.ActorUp) == 2
    assert {message.actor for message in told} == {"answerer"}
    assert await stage.status("answerer") == 1, "its successor knows nothing"
    assert await stage.status("witness") == 1 and stage.runtime.restarted == 1
    assert stage.fatal.empty()


async def test_what_it_had_not_heard_is_gone_with_it(begin: Begin) -> None:
    stage = await begin(ANSWERER)
    stage.say("answerer", m.CircuitOpened(1, "raise"))
    stage.say("answerer", m.StatusAsked(99, "inbox"))
    assert await stage.inbox.next() == m.ActorDown("answerer")
    assert await stage.inbox.next() == m.ActorUp("answerer")
    assert await stage.status("answerer") == 1
    assert stage.inbox.nothing()


async def test_what_it_had_said_and_nobody_heard_is_gone_with_it(begin: Begin) -> None:
    stage = await begin(ANSWERER, ("listener", spec("Listener")))
    stage.say("listener", m.CircuitOpened(1, "sleep"))
    stage.say("answerer", m.CircuitOpened(1, "talk"))
    stage.say("answerer", m.CircuitOpened(1, "raise"))
    # To the inbox itself, and what the listener heard and passes on.
    told = [await stage.inbox.next() for _ in range(4)]
    assert sorted(type(message).__name__ for message in told) == ["ActorDown", "ActorDown", "ActorUp", "ActorUp"]
    stage.say("listener", m.CircuitOpened(14, "test"))
    assert await stage.inbox.next() == m.CircuitOpened(14, "test")


async def test_what_is_said_while_it_is_down_is_heard_when_it_is_back(begin: Begin) -> None:
    restarts = RestartPolicy(first_delay=0.05)
    stage = await begin(ANSWERER, restarts=restarts)
    for _ in range(2):  # the first restart is at once, the second is not
        stage.say("answerer", m.CircuitOpened(1, "raise"))
        assert await stage.inbox.next() == m.ActorDown("answerer")
        for number in range(3):
            stage.say("answerer", m.StatusAsked(number, "inbox"))
        assert await stage.inbox.next() == m.ActorUp("answerer")
        assert [(await stage.inbox.next()).circuits for _ in range(3)] == [1, 2, 3]


# Questions: whoever waits for an answer hears when none will come.


async def test_a_question_to_one_that_is_down_comes_back_at_once(begin: Begin) -> None:
    stage = await begin(ANSWERER, restarts=RestartPolicy(first_delay=1000.0, max_delay=1000.0))
    for restarted in (True, False):  # the first restart is at once, the second is not
        stage.say("answerer", m.CircuitOpened(1, "raise"))
        assert await stage.inbox.next() == m.ActorDown("answerer")
        assert not restarted or await stage.inbox.next() == m.ActorUp("answerer")
    for number in (7, 8):
        stage.ask("answerer", number)
        assert await stage.inbox.next() == m.Undeliverable("answerer", number)


async def test_what_came_back_is_not_asked_of_the_successor(begin: Begin) -> None:
    stage = await begin(ANSWERER, restarts=RestartPolicy(first_delay=0.05))
    for _ in range(2):
        stage.say("answerer", m.CircuitOpened(1, "raise"))
        while not isinstance(await stage.inbox.next(), m.ActorDown):
            pass
    stage.ask("answerer", 7)
    assert await stage.inbox.next() == m.Undeliverable("answerer", 7)
    assert await stage.inbox.next() == m.ActorUp("answerer")
    assert await stage.status("answerer") == 1


@pytest.mark.parametrize("heard", [False, True])
async def test_a_question_comes_back_when_the_one_that_was_asked_falls(begin: Begin, heard: bool) -> None:
    stage = await begin(ANSWERER)
    if not heard:
        stage.say("answerer", m.CircuitOpened(1, "raise"))
    stage.ask("answerer", 7, heeded=False)
    if heard:
        assert await stage.status("answerer") == 1
        stage.say("answerer", m.CircuitOpened(1, "raise"))
    told = [await stage.inbox.next() for _ in range(3)]
    assert told[0] == m.ActorDown("answerer")
    assert {type(message) for message in told[1:]} == {m.ActorUp, m.Undeliverable}
    assert m.Undeliverable("answerer", 7) in told


async def test_a_question_is_answered_or_comes_back_and_never_both(begin: Begin) -> None:
    stage = await begin(ANSWERER)
    stage.ask("answerer", 1)
    assert isinstance(await stage.inbox.next(), m.StatusAnswer)
    stage.ask("answerer", 2)  # its answer may be lost with the one that gave it
    stage.say("answerer", m.CircuitOpened(1, "raise"))
    told = [await stage.inbox.next() for _ in range(3)]
    assert [message.request_id for message in told if hasattr(message, "request_id")] == [2]
    assert await stage.status("answerer") == 1 and stage.inbox.nothing()


async def test_a_question_to_nobody_comes_back(begin: Begin) -> None:
    stage = await begin()
    stage.ask("nobody", 7)
    assert await stage.inbox.next() == m.Undeliverable("nobody", 7)


async def test_what_comes_back_too_late_is_dropped_like_all_that_is_late(begin: Begin) -> None:
    stage = await begin()
    stage.ask("nobody", 7, patience=-1.0)
    stage.ask("nobody", 8)
    assert await stage.inbox.next() == m.Undeliverable("nobody", 8)
    assert stage.runtime.expired == 1


async def test_an_actor_that_keeps_failing_ends_the_node_by_name(begin: Begin) -> None:
    stage = await begin(ANSWERER, restarts=RestartPolicy(max_restarts=2, first_delay=0.001))
    for _ in range(3):
        stage.say("answerer", m.CircuitOpened(1, "raise"))
        while not isinstance(await stage.inbox.next(), m.ActorDown):
            pass
    error = await asyncio.wait_for(stage.fatal.get(), PATIENCE)
    assert all(word in str(error) for word in ("answerer", "3 times", "max_restarts", "told to"))
    assert stage.runtime.restarted == 2


async def test_a_builder_that_fails_is_tried_again(begin: Begin, tmp_path: Path) -> None:
    flaky = spec("Flaky", counter=str(tmp_path / "made"), fails=(2, 3))
    stage = await begin(("answerer", flaky), restarts=RestartPolicy(first_delay=0.001))
    stage.say("answerer", m.CircuitOpened(1, "raise"))
    assert await stage.inbox.next() == m.ActorDown("answerer")
    assert await stage.status("answerer") == 1, "what was asked while it was down waited for it"
    assert (tmp_path / "made").read_text() == "xxxx" and stage.inbox.nothing()


async def test_a_builder_that_keeps_failing_ends_the_node_too(begin: Begin, tmp_path: Path) -> None:
    flaky = spec("Flaky", counter=str(tmp_path / "made"), fails=range(2, 99))
    stage = await begin(("answerer", flaky), restarts=RestartPolicy(max_restarts=2, first_delay=0.001))
    stage.say("answerer", m.CircuitOpened(1, "raise"))
    assert "not now, at time 3" in str(await asyncio.wait_for(stage.fatal.get(), PATIENCE))
    assert await stage.inbox.next() == m.ActorDown("answerer")
    assert stage.inbox.nothing() and stage.runtime.restarted == 0


async def test_an_actor_that_cannot_be_made_is_an_error_at_the_start(begin: Begin, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="not now"):
        await begin(("answerer", spec("Flaky", counter=str(tmp_path / "made"), fails=(1,))))


async def test_it_is_replaced_later_each_time(begin: Begin) -> None:
    stage = await begin(ANSWERER, restarts=RestartPolicy(first_delay=0.04))
    waited: list[float] = []
    for _ in range(4):
        stage.say("answerer", m.CircuitOpened(1, "raise"))
        assert await stage.inbox.next() == m.ActorDown("answerer")
        fell_at = stage.runtime.now()
        assert await stage.inbox.next() == m.ActorUp("answerer")
        waited.append(stage.runtime.now() - fell_at)
    # A slow machine may wait longer, never less: 0, 40, 80 and 160 ms.
    assert all(took >= least - 0.005 for took, least in zip(waited, (0.0, 0.04, 0.08, 0.16), strict=True))


async def test_after_the_stop_nothing_is_handled(begin: Begin) -> None:
    stage = await begin(("clockwork", spec("Clockwork")), ANSWERER)
    stage.say("answerer", m.CircuitOpened(1, "raise"))
    stage.say("inbox", m.ReportWanted())
    while not stage.inbox.nothing():
        await stage.inbox.next()  # the clock may have struck while the others were started
    await stage.runtime.stop()
    await asyncio.sleep(0.05)  # there is nothing to await: nothing is to happen
    assert stage.inbox.nothing() and stage.runtime.restarted == 0
