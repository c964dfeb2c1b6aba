"""Which of the addresses that strangers tell are dialled.

Whoever publishes an address has others connect to it.  So none leads to this host or to the network that it is in,
where a stranger could have services poked at that he cannot reach himself, unless the node is told that its network is
a private one; and none to what is no host at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from protocol.addresses import decode_tcp


def may_dial(address: bytes, *, private: bool) -> bool:
    """Whether a binary multiaddr is one that may be dialled: TCP over IP.  ``private``: also at private, link-local and
    loopback addresses, as on a network of one's own or when mDNS told it."""
    found = decode_tcp(address)
    if found is None or not found[1]:
        return False
    ip = ip_address(found[0])
    if ip.is_unspecified or ip.is_multicast or found[0] == "255.255.255.255":
        return False
    if ip.version == 6 and ip.ipv4_mapped is not None:
        return False  # it is written as what it is
    return ip.is_global or (private and (ip.is_private or ip.is_link_local or ip.is_loopback))


def dialable(addresses: Iterable[bytes], *, private: bool, most: int) -> tuple[bytes, ...]:
    """The first ``most`` that may be dialled, each once."""
    return tuple(dict.fromkeys(one for one in addresses if may_dial(one, private=private)))[:most]


def network_of(address: bytes) -> str:
    """Of what network a binary multiaddr is: a /16 (IPv4) or /32 (IPv6); "" for others.  Somebody with one provider has
    addresses of few."""
    found = decode_tcp(address)
    if found is None:
        return ""
    ip = ip_address(found[0])
    size = 2 if ip.version == 4 else 4
    return ip.packed[:size].hex()
