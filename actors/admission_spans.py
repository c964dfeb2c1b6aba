"""RelayServer's part of the traces of circuits and reservations: from the question to its answer.

A question that waits for the forwarders' reports waits in its span.  Of a trace that is not recorded there is no span
until something fails, here or in what becomes of the circuit: what it would be made of is held until the circuit's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol import messages
from tracing.tracer import AnyTracer, NullTracer, Span

Asked = messages.ReserveAsked | messages.ConnectAsked


#: Circuits of which it is remembered how they were admitted; of more, the oldest are forgotten.  10 MB.
MAX_HELD: Final = 65_536


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question.  ``span``: None while its trace is not recorded; ``at``: when it came."""

    name: str
    span: Span | None
    context: str
    at: float


class AdmissionSpans:
    """See the module.  ``now``: set by RelayServer before it acts.  ``context``: of the question that was admitted
    last, for others who must act on that."""

    __slots__ = ("_asked", "_held", "_tracer", "context", "now")

    def __init__(self, tracer: AnyTracer | None = None) -> None:
        self.now = 0.0
        self.context = ""
        self._tracer: AnyTracer = tracer if tracer is not None else NullTracer()
        self._asked: dict[tuple[str, int], _Asked] = {}
        self._held: dict[int, tuple[_Asked, float]] = {}

    def asked(self, asked: Asked) -> None:
        """A question came, in the message that is being handled; one that comes again is the same."""
        key = (asked.forwarder, asked.request_id)
        if not self._tracer.enabled or key in self._asked:
            return
        name = "relay.reserve" if isinstance(asked, messages.ReserveAsked) else "relay.admit"
        context = self._tracer.current
        # Of a trace that is not recorded a span is made when it fails.
        span = None if context.endswith("-00") else self._join(name, self.now, context)
        self._asked[key] = _Asked(name, span, context, self.now)

    def refused(self, asked: Asked, limit: str) -> None:
        """``limit``: the setting that was hit, or what else forbids it."""
        taken = self._take(asked)
        if taken is not None:
            span = taken.span or self._join(taken.name, taken.at, taken.context)
            span.set("descord.refused_by", limit)
            span.fail(limit)
            span.end(self.now)

    def granted(self, asked: Asked) -> None:
        """The reservation stands."""
        taken = self._take(asked)
        if taken is not None and taken.span is not None:
            taken.span.end(self.now)

    def admitted(self, asked: Asked, circuit: int) -> None:
        taken = self._take(asked)
        self.context = ""
        if taken is None:
            return
        self.context = taken.context
        if taken.span is None:
            if len(self._held) >= MAX_HELD:
                del self._held[next(iter(self._held))]
            self._held[circuit] = taken, self.now
            return
        taken.span.set("descord.circuit", circuit)
        taken.span.end(self.now)

    def settled(self, circuit: int, *, failed: bool) -> None:
        """An admitted circuit is over, came to nothing, or was never heard of again."""
        taken, answered_at = self._held.pop(circuit, (None, 0.0))
        if taken is not None and failed:
            span = self._join(taken.name, taken.at, taken.context)
            span.set("descord.circuit", circuit)
            span.keep()
            span.end(answered_at)

    def lost(self, forwarder: str) -> None:
        """A forwarder is gone: its questions have no answer."""
        for key in [key for key in self._asked if key[0] == forwarder]:
            taken = self._asked.pop(key)
            span = taken.span or self._join(taken.name, taken.at, taken.context)
            span.fail("forwarder_lost")
            span.end(self.now)

    def forget(self, asked: Asked) -> None:
        """The question is not answered: it will come again, from another forwarder."""
        self._take(asked)

    def _join(self, name: str, start: float, context: str) -> Span:
        span = self._tracer.join(name, start, context)
        assert isinstance(span, Span)
        return span

    def _take(self, asked: Asked) -> _Asked | None:
        return self._asked.pop((asked.forwarder, asked.request_id), None)
