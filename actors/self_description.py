"""What a node says of itself: identify, identify push, and the addresses in a reservation.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md; relay/circuit-v2.md, "Reservation".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from actors.client_streams import Proposal
from actors.inbound_streams import IdentifyAnswer
from protocol import identify
from protocol.addresses import is_global, with_peer
from protocol.envelope import seal_peer_record
from protocol.errors import LocalProtocolError
from protocol.identity import Identity
from protocol.yamux import Session, Stream

AGENT: Final = "descord-relay/0.1.0"
PROTOCOL_VERSION: Final = "descord/0.1.0"


class SelfDescription:
    """``addresses``: ours, binary multiaddrs without /p2p.  ``served``: the protocols that we answer.
    ``wall``: from a time as we have it to what clocks show then."""

    __slots__ = ("_identity", "_peer_record", "_public_key", "_sequence", "_served", "_wall", "addresses")

    def __init__(
        self, identity: Identity, served: Mapping[str, Any], wall: Callable[[float], float] = lambda when: when
    ) -> None:
        self._identity = identity
        self._public_key = identity.public_key.encode()
        self._served = served
        self._wall = wall
        self._sequence = 0
        self._peer_record = b""
        self.addresses: tuple[bytes, ...] = ()

    def set_addresses(self, addresses: Sequence[bytes], now: float) -> bool:
        """These are our addresses now; False when they were before.  A peer record of a later time replaces one of an
        earlier, over restarts too."""
        if self._sequence and tuple(addresses) == self.addresses:
            return False
        self.addresses = tuple(addresses)
        self._sequence = max(self._sequence + 1, int(self._wall(now)))
        self._peer_record = seal_peer_record(self._identity, self._sequence, self.addresses)
        return True

    def identify(self, observed: bytes) -> bytes:
        """The identify message for a peer that we see at ``observed``, as it is sent."""
        return identify.encode_identify(
            identify.IdentifyMessage(
                public_key=self._public_key,
                listen_addrs=self.addresses,
                protocols=tuple(self._served),
                observed_addr=observed,
                protocol_version=PROTOCOL_VERSION,
                agent_version=AGENT,
                signed_peer_record=self._peer_record,
            )
        )

    def reservation_addresses(self, local: bytes, remote: bytes) -> list[bytes]:
        """Where a peer with a reservation is reached, with /p2p.

        ``local``, ``remote``: our end of its connection and its own, b"" if not known.  At ``local`` it reached us, so
        others may; but a private one is of no use beside public ones, except to those who are where the peer is.
        """
        known = self.addresses
        if local and local not in known:
            beside = not is_global(remote) or not any(map(is_global, known))
            known = (local, *known) if beside or is_global(local) else known
        return [with_peer(address, self._identity.peer_id.bytes) for address in known]

    def push(self, session: Session, observed: bytes) -> Stream | None:
        """Tell the peer of ``session`` unasked; the stream on which it is told, None when the peer takes none."""
        try:
            stream = session.open_stream()
        except LocalProtocolError:
            return None
        stream.owner = Proposal(
            stream,
            (identify.PUSH_PROTOCOL,),
            lambda agreed, _: IdentifyAnswer(agreed, self.identify(observed)),
            lambda _: None,
        )
        return stream
