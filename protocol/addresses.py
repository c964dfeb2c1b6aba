"""Binary multiaddrs of the one kind that a TCP relay makes by the thousand.

Text, names and every other kind are the multiaddr package's; this is the short way for an accepted connection.

Source: https://github.com/multiformats/multiaddr (protocols.csv: ip4 4, tcp 6, ip6 41, p2p 421).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

_ip4_tcp = struct.Struct(">B4sBH").pack
_ip6_tcp = struct.Struct(">B16sBH").pack


def encode_tcp(address: IPv4Address | IPv6Address, port: int) -> bytes:
    """``/ip4/ADDRESS/tcp/PORT`` or ``/ip6/...``; an IPv4 address mapped into IPv6 is written as what it is."""
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            return _ip6_tcp(41, address.packed, 6, port)
        address = mapped
    return _ip4_tcp(4, address.packed, 6, port)


def decode_tcp(address: bytes) -> tuple[str, int] | None:
    """IP address as text and port of a binary ``/ip4|ip6/ADDRESS/tcp/PORT``; None for anything else."""
    kind, size = address[:1], len(address)
    if kind == b"\x04" and size == 8 and address[5] == 6:
        return str(IPv4Address(address[1:5])), int.from_bytes(address[6:8], "big")
    if kind == b"\x29" and size == 20 and address[17] == 6:
        return str(IPv6Address(address[1:17])), int.from_bytes(address[18:20], "big")
    return None


def text_of(address: bytes) -> str:
    """A binary ``/ip4|ip6/ADDRESS/tcp/PORT`` as text, "" for anything else."""
    found = decode_tcp(address)
    return "" if found is None else f"/{'ip6' if ':' in found[0] else 'ip4'}/{found[0]}/tcp/{found[1]}"


def with_peer(address: bytes, peer: bytes) -> bytes:
    """``address`` with ``/p2p/PEER`` behind it (p2p 421: the length of the peer id, and the id)."""
    return address + b"\xa5\x03" + bytes((len(peer),)) + peer


def without_peer(address: bytes) -> bytes:
    """TCP over IP without the /p2p/PEER behind it, if it has one; any other address as it is."""
    end = {b"\x04": 8, b"\x29": 20}.get(address[:1], len(address))
    rest = address[end:]
    return address[:end] if rest[:2] == b"\xa5\x03" and rest[2:3] == bytes((len(rest) - 3 & 0xFF,)) else address


def is_global(address: bytes) -> bool:
    """Whether ``address`` leads to one place from everywhere, as public IP addresses and names do."""
    if address[:1] == b"\x04":
        return len(address) >= 5 and IPv4Address(address[1:5]).is_global
    if address[:1] == b"\x29":
        return len(address) >= 17 and IPv6Address(address[1:17]).is_global
    return bool(address)
