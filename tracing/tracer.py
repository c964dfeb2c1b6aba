"""Spans as actors make them: begun, given what is known, ended; and whether they are exported.

A trace is *recorded* when it began so (tracing/sampling.py): each of its spans is exported as it ends.  Any other is
*kept* from the moment that one of its spans here fails: what has ended is exported then, what is open as it ends.  If
none fails, all is forgotten when its last open span ends.  So errors and refusals are always seen, at any ratio.

Across processes: context travels as a traceparent, with the flag "sampled" for recorded traces.  A process that joins a
trace without the flag decides for its own part: it exports what failed here, with the ids that the others know.  Parts
of one trace in the same process (one :class:`Tracer`) are one.

A tracer has no clock and no loop.  ``now`` is an argument as everywhere; what is to be exported goes to a ``sink``, in
which no peer's name is left.  What they cost: tests/benchmarks/README.md, "Traces and metrics".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracing.context import SPAN_ID_SIZE, TRACE_ID_SIZE, TraceContext, decode_traceparent, encode_traceparent
from tracing.redaction import Redactor
from tracing.sampling import Sampler
from tracing.spans import MAX_EVENTS, MAX_TEXT, Event, Secret, SpanState, Status, Value

#: Spans of one unrecorded trace that wait for its end: more than a circuit has.
MAX_WAITING: Final = 64


#: Those of a span that has none yet: most spans are forgotten before.
_NO_ATTRIBUTES: Final[dict[str, Value]] = {}
_NO_EVENTS: Final[list[Event]] = []


class Trace:
    """The part of one trace that is in this process."""

    __slots__ = ("deferred", "kept", "open", "trace_id", "tracer", "waiting")

    def __init__(self, tracer: Tracer, trace_id: bytes, *, kept: bool) -> None:
        self.tracer = tracer
        self.trace_id = trace_id
        self.kept = kept
        self.open = 0
        self.waiting: list[Span] = []
        self.deferred: list[tuple[Span, Callable[[Span], None]]] = []


class Span:
    """One step.  ``parent_id``: b"" for the root.  ``end``: 0.0 while it is open.

    It is changed by whoever began it until it has ended, and by nobody afterwards.
    """

    __slots__ = ("_id", "attributes", "description", "end_time", "events", "name", "parent_id", "start", "status",
                 "trace")  # fmt: skip

    def __init__(self, trace: Trace, parent_id: bytes, name: str, start: float) -> None:
        self.trace = trace
        self.parent_id = parent_id
        self.name = name
        self.start = start
        self.end_time = 0.0
        self.attributes = _NO_ATTRIBUTES
        self.events = _NO_EVENTS
        self.status = Status.UNSET
        self.description = ""
        self._id = b""
        trace.open += 1

    @property
    def recording(self) -> bool:
        """Whether it is worth telling it things that take work to find out."""
        return self.trace.kept

    @property
    def trace_id(self) -> bytes:
        return self.trace.trace_id

    @property
    def span_id(self) -> bytes:
        """8 bytes; drawn when it is first needed, for most spans are forgotten."""
        if not self._id:
            self._id = self.trace.tracer.randomness(SPAN_ID_SIZE)
        return self._id

    @property
    def traceparent(self) -> str:
        """The context for a message that asks somebody for a part of this step."""
        return encode_traceparent(self.trace.trace_id, self.span_id, self.trace.kept)

    def child(self, name: str, now: float) -> Span:
        """A step within this one."""
        return Span(self.trace, self.span_id, name, now)

    def describe(self, describe: Callable[[Span], None]) -> None:
        """Have it told more, now or when it turns out that anybody will read it."""
        if self.trace.kept:
            describe(self)
        else:
            self.trace.deferred.append((self, describe))

    def set(self, key: str, value: Value) -> None:
        if isinstance(value, Secret):
            # Hidden at once if it will be exported, by the key of this time: so it is the same in the whole trace.
            if self.trace.kept:
                value = self.trace.tracer.redactor.show(value, self.start)
        elif isinstance(value, str):
            value = value[:MAX_TEXT]
        if self.attributes is _NO_ATTRIBUTES:
            self.attributes = {}
        self.attributes[key] = value

    def event(self, name: str, now: float, **attributes: Value) -> None:
        if self.events is _NO_EVENTS:
            self.events = []
        if len(self.events) < MAX_EVENTS:
            self.events.append(Event(name, now, attributes))

    def fail(self, description: str) -> None:
        """It is an error: the trace is kept.  ``description``: ours, never a peer's words."""
        self.status = Status.ERROR
        self.description = description[:MAX_TEXT]
        self.keep()

    def keep(self) -> None:
        """The trace failed elsewhere: this process' part of it is exported too."""
        if not self.trace.kept:
            self.trace.tracer.keep(self.trace)

    def end(self, now: float) -> None:
        """It is over; a second end changes nothing."""
        if self.end_time:
            return
        self.end_time = now if now > self.start else self.start
        trace = self.trace
        trace.open -= 1
        if trace.kept:
            trace.tracer.export(self)
        elif not trace.open:
            trace.tracer.forget(trace)
        elif len(trace.waiting) < MAX_WAITING:
            trace.waiting.append(self)

    def state(self) -> SpanState | None:
        """What another process needs to go on with it (:meth:`Tracer.resume`); None: it has ended."""
        if self.end_time:
            return None
        trace = self.trace
        for span, describe in trace.deferred:
            if span is self:
                describe(self)
        return SpanState(
            trace.trace_id, self.span_id, self.parent_id, self.name, self.start, trace.kept,
            self.attributes, self.events
        )  # fmt: skip

    def drop(self) -> None:
        """It goes on elsewhere, and is none of ours from now on."""
        if not self.end_time:
            self.end_time = self.start
            self.trace.open -= 1
            if not self.trace.open:
                self.trace.tracer.forget(self.trace)


