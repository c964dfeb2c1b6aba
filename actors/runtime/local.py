"""The local runtime: every actor in one process, on one asyncio loop.

Messages are encoded and decoded for real, so that no test passes on a shared object and no actor depends on where the
others run.  A message costs about 2 us of CPU, its encoding and decoding included, and a wake that changes nothing
0.1 us (measured on a 2-core machine by tests/runtimes/message_cost.py): no task, future or queue is made for it; what
was posted is handled in the same turn of the loop or in the next.

An actor that raises, in whatever the runtime asks of it, is replaced by a new one from its factory, at once or with a
growing delay (actors/supervisor.py).  The others are told that it fell and that it is back.  What it had not heard, and
what it had said and nobody had heard, is gone with it: its successor numbers its requests and connections anew, and
must not be taken for it.  What is sent to it while it is down waits.  Too many failures end the node: ``on_fatal`` is
called with an error that says which actor.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from actors.actor import Actor, Send
from actors.runtime.mailbox import Mailbox, MailboxFull
from actors.supervisor import RestartPolicy, Supervision
from protocol import messages
from protocol.codec import CodecError, Envelope, decode, encode

log = logging.getLogger(__name__)

#: Messages handled in one turn of the loop before sockets get their turn.
MESSAGE_BATCH: Final = 256

SUPERVISOR: Final = "supervisor"


class ActorFailed(Exception):
    """An actor failed more often than the settings allow."""


class _Cell:
    """An actor with its mailbox, its supervision and its timer."""

    __slots__ = ("actor", "after_handle", "factory", "mailbox", "name", "supervision", "timer", "timer_at")

    def __init__(
        self,
        name: str,
        factory: Callable[[], Actor],
        after_handle: Callable[[], None] | None,
        mailbox: Mailbox,
        supervision: Supervision,
    ) -> None:
        self.name = name
        self.factory = factory
        self.after_handle = after_handle
        self.mailbox = mailbox
        self.supervision = supervision
        self.actor: Actor | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at: float | None = None


class LocalRuntime:
    """See the module.  ``clock``: seconds since the Unix epoch, never going back."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_fatal: Callable[[Exception], None],
        *,
        mailbox_capacity: int = 10_000,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self.now = clock
        self._on_fatal = on_fatal
        self._mailbox_capacity = mailbox_capacity
        self._restarts = restarts or RestartPolicy()
        self._cells: dict[str, _Cell] = {}
        self._pending: deque[_Cell] = deque()
        self._scheduled = False
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.restarted = 0
        self.refused = 0
        self.expired = 0

    # What the wiring calls.

    def add(self, name: str, factory: Callable[[], Actor], after_handle: Callable[[], None] | None = None) -> None:
        """An actor made by ``factory``, now and after each failure.  ``after_handle``: called after each turn in which
        it handled something."""
        if name in self._cells:
            raise ValueError(f"there is an actor {name} already")
        mailbox = Mailbox(name, self._mailbox_capacity)
        self._cells[name] = _Cell(name, factory, after_handle, mailbox, Supervision(self._restarts))

    async def start(self) -> None:
        """Make the actors, in the order in which they were added."""
        self._loop = asyncio.get_running_loop()
        self._running = True
        for cell in self._cells.values():
            cell.actor = cell.factory()
        for cell in self._cells.values():
            self._set_timer(cell)
        if self._pending:
            self._schedule()

    async def stop(self) -> None:
        """Handle no more messages and no more deadlines."""
        self._running = False
        for cell in self._cells.values():
            if cell.timer is not None:
                cell.timer.cancel()
            cell.timer = cell.timer_at = None
            cell.actor = None

    # What ports call.

    def post(self, sender: str, receiver: str, message: Any, *, deadline: float = 0.0, traceparent: str = "") -> None:
        """Put ``message`` into ``receiver``'s inbox.  What cannot be taken is counted and logged by name.

        ``deadline``: Unix time from which on nobody waits for it: then it is dropped.  TypeError: not msgpack at all.
        """
        cell = self._cells.get(receiver)
        if cell is None:
            log.error("a message for %s, which is no actor of this node", receiver)
            return
        try:
            # Through the codec although it stays in this process: see the module.
            envelope = decode(encode(Envelope(sender, receiver, message, deadline, traceparent)))
            cell.mailbox.put(envelope)
        except (CodecError, MailboxFull) as error:
            self.refused += 1
            # Every first, second, fourth, eighth: whoever fills a mailbox does not fill the log too.
            if not self.refused & (self.refused - 1):
                log.warning(
                    "a message from %s to %s was refused (%d so far): %s", sender, receiver, self.refused, error
                )
            return
        self._pending.append(cell)
        self._schedule()

    def wake(self, name: str) -> None:
        """Something outside a message changed ``name``'s state: look at its deadline again."""
        self._set_timer(self._cells[name])

    def depth(self, name: str) -> int:
        """Messages that wait for ``name``."""
        return len(self._cells[name].mailbox)

    # Turns.

    def _schedule(self) -> None:
        if not self._scheduled and self._running and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        touched: dict[str, _Cell] = {}
        for _ in range(MESSAGE_BATCH):
            if not self._pending:
                break
            cell = self._pending.popleft()
            if cell.actor is None:
                continue  # it is down: its mail waits, and is looked at when it is back
            envelope = cell.mailbox.take()
            if envelope is None:
                continue
            now = self.now()
            if envelope.deadline and envelope.deadline <= now:
                self.expired += 1
                continue
            touched[cell.name] = cell
            try:
                self._deliver(cell.name, cell.actor.handle(envelope.message, now))
            except Exception as error:
                self._fell(cell, error)
        if self._pending:
            self._schedule()
        for cell in touched.values():
            self._after(cell)

    def _due(self, cell: _Cell) -> None:
        cell.timer = cell.timer_at = None
        if cell.actor is None or not self._running:
            return
        try:
            self._deliver(cell.name, cell.actor.handle_deadline(self.now()))
        except Exception as error:
            self._fell(cell, error)
            return
        self._after(cell)

    def _after(self, cell: _Cell) -> None:
        if cell.actor is None:
            return  # it fell in this turn; what its ports have to do is done when it is back
        if cell.after_handle is not None:
            try:
                cell.after_handle()
            except Exception as error:
                self._fell(cell, error)
                return
        self._set_timer(cell)

    def _deliver(self, sender: str, sends: list[Send]) -> None:
        for send in sends:
            self.post(sender, send.receiver, send.message)

    def _set_timer(self, cell: _Cell) -> None:
        """Keep one timer, for the actor's next deadline; one that is early enough is left alone."""
        if cell.actor is None or self._loop is None or not self._running:
            return
        try:
            deadline = cell.actor.next_deadline()
        except Exception as error:
            self._fell(cell, error)
            return
        if deadline is None:
            return
        if cell.timer is not None:
            assert cell.timer_at is not None
            if cell.timer_at <= deadline:
                return
            cell.timer.cancel()
        cell.timer_at = deadline
        cell.timer = self._loop.call_later(max(deadline - self.now(), 0.0), self._due, cell)

    # Failures.

    def _fell(self, cell: _Cell, error: Exception) -> None:
        log.error("actor %s failed: %s", cell.name, error, exc_info=error)
        if cell.timer is not None:
            cell.timer.cancel()
        cell.timer = cell.timer_at = None
        if cell.actor is not None:  # else it could not be started again, which nobody needs to hear twice
            cell.actor = None
            cell.mailbox.clear()
            for other in self._cells.values():
                other.mailbox.discard(cell.name)
            self._tell_others(cell, messages.ActorDown(cell.name))
        delay = cell.supervision.failed(self.now())
        if delay is None:
            policy = self._restarts
            self._on_fatal(
                ActorFailed(
                    f"actor {cell.name} failed {policy.max_restarts + 1} times within {policy.window:g} s "
                    f"(max_restarts, restart_window); the last error: {type(error).__name__}: {error}"
                )
            )
            return
        assert self._loop is not None
        self._loop.call_later(delay, self._restart, cell)

    def _restart(self, cell: _Cell) -> None:
        if not self._running:
            return
        try:
            cell.actor = cell.factory()
        except Exception as error:
            self._fell(cell, error)
            return
        self.restarted += 1
        log.warning("actor %s was started again", cell.name)
        self._tell_others(cell, messages.ActorUp(cell.name))
        self._pending.extend([cell] * len(cell.mailbox))
        self._schedule()
        self._after(cell)

    def _tell_others(self, cell: _Cell, message: messages.ActorDown | messages.ActorUp) -> None:
        for other in self._cells.values():
            if other is not cell:
                self.post(SUPERVISOR, other.name, message)
