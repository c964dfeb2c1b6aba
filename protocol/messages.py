"""Every message between actors: frozen, tagged, one closed union per inbox.

Peer ids are bytes, forwarders are the names of their actors, connections are numbered by the forwarder that owns them,
circuits by RelayServer.  Times are seconds since the Unix epoch, sizes are bytes; a limit of 0 is none.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.discovery_messages import (
    DirectoryMessage,
    DiscoveryAnswer,
    DiscoveryMessage,
    PublicRelaysMessage,
    ReachabilityMessage,
    ReputationMessage,
    StandingMessage,
)
from protocol.mapping_messages import ExternalMessage, MappingMessage
from protocol.mdns_messages import MdnsMessage
from protocol.message_base import Message as _Message
from protocol.privacy_messages import PrivacyAnswer, PrivacyMessage
from protocol.quota_messages import ModeMessage, QuotaForwarderMessage, QuotaRelayServerMessage
from protocol.reputation_messages import ContributionAnswer, ContributionMessage, ReceiptRelayMessage
from protocol.service_messages import ServiceForwarderMessage, ServiceMessage
from protocol.whereabouts_messages import WhereaboutsAnswer, WhereaboutsDhtMessage

# Forwarder -> RelayServer


class HeldReservation(msgspec.Struct, frozen=True, array_like=True):
    """A reservation as its connection's forwarder knows it.  ``address``: the peer's IP, as text."""

    connection: int
    peer: bytes
    address: str
    expires_at: float


class HeldCircuit(msgspec.Struct, frozen=True, array_like=True):
    """A circuit as the forwarder of its dialler knows it.  ``address``: the dialler's IP, as text."""

    circuit: int
    source: bytes
    target: bytes
    source_connection: int
    target_connection: int
    opened_at: float
    target_forwarder: str
    address: str = ""


class ForwarderReport(_Message, frozen=True):
    """All that a forwarder holds: sent when it starts, and when a RelayServer starts and asks.

    ``host``: the machine that it runs on.  ``bridges``: where other forwarders reach it: "/unix/PATH" for those of the
    same host, "/ip4/ADDRESS/tcp/PORT" for the others.  ``replaces``: the forwarder whose
    connections it took over, all that there were.  ``serves``, ``rate``: the terms that it goes by
    (quota_messages.TermsSet).  ``bytes_forwarded``: so far, as in ForwarderCounters.
    """

    forwarder: str
    pid: int
    reservations: tuple[HeldReservation, ...]
    circuits: tuple[HeldCircuit, ...]
    host: str = ""
    bridges: tuple[str, ...] = ()
    replaces: str = ""
    serves: bool = True
    rate: float = 0.0
    bytes_forwarded: int = 0


class ReserveAsked(_Message, frozen=True):
    request_id: int
    forwarder: str
    connection: int
    peer: bytes
    address: str


class ReservationEnded(_Message, frozen=True):
    """The connection that held a reservation is gone."""

    forwarder: str
    connection: int
    peer: bytes


class ConnectAsked(_Message, frozen=True):
    request_id: int
    forwarder: str
    connection: int
    source: bytes
    target: bytes
    address: str


class CircuitOpened(_Message, frozen=True):
    circuit: int
    forwarder: str


class CircuitFailed(_Message, frozen=True):
    """An admitted circuit did not come to be."""

    circuit: int
    forwarder: str
    status: int
    reason: str


class CircuitEnded(_Message, frozen=True):
    """``failed``: its end is an error (actors/circuit_steps.py)."""

    circuit: int
    forwarder: str
    bytes_to_target: int
    bytes_to_source: int
    reason: str
    failed: bool = False


class HandoverBegins(_Message, frozen=True):
    """``forwarder`` hands its connections to ``successor`` ("" when that has another RelayServer).

    Answered with HandoverReady; from then on no answer and no circuit goes to ``forwarder``, until the successor
    reports in its place, or it reports itself, because it came to nothing."""

    forwarder: str
    successor: str


class ForwarderCounters(_Message, frozen=True):
    """What a forwarder did so far, about once a second while it changes."""

    forwarder: str
    connections: int
    circuits: int
    bytes_forwarded: int
    refusals: dict[str, int]


class StatusAsked(_Message, frozen=True):
    request_id: int
    asker: str


class ActorDown(_Message, frozen=True):
    """From the supervisor: ``actor`` failed, and what it knew is lost."""

    actor: str


class ActorUp(_Message, frozen=True):
    """From the supervisor: ``actor`` runs again, with nothing but its settings."""

    actor: str


# RelayServer -> forwarder


class ReserveGranted(_Message, frozen=True):
    request_id: int
    connection: int
    expires_at: float
    limit_duration: float
    limit_data: int


class ReserveRefused(_Message, frozen=True):
    """``status``: protocol.relay_hop.Status; ``retry_after``: seconds, 0: not known."""

    request_id: int
    connection: int
    status: int
    reason: str
    retry_after: int


class ConnectAdmitted(_Message, frozen=True):
    """``bridge``, ``token``: where the target's forwarder is reached, and what to show it, if that is another one.
    ``moves``: where it takes the dialler's connection itself, if that may move.  ``service_class``: whom it is for
    (actors/shares.py)."""

    request_id: int
    connection: int
    circuit: int
    target: bytes
    target_forwarder: str
    target_connection: int
    limit_duration: float
    limit_data: int
    bridge: str = ""
    token: bytes = b""
    moves: str = ""
    service_class: str = "public"


