"""The node's own actor: questions and who answers them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from actors.desk import DESK, Desk
from actors.runtime.spec import Runtime
from protocol import messages


class Posted:
    """A runtime that keeps what is posted."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any, float]] = []

    def now(self) -> float:
        return 100.0

    def post(self, sender: str, receiver: str, message: Any, *, deadline: float = 0.0, traceparent: str = "") -> None:
        self.sent.append((sender, receiver, message, deadline))


def test_answers_find_who_asked() -> None:
    async def scenario() -> None:
        posted = Posted()
        desk = Desk(lambda: cast(Runtime, posted))
        asked = [
            asyncio.ensure_future(desk.ask("relay_server", lambda n: messages.StatusAsked(n, DESK), 5.0))
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        numbers = [message.request_id for _, _, message, _ in posted.sent]
        assert len(set(numbers)) == 3 and {deadline for *_, deadline in posted.sent} == {105.0}
        first = messages.StatusAnswer(numbers[0], 1, 2, 3, 4, {})
        second = messages.StatusAnswer(numbers[1], 5, 6, 7, 8, {})
        for message in (second, first, messages.StatusAnswer(99, 0, 0, 0, 0, {})):
            desk.handle(message, 101.0)
        desk.handle(messages.Undeliverable("relay_server", numbers[2]), 101.0)
        assert await asyncio.gather(*asked) == [first, second, None]
        assert await desk.ask("relay_server", lambda n: messages.StatusAsked(n, DESK), 0.001) is None
        assert not desk._waiting

    asyncio.run(scenario())


def test_who_is_cancelled_as_the_answer_comes_does_not_go_on() -> None:
    async def scenario() -> None:
        posted = Posted()
        desk = Desk(lambda: cast(Runtime, posted))
        asked = asyncio.ensure_future(desk.ask("relay_server", lambda n: messages.StatusAsked(n, DESK), 5.0))
        await asyncio.sleep(0)
        number = posted.sent[0][2].request_id
        desk.handle(messages.StatusAnswer(number, 1, 2, 3, 4, {}), 101.0)
        asked.cancel()
        await asyncio.wait({asked})
        assert asked.cancelled() and not desk._waiting

    asyncio.run(scenario())
