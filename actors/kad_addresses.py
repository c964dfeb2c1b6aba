"""Which addresses that strangers tell are believed, dialled and told on.

Whoever is asked for peers may answer with any address: this host's own ports, a machine in this network, a victim.
So an address counts only if it leads no further inward than the one who tells it: a peer on the Internet may tell of
global addresses, one in a private network of private ones too, one on this host of everything.  The same rule, turned
round, says what a peer is told.  Names are not dialled on a stranger's word, because they may lead anywhere by then.

An IP *group* is the /16 of an IPv4 address and the /32 of an IPv6 one: what is cheap to fill with peers.  Private
networks are one owner's, and are no group.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache
from typing import Final

from protocol.multiaddr_form import P2P, ip_of, is_tcp, parts

#: Addresses of one peer that are kept to dial it.
MAX_DIALLED: Final = 8

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Scope(IntEnum):
    """From where an address leads to the same place.  A lower one may not be told of by a higher."""

    NOWHERE = 0
    HOST = 1
    NETWORK = 2
    GLOBAL = 3


_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


def _scope(ip: _Ip) -> Scope:
    if ip.is_loopback:
        return Scope.HOST
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local or ip == _BROADCAST:
        return Scope.NOWHERE  # a link-local one leads nowhere without its interface
    return Scope.GLOBAL if ip.is_global else Scope.NETWORK


@lru_cache(maxsize=4096)
def scope_of(address: str) -> Scope:
    """Of a connection's remote IP, as text; NOWHERE when it is none."""
    ip = _ip(address)
    return Scope.NOWHERE if ip is None else _scope(ip)


@lru_cache(maxsize=4096)
def group_of(address: str) -> str:
    """The IP group of a connection's remote IP, as text; "" when it is of no group."""
    ip = _ip(address)
    return "" if ip is None else _group(ip)


@lru_cache(maxsize=4096)
def groups_of(addresses: tuple[bytes, ...]) -> frozenset[str]:
    """The IP groups that multiaddrs lead to."""
    groups = {_group(ip) for address in addresses if (ip := ip_of(address)) is not None}
    return frozenset(groups - {""})


def _ip(address: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _group(ip: _Ip) -> str:
    if _scope(ip) is not Scope.GLOBAL:
        return ""
    bits = 16 if ip.version == 4 else 32
    return str(ipaddress.ip_network((ip, bits), strict=False))


@lru_cache(maxsize=4096)  # 20 us otherwise, and the same come again in nearly every answer
def to_dial(addresses: tuple[bytes, ...], teller: Scope) -> tuple[bytes, ...]:
    """The first few that we can dial and a peer of ``teller`` may tell of, without peer ids behind them."""
    taken: dict[bytes, None] = {}
    for address in addresses:
        if len(taken) >= MAX_DIALLED:
            break
        ip = ip_of(address)
        if ip is not None and is_tcp(address) and _allowed(_scope(ip), teller):
            taken[without_peer(address)] = None
    return tuple(taken)


@lru_cache(maxsize=4096)
def to_tell(addresses: tuple[bytes, ...], hearer: Scope) -> tuple[bytes, ...]:
    """Those of ``addresses`` that lead somewhere for a peer of ``hearer``.  A name leads wherever its owner says."""
    return tuple(address for address in addresses if (ip := ip_of(address)) is None or _allowed(_scope(ip), hearer))


def at(addresses: tuple[bytes, ...], remote: str) -> tuple[bytes, ...]:
    """Those that lead to the IP at the other end of a connection: what a peer says of itself and has proved."""
    ip = _ip(remote)
    return tuple(address for address in addresses if ip is not None and ip_of(address) == ip)


def _allowed(scope: Scope, other: Scope) -> bool:
    return scope is not Scope.NOWHERE and scope >= other > Scope.NOWHERE


def without_peer(address: bytes) -> bytes:
    """A well-formed address without the /p2p/PEER at its end."""
    code, value = parts(address)[-1]
    return address[: -len(value) - 3] if code == P2P else address
