"""MdnsDiscovery: relays on the same network find each other, with nobody's help.

While this node relays it says where on its networks it is, under a name that is nobody's (protocol/mdns.py).  Who
answers there becomes known to the directory, which finds out whether it is a relay.  Only addresses of such networks
count, whoever tells them: a private, link-local or global one, never this host's own loopback.

The sockets are its port's (actors/ports/multicast.py), which is on the networks that ``announcement`` names; without
one, nothing is sent and nobody is heard.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from actors.actor import Send
from actors.dial_policy import may_dial
from actors.rate_limit import TokenBucket
from protocol.addresses import decode_tcp
from protocol.discovery_messages import RelayFound, RelaysSearched, RelaysWanted
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.mdns import NAME_SIZE, read_txt, txt_of
from protocol.mdns_messages import TxtHeard
from protocol.messages import ActorDown, ActorUp, AddressesChanged
from protocol.quota_messages import ModeTold

SOURCE: Final = "mdns"

#: Peers of this network that are remembered: a large office.  Each costs about 1 kB.
MAX_PEERS: Final = 256

#: Records that are read a second, and at once: a network that starts after a power cut says so many; a flood is cut.
RECORDS_PER_SECOND: Final = 20.0
RECORDS_AT_ONCE: Final = 200.0

#: Seconds in which those who are there have answered (RFC 6762, section 6: within half a second, and once more).
SEARCH_TIME: Final = 1.5

#: Seconds for which a record is believed at most, whatever it says: an hour and a quarter, as RFC 6762 has for names.
MAX_TTL: Final = 4500.0

#: Letters of a name.
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(slots=True)
class _Peer:
    addresses: tuple[bytes, ...]
    until: float


class MdnsDiscovery:
    """See the module.  ``told``: the actors that hear of peers unasked.  ``relaying``: this node is to be found.
    ``loopback``: its own host's loopback is a network like others (for tests).

    ``instance``: the name that it answers for.  ``announcement``: the TXT record to publish, b"": none."""

    def __init__(
        self,
        name: str,
        own: PeerId,
        told: Sequence[str],
        randomness: Callable[[int], bytes],
        addresses: Sequence[bytes] = (),
        *,
        relaying: bool = True,
        loopback: bool = False,
    ) -> None:
        self.instance = "".join(_LETTERS[byte % len(_LETTERS)] for byte in randomness(NAME_SIZE))
        self.announcement = b""
        self.refused = 0
        self._name = name
        self._own = own
        self._told = tuple(told)
        self._relaying = relaying
        self._loopback = loopback
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._names: OrderedDict[str, bytes] = OrderedDict()
        self._rate: TokenBucket | None = None
        self._searches: list[tuple[float, RelaysWanted]] = []
        self._addresses = tuple(addresses)
        self._announce()

    def handle(
        self,
        message: TxtHeard | RelaysWanted | AddressesChanged | ModeTold | ActorUp | ActorDown,
        now: float,
    ) -> list[Send]:
        match message:
            case TxtHeard():
                return self._heard(message, now)
            case RelaysWanted():
                # Those that are known are told at once; who answers from now on, when it does.
                self._searches.append((now + min(SEARCH_TIME, message.timeout), message))
                self._forget(now)
                return [
                    Send(message.asker, RelayFound(SOURCE, peer, known.addresses, b"", message.request_id))
                    for peer, known in self._peers.items()
                ]
            case AddressesChanged(addresses=addresses):
                self._addresses = tuple(addresses)
                self._announce()
            case ModeTold(relays=relays):
                self._relaying = relays
                self._announce()
            case ActorUp(actor=actor) if actor in self._told:
                return [Send(actor, RelayFound(SOURCE, peer, one.addresses)) for peer, one in self._peers.items()]
        return []

    def next_deadline(self) -> float | None:
        return min((when for when, _ in self._searches), default=None)

    def handle_deadline(self, now: float) -> list[Send]:
        over = [asked for when, asked in self._searches if when <= now]
        self._searches = [one for one in self._searches if one[0] > now]
        return [Send(asked.asker, RelaysSearched(SOURCE, asked.request_id)) for asked in over]

    def _announce(self) -> None:
        local = [one for one in self._addresses if self._is_local(one)] if self._relaying else []
        self.announcement = txt_of(local, self._own)

    def _is_local(self, address: bytes) -> bool:
        """Of a network on which multicast is heard; a global one may be, as IPv6 at home is."""
        found = decode_tcp(address)
        if found is None or not may_dial(address, private=True):
            return False
        ip = ip_address(found[0])
        if ip.is_loopback:
            return self._loopback
        # A link-local one of IPv6 needs the interface beside it, which a multiaddr of this form does not have.
        return not (ip.version == 6 and ip.is_link_local)

    def _heard(self, heard: TxtHeard, now: float) -> list[Send]:
        if heard.name.startswith(self.instance):
            return []
        if self._rate is None:
            self._rate = TokenBucket(RECORDS_PER_SECOND, RECORDS_AT_ONCE, now)
        if not self._rate.take(now):
            self.refused += 1
            return []
        if heard.ttl <= 0:
            self._peers.pop(self._names.pop(heard.name, b""), None)
            return []
        try:
            told = read_txt(heard.record)
        except RemoteProtocolError:
            self.refused += 1
            return []
        addresses = tuple(one for one in told.addresses if self._is_local(one))
        peer = told.peer.bytes
        if not addresses or told.peer == self._own:
            return []
        known = self._peers.get(peer)
        new = known is None or known.addresses != addresses or known.until <= now
        self._peers[peer] = _Peer(addresses, now + min(heard.ttl, MAX_TTL))
        self._peers.move_to_end(peer)
        self._names[heard.name] = peer
        self._names.move_to_end(heard.name)
        for table in (self._peers, self._names):
            while len(table) > MAX_PEERS:
                table.popitem(last=False)
        if not new:
            return []
        return [
            *(Send(name, RelayFound(SOURCE, peer, addresses)) for name in self._told),
            *(
                Send(asked.asker, RelayFound(SOURCE, peer, addresses, b"", asked.request_id))
                for _, asked in self._searches
                if asked.asker not in self._told
            ),
        ]

    def _forget(self, now: float) -> None:
        for peer in [peer for peer, known in self._peers.items() if known.until <= now]:
            del self._peers[peer]
