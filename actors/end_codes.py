"""Why a circuit did not come to be, and why one ended, as few words that never change: for spans, metrics, the status.

Reasons are sentences for a person, some of them a peer's; they are translated here and go no further.
"""

from __future__ import annotations

from typing import Final

from protocol.switching import Circuit

#: How a reason begins, and its code, for the set-up of a circuit ...
_FAILURES: Final = (
    ("the target did not answer", "stop_timeout"),
    ("the target refused", "target_refused"),
    ("the target reset", "target_reset"),
    ("the target closed", "target_closed"),
    ("the target does not speak", "target_without_stop"),
    ("the target broke", "target_broke_protocol"),
    ("the target takes no stream", "target_takes_no_stream"),
    ("the target is no longer", "target_left"),
    ("the target's forwarder", "bridge_unreachable"),
    ("the bridge was announced", "bridge_mismatch"),
    ("the circuit was announced", "bridge_mismatch"),
    ("the dialler went away", "dialler_left"),
)

#: ... and for its end.
_ENDS: Final = (
    ("finished", "finished"),
    ("reset", "reset"),
    ("data limit", "data_limit"),
    ("time limit", "time_limit"),
    ("connection closed", "connection_closed"),
    ("closed", "connection_closed"),
    ("connection lost", "connection_lost"),
    ("internal error", "internal_error"),
    ("the peer left", "max_backlog"),
    ("the peer took none", "write_timeout"),
    ("the cap left", "max_bandwidth"),
)

#: Ends that are nobody's fault.  A peer that leaves, or resets what it no longer wants, is the ordinary case.
ORDINARY: Final = frozenset({"finished", "reset", "data_limit", "time_limit", "connection_closed"})

LIMITS: Final = frozenset({"data_limit", "time_limit"})

OTHER: Final = "other"


def failure_code(reason: str) -> str:
    """Why a circuit did not come to be, as one of few words."""
    return next((code for begin, code in _FAILURES if reason.startswith(begin)), OTHER)


def end_code(circuit: Circuit) -> str:
    """Why a circuit ended, as one of few words."""
    for stream in (circuit.source, circuit.target):
        error = stream.session.connection.error
        if error is not None:
            return "keepalive_timeout" if error.code == "timeout" else "protocol_error"
    return next((code for begin, code in _ENDS if circuit.reason.startswith(begin)), OTHER)
