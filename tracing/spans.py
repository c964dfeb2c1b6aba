"""A span as a plain record: what one step was, when, and how it ended.

Times are seconds since the Unix epoch, as the runtime tells them to actors.  A value that says who somebody is or where
is a :class:`Secret`: nothing prints it, and what is exported in its place is for the redactor (tracing/redaction.py).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

#: Events of one span, and characters of one text: more is left out.  No step of ours comes near.
MAX_EVENTS: Final = 32
MAX_TEXT: Final = 200


class Status(IntEnum):
    """How a step ended, by OpenTelemetry's numbers."""

    UNSET = 0
    OK = 1
    ERROR = 2


class Secret(msgspec.Struct, frozen=True, array_like=True):
    """``kind``: "peer" (``value``: the bytes of a peer id) or "address" (the text of an IP address, as bytes)."""

    kind: str
    value: bytes

    def __repr__(self) -> str:
        return f"<{self.kind} scrubbed>"

    __str__ = __repr__


def peer(value: bytes) -> Secret:
    """The bytes of a peer id."""
    return Secret("peer", value)


def address(text: str) -> Secret:
    """The text of an IP address."""
    return Secret("address", text.encode())


Value = str | int | float | bool | Secret


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that happened within a span."""

    name: str
    time: float
    attributes: dict[str, Value]


class SpanState(msgspec.Struct, frozen=True, array_like=True):
    """A span that has not ended, as it goes from one process to another.  ``kept``: its trace is exported."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    start: float
    kept: bool
    attributes: dict[str, Value]
    events: list[Event]
