"""PortMapper: has the router of a home network pass our port on to us, and says where that is.

    addresses of ours ─► all of them behind a router? ─► a mapping is asked for (actors/ports/gateway.py)
       ─► ExternalAddresses to Reachability, which has peers confirm them before anybody is told
    half of the lease is over, or our addresses are others: again.  Refused: later and later.

The port speaks PCP, NAT-PMP and UPnP; what is here is when and what for.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from actors.actor import Send
from protocol.addresses import decode_tcp, encode_tcp
from protocol.mapping_messages import ExternalAddresses, MappingResult, MappingWanted
from protocol.messages import ActorDown, ActorUp, AddressesChanged

#: Seconds of a lease that are asked for: two hours, so that a router is rid of what a host that was switched off left.
LEASE: Final = 7200

#: Seconds until a mapping is looked at again at the latest, and at the earliest whatever a router says.
MAX_WAIT: Final = 3600.0
MIN_WAIT: Final = 60.0

#: Seconds until it is tried again when there was none, at first and at most: most networks have no router that does it.
RETRY: Final = 60.0
MAX_RETRY: Final = 3600.0

#: Seconds that the port has for an answer: all three protocols, one after the other.
PATIENCE: Final = 30.0

#: Ports that are mapped: nodes have one, or one more.
MAX_PORTS: Final = 4


class PortMapper:
    """``told``: the actor that gets ExternalAddresses.  ``private``: an outer address that is itself private counts.

    ``wanted``: what the port is to do, to be taken from here; None: nothing new.  ``problem``: why there is no mapping,
    for a person, "" when there is one or none is needed."""

    def __init__(self, told: str, addresses: Sequence[bytes] = (), *, private: bool = False) -> None:
        self.wanted: MappingWanted | None = None
        self.problem = ""
        self._told = told
        self._private = private
        self._external: tuple[bytes, ...] = ()
        self._ports = _mappable(addresses)
        self._next: float | None = 0.0 if self._ports else None
        self._failures = 0
        self._number = 0
        self._suggested: dict[int, int] = {}

    def handle(self, message: MappingResult | AddressesChanged | ActorUp | ActorDown, now: float) -> list[Send]:
        match message:
            case AddressesChanged(addresses=addresses):
                return self._changed(addresses, now)
            case MappingResult():
                return self._result(message, now)
            case ActorUp(actor=actor) if actor == self._told and self._external:
                return [Send(actor, ExternalAddresses(self._external))]
        return []

    def next_deadline(self) -> float | None:
        return self._next

    def handle_deadline(self, now: float) -> list[Send]:
        if self._next is None or now < self._next or not self._ports:
            return []
        self._number += 1
        # The same outer port as before, where there was one: others know it.
        pairs = tuple((port, self._suggested.get(port, port)) for port in self._ports)
        self.wanted = MappingWanted(self._number, pairs, LEASE)
        self._next = now + PATIENCE  # its answer sets another
        return []

    def _changed(self, addresses: Sequence[bytes], now: float) -> list[Send]:
        ports = _mappable(addresses)
        if ports == self._ports:
            # Another network may have the same ports: the mapping is asked for anew, and stays until it is refused.
            self._next = now if ports else None
            return []
        self._ports = ports
        self._failures = 0
        self._number += 1  # what is under way is of before
        self._next = now if ports else None
        if not ports:
            self.wanted = MappingWanted(self._number, (), 0)
            return self._have(())
        return []

    def _result(self, result: MappingResult, now: float) -> list[Send]:
        if result.number != self._number or not self._ports:
            return []
        found = [one for one in result.mapped if self._outside(one.address)]
        if not found:
            inner = result.mapped and "the router is itself behind another one (its outer address is a private one)"
            self.problem = inner or result.problem
            self._next = now + min(RETRY * 2**self._failures, MAX_RETRY)
            self._failures = min(self._failures + 1, 16)
            return self._have(())
        self.problem = ""
        self._failures = 0
        self._suggested.update({one.internal_port: one.external_port for one in found})
        lease = min(one.lifetime for one in found)
        self._next = now + min(max(lease / 2, MIN_WAIT), MAX_WAIT)
        return self._have(tuple(encode_tcp(ip_address(one.address), one.external_port) for one in found))

    def _outside(self, address: str) -> bool:
        return bool(address) and (self._private or ip_address(address).is_global)

    def _have(self, addresses: tuple[bytes, ...]) -> list[Send]:
        if addresses == self._external:
            return []
        self._external = addresses
        return [Send(self._told, ExternalAddresses(addresses))]


def _mappable(addresses: Sequence[bytes]) -> tuple[int, ...]:
    """The ports of private IPv4 addresses, unless there is one that needs no router."""
    found = [tcp for one in addresses if (tcp := decode_tcp(one)) is not None and tcp[1]]
    ips = [(ip_address(host), port) for host, port in found]
    if any(ip.version == 4 and ip.is_global for ip, _ in ips):
        return ()
    own = (port for ip, port in ips if ip.version == 4 and ip.is_private and not ip.is_loopback)
    return tuple(dict.fromkeys(own))[:MAX_PORTS]
