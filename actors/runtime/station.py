"""A process's place in a node of several processes: the actors that are here, and the ways to those elsewhere.

The supervisor's process has one, for the actors that live with it, and each worker has one while it holds an actor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from actors.runtime.directory import Directory, News, Notice, State
from actors.runtime.local import LocalRuntime
from actors.runtime.outlet import Call, Outlet
from actors.runtime.spec import HERE, Site
from actors.supervisor import RestartPolicy
from protocol import messages
from protocol.codec import CodecError, decode

log = logging.getLogger(__name__)


class Station:
    """See the module.

    ``fell(name, incarnation, error)``: an actor that is here fell; True: it is started again by somebody else.
    ``rose``: it was started again here.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_fatal: Callable[[Exception], None],
        call: Call,
        *,
        mailbox_capacity: int,
        restarts: RestartPolicy | None = None,
        fell: Callable[[str, int, Exception], bool],
        rose: Callable[[str, int], None],
        news: Iterable[News] = (),
        host: Site = HERE,
    ) -> None:
        self.fell = fell
        self.rose = rose
        self.directory = Directory(list(news))
        self.outlet = Outlet(self.directory, call, mailbox_capacity)
        self.runtime = LocalRuntime(
            clock, on_fatal, mailbox_capacity=mailbox_capacity, restarts=restarts, beyond=self, host=host
        )
        #: Words of former incarnations that were dropped.
        self.stale = 0

    # What the runtime of this process asks (actors.runtime.local.Beyond).

    def names(self) -> tuple[str, ...]:
        return self.directory.names()

    def send(self, receiver: str, envelope: bytes, *, control: bool) -> bool:
        return self.outlet.put(receiver, envelope, control=control)

    def is_down(self, name: str) -> bool:
        known = self.directory.find(name)
        return known is not None and known.state in (State.FALLEN, State.GONE)

    # What comes from elsewhere.

    def take_in(self, batch: Iterable[bytes]) -> None:
        """Envelopes for actors that are here."""
        for data in batch:
            try:
                envelope = decode(data)
            except CodecError as error:
                log.error("a message from another process of this node cannot be read: %s", error)
                continue
            fresh, notices = self.directory.heard(envelope.sender, envelope.incarnation)
            self._tell(notices)
            if fresh:
                self.runtime.take_in(envelope)
            else:
                self.stale += 1

    def learn(self, news: Iterable[News]) -> None:
        """What the supervisor knows of actors elsewhere."""
        for one in news:
            self._tell(self.directory.learn(one))
            self.outlet.moved(one.name)

    def _tell(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            if isinstance(notice, messages.ActorDown):
                self.outlet.fell(notice.actor)
            self.runtime.tell_all(notice)

    # Ends.

    def halt(self) -> None:
        """Say and hear no more."""
        self.outlet.close()

    def post(self, sender: str, receiver: str, message: Any, *, deadline: float = 0.0, traceparent: str = "") -> None:
        self.runtime.post(sender, receiver, message, deadline=deadline, traceparent=traceparent)
