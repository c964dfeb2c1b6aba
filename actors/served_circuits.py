"""RelayServer's memory of what it carried for whom, until a receipt is made of it (protocol/receipts.py).

Peers that speak receipts ask within seconds of a circuit's end; of the others it is forgotten as new ones come.
"""

from __future__ import annotations

from typing import Final

from protocol.reputation_messages import Served, ServedWanted

#: Peers of whom it is remembered.  300 bytes each.
MAX_PEERS: Final = 4096


class ServedCircuits:
    """About 1 us a circuit."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._peers: dict[bytes, list[int]] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def ended(self, source: bytes, target: bytes, to_target: int, to_source: int, *, failed: bool) -> None:
        """A circuit, with its bytes each way."""
        for peer, sent, received in ((source, to_target, to_source), (target, to_source, to_target)):
            counts = self._peers.pop(peer, None) or [0, 0, 0, 0]
            counts[failed] += 1
            counts[2] += sent
            counts[3] += received
            self._peers[peer] = counts  # the last to be forgotten
        while len(self._peers) > self._max_peers:
            del self._peers[next(iter(self._peers))]

    def take(self, wanted: ServedWanted) -> Served:
        """What was carried for it since it was last asked."""
        worked, failed, sent, received = self._peers.pop(wanted.peer, (0, 0, 0, 0))
        return Served(wanted.request_id, wanted.peer, worked, failed, sent, received)
