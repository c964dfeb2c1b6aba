"""What only the local runtime promises, for only there are ports in the actor's process."""

from __future__ import annotations

import pytest

from actors.runtime.local import LocalRuntime
from protocol import messages as m
from tests.runtimes.stage import Answerer, Clockwork, Stage


async def test_ports_are_flushed_after_each_batch_and_not_after_each_message() -> None:
    stage = Stage(LocalRuntime)
    flushed: list[int] = []
    stage.runtime.add("answerer", Answerer, after_handle=lambda: flushed.append(1))
    await stage.runtime.start()
    for number in range(100):
        stage.say("answerer", m.StatusAsked(number, "inbox"))
    for _ in range(100):
        await stage.inbox.next()
    assert len(flushed) == 1
    await stage.runtime.stop()


async def test_ports_that_fail_are_their_actors_failure() -> None:
    stage = Stage(LocalRuntime)
    failures = [OSError("no more files")]

    def flush() -> None:
        if failures:
            raise failures.pop()

    stage.runtime.add("answerer", Answerer, after_handle=flush)
    await stage.runtime.start()
    stage.say("answerer", m.StatusAsked(1, "inbox"))
    heard = {type(await stage.inbox.next()) for _ in range(3)}
    assert heard == {m.StatusAnswer, m.ActorDown, m.ActorUp} and stage.runtime.restarted == 1
    await stage.runtime.stop()


async def test_waking_brings_an_alarm_forward() -> None:
    stage = Stage(LocalRuntime)
    clockwork = Clockwork()
    clockwork.at = 1e12
    stage.runtime.add("clockwork", lambda: clockwork)
    await stage.runtime.start()
    for _ in range(500):
        stage.runtime.wake("clockwork")
    clockwork.at = 0.0
    stage.runtime.wake("clockwork")
    assert (await stage.inbox.next()).circuit == 2
    await stage.runtime.stop()


async def test_a_deadline_that_cannot_be_told_is_a_failure() -> None:
    class Confused(Answerer):
        def next_deadline(self) -> float | None:
            if self.asked:
                raise ValueError("what time is it?")
            return None

    stage = Stage(LocalRuntime)
    stage.runtime.add("confused", Confused)
    await stage.runtime.start()
    stage.say("confused", m.StatusAsked(1, "inbox"))
    assert {type(await stage.inbox.next()) for _ in range(3)} == {m.StatusAnswer, m.ActorDown, m.ActorUp}
    await stage.runtime.stop()


def test_two_actors_of_one_name_are_refused() -> None:
    stage = Stage(LocalRuntime)
    with pytest.raises(ValueError, match="inbox"):
        stage.runtime.add("inbox", Answerer)
