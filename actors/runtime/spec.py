"""What an actor is made of, said so that any process can make it: a name to import, and arguments.

    ActorSpec("actors.parts:relay_server", {"policy": policy})

The builder is called with the actor's :class:`Surroundings` and those arguments, where the actor is to live, and gives
back the actor alone, or a :class:`Part`: the actor with the ports that it lives on.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from actors.actor import Actor, Send
from tracing.tracer import AnyTracer


@dataclass(frozen=True, slots=True)
class Site:
    """Where processes are.  ``name``: of its own for each host of a cluster.  ``address``: the IP address at which the
    others reach it, "": there are no others."""

    name: str = ""
    address: str = ""


HERE: Final = Site()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a builder is told of the place where its actor is to live.

    ``adopting``: it is going to take over from another (Part.take_in), and takes nothing from elsewhere before.
    ``others``: the names of the actors that run already.  ``post``: says something in the actor's name.
    ``wake``: something outside a message changed the actor's state.  ``waiting``: messages in its mailbox.
    """

    name: str
    now: Callable[[], float]
    post: Callable[[Send], None]
    wake: Callable[[], None]
    host: Site = HERE
    adopting: bool = False
    others: tuple[str, ...] = ()
    waiting: Callable[[], int] = lambda: 0


@dataclass(frozen=True, slots=True)
class Part:
    """An actor with its ports.

    ``after_handle``: called after each turn in which it handled something.  ``close``: takes leave of whoever is at
    its ports, within so many seconds.  ``drop``: closes the ports at once, for the actor fell.  ``tracer``: the
    actor's, which is told whose message it is handling.

    ``hand_over``: passes all that it has to the actor of that name, at the other end of the socket, which has
    ``take_in`` for it and is told the name of this one; that tells how it went, for a program, with "broken" when it
    ended midway.  Both raise when nothing came of it; what each has then is its own.
    """

    actor: Actor
    after_handle: Callable[[], None] | None = None
    close: Callable[[float], Awaitable[None]] | None = None
    drop: Callable[[], None] | None = None
    tracer: AnyTracer | None = None
    hand_over: Callable[[socket.socket, str], Awaitable[None]] | None = None
    take_in: Callable[[socket.socket, str], Awaitable[Mapping[str, Any]]] | None = None


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """``builder``: "package.module:name".  ``arguments``: whatever can be pickled; they may be secret, and are not
    printed.  ``renamed``: an actor that takes the place of one that fell has a name of its own, ``name.1``, so that
    nothing that was said to or by the former is mistaken (a runtime in one process needs no such care).  ``at_home``:
    it lives on the host of the node's own process; ``with_node``: and in that process."""

    builder: str
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    renamed: bool = False
    at_home: bool = False
    with_node: bool = False

    def build(self, surroundings: Surroundings) -> Part:
        """Make the actor.  Whatever the builder raises."""
        module, _, name = self.builder.partition(":")
        made = getattr(importlib.import_module(module), name)(surroundings, **self.arguments)
        return made if isinstance(made, Part) else Part(made)


class Runtime(Protocol):
    """What every runtime offers to the wiring and to ports.

    ``restarted``, ``refused``, ``expired``: actors that were started again; messages that were not taken because a
    mailbox was full or the message was none; messages that were dropped because nobody waited for them any more.
    """

    now: Callable[[], float]

    @property
    def restarted(self) -> int: ...

    @property
    def refused(self) -> int: ...

    @property
    def expired(self) -> int: ...

    def add(
        self, name: str, source: Callable[[], Actor] | ActorSpec, after_handle: Callable[[], None] | None = None
    ) -> None:
        """An actor, before the start.  One that is given as a function lives in this process."""
        ...

    async def start(self) -> None:
        """Make the actors, in the order in which they were added."""
        ...

    async def stop(self) -> None:
        """Handle no more messages and no more deadlines."""
        ...

    def post(self, sender: str, receiver: str, message: Any, *, deadline: float = 0.0, traceparent: str = "") -> None:
        """Put ``message`` into ``receiver``'s inbox.  What cannot be taken is counted and logged by name.

        ``deadline``: Unix time from which on nobody waits for it: then it is dropped, and counted.  A message that has
        one, and a ``request_id``, is a question: if ``receiver`` is down, or falls before it has answered, the actor
        ``sender`` is told at once (messages.Undeliverable).  A message without one waits for the successor.
        """
        ...

    def wake(self, name: str) -> None:
        """Something outside a message changed ``name``'s state: look at its deadline again.  For actors here."""
        ...

    def depth(self, name: str) -> int:
        """Messages that wait for ``name``, as far as that is known here."""
        ...
