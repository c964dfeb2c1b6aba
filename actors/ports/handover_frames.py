"""What the process that hands over and its successor say to each other, in this order.

old                                                   new
 │ Hello ────────────────────────────────────────────► │  versions and identity are looked at first, on both sides
 │ ◄──────────────────────────────────────────── Hello │
 │ Begin, listening sockets ─────────────────────────► │  it starts its actors
 │ ◄──────────────────────────────────────────── Ready │  or Refused: then nothing has happened
 │ Go ───────────────────────────────────────────────► │  from here on it accepts connections, and the old one none
 │ Group, sockets ───────────────────────────────────► │
 │ ◄──────────────────────────────────────────── Taken │  said before it touches a socket; unsaid, they are not its
 │ ...                                                 │
 │ Done, sockets that other forwarders send to ──────► │
 │ ◄───────────────────────────────────────── Complete │
"""

from __future__ import annotations

import msgspec

from actors.handover_state import GroupState, Totals


class _Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Hello(_Frame, frozen=True):
    """``writes``: the version of the state that it would hand over; ``reads``: those that it can take over."""

    writes: int
    reads: tuple[int, ...]
    peer_id: bytes
    pid: int
    agent: str


class Refused(_Frame, frozen=True):
    reason: str


class Begin(_Frame, frozen=True):
    """``listening``: what each listening socket was asked for, in the order of the descriptors.  ``static``: the
    private Noise key that handshakes under way need.  ``clock``: Unix time less the monotonic clock, as the old process
    has it.  ``counts``: connections of each household.  ``addresses``: what peers were told.  ``keeper``: the process
    that whoever started the node knows it by."""

    listening: tuple[str, ...]
    static: bytes
    clock: float
    counts: dict[str, int]
    addresses: tuple[bytes, ...]
    keeper: int

    def __repr__(self) -> str:
        return f"Begin({self.listening}, [scrubbed])"


class Ready(_Frame, frozen=True):
    pass


class Go(_Frame, frozen=True):
    pass


class Group(_Frame, frozen=True):
    """One or more groups.  ``backlogs``: of each connection what its socket did not take, None: it takes more.
    ``released_at``: monotonic clock, from which on nobody reads them."""

    number: int
    state: GroupState
    backlogs: tuple[bytes | None, ...]
    released_at: float


class Taken(_Frame, frozen=True):
    number: int


class Done(_Frame, frozen=True):
    totals: Totals


class Complete(_Frame, frozen=True):
    """``pauses``: seconds, of each Group."""

    pauses: tuple[float, ...]


Frame = Hello | Refused | Begin | Ready | Go | Group | Taken | Done | Complete
