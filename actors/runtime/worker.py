"""A worker: the process of one actor.

It waits, with everything imported, until the supervisor gives it an actor to run (:meth:`Worker.assume`); so taking the
place of a killed one costs a message and not the start of a process.  The supervisor listens to each worker all the
time (:meth:`Worker.listen`): the call returns as soon as there is something to say, and once a heartbeat anyway; when
the process dies it fails within 20 ms.

Nothing here knows what carries the calls: actors/runtime/ray.py makes a Ray actor of it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.ports import clock
from actors.runtime.directory import News
from actors.runtime.heap import settle_heap
from actors.runtime.meeting import MeetingPoint, meet_at
from actors.runtime.outlet import Call
from actors.runtime.spec import ActorSpec, Site
from actors.runtime.station import Station

log = logging.getLogger(__name__)

#: ``where`` of an actor that lives in the supervisor's process: it listens, nobody calls it.
SUPERVISOR: Final = "supervisor"

#: Seconds for which a thread may keep others from running Python.  Calls come in on a thread of Ray's, and must not
#: wait for a forwarder that is busy with its connections for the usual 5 ms, several times each.
SWITCH_INTERVAL: Final = 0.0005

#: Log lines that wait to be heard; of more, the oldest are forgotten.
LOG_LINES: Final = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to run.  ``anchor``: of the clock of ``machine`` (actors/ports/clock.py), so that all processes
    there have one even if somebody sets the system's.  ``host``: where the worker is.  ``adopting``: the actor is
    going to take over from another (:meth:`Worker.take_in`)."""

    name: str
    incarnation: int
    spec: ActorSpec
    news: tuple[News, ...]
    mailbox_capacity: int
    anchor: float
    machine: str
    host: Site
    adopting: bool = False


@dataclass(frozen=True, slots=True)
class LogLine:
    created: float
    level: int
    source: str
    text: str
    error: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What a worker has to say.  ``envelopes``: for actors in the supervisor's process.  ``fell``: why its actor fell.
    ``refused``, ``expired``, ``waiting``: of its runtime so far; messages in its actor's mailbox."""

    incarnation: int = 0
    envelopes: tuple[bytes, ...] = ()
    fell: str | None = None
    refused: int = 0
    expired: int = 0
    waiting: int = 0
    lines: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """``machine``: see :func:`this_machine`."""

    pid: int
    machine: str