class Tracer:
    """See the module.  ``randomness(n)``: n random bytes.  ``sink``: takes a span that ended, at once.

    ``current``: the traceparent of the message that is being handled, "": none; set by the runtime.
    """

    enabled: Final = True

    __slots__ = ("_open", "_sampler", "_sink", "current", "randomness", "redactor")

    def __init__(
        self,
        sampler: Sampler,
        redactor: Redactor,
        randomness: Callable[[int], bytes],
        sink: Callable[[Span], None],
    ) -> None:
        self.redactor = redactor
        self.randomness = randomness
        self.current = ""
        self._sampler = sampler
        self._sink = sink
        # By the trace id in hexadecimal, as a traceparent has it.
        self._open: dict[str, Trace] = {}

    @property
    def open_traces(self) -> int:
        """Unrecorded traces with an open span."""
        return len(self._open)

    def draw(self) -> tuple[bytes, bool]:
        """The ids of a new trace and its root, and whether it is recorded.  One that is not costs least when no span of
        it is made before something fails: :meth:`begin` then, with these ids and the times that were."""
        drawn = self.randomness(TRACE_ID_SIZE + SPAN_ID_SIZE)
        return drawn, self._sampler.records(drawn[:TRACE_ID_SIZE])

    def begin(self, name: str, now: float, drawn: bytes = b"") -> Span:
        """The root of a new trace; ``drawn``: its ids."""
        drawn = drawn or self.randomness(TRACE_ID_SIZE + SPAN_ID_SIZE)
        trace_id = drawn[:TRACE_ID_SIZE]
        span = Span(self._trace(trace_id, self._sampler.records(trace_id)), b"", name, now)
        span._id = drawn[TRACE_ID_SIZE:]
        return span

    def join(self, name: str, now: float, traceparent: str = "") -> Span:
        """A step of a trace that began elsewhere: in ``traceparent``, else in the message that is being handled.
        Without context it is a root."""
        text = traceparent or self.current
        trace = self._open.get(text[3:35])
        if trace is not None and text[-2:] == "00":
            # One of ours, as we wrote it.
            return Span(trace, bytes.fromhex(text[36:52]), name, now)
        context = decode_traceparent(text)
        return self.begin(name, now) if context is None else self.join_context(name, now, context)

    def join_context(self, name: str, now: float, context: TraceContext) -> Span:
        trace = self._open.get(context.trace_id.hex()) or self._trace(context.trace_id, context.sampled)
        if context.sampled and not trace.kept:
            self.keep(trace)
        return Span(trace, context.span_id, name, now)

    def resume(self, state: SpanState) -> Span:
        """A span that began in another process and left it."""
        trace = self._open.get(state.trace_id.hex()) or self._trace(state.trace_id, state.kept)
        if state.kept and not trace.kept:
            self.keep(trace)
        span = Span(trace, state.parent_id, state.name, state.start)
        span._id = state.span_id
        for key, value in state.attributes.items():
            span.set(key, value)
        span.events = list(state.events)
        return span

    def fell(self) -> None:
        """An actor of this process failed, and what it had begun will never end.  Parts of one trace that are open find
        each other no more, which costs those that are not recorded some of their spans if they fail."""
        self.current = ""
        self._open.clear()

    # What spans call.

    def keep(self, trace: Trace) -> None:
        """``trace`` is exported after all: what has ended of it now, the rest as it ends."""
        trace.kept = True
        self._open.pop(trace.trace_id.hex(), None)
        deferred, trace.deferred = trace.deferred, []
        for span, describe in deferred:
            describe(span)
        waiting, trace.waiting = trace.waiting, []
        for span in waiting:
            self.export(span)

    def forget(self, trace: Trace) -> None:
        """All of it here is over, and nothing failed."""
        trace.waiting.clear()
        trace.deferred.clear()
        self._open.pop(trace.trace_id.hex(), None)

    def _trace(self, trace_id: bytes, recorded: bool) -> Trace:
        trace = Trace(self, trace_id, kept=recorded)
        if not recorded:
            self._open[trace_id.hex()] = trace
        return trace

    def export(self, span: Span) -> None:
        for key, value in span.attributes.items():
            if isinstance(value, Secret):
                span.attributes[key] = self.redactor.show(value, span.start)
        for event in span.events:
            for key, value in event.attributes.items():
                if isinstance(value, Secret):
                    event.attributes[key] = self.redactor.show(value, span.start)
        self._sink(span)


class NullSpan:
    """A span that nobody wants: it takes everything and keeps nothing."""

    __slots__ = ()

    recording: Final = False
    traceparent: Final = ""

    def child(self, name: str, now: float) -> NullSpan:
        return self

    def describe(self, describe: Callable[[Span], None]) -> None: ...

    def set(self, key: str, value: Value) -> None: ...

    def event(self, name: str, now: float, **attributes: Value) -> None: ...

    def fail(self, description: str) -> None: ...

    def end(self, now: float) -> None: ...

    def state(self) -> None: ...

    def drop(self) -> None: ...


NULL_SPAN: Final = NullSpan()


class NullTracer:
    """What actors are given when nothing is exported."""

    enabled: Final = False

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = ""

    def draw(self) -> tuple[bytes, bool]:
        return b"", False

    def begin(self, name: str, now: float, drawn: bytes = b"") -> NullSpan:
        return NULL_SPAN

    def join(self, name: str, now: float, traceparent: str = "") -> NullSpan:
        return NULL_SPAN

    def resume(self, state: SpanState) -> NullSpan:
        return NULL_SPAN

    def fell(self) -> None: ...


AnyTracer = Tracer | NullTracer
AnySpan = Span | NullSpan
