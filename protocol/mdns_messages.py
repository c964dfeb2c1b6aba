"""What the multicast port says to MdnsDiscovery."""

from __future__ import annotations

from protocol.message_base import Message


class TxtHeard(Message, frozen=True):
    """Somebody on a network of this host answers for ``name`` with the TXT ``record``, for ``ttl`` seconds; 0: no
    longer."""

    name: str
    record: bytes
    ttl: float


MdnsMessage = TxtHeard
