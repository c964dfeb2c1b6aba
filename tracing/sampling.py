"""Which traces are recorded, when that is decided at their start.

The decision is a function of the trace id, as OpenTelemetry's TraceIdRatioBased has it, so that processes that make it
apart make the same.  It is not the last word: what ended in an error is kept all the same (tracing/tracer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_ALL: Final = 1 << 64

#: OTEL_TRACES_SAMPLER: its names, and whether OTEL_TRACES_SAMPLER_ARG says how many (else the ratio itself).
#: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
_SAMPLERS: Final[dict[str, float | None]] = {
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
    "parentbased_traceidratio": None,
}


class SamplerError(ValueError):
    """OTEL_TRACES_SAMPLER or its argument is wrong: the message says which, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """``ratio``: of traces that begin here, from 0 to 1.  One that began elsewhere is recorded if it is there."""

    ratio: float = 1.0

    def records(self, trace_id: bytes) -> bool:
        """Whether a trace that begins with this id is recorded whatever comes of it."""
        if self.ratio >= 1.0:
            return True
        return int.from_bytes(trace_id[8:], "big") < self.ratio * _ALL


def sampler_from(environ: Mapping[str, str], ratio: float) -> Sampler:
    """As the standard variables say; ``ratio`` when they say nothing.  SamplerError when they are wrong."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name:
        return Sampler(ratio)
    if name not in _SAMPLERS:
        raise SamplerError(f"OTEL_TRACES_SAMPLER = {name}: allowed is one of {', '.join(_SAMPLERS)}")
    given = _SAMPLERS[name]
    if given is None:
        text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1.0"
        try:
            given = float(text)
        except ValueError:
            given = -1.0
        if not 0.0 <= given <= 1.0:
            raise SamplerError(f"OTEL_TRACES_SAMPLER_ARG = {text}: allowed is a number from 0 to 1")
    return Sampler(given)
