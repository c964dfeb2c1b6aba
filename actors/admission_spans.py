"""RelayServer's part of the traces of circuits and reservations: from the question to its answer.

A question that waits for the forwarders' reports waits in its span.  The span of an admitted circuit is held back until
it is known whether the circuit came to be: if it failed it is kept, in this process too (tracing/tracer.py).
"""

from __future__ import annotations

from protocol import messages
from tracing.tracer import AnyTracer, NullTracer, Span

Asked = messages.ReserveAsked | messages.ConnectAsked


class AdmissionSpans:
    """See the module.  ``now``: set by RelayServer before it acts.  ``context``: of the question that was admitted
    last, for others who must act on that."""

    __slots__ = ("_asked", "_held", "_tracer", "context", "now")

    def __init__(self, tracer: AnyTracer | None = None) -> None:
        self.now = 0.0
        self.context = ""
        self._tracer: AnyTracer = tracer if tracer is not None else NullTracer()
        self._asked: dict[tuple[str, int], tuple[Span, str]] = {}
        self._held: dict[int, tuple[Span, float]] = {}

    def asked(self, asked: Asked) -> None:
        """A question came, in the message that is being handled; one that comes again is the same."""
        key = (asked.forwarder, asked.request_id)
        if not self._tracer.enabled or key in self._asked:
            return
        name = "relay.reserve" if isinstance(asked, messages.ReserveAsked) else "relay.admit"
        span = self._tracer.join(name, self.now)
        assert isinstance(span, Span)
        self._asked[key] = span, self._tracer.current

    def refused(self, asked: Asked, limit: str) -> None:
        """``limit``: the setting that was hit, or what else forbids it."""
        span, _ = self._take(asked)
        if span is not None:
            span.set("descord.refused_by", limit)
            span.fail(limit)
            span.end(self.now)

    def granted(self, asked: Asked) -> None:
        """The reservation stands."""
        span, _ = self._take(asked)
        if span is not None:
            span.end(self.now)

    def admitted(self, asked: Asked, circuit: int) -> None:
        span, self.context = self._take(asked)
        if span is None:
            return
        span.set("descord.circuit", circuit)
        if span.recording:
            span.end(self.now)
        else:
            self._held[circuit] = span, self.now

    def settled(self, circuit: int, *, failed: bool) -> None:
        """An admitted circuit stands, or came to nothing, or was never heard of again."""
        span, answered_at = self._held.pop(circuit, (None, 0.0))
        if span is not None:
            if failed:
                span.keep()
            span.end(answered_at)

    def lost(self, forwarder: str) -> None:
        """A forwarder is gone: its questions have no answer."""
        for key in [key for key in self._asked if key[0] == forwarder]:
            span, _ = self._asked.pop(key)
            span.fail("forwarder_lost")
            span.end(self.now)

    def forget(self, asked: Asked) -> None:
        """The question is not answered: it will come again, from another forwarder."""
        self._take(asked)

    def _take(self, asked: Asked) -> tuple[Span | None, str]:
        return self._asked.pop((asked.forwarder, asked.request_id), (None, ""))
