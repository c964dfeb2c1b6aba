"""The metrics of a node: the actor that adds them up, the port where they are read, and what both need.

RelayServer and the actors of the network are asked when somebody looks; forwarders and processes tell by themselves.
This module, and what it imports, is loaded only when there is a metrics port.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from actors.actor import Send
from actors.metrics import RELAY_SERVER, Metrics
from actors.network_names import counting
from actors.ports.addresses import BindError
from actors.ports.exposition import CONTENT_TYPE, exposition
from actors.ports.metrics_http import MetricsServer
from actors.ports.process_watch import ProcessWatch
from actors.runtime.spec import Runtime
from actors.self_description import AGENT
from actors.settings import BY_MODE, Settings
from protocol import messages

log = logging.getLogger(__name__)

METRICS: Final = "metrics"

#: Seconds that RelayServer has to say how it is before the figures are given without its own.
STATUS_PATIENCE: Final = 0.5

#: How often, and how many seconds apart, a port is tried that another process is leaving.
PORT_TRIES: Final = 300
PORT_PAUSE: Final = 0.2

_LIMITS: Final = ("max_connections", "max_circuits", "max_reservations")


class NodeMetrics:
    """``add`` it before the runtime starts, ``start`` it afterwards.  ``mailboxes``: of the actors in this process;
    ``spans``: of its exporter."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        mailboxes: Callable[[], Mapping[str, int]],
        spans: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._actor = Metrics()
        self._numbers = itertools.count(1)
        self._counting = counting(settings)
        #: Whether RelayServer answered.
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._server = MetricsServer(self.page, CONTENT_TYPE)
        self._watch = ProcessWatch(
            "node",
            self._post,
            metrics=METRICS,
            mailboxes=mailboxes,
            messages=lambda: (runtime.refused, runtime.expired),
            spans=spans,
        )

    def add(self) -> None:
        self._runtime.add(METRICS, self._make, after_handle=self._handled)

    async def start(self, *, patient: bool = False) -> None:
        """BindError when the port cannot be had; ``patient``: it is waited for, for another process will leave it.  So
        is one that nobody chose."""
        self._watch.start()
        try:
            await self._listen()
        except BindError:
            if not patient and self._settings.origin["metrics_port"] != BY_MODE:
                raise
            self._listening = asyncio.get_running_loop().create_task(self._wait_for_port())

    async def close(self) -> None:
        self._watch.stop()
        if self._listening is not None:
            self._listening.cancel()
        await self._server.close()

    async def _listen(self) -> None:
        settings = self._settings
        try:
            await self._server.start(settings.metrics_listen, settings.metrics_port)
        except OSError as error:
            raise BindError(
                f"metrics_port = {settings.metrics_port} at {settings.metrics_listen}: {error.strerror}; "
                "choose another with --metrics-port"
            ) from error

    async def _wait_for_port(self) -> None:
        for _ in range(PORT_TRIES):
            await asyncio.sleep(PORT_PAUSE)
            with contextlib.suppress(BindError):
                await self._listen()
                return
        log.warning("there are no metrics: somebody else has port %d", self._settings.metrics_port)

    async def page(self) -> bytes:
        """The figures, as text."""
        answered, *_ = await asyncio.gather(
            self._ask(RELAY_SERVER, messages.StatusAsked),
            *(self._ask(actor, messages.CountsAsked) for actor in self._counting),
        )
        snapshot = self._actor.snapshot()
        if not answered:
            snapshot = replace(snapshot, status=None)
        limits = {name: float(getattr(self._settings, name)) for name in _LIMITS}
        return exposition(snapshot, version=AGENT.partition("/")[2], limits=limits)

    async def _ask(self, actor: str, question: Callable[[int, str], messages.Message]) -> bool:
        """Whether ``actor`` answered."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._runtime.post(METRICS, actor, question(number, METRICS), deadline=self._runtime.now() + STATUS_PATIENCE)
        try:
            async with asyncio.timeout(STATUS_PATIENCE):
                return bool(await waiting)
        except TimeoutError:
            return False
        finally:
            del self._waiting[number]

    def _make(self) -> Metrics:
        self._actor = Metrics()
        return self._actor

    def _handled(self) -> None:
        for numbers, answered in ((self._actor.answered, True), (self._actor.unanswered, False)):
            for number in numbers:
                if (waiting := self._waiting.get(number)) is not None and not waiting.done():
                    waiting.set_result(answered)
            numbers.clear()

    def _post(self, send: Send) -> None:
        self._runtime.post(METRICS, send.receiver, send.message)
