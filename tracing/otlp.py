"""Spans leave the process: OTLP over gRPC or HTTP, by the OpenTelemetry SDK's exporters, in a thread of their own.

The loop only appends to a bounded queue; what does not fit is dropped and counted.  The thread makes batches, so that
it wakes at most once in ``delay`` seconds unless there is much to send, and never when there is nothing.

Nothing of OpenTelemetry is imported before :func:`exporter_from` is called, and that is not before an endpoint is set.
Everything about the connection is the SDK's affair, by the standard variables:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tracing.tracer import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"

_EXPORTERS: Final = {
    GRPC: "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    HTTP: "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}

#: Where the standard says 2,048 spans and 5 s: a relay ends many circuits at once when a popular peer leaves.  A span
#: that waits takes about 1 KiB.
DEFAULT_QUEUE: Final = 16_384
DEFAULT_BATCH: Final = 512
DEFAULT_DELAY_MS: Final = 1_000

#: Nanoseconds that a span takes at least.  An actor knows one time while it handles a message, so a decision takes
#: none; and Jaeger, which counts in microseconds, warns of a span without a length.
SHORTEST: Final = 1_000


class ExportError(Exception):
    """Traces were asked for and cannot be exported: the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What the standard variables ask for.  ``queue``, ``batch``: spans; ``delay``: seconds."""

    endpoint: str
    protocol: str
    queue: int = DEFAULT_QUEUE
    batch: int = DEFAULT_BATCH
    delay: float = DEFAULT_DELAY_MS / 1000

    @property
    def modules(self) -> tuple[str, ...]:
        """What an exporter imports: a process that will need it can do so beforehand."""
        return ("opentelemetry.sdk.trace", _EXPORTERS[self.protocol])


def export_plan(environ: Mapping[str, str]) -> ExportPlan | None:
    """None when nothing is to be exported.  ExportError when a variable is wrong."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return None
    endpoint = _first(environ, ENDPOINTS)
    if not endpoint:
        return None
    protocol = _first(environ, PROTOCOLS) or HTTP
    if protocol not in (GRPC, HTTP):
        raise ExportError(f"OTEL_EXPORTER_OTLP_PROTOCOL = {protocol}: allowed is {GRPC} or {HTTP}")
    return ExportPlan(
        endpoint=endpoint,
        protocol=protocol,
        queue=_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE),
        batch=_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH),
        delay=_number(environ, "OTEL_BSP_SCHEDULE_DELAY", DEFAULT_DELAY_MS) / 1000,
    )


