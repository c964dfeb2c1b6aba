"""Whereabouts of peers, between actors.

whoever     -> DHTAdvertiser   WhereaboutsSought -> WhereaboutsFound;  WhereaboutsGiven -> WhereaboutsStored
"""

from __future__ import annotations

from protocol.message_base import Message


class WhereaboutsSought(Message, frozen=True):
    """Look for ``peer``'s record, for at most ``timeout`` seconds."""

    request_id: int
    asker: str
    peer: bytes
    timeout: float


class WhereaboutsFound(Message, frozen=True):
    """``record``: its signed record, verified; b"": none was found, and ``problem`` says why, for a person."""

    request_id: int
    record: bytes
    problem: str = ""


class WhereaboutsGiven(Message, frozen=True):
    """Keep ``record`` where others look for it, and here.  ``origin``: the IP of who brought it."""

    request_id: int
    asker: str
    record: bytes
    origin: str
    timeout: float


class WhereaboutsStored(Message, frozen=True):
    """``copies``: peers that took it.  ``problem``: why none did, for a person."""

    request_id: int
    copies: int
    problem: str = ""


#: To DHTAdvertiser.
WhereaboutsDhtMessage = WhereaboutsSought | WhereaboutsGiven

#: To who asked it.
WhereaboutsAnswer = WhereaboutsFound | WhereaboutsStored
