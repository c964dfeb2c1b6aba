"""What a forwarder hands over, as typed data: links with what owns their streams, circuits, and those being made.

The unit is a group: connections that circuits join, for neither end of a circuit can do without the other.  Numbers of
connections here are places in the group.  Times are seconds of the old process' clock; 0: none.

Raise ``protocol.handover.VERSION`` when a field comes, goes or changes its meaning.
"""

from __future__ import annotations

import msgspec

from actors.circuit_steps import SpliceState, StepsState
from protocol.handover import CircuitState, ConnectionState
from protocol.machine_state import AnswerState, HopState, NegotiationState, PerfState, PingState, ReaderState


class _Owner(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Quiet(_Owner, frozen=True):
    """It has said all that it had to say."""


class Negotiating(_Owner, frozen=True):
    machine: NegotiationState


class Hop(_Owner, frozen=True):
    """``asked``: the request was complete; ``waiting``: and RelayServer has not answered it."""

    machine: HopState
    asked: bool
    waiting: bool
    asked_again: bool
    steps: StepsState | None = None


class Stop(_Owner, frozen=True):
    """The request is out; ``negotiation``: until the target has agreed to the protocol.  ``bridged``: to another
    forwarder."""

    negotiation: NegotiationState | None
    machine: ReaderState
    bridged: bool


class Bridge(_Owner, frozen=True):
    """Of the dialler's forwarder.  ``source``: the dialler, b"" before it is known.  ``limit``: seconds and bytes that
    the target is told, None: nothing.  ``early``: RelayServer has not said a word of it yet."""

    token: bytes
    machine: AnswerState
    source: bytes
    limit: tuple[int, int] | None
    early: bool
    steps: StepsState | None = None


class IdentifyPushed(_Owner, frozen=True):
    machine: ReaderState


class Pinging(_Owner, frozen=True):
    machine: PingState
    unread: int


class Perf(_Owner, frozen=True):
    """``producing``: there is more to make as soon as the socket takes it."""

    machine: PerfState
    producing: bool


class Pushing(_Owner, frozen=True):
    """We propose to tell the peer who we are."""

    machine: NegotiationState


OwnerState = Quiet | Negotiating | Hop | Stop | Bridge | IdentifyPushed | Pinging | Perf | Pushing


class StreamOwnerState(msgspec.Struct, frozen=True, array_like=True):
    """Who has a stream that ends here, and until when.  ``owner``: None for half of a circuit."""

    stream: int
    owner: OwnerState | None
    deadline: float


class LinkState(msgspec.Struct, frozen=True, array_like=True):
    """A connection with what the forwarder knows of it (actors/links.py).

    ``bridge``: to another forwarder; ``beyond``: the forwarder, connection and peer that it leads to.  ``looked_at``:
    when it is next seen whether it lives.  ``push_at``: when it is told our new addresses.
    """

    connection: ConnectionState
    address: str
    remote: bytes
    local: bytes
    relayed: bool
    bridge: bool
    beyond: tuple[str, int, bytes] | None
    agent: str
    idle_since: float | None
    may_hold: bool
    reserved_until: float
    blocked: bool
    looked_at: float
    push_at: float
    streams: tuple[StreamOwnerState, ...]


class AdmissionState(msgspec.Struct, frozen=True, array_like=True):
    """A circuit whose target has not answered yet.  ``hop``, ``stop``: (link, stream).

    ``stop`` is None while the bridge to the target's forwarder, link ``crossing``, is being connected; ``token`` is
    what to show there."""

    circuit: int
    hop: tuple[int, int]
    stop: tuple[int, int] | None
    crossing: int
    token: bytes
    duration: float
    data: int
    deadline: float
    service_class: str = "public"


class JoinedState(msgspec.Struct, frozen=True, array_like=True):
    """A circuit; ``deadline``: when its time is over."""

    circuit: CircuitState
    deadline: float
    splice: SpliceState | None = None


class ExpectedState(msgspec.Struct, frozen=True, array_like=True):
    """RelayServer's word of a bridge that has not come yet; ``target``: the link of the peer that it is for."""

    circuit: int
    token: bytes
    source: bytes
    target: int
    traceparent: str = ""


class GroupState(msgspec.Struct, frozen=True, array_like=True):
    links: tuple[LinkState, ...]
    circuits: tuple[JoinedState, ...]
    admissions: tuple[AdmissionState, ...]
    expected: tuple[ExpectedState, ...]


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """What a forwarder did so far: its successor goes on counting."""

    bytes_switched: int
    bridged_bytes: int
    refusals: dict[str, int]
