"""Why peers are refused, circuits fail and connections are given up: words of our own code, counted.

A forwarder counts all of it in one table, by names whose beginning says what they are; here they are told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from actors.links import Link
from protocol.relay_hop import Status

#: A peer broke the protocol, and its connection or stream ended.
CONNECTION_ERROR: Final = "protocol error: "
STREAM_ERROR: Final = "stream error: "

#: A circuit that was admitted came to nothing.
FAILED: Final = "circuit failed: "

#: A connection was given up, or the network lost it.
LOST: Final = "connection lost: "

_LOSSES: Final = (("connection lost", "network"), ("internal error", "internal_error"))


@dataclass(frozen=True, slots=True)
class Reasons:
    """Counts.  ``limits``: requests and connections refused, by setting; ``answers``: by the status that the peer was
    told; ``failures``, ``lost``: see above; ``errors``: by layer ("connection", "stream") and code."""

    limits: dict[str, float] = field(default_factory=dict)
    answers: dict[str, float] = field(default_factory=dict)
    failures: dict[str, float] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    errors: dict[tuple[str, str], float] = field(default_factory=dict)


def tell_apart(counts: Mapping[str, float]) -> Reasons:
    """A forwarder's counts, or those of several added up."""
    told = Reasons()
    for name, count in counts.items():
        if name in Status.__members__:
            told.answers[name.lower()] = count
        elif name.startswith(CONNECTION_ERROR):
            told.errors["connection", name.removeprefix(CONNECTION_ERROR)] = count
        elif name.startswith(STREAM_ERROR):
            told.errors["stream", name.removeprefix(STREAM_ERROR)] = count
        elif name.startswith(FAILED):
            told.failures[name.removeprefix(FAILED)] = count
        elif name.startswith(LOST):
            told.lost[name.removeprefix(LOST)] = count
        else:
            told.limits[name] = count
    return told


def loss(link: Link, reason: str) -> str:
    """Why ``link`` is gone, as it is counted; "" when that is ordinary, or was counted as a breach of the protocol.

    ``reason``: as its host says it, with the setting that was hit behind it in brackets.
    """
    error = link.connection.error
    if link.bridge or (error is not None and error.code != "timeout"):
        return ""
    if error is not None:
        return LOST + ("handshake_timeout" if link.connection.peer is None else "keepalive_timeout")
    if link.outstayed:
        return LOST + "idle_timeout"
    for begin, code in _LOSSES:
        if reason.startswith(begin):
            return LOST + code
    return LOST + reason[reason.rindex("(") + 1 : -1] if reason.endswith(")") else ""
