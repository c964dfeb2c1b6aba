"""What a process of the node exports of its traces, and how its logs and traces hide who its peers are.

    telemetry_config(settings, environment)    once, where the node is started: it can be pickled
    Telemetry(config)                           in each process that runs actors

The key of the hashes is drawn here, so that all processes of a node show one peer in one way (tracing/redaction.py).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from actors.self_description import AGENT
from tracing.otlp import ExportPlan, ExportThread, export_plan, exporter_from
from tracing.redaction import KEY_SIZE, RedactionKey, Redactor, Scrubber
from tracing.sampling import Sampler, sampler_from
from tracing.tracer import AnyTracer, NullTracer, Tracer

if TYPE_CHECKING:
    from actors.settings import Settings

PREFIX: Final = "OTEL_"

#: Seconds that spans have to leave when the node stops, beside what is left of shutdown_grace.
FLUSH: Final = 0.3


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """``plan``: None when nothing is exported.  ``rotation``: seconds that a key lasts.  ``clear``: nobody is hidden.
    ``environ``: the standard variables, for processes that do not inherit them."""

    plan: ExportPlan | None
    sampler: Sampler
    key: RedactionKey = field(repr=False)
    rotation: float
    clear: bool
    environ: Mapping[str, str] = field(repr=False)


def telemetry_config(settings: Settings, environ: Mapping[str, str]) -> TelemetryConfig:
    """By the settings and the standard variables.  ExportError, SamplerError when one of those is wrong."""
    plan = export_plan(environ)
    return TelemetryConfig(
        plan=plan,
        sampler=sampler_from(environ, settings.trace_sampling) if plan is not None else Sampler(0.0),
        key=RedactionKey(os.urandom(KEY_SIZE), time.time()),
        rotation=settings.trace_key_rotation,
        clear=settings.trace_identities,
        environ={name: value for name, value in environ.items() if name.startswith(PREFIX)},
    )


class RandomPool:
    """Random bytes by the handful, for ids: a call of the system for each would be half of what a trace costs."""

    SIZE: Final = 4096

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._pool):
            self._pool = os.urandom(max(self.SIZE, size))
            start, self._at = 0, size
        return self._pool[start : self._at]


class Telemetry:
    """One process' tracer, and what takes its spans away.

    Making it imports the exporter, if there is anything to export; ExportError when that is not installed.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        self.redactor = Redactor(config.key, config.rotation, clear=config.clear)
        self.exporter: ExportThread | None = None
        self.tracer: AnyTracer = NullTracer()
        if config.plan is None:
            return
        for name, value in config.environ.items():
            os.environ.setdefault(name, value)
        version = AGENT.partition("/")[2]
        self.exporter = exporter_from(config.plan, version, instance=os.urandom(8).hex())
        self.tracer = Tracer(config.sampler, self.redactor, RandomPool().take, self.exporter.put)

    def start(self) -> None:
        if self.exporter is not None:
            self.exporter.start()

    async def stop(self, grace: float) -> None:
        """Send what waits, for at most ``grace`` seconds."""
        if self.exporter is not None:
            await asyncio.to_thread(self.exporter.stop, grace)

    def counts(self) -> dict[str, int]:
        """Spans so far: exported, dropped because too many waited, failed because nobody took them."""
        exporter = self.exporter
        if exporter is None:
            return {}
        return {"exported": exporter.exported, "dropped": exporter.dropped, "failed": exporter.failed}


_of_process: list[Telemetry] = []


def process_telemetry(config: TelemetryConfig) -> Telemetry:
    """That of this process, started, for whichever actors come to live in it."""
    if not _of_process:
        _of_process.append(Telemetry(config))
        _of_process[0].start()
    return _of_process[0]


def log_scrubber(config: TelemetryConfig, own: Iterable[str]) -> Scrubber:
    """For lines of the log.  ``own``: the node's own names and addresses, as its settings give them."""
    words = {word for text in own for word in text.split("/") if word}
    return Scrubber(Redactor(config.key, config.rotation, clear=config.clear), time.time, words)
