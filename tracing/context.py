"""Which trace, and which span of it: what travels beside a message from one actor to the next.

Source: https://www.w3.org/TR/trace-context/ ("traceparent Header").  It stays among the processes of one operator: no
peer is ever sent any of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

TRACE_ID_SIZE: Final = 16
SPAN_ID_SIZE: Final = 8

_SAMPLED: Final = 0x01
_NO_TRACE: Final = bytes(TRACE_ID_SIZE)
_NO_SPAN: Final = bytes(SPAN_ID_SIZE)

# "version-format = trace-id "-" parent-id "-" trace-flags", all in lower-case hexadecimal.
_FORM: Final = re.compile("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """``trace_id``: 16 bytes; ``span_id``: 8 bytes, the parent of whoever reads it; ``sampled``: the trace is recorded
    whatever comes of it."""

    trace_id: bytes
    span_id: bytes
    sampled: bool


def encode_traceparent(trace_id: bytes, span_id: bytes, sampled: bool) -> str:
    """``00-<trace id>-<span id>-01``, 55 characters."""
    return f"00-{trace_id.hex()}-{span_id.hex()}-{'01' if sampled else '00'}"


def context_of(drawn: bytes, sampled: bool) -> str:
    """The traceparent of a root whose trace id and span id, 24 bytes, are ``drawn``."""
    text = drawn.hex()
    return f"00-{text[:32]}-{text[32:]}-{'01' if sampled else '00'}"


def decode_traceparent(text: str) -> TraceContext | None:
    """The context in ``text``; None when there is none or it breaks the format, for a trace is never worth an error.

    "If a higher version is detected, the implementation SHOULD try to parse it": what follows a dash is not read.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or (rest is not None and version == "00"):
        return None
    trace_id, span_id = bytes.fromhex(trace), bytes.fromhex(span)
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
