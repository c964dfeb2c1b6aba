"""Who may be asked whether we are reached (AutoNAT v2), and who is asked next.

Peers become known as relays do, and whether one speaks the protocol is seen when it is asked.  Somebody with many peer
ids is not to be many voices: a *network* (actors/dial_policy.py) has one in a round, few places here, and none at all
if it is the one of the address in question, because what is beside us may reach what the world does not.  In a private
network every peer is a network of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from actors.autonat_asks import Asked
from actors.dial_policy import dialable, network_of
from protocol.addresses import encode_tcp

#: Peers that are remembered, and of one network: enough that a round finds three who are there.
MAX_SERVERS: Final = 64
MAX_OF_NETWORK: Final = 4

#: Addresses of one.
MAX_ADDRESSES: Final = 8

#: Seconds until one is asked again that does not speak the protocol.
REST: Final = 6 * 3600.0

#: Seconds until one is asked again that says what is not so: on a bad line, what it sent may have been lost.
DOUBT: Final = 3600.0

#: Seconds until one is asked again that has no time, or would not dial; that is not there: doubling up to REST.
PAUSE: Final = 300.0


@dataclass(slots=True)
class _Server:
    """``network``: as told, and as met once it was."""

    addresses: tuple[bytes, ...]
    network: str
    speaks: bool = False
    again_at: float = 0.0
    failures: int = 0


class AutonatServers:
    """``own``: our peer id.  ``random()``: from 0 to 1.  ``private``: of a private network."""

    def __init__(self, own: bytes, random: Callable[[], float], *, private: bool) -> None:
        self._own = own
        self._random = random
        self._private = private
        self._servers: dict[bytes, _Server] = {}

    def __len__(self) -> int:
        return len(self._servers)

    def learn(self, peer: bytes, addresses: tuple[bytes, ...]) -> bool:
        """``peer`` is said to be there; whether that is new, and it may be asked."""
        usable = dialable(addresses, private=self._private, most=MAX_ADDRESSES)
        if not usable or peer == self._own:
            return False
        if (known := self._servers.get(peer)) is not None:
            known.addresses = usable
            return False
        network = self._network(peer, usable[0])
        if sum(one.network == network for one in self._servers.values()) >= MAX_OF_NETWORK:
            return False
        if len(self._servers) >= MAX_SERVERS:
            # Those that were of no use go first; which of them, nobody can choose.
            del self._servers[min(self._servers, key=lambda one: (self._servers[one].speaks, self._random()))]
        self._servers[peer] = _Server(usable, network)
        return True

    def choose(
        self, address: bytes, networks: Collection[str], peers: Collection[bytes], now: float
    ) -> tuple[bytes, tuple[bytes, ...]] | None:
        """(peer, its addresses) of one to be asked about ``address``, of none of ``networks`` and ``peers``."""
        able = [
            peer
            for peer, one in self._servers.items()
            if one.again_at <= now
            and peer not in peers
            and one.network not in networks
            and not self.beside(one.network, address)
        ]
        if not able:
            return None
        peer = min(able, key=lambda one: (not self._servers[one].speaks, self._random()))
        return peer, self._servers[peer].addresses

    def beside(self, network: str, address: bytes) -> bool:
        """Whether who is of ``network`` is too near to ``address`` to speak for others."""
        return not self._private and network == network_of(address)

    def network(self, peer: bytes) -> str:
        """ "": it is not known."""
        return "" if (known := self._servers.get(peer)) is None else known.network

    def asked(self, result: Asked, now: float) -> str:
        """What came of asking one; the network in whose name it voted, "": it did not."""
        known = self._servers.get(result.server)
        network = self._met(result)
        if known is not None:
            known.network = network or known.network
            match result.outcome:
                case "reached" | "failed":
                    known.speaks, known.failures = True, 0
                case "refused" | "busy":
                    known.again_at = now + PAUSE
                case "away":
                    known.again_at = now + min(PAUSE * 2.0 ** min(known.failures, 16), REST)
                    known.failures += 1
                case "none":
                    known.speaks, known.again_at = False, now + REST
                case "odd":
                    known.speaks, known.again_at = False, now + DOUBT
        return network if result.outcome in ("reached", "failed") else ""

    def _met(self, result: Asked) -> str:
        try:
            address = encode_tcp(ip_address(result.at), 1)
        except ValueError:
            return ""
        return self._network(result.server, address)

    def _network(self, peer: bytes, address: bytes) -> str:
        return peer.hex() if self._private else network_of(address)
