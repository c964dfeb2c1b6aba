"""What an actor is: state, and a function from one message to the messages that it sends.

An actor never waits and never asks the clock.  A question goes out as a message, and its answer comes back as one with
the same ``request_id``; what is to happen later is a deadline that the runtime brings back.  So a test of an actor is
one line, and a runtime may put actors where it likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Send:
    """``message`` is to be put into the inbox of the actor named ``receiver``.  ``traceparent``: the step that asks
    for it (tracing/context.py), "": none."""

    receiver: str
    message: Any
    traceparent: str = ""


class Actor(Protocol):
    """``now``: seconds since the Unix epoch, never going back."""

    def handle(self, message: Any, now: float) -> list[Send]:
        """Take one message of the actor's inbox (a union in protocol/messages.py)."""
        ...

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` is to be called; None: nothing is waited for."""
        ...

    def handle_deadline(self, now: float) -> list[Send]:
        """That time has come."""
        ...
