"""What this node did for others, between actors.

RelayServer -> ReputationTracker   Contributed, about once a second while it relays
whoever     -> ReputationTracker   ContributionWanted, answered by Contribution
"""

from __future__ import annotations

import msgspec

from protocol.message_base import Message


class Contributed(Message, frozen=True):
    """Since it was last said: ``carried`` bytes of circuits, both ways, and ``circuits`` that came to be."""

    carried: int
    circuits: int


class ContributionWanted(Message, frozen=True):
    request_id: int
    asker: str


class MonthContribution(msgspec.Struct, frozen=True, array_like=True):
    """``month``: in UTC, as 2026-07."""

    month: str
    carried: int
    circuits: int


class Contribution(Message, frozen=True):
    """``month``, ``carried``, ``circuits``: this month, in UTC.  ``score``: of this node as others rate it, 0 to 100,
    None: unrated.  ``earlier``: months before, the latest first."""

    request_id: int
    month: str
    carried: int
    circuits: int
    score: float | None
    earlier: tuple[MonthContribution, ...] = ()


#: To ReputationTracker, beside discovery_messages.ReputationMessage.
ContributionMessage = Contributed | ContributionWanted

#: To whoever asked it.
ContributionAnswer = Contribution
