"""The node's own actor: it asks other actors for whoever runs the node, and hears which of them fall and rise."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from actors.actor import Send
from actors.runtime.spec import Runtime
from protocol import messages
from protocol.discovery_messages import ReachabilityChanged

DESK: Final = "node"


class Desk:
    """``rose``, ``fell``: called with the name of an actor; what ``rose`` gives is sent.  ``reached``:
    with the addresses at which others have confirmed to reach the node."""

    def __init__(
        self,
        runtime: Callable[[], Runtime],
        rose: Callable[[str], list[Send]] = lambda _: [],
        fell: Callable[[str], None] = lambda _: None,
        reached: Callable[[tuple[bytes, ...]], None] = lambda _: None,
    ) -> None:
        self._runtime = runtime
        self._rose = rose
        self._fell = fell
        self._reached = reached
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, receiver: str, question: Callable[[int], messages.Message], patience: float) -> Any:
        """The answer to ``question(request_id)``; None when there is none within ``patience`` seconds."""
        runtime, number = self._runtime(), next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        runtime.post(DESK, receiver, question(number), deadline=runtime.now() + patience)
        try:
            # Not wait_for: in Python 3.11 who is cancelled as the answer comes gets the answer, and goes on.
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(number, None)

    # The actor.

    def handle(self, message: messages.Message, now: float) -> list[Send]:
        match message:
            case messages.ActorUp(actor=actor):
                return self._rose(actor)
            case messages.ActorDown(actor=actor):
                self._fell(actor)
            case ReachabilityChanged(addresses=addresses):
                self._reached(addresses)
            case messages.Undeliverable(request_id=number):
                self._settle(number, None)
            case _ if number := getattr(message, "request_id", 0):
                self._settle(number, message)
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    def _settle(self, number: int, answer: Any) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
