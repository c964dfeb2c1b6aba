"""Processes in memory whose spans a test reads: each with a tracer of its own, or all with one."""

from __future__ import annotations

from tests.support.peers import seeded
from tracing.redaction import RedactionKey, Redactor
from tracing.sampling import Sampler
from tracing.tracer import Span, Tracer


class Collector:
    """What was exported.  ``shared``: all actors are in one process."""

    def __init__(self, ratio: float = 1.0, *, shared: bool = True, clear: bool = False) -> None:
        self.spans: list[Span] = []
        #: Of each span, who exported it.
        self.by: dict[bytes, str] = {}
        self.ratio = ratio
        self.tracers: dict[str, Tracer] = {}
        self._shared = shared
        self._clear = clear
        self._drawn = 0

    def tracer(self, name: str) -> Tracer:
        name = "all" if self._shared else name
        if name not in self.tracers:
            redactor = Redactor(RedactionKey(seeded("trace key"), 0.0), 86_400.0 * 365_000, clear=self._clear)

            def sink(span: Span) -> None:
                self.spans.append(span)
                self.by[span.span_id] = name

            self.tracers[name] = Tracer(Sampler(self.ratio), redactor, self._random, sink)
        return self.tracers[name]

    def _random(self, size: int) -> bytes:
        self._drawn += 1
        return seeded(f"span {self._drawn}")[:size]

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)

    def one(self, name: str) -> Span:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, f"{len(found)} of {name} among {self.names}"
        return found[0]

    def check(self, root: str) -> None:
        """One trace, all of whose spans have the one root as their parent and lie within it."""
        top = self.one(root)
        assert top.parent_id == b""
        for span in self.spans:
            assert span.trace_id == top.trace_id
            assert span is top or span.parent_id == top.span_id, span.name
            assert top.start <= span.start <= span.end_time <= top.end_time, span.name
        assert len({span.span_id for span in self.spans}) == len(self.spans)