class BridgeExpected(_Message, frozen=True):
    """Whoever shows ``token`` brings the circuit of ``source`` to your peer ``target``.  ``traceparent``: its trace."""

    circuit: int
    token: bytes
    source: bytes
    target: bytes
    target_connection: int
    traceparent: str = ""


class ConnectRefused(_Message, frozen=True):
    request_id: int
    connection: int
    status: int
    reason: str
    retry_after: int


class HandoverReady(_Message, frozen=True):
    """What RelayServer had to say to you has been said."""


class ReportWanted(_Message, frozen=True):
    """A RelayServer starts with nothing: forwarders tell it what they hold, and ask again what it did not answer."""


# The node -> forwarder


class AddressesChanged(_Message, frozen=True):
    """Where peers reach the node from now on: binary multiaddrs without /p2p."""

    addresses: tuple[bytes, ...]


# RelayServer -> whoever asked


class StatusAnswer(_Message, frozen=True):
    """``refusals``: what forwarders counted (actors/refusals.py); ``refused_here``: what RelayServer refused, by the
    limit that was hit.  A refusal of RelayServer's is in the first by the status that the peer was told.
    ``bytes_last_hour``: relayed, as far back as RelayServer knows.  ``listed``: see TermsSet, None: not known.
    ``max_circuits``: the limit, 0: not known.  ``hourly``: bytes that may pass in an hour, None: any number."""

    request_id: int
    reservations: int
    circuits: int
    connections: int
    bytes_forwarded: int
    refusals: dict[str, int]
    refused_here: dict[str, int] | None = None
    granted: int = 0
    bytes_last_hour: int = 0
    listed: str | None = None
    max_circuits: int = 0
    hourly: int | None = None


# Whoever measures -> an actor of the network of relays (actors/network.py), and back


class CountsAsked(_Message, frozen=True):
    """What did you do?"""

    request_id: int
    asker: str


class CountsTold(_Message, frozen=True):
    """``counts``: events since ``actor`` began, ``sizes``: what it has now; by names that our own code gives them."""

    request_id: int
    actor: str
    counts: dict[str, int]
    sizes: dict[str, float]


# The runtime -> whoever asked


class Undeliverable(_Message, frozen=True):
    """Your question ``request_id`` to ``receiver`` will not be answered: it is down, or fell before it answered.

    A question is what is posted with a deadline (actors/runtime/spec.py).  No control message: it is said once for each
    question, and so many may be asked that it must count in the mailbox."""

    receiver: str
    request_id: int


# Everybody -> metrics (actors/metrics.py), if there is such an actor.  Sums are since the sender's start.


class Times(msgspec.Struct, frozen=True, array_like=True):
    """A histogram: counts by the bounds that tracing/metrics.py has for it, and seconds in all."""

    counts: tuple[int, ...]
    total: float


class ForwarderMetrics(_Message, frozen=True):
    """What a forwarder did, by words of our own code (actors/circuit_steps.py)."""

    forwarder: str
    connections: int
    circuits: int
    opened: int
    bridged_in: int
    hand_offs: int
    bytes_by_class: dict[str, int]
    failed: dict[str, int]
    ended: dict[str, int]
    refusals: dict[str, int]
    handshake_failures: dict[str, int]
    setup: dict[str, Times]


class ProcessMetrics(_Message, frozen=True):
    """What a process did and how it is.  ``lag``: of its event loop; ``mailboxes``: messages that wait, by actor;
    ``spans``: by what became of them."""

    process: str
    cpu_seconds: float
    resident_bytes: int
    open_files: int
    lag: Times
    mailboxes: dict[str, int]
    refused: int
    expired: int
    spans: dict[str, int]


RelayServerMessage = (
    ForwarderReport
    | ReserveAsked
    | ReservationEnded
    | ConnectAsked
    | CircuitOpened
    | CircuitFailed
    | CircuitEnded
    | HandoverBegins
    | ForwarderCounters
    | StatusAsked
    | ActorDown
    | ActorUp
    | QuotaRelayServerMessage
    | StandingMessage
    | ReceiptRelayMessage
)

ForwarderMessage = (
    ReserveGranted
    | ReserveRefused
    | ConnectAdmitted
    | ConnectRefused
    | BridgeExpected
    | HandoverReady
    | ReportWanted
    | AddressesChanged
    | ActorDown
    | ActorUp
    | ServiceForwarderMessage
    | QuotaForwarderMessage
)

MetricsMessage = ForwarderMetrics | ProcessMetrics | StatusAnswer | CountsTold | Undeliverable | ActorDown | ActorUp

#: To each actor of the network of relays.
CountsMessage = CountsAsked

#: Whatever may travel between actors.
Message = (
    RelayServerMessage
    | ForwarderMessage
    | MetricsMessage
    | CountsMessage
    | ServiceMessage
    | DiscoveryMessage
    | DirectoryMessage
    | ReputationMessage
    | DiscoveryAnswer
    | ReachabilityMessage
    | MdnsMessage
    | MappingMessage
    | ExternalMessage
    | ModeMessage
    | PublicRelaysMessage
    | ContributionMessage
    | ContributionAnswer
    | WhereaboutsDhtMessage
    | WhereaboutsAnswer
    | PrivacyMessage
    | PrivacyAnswer
)

#: Messages that go before others in a mailbox: an actor must learn that another fell before it reads that one's words.
CONTROL: tuple[type[Any], ...] = (ActorDown, ActorUp, ReportWanted, ForwarderReport)