def this_machine() -> str:
    """The same for processes that share a clock and pids; another with each boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


class Worker:
    """See the module.  ``modules``: what to import beforehand."""

    def __init__(self, modules: Sequence[str] = (), log_level: int = logging.INFO) -> None:
        for module in modules:
            importlib.import_module(module)
        settle_heap()
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._lines: deque[LogLine] = deque(maxlen=LOG_LINES)
        root = logging.getLogger()
        root.setLevel(log_level)
        root.addHandler(_Teller(self._lines, self._speak))
        self._role: _Role | None = None
        self._said: deque[tuple[int, list[bytes], asyncio.Future[None]]] = deque()
        self._something = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._meeting: MeetingPoint | None = None

    async def about(self) -> About:
        self._loop = asyncio.get_running_loop()
        return About(os.getpid(), this_machine())

    async def assume(self, order: Order) -> str | None:
        """Run an actor, in place of one that fell or of none.  What went wrong, None: it runs."""
        self._loop = asyncio.get_running_loop()
        self._leave_role()

        async def call(where: Any, incarnation: int, batch: list[bytes]) -> None:
            await self._call(order.incarnation, where, incarnation, batch)

        role = _Role(order, call, self._speak)
        try:
            await role.station.runtime.start()
        except Exception as error:
            log.exception("actor %s could not be started", order.name)
            await role.end()
            return f"{type(error).__name__}: {error}"
        self._role = role
        settle_heap()
        return None

    async def deliver(self, incarnation: int, batch: list[bytes]) -> None:
        """Envelopes for the actor, if it is still the one that they are for."""
        role = self._role
        if role is not None and role.incarnation == incarnation:
            role.station.take_in(batch)

    async def learn(self, news: Sequence[News]) -> None:
        """What the supervisor knows of other actors."""
        if self._role is not None:
            self._role.station.learn(news)

    async def listen(self, patience: float) -> Heard:
        """What there is to say, within ``patience`` seconds.  One call at a time."""
        if not self._something.is_set():
            try:
                await asyncio.wait_for(self._something.wait(), patience)
            except TimeoutError:
                pass
        self._something.clear()
        lines = tuple(self._lines)
        self._lines.clear()
        role = self._role
        if role is None:
            return Heard(lines=lines)
        envelopes: list[bytes] = []
        while self._said:
            incarnation, batch, taken = self._said.popleft()
            if incarnation == role.incarnation:
                envelopes += batch
            if not taken.done():
                taken.set_result(None)
        runtime = role.station.runtime
        fell, role.told = (None if role.told else role.failure), role.failure is not None
        return Heard(
            role.incarnation, tuple(envelopes), fell, runtime.refused, runtime.expired, runtime.depth(role.name), lines
        )

    async def close(self, grace: float) -> None:
        """Take leave of whoever is at the actor's ports, within ``grace`` seconds, and run nothing any more."""
        role, self._role = self._role, None
        if role is not None:
            await role.station.runtime.close(grace)
            role.station.halt()

    # Two actors of a kind hand over: the one that leaves is found at a path (actors/runtime/succession.py).

    async def meet(self) -> str:
        """Where the other one finds this; :meth:`hand_over` waits for it.  OSError."""
        if self._meeting is not None:
            self._meeting.close()
        self._meeting = MeetingPoint()
        return self._meeting.path

    async def hand_over(self, to: str) -> str:
        """Pass all that the actor has to the one of that name, once it comes.  "": done; else what went wrong."""
        meeting, role = self._meeting, self._role
        part = role.station.runtime.part(role.name) if role is not None else None
        if meeting is None or part is None or part.hand_over is None:
            return "it has nothing to hand over"
        try:
            await part.hand_over(await meeting.accept(), to)
        except asyncio.CancelledError:
            return "it was called off"
        except Exception as error:
            log.debug("nothing came of a hand-over", exc_info=error)
            return str(error) or type(error).__name__
        finally:
            meeting.close()
        return ""

    async def stay(self) -> None:
        """Nobody comes to take over: wait no longer."""
        if self._meeting is not None:
            self._meeting.close()

    async def take_in(self, path: str, predecessor: str) -> Mapping[str, Any]:
        """Take all that the actor of that name has, which waits at ``path``: what there is to tell of it, with
        "failure" when nothing came of it."""
        role = self._role
        part = role.station.runtime.part(role.name) if role is not None else None
        if part is None or part.take_in is None:
            return {"failure": "it takes nothing over"}
        try:
            return await part.take_in(await meet_at(path), predecessor)
        except Exception as error:
            log.debug("nothing was taken over", exc_info=error)
            return {"failure": str(error) or type(error).__name__}

    async def _call(self, sender: int, where: Any, incarnation: int, batch: list[bytes]) -> None:
        if where != SUPERVISOR:
            await where.deliver.remote(incarnation, batch)
            return
        taken = asyncio.get_running_loop().create_future()
        self._said.append((sender, batch, taken))
        self._speak()
        await taken

    def _leave_role(self) -> None:
        role, self._role = self._role, None
        if role is not None:
            role.drop()
        while self._said:
            self._said.popleft()[2].cancel()

    def _speak(self) -> None:
        if self._loop is not None:
            # Log lines may come of other threads.
            self._loop.call_soon_threadsafe(self._something.set)


class _Role:
    """The actor that a worker runs, from its start to its fall."""

    def __init__(self, order: Order, call: Call, speak: Callable[[], None]) -> None:
        self.name = order.name
        self.incarnation = order.incarnation
        self.failure: str | None = None
        self.told = False
        self._speak = speak
        anchor = order.anchor if order.machine == this_machine() else clock.anchor()
        self.station = Station(
            clock.steady_clock(anchor),
            self._fatal,
            call,
            mailbox_capacity=order.mailbox_capacity,
            fell=self._fell,
            rose=lambda name, incarnation: None,
            news=order.news,
            host=order.host,
        )
        self.station.runtime.add(order.name, order.spec, incarnation=order.incarnation, adopting=order.adopting)

    def _fell(self, name: str, incarnation: int, error: Exception) -> bool:
        self.failure = f"{type(error).__name__}: {error}"
        self.station.halt()
        # Not from within the turn in which it fell: its ports may be at work.
        asyncio.get_running_loop().call_soon(self.drop)
        self._speak()
        return True

    def _fatal(self, error: Exception) -> None:
        raise AssertionError("whether an actor is started again is not decided here") from error

    def drop(self) -> None:
        """Close its ports and say nothing more."""
        self.station.halt()
        self.station.runtime.drop()

    async def end(self) -> None:
        self.station.halt()
        await self.station.runtime.stop()
        self.station.runtime.drop()


class _Teller(logging.Handler):
    """Keeps what is logged until the supervisor listens, which logs it as its own."""

    def __init__(self, lines: deque[LogLine], speak: Callable[[], None]) -> None:
        super().__init__()
        self._lines = lines
        self._speak = speak

    def emit(self, record: logging.LogRecord) -> None:
        error = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self._lines.append(LogLine(record.created, record.levelno, record.name, record.getMessage(), error))
        if record.levelno >= logging.WARNING:
            self._speak()
