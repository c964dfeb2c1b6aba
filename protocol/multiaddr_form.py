"""Whether bytes are a multiaddr, and where it leads, without making an object of it.

Addresses of strangers are handed on by the thousand, and some readers (js-libp2p) give up a whole message for one that
they cannot parse.  So what is handed on has a form that is known, and everything else is left out.

Source: https://github.com/multiformats/multiaddr (protocols.csv; "Specification": code, then the value, preceded by
its length when that is not fixed).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.wire import decode_uvarint

#: Bytes of one address.  A /webtransport with two certificate hashes is about 110, a name at most 255.
MAX_ADDRESS: Final = 256

IP4: Final = 4
IP6: Final = 41
TCP: Final = 6
P2P: Final = 421
P2P_CIRCUIT: Final = 290
NAMES: Final = frozenset((53, 54, 55, 56))  # dns, dns4, dns6, dnsaddr

_VARIABLE: Final = -1

#: Bytes of each protocol's value; 0: none.
_SIZES: Final = {
    IP4: 4,
    TCP: 2,
    IP6: 16,
    42: _VARIABLE,  # ip6zone
    43: 1,  # ipcidr
    53: _VARIABLE,  # dns
    54: _VARIABLE,  # dns4
    55: _VARIABLE,  # dns6
    56: _VARIABLE,  # dnsaddr
    273: 2,  # udp
    280: 0,  # webrtc-direct
    281: 0,  # webrtc
    P2P_CIRCUIT: 0,
    P2P: _VARIABLE,
    445: 37,  # onion3
    448: 0,  # tls
    449: _VARIABLE,  # sni
    454: 0,  # noise
    460: 0,  # quic
    461: 0,  # quic-v1
    465: 0,  # webtransport
    466: _VARIABLE,  # certhash
    477: 0,  # ws
    478: 0,  # wss
    480: 0,  # http
    481: _VARIABLE,  # http-path
}

_HOSTS: Final = frozenset((IP4, IP6, 445, *NAMES))

_TRANSPORTS: Final = ((TCP,), (TCP, P2P))


@lru_cache(maxsize=4096)  # the same addresses come again in nearly every answer
def parts(address: bytes) -> tuple[tuple[int, bytes], ...]:
    """(protocol code, value) of each part; RemoteProtocolError when it is no multiaddr of known protocols, or one
    that begins with no host."""
    if not 0 < len(address) <= MAX_ADDRESS:
        raise RemoteProtocolError(f"an address of {len(address)} bytes", "address")
    found: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(address):
        code, offset = _number(address, offset)
        size = _SIZES.get(code)
        if size is None:
            raise RemoteProtocolError(f"an address with protocol {code}", "address")
        if size == _VARIABLE:
            size, offset = _number(address, offset)
            if not size:
                raise RemoteProtocolError("an address with an empty value", "address")
        value = address[offset : offset + size]
        if len(value) != size:
            raise RemoteProtocolError("an address that is cut off", "address")
        offset += size
        found.append((code, value))
    if found[0][0] not in _HOSTS:
        raise RemoteProtocolError("an address that begins with no host", "address")
    for code, value in found:
        if code in NAMES:
            _check_name(value)
        elif code == P2P:
            PeerId(value)
    return tuple(found)


def is_multiaddr(address: bytes) -> bool:
    """Whether :func:`parts` would take it."""
    try:
        parts(address)
    except RemoteProtocolError:
        return False
    return True


def ip_of(address: bytes) -> IPv4Address | IPv6Address | None:
    """The IP that it begins with, one mapped into IPv6 as what it is; None: a name, an onion, or no multiaddr."""
    try:
        code, value = parts(address)[0]
    except RemoteProtocolError:
        return None
    if code == IP4:
        return IPv4Address(value)
    if code == IP6:
        return (ip := IPv6Address(value)).ipv4_mapped or ip
    return None


def is_tcp(address: bytes) -> bool:
    """Whether it is a host and a TCP port that may be dialled, with nothing but a peer id behind it."""
    try:
        (code, _), *rest = parts(address)
    except RemoteProtocolError:
        return False
    if code not in (IP4, IP6) and code not in NAMES:
        return False
    return tuple(code for code, _ in rest) in _TRANSPORTS and rest[0][1] != b"\0\0"


def is_relayed(address: bytes) -> bool:
    """Whether it leads through a relay."""
    try:
        return any(code == P2P_CIRCUIT for code, _ in parts(address))
    except RemoteProtocolError:
        return False


def _number(address: bytes, offset: int) -> tuple[int, int]:
    decoded = decode_uvarint(address, offset)
    if decoded is None:
        raise RemoteProtocolError("an address that is cut off", "address")
    return decoded


def _check_name(value: bytes) -> None:
    if not value.isascii() or b"/" in value or not value.decode().isprintable():
        raise RemoteProtocolError("an address with a name that is none", "address")
