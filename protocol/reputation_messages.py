"""What this node did for others, between actors.

RelayServer -> ReputationTracker   Contributed, about once a second while it relays
whoever     -> ReputationTracker   ContributionWanted, answered by Contribution

and what peers say of it to each other (protocol/receipts.py):

ReputationTracker -> RelayServer         ServedWanted, answered by Served
whoever uses a relay -> ReputationTracker  CircuitUsed, when a circuit has ended
whoever uses a relay -> ReputationTracker  PriorityWanted, answered by PriorityTold
who talks for the node's owner -> the same  PassWanted, answered by PassTold; BytesUsed
"""

from __future__ import annotations

import msgspec

from protocol.message_base import Message


class Contributed(Message, frozen=True):
    """Since it was last said: ``carried`` bytes of circuits, both ways, ``circuits`` that came to be, and that were
    ``lost`` with their forwarder."""

    carried: int
    circuits: int
    lost: int = 0


class ContributionWanted(Message, frozen=True):
    request_id: int
    asker: str


class MonthContribution(msgspec.Struct, frozen=True, array_like=True):
    """``month``: in UTC, as 2026-07.  ``carried``: bytes relayed for others, ``confirmed``: of them those for which a
    peer has signed, ``used``: bytes that others relayed for us."""

    month: str
    carried: int
    circuits: int
    confirmed: int = 0
    used: int = 0


class Contribution(Message, frozen=True):
    """``month``: this one.  ``score``: of this node as others would rate it by what it saw of itself, 0 to 100, None:
    unrated.  ``earlier``: months
    before, the latest first.  ``receipts``: signed ones that are held."""

    request_id: int
    month: MonthContribution
    score: float | None
    earlier: tuple[MonthContribution, ...] = ()
    receipts: int = 0


class ServedWanted(Message, frozen=True):
    """What was carried for ``peer`` since this was last asked?"""

    request_id: int
    peer: bytes


class Served(Message, frozen=True):
    """``worked``, ``failed``: circuits that have ended.  ``sent``: bytes from the peer, ``received``: to it."""

    request_id: int
    peer: bytes
    worked: int
    failed: int
    sent: int
    received: int


class CircuitUsed(Message, frozen=True):
    """A circuit of ours over ``relay`` has ended: ``sent`` and ``received`` bytes.  Never said at Maximum, nor of a
    path of several hops: a receipt would tie this peer id to the relay.  ``addresses``: the relay's, as in
    StreamWanted.  ``forwarder``: whose connection to it there is, "": any."""

    relay: bytes
    sent: int
    received: int
    failed: bool = False
    addresses: tuple[bytes, ...] = ()
    forwarder: str = ""


class PriorityWanted(Message, frozen=True):
    """Show ``relay`` (at ``addresses``, binary multiaddrs without /p2p) what peers have signed for us, so that we are
    served first."""

    request_id: int
    asker: str
    relay: bytes
    addresses: tuple[bytes, ...] = ()


class PriorityTold(Message, frozen=True):
    """``standing``: 0 to 2, as the relay says.  ``until``: Unix time, 0: it does not serve us first.  ``problem``: why
    it was not asked, for a person."""

    request_id: int
    standing: float
    until: int
    problem: str = ""


class PassWanted(Message, frozen=True):
    """A pass for ``holder``, who talks for this node's owner; answered by PassTold."""

    request_id: int
    asker: str
    holder: bytes


class PassTold(Message, frozen=True):
    """``envelope``, ``receipts``: for protocol.receipts.PassShown.  ``problem``: why there is none, for a person."""

    request_id: int
    envelope: bytes = b""
    receipts: tuple[bytes, ...] = ()
    problem: str = ""


class BytesUsed(Message, frozen=True):
    """Who talks for this node's owner had so many bytes relayed by others."""

    used: int


#: To ReputationTracker, beside discovery_messages.ReputationMessage and service_messages.ServiceMessage.
ContributionMessage = Contributed | ContributionWanted | Served | CircuitUsed | PriorityWanted | PassWanted | BytesUsed

#: To RelayServer.
ReceiptRelayMessage = ServedWanted

#: To whoever asked it.
ContributionAnswer = Contribution | PriorityTold | PassTold
