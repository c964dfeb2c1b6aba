"""The local runtime: every actor in one process, on one asyncio loop.

Messages are encoded and decoded for real, so that no test passes on a shared object and no actor depends on where the
others run.  A message costs about 2 us of CPU, its encoding and decoding included, and a wake that changes nothing
0.1 us (measured on a 2-core machine by tests/runtimes/message_cost.py): no task, future or queue is made for it; what
was posted is handled in the same turn of the loop or in the next.

An actor that raises, in whatever the runtime asks of it, is replaced by a new one from its factory, at once or with a
growing delay (actors/supervisor.py).  The others are told that it fell and that it is back.  What it had not heard, and
what it had said and nobody had heard, is gone with it: its successor numbers its requests and connections anew, and
must not be taken for it.  What is sent to it while it is down waits; but a question comes back to who asked
(actors/runtime/questions.py).  Too many failures end the node: ``on_fatal`` is called with an error that says which
actor.

It is the whole of a node in one process, and a part of one in many (:class:`Beyond`): then what is said to an actor
that is not here goes out, and what is said there to one that is comes in by :meth:`LocalRuntime.take_in`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from actors.actor import Actor, Send
from actors.runtime.mailbox import Mailbox, MailboxFull
from actors.runtime.questions import OpenQuestions, Question
from actors.runtime.spec import HERE, ActorSpec, Part, Site, Surroundings
from actors.supervisor import RestartPolicy, Supervision
from protocol import messages
from protocol.codec import CodecError, Envelope, decode, encode
from tracing.tracer import AnyTracer, NullTracer

log = logging.getLogger(__name__)

#: Messages handled in one turn of the loop before sockets get their turn.
MESSAGE_BATCH: Final = 256

SUPERVISOR: Final = "supervisor"


class ActorFailed(Exception):
    """An actor failed more often than the settings allow."""


class Beyond(Protocol):
    """The rest of a node whose actors are in several processes, as the runtime of one of them sees it."""

    def names(self) -> tuple[str, ...]:
        """Actors that are elsewhere."""
        ...

    def send(self, receiver: str, envelope: bytes, *, control: bool) -> bool:
        """Carry it there.  False: there is no such actor.  MailboxFull."""
        ...

    def is_down(self, name: str) -> bool:
        """Whether it fell and is not back, as far as that is known here."""
        ...

    def fell(self, name: str, incarnation: int, error: Exception) -> bool:
        """An actor that is here fell.  True: whether it is started again is not decided here."""
        ...

    def rose(self, name: str, incarnation: int) -> None:
        """It was started again, here."""
        ...


class _Cell:
    """An actor with its ports, its mailbox, its supervision and its timer."""

    __slots__ = ("actor", "after_handle", "down", "factory", "incarnation", "mailbox", "name", "part", "supervision",
                 "timer", "timer_at", "tracer")  # fmt: skip

    def __init__(
        self,
        name: str,
        factory: Callable[[], Part],
        after_handle: Callable[[], None] | None,
        mailbox: Mailbox,
        supervision: Supervision,
        incarnation: int,
    ) -> None:
        self.name = name
        self.factory = factory
        self.after_handle = after_handle
        self.mailbox = mailbox
        self.supervision = supervision
        self.incarnation = incarnation
        self.actor: Actor | None = None
        self.down = False  # it fell, and is not back
        self.part: Part | None = None
        self.tracer: AnyTracer = NullTracer()
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at: float | None = None


class LocalRuntime:
    """See the module.  ``clock``: seconds since the Unix epoch, never going back.  ``tracer``: that of the actors,
    unless they have one of their own; it is told whose message is being handled."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_fatal: Callable[[Exception], None],
        *,
        mailbox_capacity: int = 10_000,
        restarts: RestartPolicy | None = None,
        beyond: Beyond | None = None,
        tracer: AnyTracer | None = None,
        host: Site = HERE,
    ) -> None:
        self.now = clock
        self._on_fatal = on_fatal
        self._mailbox_capacity = mailbox_capacity
        self._restarts = restarts or RestartPolicy()
        self._beyond = beyond
        self._tracer: AnyTracer = tracer if tracer is not None else NullTracer()
        self._host = host
        self._cells: dict[str, _Cell] = {}
        self._pending: deque[_Cell] = deque()
        self._questions = OpenQuestions()
        self._scheduled = False
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.restarted = 0
        self.refused = 0
        self.expired = 0

    # What the wiring calls.

    def add(
        self,
        name: str,
        source: Callable[[], Actor] | ActorSpec,
        after_handle: Callable[[], None] | None = None,
        *,
        incarnation: int = 1,
        adopting: bool = False,
    ) -> None:
        """An actor made by ``source``, now and after each failure.  ``after_handle``: called after each turn in which
        it handled something.  ``incarnation``: of the first; each successor's is greater by one.
        ``adopting``: the first takes over from another."""
        if name in self._cells:
            raise ValueError(f"there is an actor {name} already")

        def factory() -> Part:
            if isinstance(source, ActorSpec):
                others = tuple(other for other, cell in self._cells.items() if cell.actor is not None)
                return source.build(
                    Surroundings(
                        name=name,
                        now=self.now,
                        post=lambda send: self.post(name, send.receiver, send.message, traceparent=send.traceparent),
                        wake=lambda: self.wake(name),
                        waiting=lambda: self.depth(name),
                        host=self._host,
                        adopting=adopting and self._cells[name].incarnation == incarnation,
                        others=others + (self._beyond.names() if self._beyond is not None else ()),
                    )
                )
            return Part(source(), after_handle)

        mailbox = Mailbox(name, self._mailbox_capacity)
        self._cells[name] = _Cell(name, factory, after_handle, mailbox, Supervision(self._restarts), incarnation)

    async def start(self) -> None:
        """Make the actors, in the order in which they were added."""
        self._loop = asyncio.get_running_loop()
        self._running = True
        for cell in self._cells.values():
            self._make(cell)
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

    def drop(self) -> None:
        """Handle nothing more, and close the actors' ports at once."""
        self._running = False
        for cell in self._cells.values():
            part, cell.part = cell.part, None
            if part is not None and part.drop is not None:
                part.drop()

    async def close(self, grace: float) -> None:
        """Have the actors' ports take leave, within ``grace`` seconds; then :meth:`stop`."""
        parts = [cell.part for cell in self._cells.values() if cell.part is not None]
        await asyncio.gather(*(part.close(grace) for part in parts if part.close is not None))
        await self.stop()

    # What ports call.

    def post(self, sender: str, receiver: str, message: Any, *, deadline: float = 0.0, traceparent: str = "") -> None:
        """See Runtime.  TypeError: not msgpack at all."""
        said_by, cell = self._cells.get(sender), self._cells.get(receiver)
        incarnation = said_by.incarnation if said_by is not None else 0
        # Through the codec although it may stay in this process: see the module.
        encoded = encode(Envelope(sender, receiver, message, deadline, traceparent, incarnation))
        question: Question | None = None
        if deadline and said_by is not None and (number := getattr(message, "request_id", None)) is not None:
            question = Question(sender, number, deadline)
            if self._is_down(receiver):
                self._bring_back(receiver, question)
                return
        try:
            if cell is not None:
                self._put(cell, decode(encoded))
            elif self._beyond is None or not self._beyond.send(
                receiver, encoded, control=isinstance(message, messages.CONTROL)
            ):
                log.error("a message for %s, which is no actor of this node", receiver)
                if question is not None:
                    self._bring_back(receiver, question)
                return
        except (CodecError, MailboxFull) as error:
            self._refuse(sender, receiver, error)
            return
        if question is not None:
            self._questions.asked(receiver, question, self.now())

    def take_in(self, envelope: Envelope) -> None:
        """What an actor elsewhere said to one that is here.  MailboxFull is counted and logged."""
        cell = self._cells.get(envelope.receiver)
        if cell is None:
            log.error("a message for %s, which is not here", envelope.receiver)
            return
        try:
            self._put(cell, envelope)
        except MailboxFull as error:
            self._refuse(envelope.sender, envelope.receiver, error)

    def tell_all(self, notice: messages.ActorDown | messages.ActorUp) -> None:
        """An actor elsewhere fell, or is there: what it said and was not heard yet goes with it."""
        if isinstance(notice, messages.ActorDown):
            for cell in self._cells.values():
                cell.mailbox.discard(notice.actor)
        for name in self._cells:
            self.post(SUPERVISOR, name, notice)
        if isinstance(notice, messages.ActorDown):
            self._bring_all_back(notice.actor)

    def _is_down(self, name: str) -> bool:
        if (cell := self._cells.get(name)) is not None:
            return cell.down
        return self._beyond is not None and self._beyond.is_down(name)

    def _bring_back(self, receiver: str, question: Question) -> None:
        """Tell who asked that no answer will come, unless nobody waits for it any more."""
        undeliverable = messages.Undeliverable(receiver, question.number)
        self.post(SUPERVISOR, question.asker, undeliverable, deadline=question.deadline)

    def _bring_all_back(self, fallen: str) -> None:
        for question in self._questions.fell(fallen):
            self._bring_back(fallen, question)

    def _put(self, cell: _Cell, envelope: Envelope) -> None:
        cell.mailbox.put(envelope)
        self._pending.append(cell)
        self._schedule()

    def _refuse(self, sender: str, receiver: str, error: Exception) -> None:
        self.refused += 1
        # Every first, second, fourth, eighth: whoever fills a mailbox does not fill the log too.
        if not self.refused & (self.refused - 1):
            log.warning("a message from %s to %s was refused (%d so far): %s", sender, receiver, self.refused, error)

    def wake(self, name: str) -> None:
        """Something outside a message changed ``name``'s state: look at its deadline again."""
        self._set_timer(self._cells[name])

    def part(self, name: str) -> Part | None:
        """The actor with its ports; None: it is down."""
        return self._cells[name].part

    def depth(self, name: str) -> int:
        """Messages that wait for ``name``."""
        return len(self._cells[name].mailbox)

    def depths(self) -> dict[str, int]:
        """The same of all that are here."""
        return {name: len(cell.mailbox) for name, cell in self._cells.items()}

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
            if self._questions:
                # Only now: an answer that waits is lost if the one that gave it falls.
                self._questions.heard(envelope.sender, cell.name, envelope.message)
            touched[cell.name] = cell
            cell.tracer.current = envelope.traceparent
            try:
                self._deliver(cell.name, cell.actor.handle(envelope.message, now))
            except Exception as error:
                self._fell(cell, error)
        for cell in touched.values():
            cell.tracer.current = ""
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
            self.post(sender, send.receiver, send.message, traceparent=send.traceparent)

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

    def _make(self, cell: _Cell) -> None:
        if cell.part is not None and cell.part.drop is not None:
            cell.part.drop()
        cell.part = None
        cell.part = cell.factory()
        cell.after_handle = cell.part.after_handle
        cell.tracer = cell.part.tracer or self._tracer
        cell.actor = cell.part.actor
        cell.down = False

    def _fell(self, cell: _Cell, error: Exception) -> None:
        log.error("actor %s failed: %s", cell.name, error, exc_info=error)
        cell.tracer.fell()
        if cell.timer is not None:
            cell.timer.cancel()
        cell.timer = cell.timer_at = None
        if cell.actor is not None:  # else it could not be started again, which nobody needs to hear twice
            cell.actor = None
            cell.down = True
            cell.mailbox.clear()
            for other in self._cells.values():
                other.mailbox.discard(cell.name)
            if self._beyond is not None and self._beyond.fell(cell.name, cell.incarnation, error):
                return
            self._tell_others(cell, messages.ActorDown(cell.name))
            self._bring_all_back(cell.name)
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
            cell.incarnation += 1
            self._make(cell)
        except Exception as error:
            self._fell(cell, error)
            return
        self.restarted += 1
        if self._beyond is not None:
            self._beyond.rose(cell.name, cell.incarnation)
        log.warning("actor %s was started again", cell.name)
        self._tell_others(cell, messages.ActorUp(cell.name))
        self._pending.extend([cell] * len(cell.mailbox))
        self._schedule()
        self._after(cell)

    def _tell_others(self, cell: _Cell, message: messages.ActorDown | messages.ActorUp) -> None:
        for other in self._cells.values():
            if other is not cell:
                self.post(SUPERVISOR, other.name, message)
