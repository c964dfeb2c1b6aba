"""Worker processes and the places that they fill, as the supervisor knows them (actors/runtime/fleet.py)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from actors.runtime.spec import ActorSpec, Site
from actors.runtime.worker import About, Heard, LogLine
from actors.supervisor import Supervision

if TYPE_CHECKING:
    from actors.runtime.succession import Succession

SPARE: Final = "spare"


class Process(Protocol):
    """A process that runs a Worker.  ``where``: what other workers need to call it.  ``host``: where it is."""

    where: Any
    host: Site

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the Worker; raises when the process is or gets lost."""
        ...

    def kill(self) -> None:
        """End it, now."""
        ...


class Processes(Protocol):
    """Where processes come from."""

    async def hosts(self) -> Sequence[Site]:
        """Those that can take one now; the first is this process's own."""
        ...

    def start(self, host: Site) -> Process:
        """A new one, there."""
        ...


class Crew:
    """A worker's process and what is known of it.  ``slot``: whose actor it runs, None: it is spare."""

    __slots__ = ("about", "last", "lost", "process", "ready", "slot", "stopped", "watch")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.about: About | None = None
        self.slot: Slot | None = None
        self.ready = asyncio.Event()
        self.lost = False
        self.stopped = 0  # looks that found it so
        self.last = Heard()
        self.watch: asyncio.Task[None] | None = None


class Slot:
    """A place for an actor: it outlives those that fill it."""

    __slots__ = ("crew", "generation", "host", "incarnation", "last_generation", "name", "root", "spec", "succession",
                 "supervision", "up")  # fmt: skip

    def __init__(self, root: str, spec: ActorSpec, supervision: Supervision) -> None:
        self.root = root
        self.spec = spec
        self.supervision = supervision
        self.name = root
        self.generation = 0
        self.last_generation = 0  # of those that were tried
        self.incarnation = 1
        self.up = False
        self.crew: Crew | None = None
        self.host: Site | None = None  # where it is, or was last
        #: Its actor hands over, or takes over.
        self.succession: Succession | None = None

    def next_generation(self) -> int:
        """Of a successor: of the other parity, so that it and this one can be told apart by that while both live."""
        generation = self.last_generation + 1
        return generation if (generation - self.generation) % 2 else generation + 1

    def begin(self, generation: int) -> None:
        """From now on the actor here is another."""
        self.incarnation += 1
        self.generation = self.last_generation = generation
        if self.spec.renamed:
            self.name = f"{self.root}.{generation}"


def log_again(crew: Crew, line: LogLine) -> None:
    """What a worker logged, as if it were ours."""
    logger = logging.getLogger(line.source)
    if logger.isEnabledFor(line.level):
        name = crew.slot.name if crew.slot is not None else SPARE
        record = logger.makeRecord(line.source, line.level, "", 0, f"[{name}] {line.text}", (), None)
        record.created = line.created
        if line.error:
            record.exc_text = line.error
        logger.handle(record)
