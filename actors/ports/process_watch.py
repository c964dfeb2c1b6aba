"""What a process tells of itself, for metrics: how late its event loop is, its CPU time, memory and open files.

The loop is looked at twice a second; a report leaves every two seconds.  Together they cost about 0.1 ms a second, and
nothing runs when there is no metrics port.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from actors.actor import Send
from protocol.messages import ProcessMetrics
from tracing.metrics import LAG_BOUNDS, Histogram

TICK: Final = 0.5
TICKS_A_REPORT: Final = 4

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class ProcessWatch:
    """``process``: its name among the node's.  ``mailboxes``: messages that wait, by actor; ``messages``: refused and
    expired so far; ``spans``: by what became of them.  ``metrics``: the actor that is told."""

    def __init__(
        self,
        process: str,
        post: Callable[[Send], None],
        *,
        metrics: str,
        mailboxes: Callable[[], Mapping[str, int]],
        messages: Callable[[], tuple[int, int]] = lambda: (0, 0),
        spans: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._process = process
        self._post = post
        self._metrics = metrics
        self._mailboxes = mailboxes
        self._messages = messages
        self._spans = spans
        self._lag = Histogram(LAG_BOUNDS)
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self._schedule()
        self.report()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def report(self) -> None:
        refused, expired = self._messages()
        self._post(
            Send(
                self._metrics,
                ProcessMetrics(
                    process=self._process,
                    cpu_seconds=time.process_time(),
                    resident_bytes=_resident(),
                    open_files=_open_files(),
                    lag=self._lag.message(),
                    mailboxes=dict(self._mailboxes()),
                    refused=refused,
                    expired=expired,
                    spans=dict(self._spans()),
                ),
            )
        )

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + TICK
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._lag.observe(max(asyncio.get_running_loop().time() - self._due, 0.0))
        self._schedule()
        self._ticks += 1
        if self._ticks % TICKS_A_REPORT == 0:
            self.report()


def _resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:  # no Linux: not known
        return 0


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
