"""PCP and NAT-PMP: how a host asks its router to pass a port on to it.

Both are one UDP datagram each way, at the router's port 5351.  A router that speaks only the older NAT-PMP answers a
PCP request in that one's form, with "unsupported version"; so PCP is asked first.

Source: RFC 6887 (PCP: sections 7.1, 7.2, 8.1.1, 11.1; "MAP"), RFC 6886 (NAT-PMP: sections 3.2, 3.3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError

#: UDP port of the router.
PORT: Final = 5351

#: Seconds after which a request is repeated, doubled each time, and how often it is sent (RFC 6886, 3.1 has 250 ms and
#: nine times, which is two minutes: a router in the same room answers within a second or not at all).
FIRST_WAIT: Final = 0.25
SENDINGS: Final = 4

#: Bytes of a datagram (RFC 6887, 7).
MAX_DATAGRAM: Final = 1100

#: Bytes of a nonce, by which a mapping is ours to change.
NONCE: Final = 12

#: Seconds of a lease that are believed: RFC 6887, 15 lets a router grant less than it is asked for, and a day at most.
MAX_LEASE: Final = 86_400

_PCP: Final = 2
_NAT_PMP: Final = 0
_MAP: Final = 1
_MAP_TCP: Final = 2
_EXTERNAL: Final = 0
_ANSWER: Final = 128
_TCP: Final = 6

_PCP_HEADER: Final = struct.Struct("!BBHI16s")
_PCP_MAP: Final = struct.Struct("!12sB3xHH16s")
_PCP_ANSWER: Final = struct.Struct("!BBxBII12x")
_PMP_MAP: Final = struct.Struct("!BBHHHI")
_PMP_MAP_ANSWER: Final = struct.Struct("!BBHIHHI")
_PMP_EXTERNAL_ANSWER: Final = struct.Struct("!BBHI4s")


class PcpResult(IntEnum):
    """RFC 6887, 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


#: RFC 6886, 3.5.
_PMP_RESULTS: Final = {
    1: "unsupported version",
    2: "not authorized: port mapping is switched off at the router",
    3: "network failure",
    4: "out of resources",
    5: "unsupported opcode",
}


class MappingRefused(RemoteProtocolError):
    """The router answered, and it was no."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the router refuses: {reason}", "refused")


class NoPcp(RemoteProtocolError):
    """The router speaks NAT-PMP alone."""

    def __init__(self) -> None:
        super().__init__("the router does not speak PCP", "version")


@dataclass(frozen=True, slots=True)
class Mapped:
    """``external_port`` at the router leads to ``internal_port`` here, for ``lifetime`` seconds from the answer.
    ``address``: the router's outer address, None: it does not say.  ``epoch``: seconds since the router began to keep
    what it keeps; one that goes back has forgotten everything."""

    internal_port: int
    external_port: int
    address: IPv4Address | IPv6Address | None
    lifetime: int
    epoch: int


# PCP.


def pcp_request(nonce: bytes, client: IPv4Address, port: int, suggested: int, lifetime: int) -> bytes:
    """MAP of TCP ``port`` of ``client``, this host as the router sees it.  ``suggested``: the outer port, 0: any;
    ``lifetime``: seconds, 0: end it."""
    if len(nonce) != NONCE:
        raise LocalProtocolError(f"a nonce of {len(nonce)} bytes")
    any_address = _mapped(IPv4Address(0))
    header = _PCP_HEADER.pack(_PCP, _MAP, 0, lifetime, _mapped(client))
    return header + _PCP_MAP.pack(nonce, _TCP, port, suggested, any_address)


def pcp_answer(data: bytes, nonce: bytes, port: int) -> Mapped | None:
    """What the router says of our request; None: it is not an answer to that.  NoPcp, MappingRefused,
    RemoteProtocolError."""
    if len(data) > MAX_DATAGRAM or len(data) < 4:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes", "size")
    if data[0] == _NAT_PMP and data[1] >= _ANSWER:
        raise NoPcp
    if data[0] != _PCP or data[1] != _ANSWER | _MAP:
        return None
    if len(data) < _PCP_ANSWER.size + _PCP_MAP.size:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes", "size")
    _, _, result, lifetime, epoch = _PCP_ANSWER.unpack_from(data)
    told, protocol, internal, external, address = _PCP_MAP.unpack_from(data, _PCP_ANSWER.size)
    if told != nonce or protocol != _TCP or internal != port:
        return None
    if result == PcpResult.UNSUPP_VERSION:
        raise NoPcp
    if result:
        known = result in set(PcpResult)
        raise MappingRefused(PcpResult(result).name.replace("_", " ").lower() if known else f"PCP result {result}")
    return Mapped(internal, external, _plain(address), min(lifetime, MAX_LEASE), epoch)


def _mapped(address: IPv4Address) -> bytes:
    """As PCP has IPv4 addresses: "an IPv4-mapped IPv6 address" (RFC 6887, 5)."""
    return bytes(10) + b"\xff\xff" + address.packed


def _plain(data: bytes) -> IPv4Address | IPv6Address | None:
    address = IPv6Address(data)
    if address.ipv4_mapped is not None:
        return None if address.ipv4_mapped == IPv4Address(0) else address.ipv4_mapped
    return None if address == IPv6Address(0) else address


# NAT-PMP.


def pmp_request(port: int, suggested: int, lifetime: int) -> bytes:
    """Map TCP ``port``; as in :func:`pcp_request`."""
    return _PMP_MAP.pack(_NAT_PMP, _MAP_TCP, 0, port, suggested, lifetime)


def pmp_external_request() -> bytes:
    """What is your outer address?"""
    return bytes((_NAT_PMP, _EXTERNAL))


def pmp_answer(data: bytes, port: int) -> Mapped | None:
    """What the router says of the request to map ``port``; None: it is not an answer to that.  MappingRefused,
    RemoteProtocolError."""
    if not _is_pmp(data, _MAP_TCP):
        return None
    _refuse(data)
    if len(data) < _PMP_MAP_ANSWER.size:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes", "size")
    _, _, _, epoch, internal, external, lifetime = _PMP_MAP_ANSWER.unpack_from(data)
    if internal != port:
        return None
    return Mapped(internal, external, None, min(lifetime, MAX_LEASE), epoch)


def pmp_external_answer(data: bytes) -> IPv4Address | None:
    """The router's outer address; None: it is no answer to that.  MappingRefused, RemoteProtocolError."""
    if not _is_pmp(data, _EXTERNAL):
        return None
    _refuse(data)
    if len(data) < _PMP_EXTERNAL_ANSWER.size:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes", "size")
    return IPv4Address(_PMP_EXTERNAL_ANSWER.unpack_from(data)[4])


def _is_pmp(data: bytes, operation: int) -> bool:
    if len(data) > MAX_DATAGRAM or len(data) < 8:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes", "size")
    return data[0] == _NAT_PMP and data[1] == _ANSWER | operation


def _refuse(data: bytes) -> None:
    result = int.from_bytes(data[2:4], "big")
    if result:
        raise MappingRefused(_PMP_RESULTS.get(result, f"NAT-PMP result {result}"))
