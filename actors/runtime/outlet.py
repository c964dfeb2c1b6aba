"""The way out of a process: what is said to actors elsewhere, on calls that each carry many envelopes.

One call is under way to a receiver at a time, and what is said meanwhile goes together in the next: so order is kept,
and under load a call of about a millisecond carries hundreds of messages.  What is said to an actor that is down, or of
which it is not known yet where it is, waits; what was on its way to one that fell is gone with it.  A question to one
that is down does not come here: it goes back to who asked (actors/runtime/local.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from actors.runtime.directory import Directory, State
from actors.runtime.mailbox import MailboxFull

log = logging.getLogger(__name__)

#: What one call carries at most.
BATCH_MESSAGES: Final = 1024
BATCH_BYTES: Final = 4 * 1024 * 1024

#: Pause after a call failed although its receiver is not known to have fallen: the supervisor finds out.
PAUSE: Final = 0.2

#: Carries envelopes to incarnation ``int`` of the actor at ``Any``; returns when its process has taken them.
Call = Callable[[Any, int, list[bytes]], Awaitable[None]]


class _Lane:
    """What waits for one receiver."""

    __slots__ = ("calling", "data", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, bool]] = deque()
        self.data = 0  # of them, those that are not control
        self.calling = False


class Outlet:
    """See the module.  ``capacity``: messages that may wait for one receiver, control messages apart.

    ``lost``: messages that were on their way to an actor that fell.
    """

    def __init__(self, directory: Directory, call: Call, capacity: int) -> None:
        self._directory = directory
        self._call = call
        self._capacity = capacity
        self._lanes: dict[str, _Lane] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._open = True
        self.lost = 0

    def put(self, receiver: str, envelope: bytes, *, control: bool) -> bool:
        """False: there is no such actor.  MailboxFull."""
        known = self._directory.find(receiver)
        if known is None:
            return False
        if known.state is State.GONE:
            self.lost += 1
            return True
        lane = self._lanes.get(receiver)
        if lane is None:
            lane = self._lanes[receiver] = _Lane()
        if not control:
            if lane.data >= self._capacity:
                raise MailboxFull(receiver, self._capacity)
            lane.data += 1
        lane.waiting.append((envelope, control))
        self._look(receiver, lane)
        return True

    def depth(self, receiver: str) -> int:
        lane = self._lanes.get(receiver)
        return len(lane.waiting) if lane is not None else 0

    def moved(self, receiver: str) -> None:
        """The directory knows more of ``receiver``: where it is now, or that it has another process."""
        lane = self._lanes.get(receiver)
        if lane is not None:
            self._look(receiver, lane)

    def fell(self, receiver: str) -> None:
        """What waits for it was said to one that is no more."""
        lane = self._lanes.pop(receiver, None)
        if lane is not None:
            self.lost += len(lane.waiting)

    def close(self) -> None:
        """Say no more: the actors of this process are gone."""
        self._open = False
        self._lanes.clear()

    def _look(self, receiver: str, lane: _Lane) -> None:
        if lane.waiting and not lane.calling and self._open:
            lane.calling = True
            call = asyncio.get_running_loop().create_task(self._carry(receiver, lane))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _carry(self, receiver: str, lane: _Lane) -> None:
        """Until nothing waits, or nobody is there to take it."""
        try:
            while lane.waiting and self._open and self._lanes.get(receiver) is lane:
                known = self._directory.find(receiver)
                if known is None or known.state is not State.UP or known.where is None:
                    return
                batch = self._take(lane)
                try:
                    await self._call(known.where, known.incarnation, batch)
                except Exception as error:  # whatever a call to a process that ended may raise
                    self.lost += len(batch)
                    log.debug("%d messages to %s are lost: %s", len(batch), receiver, error)
                    await asyncio.sleep(PAUSE)
        finally:
            lane.calling = False

    @staticmethod
    def _take(lane: _Lane) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while lane.waiting and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            envelope, control = lane.waiting.popleft()
            lane.data -= not control
            size += len(envelope)
            batch.append(envelope)
        return batch
