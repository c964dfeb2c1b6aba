"""Where a peer is dialled: an address and port, by IP or by name, and through which relay.

    /ip4/192.0.2.1/tcp/4001/p2p/PEER                                  directly
    /dns4/relay.example/tcp/4001/p2p/RELAY/p2p-circuit/p2p/PEER        through a relay
    /dnsaddr/relay.example                                            wherever its TXT records say
    /onion3/vww6...pnpyyd:80/p2p/PEER                                  by Tor, where the caller says that it may be

Source: https://github.com/libp2p/specs/blob/master/addressing/README.md, relay/circuit-v2.md ("Addressing").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from multiaddr import Multiaddr

from protocol.identity import PeerId

NAMES: Final = ("dns", "dns4", "dns6", "dnsaddr")
HOSTS: Final = ("ip4", "ip6", *NAMES)
ONION: Final = "onion3"

#: What a name in the DNS is made of, in practice.  Records say it, and people read it on their terminals.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")

#: Characters of an address: a name of 253, two peer ids and what is between them.
MAX_TEXT: Final = 1024


class DialAddressError(ValueError):
    """Text that is no address which can be dialled; the message says why."""


@dataclass(frozen=True, slots=True)
class DialAddress:
    """``transport``: ``/ip4/192.0.2.1/tcp/4001`` or with a name; ``host`` and ``value`` are its first part, ``port``
    0 when the name's records tell it.  Of an onion, ``value`` is what stands before .onion.  ``peer``: who must answer
    there, if it is known.  ``target``: the peer to reach through that one, None when it is itself the one to reach."""

    host: str
    value: str
    port: int
    peer: PeerId | None
    target: PeerId | None = None

    @property
    def transport(self) -> str:
        if self.host == ONION:
            return f"/{self.host}/{self.value}:{self.port}"
        return f"/{self.host}/{self.value}" + (f"/tcp/{self.port}" if self.port else "")

    @property
    def named(self) -> bool:
        """Whether it must be resolved before it can be dialled."""
        return self.host in NAMES

    def __str__(self) -> str:
        peer = f"/p2p/{self.peer}" if self.peer is not None else ""
        circuit = f"/p2p-circuit/p2p/{self.target}" if self.target is not None else ""
        return self.transport + peer + circuit


def parse_dial_address(text: str, *, onion: bool = False) -> DialAddress:
    """The address in ``text``; DialAddressError when it is none that can be dialled.  ``onion``: whether one of Tor may
    be given, which only Tor dials."""
    if len(text) > MAX_TEXT:
        raise DialAddressError(f"an address of {len(text)} characters, at most {MAX_TEXT}")
    try:
        parts = [(protocol.name, value) for protocol, value in Multiaddr(text).items()]
    except Exception as error:  # multiaddr raises many types for one thing: it is no multiaddr
        raise DialAddressError(f"{text!r} is no multiaddr, such as /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo...") from error
    names = [name for name, _ in parts]
    if names[:1] == [ONION]:
        return _onion(text, parts, allowed=onion)
    rest = names[1:]
    if rest[:1] == ["tcp"]:
        rest = rest[1:]
    elif names[:1] != ["dnsaddr"]:
        rest = ["?"]
    if (
        not names
        or names[0] not in HOSTS
        or rest not in ([], ["p2p"], ["p2p", "p2p-circuit", "p2p"], ["p2p-circuit", "p2p"])
    ):
        raise DialAddressError(
            f"{text} cannot be dialled: it must be /ip4, /ip6 or a /dns name, then /tcp/PORT, then /p2p/PEER, and for "
            f"a peer behind a relay /p2p-circuit/p2p/PEER"
        )
    if names[0] in NAMES and not _NAME.fullmatch(parts[0][1]):
        raise DialAddressError(f"{parts[0][1]!r} is no domain name (one beyond ASCII is written in punycode, xn--...)")
    port, peer, target = 0, None, None
    behind_relay = False
    for name, value in parts[1:]:
        if name == "tcp":
            port = int(value)
            if not port:
                raise DialAddressError(f"{text} cannot be dialled: port 0 is for listening")
        elif name == "p2p-circuit":
            behind_relay = True
        elif behind_relay:
            target = _peer_id(value)
        else:
            peer = _peer_id(value)
    return DialAddress(names[0], parts[0][1], port, peer, target)


def _onion(text: str, parts: list[tuple[str, str]], *, allowed: bool) -> DialAddress:
    if not allowed:
        raise DialAddressError(f"{text} is dialled by Tor alone: ask for the privacy level maximum")
    if [name for name, _ in parts[1:]] not in ([], ["p2p"]):
        raise DialAddressError(f"{text} cannot be dialled: an onion address is /onion3/NAME:PORT, then /p2p/PEER")
    value, _, port = parts[0][1].partition(":")
    return DialAddress(ONION, value, int(port), _peer_id(parts[1][1]) if parts[1:] else None)


def _peer_id(text: str) -> PeerId:
    try:
        return PeerId.parse(text)
    except ValueError as error:
        raise DialAddressError(str(error)) from error
