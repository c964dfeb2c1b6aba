"""What a peer at a privacy level is asked with, and what it asks (actors/ports/peer.py)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from multiaddr import Multiaddr

from actors.circuit_client import ClientPolicy
from actors.ports.connections import AddressError, DialError
from protocol.discovery_messages import Observed
from protocol.identity import PeerId
from protocol.privacy_messages import Level, Path, PathsTold, RelayAt, RelaysChosen


class Router(Protocol):
    """PrivacyRouter, and where what was seen of relays goes (actors/private_node.py)."""

    async def paths(
        self, level: Level, target: PeerId, offered: tuple[bytes, ...], *, chosen: bool, relayed: bool, hops: int
    ) -> PathsTold: ...

    async def relays(self, level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen: ...

    def observe(self, seen: Observed) -> None: ...


class NoPath(DialError):
    """The peer cannot be reached at that level; the message says why.  Nothing less was tried."""


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """``relays``: through how many others reach this peer at HIGH.  ``path_timeout``: seconds for one way to a peer;
    ``next_path_after``: seconds without an answer after which the next is tried beside it, at HIGH.  ``tor_socks``,
    ``tor_control``: HOST:PORT of Tor's.  ``padded``: all streams are padded (protocol/padding.py): those that this peer
    opens, and others' are refused without.  ``private_network``: whether holes are punched to private addresses too.
    ``meets``: whom who calls at LOW must be to be told where this peer is: whoever is led on from a relay to a direct
    connection sees its IP before a stream is asked for.  ``receipts``: what is signed for relays that are used alone
    (protocol/receipts.py): "off", "kept" by them, or "shown" to others too.  ``system_of``: as of PrivacyRouter."""

    relays: int = 2
    path_timeout: float = 20.0
    next_path_after: float = 1.0
    tor_socks: str = "127.0.0.1:9050"
    tor_control: str = "127.0.0.1:9051"
    padded: bool = False
    private_network: bool = False
    meets: Callable[[PeerId], bool] = lambda _: True
    receipts: str = "kept"
    system_of: Callable[[bytes], str] = lambda _: ""
    client: ClientPolicy | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """``offered``: binary multiaddrs at which it is said to be reached; none: they are to be looked for."""

    peer: PeerId
    offered: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Target:
        """A peer id, or a multiaddr that ends in /p2p/PEER.  AddressError."""
        if not text.startswith("/"):
            try:
                return cls(PeerId.parse(text))
            except ValueError as error:
                raise AddressError(f"{text!r} is no peer id: {error}") from error
        head, separator, tail = text.rstrip("/").rpartition("/p2p/")
        try:
            peer = PeerId.parse(tail)
            offered = Multiaddr(head).to_bytes() if head else b""
        except Exception as error:  # multiaddr raises many types for one thing: it is no multiaddr
            raise AddressError(f"{text!r} is no address that ends in /p2p/PEER") from error
        if not separator:
            raise AddressError(f"{text!r} does not say which peer is there: /p2p/PEER belongs at its end")
        return cls(peer, (offered,) if offered else ())

    @property
    def relay(self) -> PeerId | None:
        """The relay that a caller has named, if it has."""
        found = re.search(r"/p2p/(\w+)/p2p-circuit$", str(Multiaddr(self.offered[0]))) if self.offered else None
        return None if found is None else PeerId.parse(found[1])


def way_of(address: bytes, relays: Sequence[RelayAt]) -> list[str]:
    """As Client.through takes it; ``address``: where the first of them is dialled."""
    first, *others = (str(PeerId(one.peer)) for one in relays)
    return [f"{Multiaddr(address)}/p2p/{first}", *others]


def name_of(path: Path) -> str:
    """For a person."""
    if path.relays:
        return "through " + ", ".join(str(PeerId(relay.peer)) for relay in path.relays)
    with contextlib.suppress(Exception):
        return str(Multiaddr(path.address))
    return "an address that is none"
