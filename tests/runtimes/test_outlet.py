"""The way out of a process: order, batches, bounds, and what becomes of words to those who fell."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.runtime.directory import Directory, News, State
from actors.runtime.mailbox import MailboxFull
from actors.runtime.outlet import BATCH_MESSAGES, Outlet

NAME = "relay_server"


class Line:
    """Calls that the test lets through one by one."""

    def __init__(self, capacity: int = 5000) -> None:
        self.directory = Directory([News(NAME, 1, State.UP, "there")])
        self.outlet = Outlet(self.directory, self._call, capacity)
        self.calls: asyncio.Queue[tuple[Any, int, list[bytes], asyncio.Future[None]]] = asyncio.Queue()

    async def _call(self, where: Any, incarnation: int, batch: list[bytes]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls.put_nowait((where, incarnation, batch, done))
        await done

    def put(self, *numbers: int, control: bool = False) -> None:
        for number in numbers:
            assert self.outlet.put(NAME, b"%d" % number, control=control)

    async def next(self) -> tuple[Any, int, list[int], asyncio.Future[None]]:
        where, incarnation, batch, done = await asyncio.wait_for(self.calls.get(), 5)
        return where, incarnation, [int(one) for one in batch], done

    def learn(self, news: News) -> None:
        for _ in self.directory.learn(news):
            if news.state is not State.UP:
                self.outlet.fell(news.name)
        self.outlet.moved(news.name)


async def test_one_call_at_a_time_and_the_rest_together() -> None:
    line = Line()
    line.put(1)
    _, _, batch, done = await line.next()
    line.put(2, 3, 4)
    assert batch == [1] and line.calls.empty()
    done.set_result(None)
    assert (await line.next())[2] == [2, 3, 4]


async def test_a_call_is_bounded() -> None:
    line = Line()
    line.put(*range(BATCH_MESSAGES + 1))
    _, _, batch, done = await line.next()
    assert len(batch) == BATCH_MESSAGES
    done.set_result(None)
    assert (await line.next())[2] == [BATCH_MESSAGES]


async def test_what_waits_is_bounded_and_refused_by_name_but_for_control() -> None:
    line = Line(capacity=2)
    line.learn(News(NAME, 1, State.FALLEN))
    line.put(1, 2)
    with pytest.raises(MailboxFull, match=NAME):
        line.put(3)
    line.put(4, control=True)
    assert line.outlet.depth(NAME) == 3


async def test_what_is_said_to_one_that_is_down_waits_and_what_was_said_before_is_gone() -> None:
    line = Line()
    line.put(1)
    *_, done = await line.next()
    line.put(2)
    line.learn(News(NAME, 1, State.FALLEN))
    line.put(3)
    done.set_exception(ConnectionError("it died"))
    line.learn(News(NAME, 2, State.UP, "elsewhere"))
    assert (await line.next())[:3] == ("elsewhere", 2, [3])


async def test_it_waits_until_it_is_known_where_the_receiver_is() -> None:
    line = Line()
    line.learn(News(NAME, 2, State.UP, None))
    line.put(1)
    await asyncio.sleep(0)
    assert line.calls.empty()
    line.learn(News(NAME, 2, State.UP, "elsewhere"))
    assert (await line.next())[:3] == ("elsewhere", 2, [1])


async def test_words_to_nobody_are_an_error_and_to_one_that_will_not_return_none() -> None:
    line = Line()
    assert not line.outlet.put("nobody", b"", control=False)
    line.learn(News(NAME, 1, State.GONE))
    line.put(1)
    assert line.calls.empty() and line.outlet.depth(NAME) == 0 and line.outlet.lost == 1


async def test_a_call_that_fails_loses_its_words_and_no_others() -> None:
    line = Line()
    line.put(1)
    *_, done = await line.next()
    line.put(2)
    done.set_exception(ConnectionError("for a moment"))
    assert (await line.next())[2] == [2] and line.outlet.lost == 1
