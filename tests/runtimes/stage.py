"""A runtime with actors whose doings show: what one did is seen by what it says to ``inbox``, which the test holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.actor import Send
from actors.ports.clock import steady_clock
from actors.runtime.spec import ActorSpec, Surroundings
from protocol import messages as m

#: Longer than anything here takes: a test that waits for it fails.
PATIENCE = 10.0


class Inbox:
    """An actor that hands what it is told to the test."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[m.Message] = asyncio.Queue()

    def handle(self, message: m.Message, now: float) -> list[Send]:
        self.told.put_nowait(message)
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    async def next(self) -> m.Message:
        return await asyncio.wait_for(self.told.get(), PATIENCE)

    def nothing(self) -> bool:
        return self.told.empty()


class Answerer:
    """Answers a status question with how many it was asked; does what is wrong when told to.

    A forwarder's name says what: "raise" in ``handle``, "alarm" raise at a deadline, "junk" sends what is no message,
    "talk" says something to ``listener``.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.alarm: float | None = None

    def handle(self, message: m.RelayServerMessage, now: float) -> list[Send]:
        match message:
            case m.StatusAsked(request_id=request_id, asker=asker):
                self.asked += 1
                return [Send(asker, m.StatusAnswer(request_id, 0, self.asked, 0, 0, {}))]
            case m.CircuitOpened(forwarder="raise"):
                raise RuntimeError("told to")
            case m.CircuitOpened(forwarder="alarm"):
                self.alarm = now + 0.02
            case m.CircuitOpened(forwarder="junk"):
                return [Send("inbox", object())]
            case m.CircuitOpened(forwarder="talk"):
                return [Send("listener", m.CircuitOpened(13, "answerer"))]
            case m.ActorDown() | m.ActorUp():
                return [Send("inbox", message)]
            case _:
                pass
        return []

    def next_deadline(self) -> float | None:
        return self.alarm

    def handle_deadline(self, now: float) -> list[Send]:
        raise RuntimeError("the alarm went off")


class Clockwork(Inbox):
    """Strikes three times, 10 ms apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 3
        self.at = 0.0

    def next_deadline(self) -> float | None:
        return self.at if self.left else None

    def handle_deadline(self, now: float) -> list[Send]:
        assert now >= self.at - 0.002, "woken before its time"
        self.left -= 1
        self.at = now + 0.01
        return [Send("inbox", m.CircuitOpened(self.left, "clockwork"))]


class Relayed(Inbox):
    """Passes a circuit's number on, one smaller, to itself: talk that never leaves the runtime."""

    def handle(self, message: Any, now: float) -> list[Send]:
        if not isinstance(message, m.CircuitOpened):
            return []
        receiver = "relayed" if message.circuit else "inbox"
        return [Send(receiver, m.CircuitOpened(max(message.circuit - 1, 0), message.forwarder))]


class Listener(Inbox):
    """Passes on what it hears, and does not listen for a while when told so."""

    def handle(self, message: Any, now: float) -> list[Send]:
        if isinstance(message, m.CircuitOpened) and message.forwarder == "sleep":
            time.sleep(0.5)
            return []
        return [Send("inbox", message)]


class Flaky(Answerer):
    """Cannot be made at the times that ``fails`` lists; a file counts them, for no process sees all."""

    def __init__(self, counter: str, fails: Sequence[int]) -> None:
        super().__init__()
        with open(counter, "a+") as file:
            file.write("x")
            times = file.tell()
        if times in fails:
            raise OSError(f"not now, at time {times}")


#: Actors that a runtime may make where it likes.
KINDS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in (Answerer, Clockwork, Flaky, Listener, Relayed)}


def build(surroundings: Surroundings, kind: str, **arguments: Any) -> Any:
    """The builder of :func:`spec`."""
    return KINDS[kind](**arguments)


def spec(kind: str, **arguments: Any) -> ActorSpec:
    return ActorSpec("tests.runtimes.stage:build", {"kind": kind, **arguments})


class Stage:
    """A runtime, the inbox, and the errors that ended the node."""

    def __init__(self, make: Callable[..., Any], **options: Any) -> None:
        self.fatal: asyncio.Queue[Exception] = asyncio.Queue()
        self.inbox = Inbox()
        self.runtime = make(clock=steady_clock(), on_fatal=self.fatal.put_nowait, **options)
        self.runtime.add("inbox", lambda: self.inbox)

    def say(self, receiver: str, message: m.Message, **options: Any) -> None:
        self.runtime.post("test", receiver, message, **options)

    def ask(self, receiver: str, number: int, *, patience: float = 1000.0, heeded: bool = True) -> None:
        """Have ``inbox`` ask a question that is of no use after ``patience`` seconds.  ``heeded``: one that an Answerer
        answers."""
        question = m.StatusAsked(number, "inbox") if heeded else m.ReserveAsked(number, "inbox", 0, b"", "")
        self.runtime.post("inbox", receiver, question, deadline=self.runtime.now() + patience)

    async def status(self, receiver: str) -> int:
        """How many questions ``receiver`` was asked since it began."""
        self.say(receiver, m.StatusAsked(1, "inbox"))
        while not isinstance(answer := await self.inbox.next(), m.StatusAnswer):
            pass
        return answer.circuits