def _first(environ: Mapping[str, str], names: Sequence[str]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 10_000_000:
        raise ExportError(f"{name} = {text}: allowed is a whole number from 1 to 10000000")
    return int(text)


class ExportThread:
    """See the module.  ``send`` takes a batch and says whether it was taken; ``shut`` has it give up.

    ``exported``, ``dropped``, ``failed``: spans that were taken, that found the queue full or the node stopped, and
    that the receiver did not take.
    """

    def __init__(
        self,
        plan: ExportPlan,
        send: Callable[[list[Span]], bool],
        shut: Callable[[], None] = lambda: None,
    ) -> None:
        self.exported = 0
        self.dropped = 0
        self.failed = 0
        self._plan = plan
        self._send = send
        self._shut = shut
        self._queue: deque[Span] = deque()
        self._some = threading.Event()
        self._enough = threading.Event()
        self._stopping = False
        # A daemon: a receiver that does not answer must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, span: Span) -> None:
        """Take a span; about 0.3 us, and it never waits."""
        queue = self._queue
        if len(queue) >= self._plan.queue or self._stopping:
            self.dropped += 1
            return
        queue.append(span)
        if len(queue) == 1:
            self._some.set()
        elif len(queue) == self._plan.batch:
            self._enough.set()

    def stop(self, timeout: float) -> None:
        """Send what waits, for at most ``timeout`` seconds; what is left then is dropped.  Blocks."""
        self._stopping = True
        self._enough.set()
        self._some.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._thread.is_alive():
            self.dropped += len(self._queue)
            log.warning("the receiver of traces does not answer: %d spans were not sent", len(self._queue))
            self._queue.clear()
        self._shut()

    def _run(self) -> None:
        while True:
            self._some.wait()
            if not self._stopping:
                self._enough.wait(self._plan.delay)
            self._some.clear()
            self._enough.clear()
            while batch := self._take():
                self._send_batch(batch)
            if self._stopping and not self._queue:
                return
            if self._stopping:
                self._some.set()

    def _take(self) -> list[Span]:
        batch: list[Span] = []
        while self._queue and len(batch) < self._plan.batch:
            batch.append(self._queue.popleft())
        return batch

    def _send_batch(self, batch: list[Span]) -> None:
        try:
            taken = self._send(batch)
            reason = ""
        except Exception as error:  # whatever an exporter raises: the relay goes on, and says so
            taken, reason = False, f": {type(error).__name__}"
        if taken:
            self.exported += len(batch)
            return
        before, self.failed = self.failed, self.failed + len(batch)
        # The first, and then as they double: a receiver that is away for a day is not a log of a day.
        if before.bit_length() != self.failed.bit_length():
            log.warning("%d spans could not be exported to the OTLP endpoint so far%s", self.failed, reason)


def check_exporter(plan: ExportPlan) -> None:
    """ExportError when what ``plan`` needs is not installed."""
    for module in plan.modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # not even the package that it is in
            found = False
        if not found:
            raise ExportError(
                f"{' or '.join(name for name in ENDPOINTS if os.environ.get(name))} asks for traces, which need more "
                f"packages: pip install 'descord-relay[otel]' ({module} is missing)"
            )


def exporter_from(plan: ExportPlan, version: str, instance: str) -> ExportThread:
    """The SDK's exporter for ``plan`` in its thread, not started.  ``instance``: names this process among others of
    the service, and says nothing else.  ExportError when the extra is not installed or a variable is wrong."""
    check_exporter(plan)
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    try:
        exporter: SpanExporter = importlib.import_module(_EXPORTERS[plan.protocol]).OTLPSpanExporter()
    except (ValueError, OSError) as error:
        raise ExportError(f"the OTLP exporter cannot be made: {error}") from error
    # They log each failure with the endpoint; ours says it once, without.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    defaults = {"service.name": "descord-relay", "service.version": version, "service.instance.id": instance}
    resource = Resource(defaults).merge(OTELResourceDetector().detect())
    build = SpanBuilder(resource, version)

    def send(batch: list[Span]) -> bool:
        return exporter.export([build(span) for span in batch]).value == 0  # SpanExportResult.SUCCESS

    return ExportThread(plan, send, exporter.shutdown)


class SpanBuilder:
    """Our record as the SDK's; about 15 us, in the exporter's thread."""

    def __init__(self, resource: Any, version: str) -> None:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        self._resource = resource
        self._scope = InstrumentationScope("descord-relay", version)
        self._event = Event
        self._span = ReadableSpan
        self._context = SpanContext
        self._flags = TraceFlags(TraceFlags.SAMPLED)
        self._kind = SpanKind.INTERNAL
        self._status = Status
        self._codes = StatusCode

    def __call__(self, span: Span) -> Any:
        trace_id = int.from_bytes(span.trace_id, "big")
        parent = None
        if span.parent_id:
            parent = self._context(trace_id, int.from_bytes(span.parent_id, "big"), False, self._flags)
        return self._span(
            name=span.name,
            context=self._context(trace_id, int.from_bytes(span.span_id, "big"), False, self._flags),
            parent=parent,
            resource=self._resource,
            attributes=_plain(span.attributes),
            events=[self._event(event.name, _plain(event.attributes), _ns(event.time)) for event in span.events],
            kind=self._kind,
            status=self._status(self._codes(int(span.status)), span.description or None),
            start_time=_ns(span.start),
            end_time=max(_ns(span.end_time), _ns(span.start) + SHORTEST),
            instrumentation_scope=self._scope,
        )


def _plain(attributes: Mapping[str, Any]) -> Any:
    return dict(attributes)


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
