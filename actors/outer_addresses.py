"""Where this node may be reached from outside its own network, as routers and peers say; a part of Reachability.

A router says where it passes our port on (actors/port_mapper.py).  Peers say from where they see us, in identify: with
our own port that is where we are reached if somebody has set up the router by hand.  One peer may say anything, so two
of different networks must say the same.  None of it is told to anybody before AutoNAT has confirmed it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from protocol.addresses import decode_tcp, encode_tcp

#: Networks of peers that must have seen us at an address.
VOICES: Final = 2

#: Addresses that are remembered, networks for each, and seconds for which a word counts: a provider may give another
#: address each day.
MAX_OBSERVED: Final = 8
MAX_VOICES: Final = 4
LIFE: Final = 6 * 3600.0


class OuterAddresses:
    """``mapped``: binary multiaddrs that the router passes on."""

    def __init__(self, voices: int = VOICES) -> None:
        self.mapped: tuple[bytes, ...] = ()
        self._voices = voices
        self._seen: OrderedDict[str, dict[str, float]] = OrderedDict()

    def observed(self, address: bytes, network: str, now: float) -> None:
        """A peer of ``network`` sees us at ``address``, a binary multiaddr."""
        found = decode_tcp(address)
        if found is None:
            return
        voices = self._seen.setdefault(found[0], {})
        voices.pop(network, None)
        voices[network] = now
        while len(voices) > MAX_VOICES:
            del voices[next(iter(voices))]
        self._seen.move_to_end(found[0])
        while len(self._seen) > MAX_OBSERVED:
            self._seen.popitem(last=False)

    def all(self, own: Iterable[bytes], now: float) -> tuple[bytes, ...]:
        """Those that are worth being asked about; ``own``: our addresses, of which there are the ports."""
        ports = dict.fromkeys(tcp[1] for one in own if (tcp := decode_tcp(one)) is not None and tcp[1])
        found = dict.fromkeys(self.mapped)
        for host, voices in self._seen.items():
            if sum(when + LIFE > now for when in voices.values()) >= self._voices:
                found |= dict.fromkeys(encode_tcp(ip_address(host), port) for port in ports)
        return tuple(found)
