"""One connection of a client to a peer, whatever carries it: a socket, or a circuit within another connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from protocol.connection import Connection
from protocol.identify import IdentifyMessage
from protocol.identity import Identity, PeerId
from protocol.relay_hop import Limit, Status
from protocol.yamux import Stream

#: Bytes that may wait on a circuit's stream before those who write into it are held up.
LOW_WATER: Final = 256 * 1024


class Wire(Protocol):
    """What carries a connection that is not within another one.  ``close`` sends what was written first."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """A relay said no.  ``status``: a :class:`Status`, or 0 when it said nothing that can be understood.
    ``retry_after``: seconds, 0 when not told."""

    status: int
    reason: str
    retry_after: int = 0

    def __str__(self) -> str:
        name = Status(self.status).name if self.status in list(Status) else f"status {self.status}"
        # The relay's words, on their way to a terminal or a log.
        reason = "".join(character if character.isprintable() else "?" for character in self.reason)
        told = reason if not self.status else f"{name}: {reason}" if reason else name
        return f"{told}; retry after {self.retry_after} s" if self.retry_after else told


class PeerLink:
    """One connection to a peer.  ``identity``: who we are on it.

    ``relay``: the connection that it lies within, None for a direct one.  ``limit``: what its circuit may carry, as
    the relay told.  ``sent``, ``received``: bytes of its circuit.  ``inbound``: the peer opened it.  ``peer``: set once
    it has proved who it is.  ``identified``: what it says of itself.  ``ended``: why it is over, "" while it is not.
    ``changed``: called after each of these.
    """

    __slots__ = (
        "carrier", "changed", "circuits", "connection", "ended", "identified", "identity", "inbound", "limit",
        "observed", "peer", "received", "relay", "reserved", "sent", "wire",
    )  # fmt: skip

    def __init__(self, connection: Connection, identity: Identity, *, inbound: bool) -> None:
        self.connection = connection
        self.identity = identity
        self.inbound = inbound
        self.wire: Wire | None = None
        self.carrier: Stream | None = None
        self.relay: PeerLink | None = None
        self.limit: Limit | None = None
        self.peer: PeerId | None = None
        self.identified: IdentifyMessage | None = None
        self.observed = b""
        self.reserved = False
        self.sent = self.received = 0
        self.circuits: set[PeerLink] = set()
        self.ended = ""
        self.changed: Callable[[], None] = lambda: None

    @property
    def ready(self) -> bool:
        """The peer has proved who it is, and streams can be opened."""
        return self.peer is not None and not self.ended and not self.connection.session.remote_going_away

    @property
    def congested(self) -> bool:
        """Whether writers should wait: bytes for this connection pile up somewhere below it."""
        if self.carrier is None or self.relay is None:
            return self.connection.blocked
        held = self.carrier.held
        return (held is not None and len(held) > LOW_WATER) or self.relay.congested


def link_of(stream: Stream) -> PeerLink:
    """The connection that a stream is on."""
    link: PeerLink = stream.session.connection.owner
    return link
