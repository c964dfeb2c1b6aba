"""Supervision: which worker runs which actor, and what is done when one dies, hangs, or its actor raises.

    a killed process      the call that listens to it fails (10-20 ms)             its actor goes to the spare
    a stopped one         no heartbeat, and the system shows it as stopped         it is killed, then as above
    one that hangs        no heartbeat for ``heartbeat_timeout``                   the same
    an actor that raised  its worker says so                                       it is made anew in that worker

A spare worker is kept warm, so that a replacement takes milliseconds; when it is used, another is started.  All others
are told first that the actor fell and then that it, or its successor, is up.  Restarts are counted and delayed by
actors/supervisor.py; too many end the node.

What is planned is in succession.py.  Nothing here knows Ray: what it needs of it is :class:`crew.Processes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.runtime.crew import SPARE, Crew, Processes, Slot, log_again
from actors.runtime.directory import News, State
from actors.runtime.local import ActorFailed
from actors.runtime.spec import ActorSpec, Site
from actors.runtime.station import Station
from actors.runtime.worker import Heard, Order, this_machine
from actors.supervisor import RestartPolicy, Supervision

log = logging.getLogger(__name__)

#: Seconds that a new process has to answer: a loaded machine takes ten times the usual second.
START_TIMEOUT: Final = 60.0

#: Seconds that ending all processes may take.
KILL_TIMEOUT: Final = 1.0

#: Seconds between two looks whether a process is stopped.  Seen so twice, it is killed: one that is only being looked
#: at by a debugger for a moment is left alone.
LOOK: Final = 0.2


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """``heartbeat_interval``, ``heartbeat_timeout``: settings of the same name.  ``spares``: workers kept warm
    on each host."""

    heartbeat_interval: float = 1.0
    heartbeat_timeout: float = 5.0
    mailbox_capacity: int = 10_000
    spares: int = 1


class Fleet:
    """See the module.  ``home``: the station of this process.  ``at_home``: what workers are told of its actors."""

    def __init__(
        self,
        processes: Processes,
        home: Station,
        policy: FleetPolicy,
        restarts: RestartPolicy,
        clock: Callable[[], float],
        anchor: float,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self.processes = processes
        self._home = home
        self._policy = policy
        self._restarts = restarts
        self.clock = clock
        self._anchor = anchor
        self.on_fatal = on_fatal
        self.slots: dict[str, Slot] = {}
        #: Places that are no more: what was last there.
        self.former: dict[str, Slot] = {}
        self._spares: list[Crew] = []
        self.crews: set[Crew] = set()
        self._spare_failures = Supervision(restarts)
        self._tasks: set[asyncio.Task[None]] = set()
        self.running = False
        self._changed = asyncio.Event()
        self.at_home: dict[str, News] = {}
        self.restarted = 0
        self.refused = 0
        self.expired = 0

    # What the runtime calls.

    def add(self, name: str, spec: ActorSpec) -> None:
        self.slots[name] = Slot(name, spec, self.supervision())

    def __contains__(self, name: str) -> bool:
        return name in self.slots

    async def start(self) -> None:
        """Have every actor run; ActorFailed when one does not start."""
        self.running = True
        expected = [News(slot.name, slot.incarnation, State.EXPECTED) for slot in self.slots.values()]
        self._home.learn(expected)
        for slot in self.slots.values():
            await self.seat(slot)
        for slot in self.slots.values():
            if (failure := await self.assume(slot)) is not None:
                raise ActorFailed(f"actor {slot.name} could not be started: {failure}")
        for crew in list(self.crews):
            self.watch(crew)
        self.spawn(self._look_around())
        await self.warm_spares()

    async def stop(self, grace: float = 0.0) -> None:
        """Have every actor take leave, then end every process."""
        self.running = False
        for task in list(self._tasks):
            task.cancel()
        crews = [crew for crew in self.crews if not crew.lost and crew.slot is not None]
        await asyncio.gather(*(self.take_leave(crew, grace) for crew in crews))
        for crew in list(self.crews):
            if crew.watch is not None:
                crew.watch.cancel()
        await self.kill(list(self.crews))
        self.crews.clear()
        self._spares.clear()

    async def kill(self, crews: Sequence[Crew]) -> None:
        """End the processes, unless that takes long: Ray waits for a part of it that is gone, and what is to become of
        its processes then is decided elsewhere."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def kill() -> None:
            for crew in crews:
                crew.process.kill()
            with contextlib.suppress(RuntimeError):  # the loop was not waited for
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=kill, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), KILL_TIMEOUT)

    async def dismiss(self, crew: Crew, grace: float | None = None) -> None:
        """It is not needed any more.  ``grace``: seconds that its actor has to take leave, None: it need not."""
        if grace is not None and not crew.lost:
            await self.take_leave(crew, grace)
        if not crew.lost:
            crew.lost = True
            self.crews.discard(crew)
            if crew.watch is not None:
                crew.watch.cancel()
            await self.kill([crew])

    async def renew_spares(self) -> None:
        """Have others in place of the spares: what they know of the code on disk may be old."""
        spares, self._spares = self._spares, []
        for crew in spares:
            await self.dismiss(crew)
        await self.warm_spares()

    def supervision(self) -> Supervision:
        """Of one more actor."""
        return Supervision(self._restarts)

    async def take_leave(self, crew: Crew, grace: float) -> None:
        try:
            await asyncio.wait_for(crew.process.call("close", grace), grace + 1.0)
        except Exception as error:  # it ended by itself, or hangs: it is killed next
            log.debug("a worker did not take leave: %s", error)

    def waiting(self, name: str) -> int:
        """Messages in the mailbox of the actor, when its worker was last heard."""
        for slot in self.slots.values():
            if slot.name == name and slot.crew is not None:
                return slot.crew.last.waiting
        return 0

    def pids(self) -> dict[str, int]:
        """The process of each actor that is up, and of each spare."""
        found = {
            slot.name: slot.crew.about.pid
            for slot in self.slots.values()
            if slot.up and slot.crew is not None and slot.crew.about is not None
        }
        spares = [crew.about.pid for crew in self._spares if crew.about is not None and crew.ready.is_set()]
        return found | {f"{SPARE}/{index}": pid for index, pid in enumerate(spares)}

    async def settled(self) -> None:
        """Until every actor is up and the spares are warm."""
        while not all(slot.up for slot in self.slots.values()) or not (
            len(self._spares) >= self._policy.spares and all(crew.ready.is_set() for crew in self._spares)
        ):
            self._changed.clear()
            await self._changed.wait()

    def tell(self, news: News) -> None:
        """What became of an actor of this process."""
        self.at_home[news.name] = news
        for slot in self.slots.values():
            if slot.crew is not None and slot.crew.ready.is_set():
                self.spawn(self._tell_one(slot.crew, [news]))

    # Processes.

    def hire(self, host: Site) -> Crew:
        crew = Crew(self.processes.start(host))
        self.crews.add(crew)
        return crew

    async def warm_spares(self) -> None:
        """On each host as many as there are to be: a spare elsewhere would leave this one with less than its share."""
        for host in await self.processes.hosts():
            while self.running and sum(crew.process.host == host for crew in self._spares) < self._policy.spares:
                crew = self.hire(host)
                self._spares.append(crew)
                self.watch(crew)

    async def seat(self, slot: Slot) -> Crew:
        """Give the slot a process: a spare that is warm, one that is getting warm, or a new one."""
        slot.host = self.place(slot, await self.processes.hosts())
        spares = [crew for crew in self._spares if crew.process.host == slot.host]
        spares.sort(key=lambda crew: not crew.ready.is_set())
        if spares:
            crew = spares[0]
            self._spares.remove(crew)
        else:
            crew = self.hire(slot.host)
        slot.crew, crew.slot = crew, slot
        return crew

    def place(self, slot: Slot, hosts: Sequence[Site]) -> Site:
        """Where there are fewest of its kind; where it was before, if that is one of those."""
        if slot.spec.at_home:
            return hosts[0]
        others = [other.host for other in self.slots.values() if other is not slot and not other.spec.at_home]
        return min(hosts, key=lambda host: (others.count(host), host != slot.host))

    def watch(self, crew: Crew) -> None:
        if crew.watch is None:
            crew.watch = asyncio.get_running_loop().create_task(self._listen(crew))

    async def _meet(self, crew: Crew) -> None:
        """Until the process answers; raises when it does not."""
        if not crew.ready.is_set():
            crew.about = await asyncio.wait_for(crew.process.call("about"), START_TIMEOUT)
            crew.ready.set()
            self._changed.set()

    async def _listen(self, crew: Crew) -> None:
        """To what a worker says, until it is lost."""
        policy = self._policy
        try:
            await self._meet(crew)
        except Exception as error:
            log.debug("a worker did not start: %s", error)
            self.lose(crew, f"its process did not start: {type(error).__name__}")
            return
        try:
            while not crew.lost:
                async with asyncio.timeout(policy.heartbeat_interval + policy.heartbeat_timeout):
                    heard: Heard = await crew.process.call("listen", policy.heartbeat_interval)
                self._heard(crew, heard)
        except TimeoutError:
            reason = f"it gave no sign for {policy.heartbeat_timeout:g} s (heartbeat_timeout)"
            self.lose(crew, reason, hangs=True)
        except Exception as error:
            log.debug("a worker is lost: %s", error)
            self.lose(crew, "its process ended")

    async def _look_around(self) -> None:
        """Look, all the time, whether a process is stopped: it cannot say so."""
        while self.running:
            await asyncio.sleep(LOOK)
            for crew in list(self.crews):
                crew.stopped = crew.stopped + 1 if self._is_stopped(crew) else 0
                if crew.stopped >= 2:
                    self.lose(crew, "its process was stopped", hangs=True)

    @staticmethod
    def _is_stopped(crew: Crew) -> bool:
        about = crew.about
        if about is None or about.machine != this_machine():
            return False
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{about.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def _heard(self, crew: Crew, heard: Heard) -> None:
        for line in heard.lines:
            log_again(crew, line)
        slot = crew.slot
        if slot is None or heard.incarnation != slot.incarnation:
            return
        before, crew.last = crew.last, heard
        if before.incarnation == heard.incarnation:
            self.refused += heard.refused - before.refused
            self.expired += heard.expired - before.expired
        self._home.take_in(heard.envelopes)
        if heard.fell is not None:
            self.fell(slot, heard.fell)

    def lose(self, crew: Crew, reason: str, *, hangs: bool = False) -> None:
        if crew.lost:
            return
        crew.lost = True
        crew.ready.set()  # whoever waits for it need not
        self.crews.discard(crew)
        about = crew.about
        if hangs and about is not None and about.machine == this_machine():
            # Ray asks a process to end itself, which this one does not hear.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(about.pid, signal.SIGKILL)
        if not self.running:
            return
        self.spawn(self.kill([crew]))
        if crew in self._spares:
            self._spares.remove(crew)
            self._spare_lost(reason)
        elif crew.slot is not None and crew.slot.crew is crew:
            slot, crew.slot.crew = crew.slot, None
            self.fell(slot, reason)

    def _spare_lost(self, reason: str) -> None:
        log.warning("a spare worker is gone: %s", reason)
        delay = self._spare_failures.failed(self.clock())
        if delay is None:
            self.on_fatal(ActorFailed(f"worker processes do not stay: {reason} (max_restarts, restart_window)"))
            return
        asyncio.get_running_loop().call_later(delay, lambda: self.spawn(self.warm_spares()))

    # Actors.

    def fell(self, slot: Slot, reason: str) -> None:
        if slot.succession is not None:
            slot.succession.fell(slot, reason)
            return
        if slot.up:
            slot.up = False
            log.error("actor %s failed: %s", slot.name, reason)
            state = State.GONE if slot.spec.renamed else State.FALLEN
            self.announce(News(slot.name, slot.incarnation, state))
        delay = slot.supervision.failed(self.clock())
        if delay is None:
            policy = self._restarts
            self.on_fatal(
                ActorFailed(
                    f"actor {slot.name} failed {policy.max_restarts + 1} times within {policy.window:g} s "
                    f"(max_restarts, restart_window); the last error: {reason}"
                )
            )
            return
        slot.begin(slot.next_generation())
        self.spawn(self._replace(slot, slot.incarnation, delay))

    async def _replace(self, slot: Slot, incarnation: int, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        if slot.crew is None or slot.crew.lost:
            self.watch(await self.seat(slot))
        failure = await self.assume(slot)
        # Spares only now: starting one takes the processor that the replacement needs.
        self.spawn(self.warm_spares())
        if slot.incarnation != incarnation:
            return  # its process was lost meanwhile, and that was seen to
        if failure is not None:
            if slot.crew is not None:  # else it fell because its process did, which is seen elsewhere
                self.fell(slot, failure)
            return
        self.restarted += 1
        log.warning("actor %s was started again", slot.name)

    async def assume(self, slot: Slot, *, adopting: bool = False) -> str | None:
        """Have the slot's worker run its actor, and tell all others; what went wrong.  ``adopting``: it is going to
        take over from another."""
        crew = slot.crew
        assert crew is not None
        try:
            if crew.watch is None:
                await self._meet(crew)
            else:
                await crew.ready.wait()
            if crew.lost or slot.crew is not crew:
                return "its process ended"
            # What is announced from here on reaches the worker behind the order.
            order = Order(
                name=slot.name,
                incarnation=slot.incarnation,
                spec=slot.spec,
                news=tuple(self._known(slot)),
                mailbox_capacity=self._policy.mailbox_capacity,
                anchor=self._anchor,
                machine=this_machine(),
                host=crew.process.host,
                adopting=adopting,
            )
            failure: str | None = await crew.process.call("assume", order)
        except Exception as error:
            return f"its process ended: {type(error).__name__}"
        if failure is None and slot.crew is crew and slot.incarnation == order.incarnation:
            slot.up = True
            self.announce(News(slot.name, slot.incarnation, State.UP, crew.process.where))
            self._changed.set()
        return failure

    def _known(self, but: Slot) -> list[News]:
        """What a new worker is told of all others."""
        elsewhere = [
            News(
                slot.name,
                slot.incarnation,
                State.UP if slot.up else State.EXPECTED,
                slot.crew.process.where if slot.up and slot.crew is not None else None,
            )
            for slot in self.slots.values()
            if slot is not but
        ]
        return [*self.at_home.values(), *elsewhere]

    def announce(self, news: News) -> None:
        self._home.learn([news])
        for slot in self.slots.values():
            if slot.name != news.name and slot.crew is not None and slot.crew.ready.is_set():
                self.spawn(self._tell_one(slot.crew, [news]))

    async def _tell_one(self, crew: Crew, news: Sequence[News]) -> None:
        try:
            await crew.process.call("learn", tuple(news))
        except Exception as error:  # lost: whoever listens to it sees to it
            log.debug("a worker was not told: %s", error)

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_fatal(ActorFailed(f"supervision failed: {type(error).__name__}: {error}"))
