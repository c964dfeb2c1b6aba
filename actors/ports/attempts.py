"""Attempts at one thing, the next beside those before it when they take long: what died without a word then costs a
moment, and not its time-out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from actors.newest import keep_newest
from actors.ports.connections import ClientError, DialError
from protocol.identity import PeerId
from protocol.privacy_messages import RelayAt

Answer = TypeVar("Answer")
Way = TypeVar("Way")

#: Given to an attempt; called by it: the next may begin, I go on meanwhile.
GiveWay = Callable[[], None]

Attempt = Callable[[GiveWay], Coroutine[Any, Any, Answer]]

#: Seconds for which a relay that was late is tried after others.
LATE: Final = 60.0

#: Relays that are remembered as late: more than are tried in that time.
MAX_LATE: Final = 256


class AllFailed(Exception):
    """``failures``: of each attempt, in the order in which they failed."""

    def __init__(self, failures: list[ClientError]) -> None:
        super().__init__("; ".join(map(str, failures)))
        self.failures = failures


async def first_answer(
    attempts: Iterable[Attempt[Answer]],
    drop: Callable[[Answer], None],
    *,
    after_failure: bool = True,
) -> Answer:
    """What the first attempt that succeeds returns; the others are cancelled, and have ended when this returns.

    The next begins when the newest gives way, or, ``after_failure``, fails.  ``drop`` gets what came of
    another one at the same moment.  AllFailed; what is no ClientError goes through."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[Answer]] = set()
    failures: list[ClientError] = []
    left = iter(attempts)
    due: asyncio.Future[None] | None = None
    newest: asyncio.Task[Answer] | None = None
    try:
        while True:
            if due is None or due.done():
                due = loop.create_future()
                attempt = next(left, None)
                newest = None if attempt is None else loop.create_task(attempt(_resolver(due)))
                if newest is not None:
                    running.add(newest)
            if not running:
                raise AllFailed(failures)
            waiting: set[asyncio.Future[Any]] = {*running, due}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task.done()]:
                error = task.exception()
                running.discard(task)
                if error is None:
                    return task.result()
                if not isinstance(error, ClientError):
                    raise error
                failures.append(error)
                if after_failure and task is newest and not due.done():
                    due.set_result(None)
    finally:
        for task in running:
            task.cancel()
        for other in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(other, BaseException):
                drop(other)


def seen(task: asyncio.Task[Any]) -> None:
    """A callback: its failure is known, though nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


async def unless_closed(task: asyncio.Task[Answer], why: str, *, shared: bool = True) -> Answer:
    """What ``task`` returns.  DialError, with ``why``: it was cancelled, which is how it is ended when its owner is
    closed; but who waits here and is cancelled is told so.  ``shared``: others may wait for it too, and it goes on."""
    try:
        return await (asyncio.shield(task) if shared else task)
    except asyncio.CancelledError:
        waiting = asyncio.current_task()
        if task.cancelled() and not (waiting is not None and waiting.cancelling()):
            raise DialError(why) from None
        raise


@contextmanager
def in_a_while(seconds: float, then: Callable[[], None] | None) -> Iterator[None]:
    """``then()``, if what is done here takes longer."""
    timer = then and asyncio.get_running_loop().call_later(seconds, then)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


class Late:
    """Relays that were silent a while ago, and are tried last for some time.  ``clock``: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[bytes, float] = {}

    def tell(self, relay: PeerId | None) -> None:
        """``relay`` was silent.  None: there is none."""
        if relay is not None:
            keep_newest(self._since, relay.bytes, self._clock(), MAX_LATE)

    def last(self, ways: Sequence[Way], first: Callable[[Way], RelayAt | None]) -> list[Way]:
        """``ways`` in their order, but for those whose ``first`` relay was silent: they are at the end."""
        since = self._clock() - LATE

        def late(way: Way) -> bool:
            relay = first(way)
            return relay is not None and self._since.get(relay.peer, since) > since

        return sorted(ways, key=late)


def _resolver(due: asyncio.Future[None]) -> GiveWay:
    def give_way() -> None:
        if not due.done():
            due.set_result(None)

    return give_way
