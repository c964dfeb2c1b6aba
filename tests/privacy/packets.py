"""What is in a capture: the packets of tcpdump -i any or of one interface, read without a library.

Source: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html; https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

#: Bytes of the link header, and where the ethertype is in it, by link type.
_LINKS = {1: (14, 12), 113: (16, 14), 276: (20, 0)}


@dataclass(frozen=True, slots=True)
class Packet:
    """``protocol``: tcp, udp, icmp, or its number.  ``opens``: a TCP SYN without ACK.  ``data``: all of the packet."""

    source: str
    destination: str
    protocol: str
    source_port: int
    destination_port: int
    opens: bool
    data: bytes


def packets(path: Path) -> list[Packet]:
    """Every IP packet of a pcap file."""
    data = path.read_bytes()
    magic, *_, link = struct.unpack("<IHHiIII", data[:24])
    assert magic in (0xA1B2C3D4, 0xA1B23C4D), "a pcap file of this machine's byte order"
    header, at = _LINKS[link]
    found, offset = [], 24
    while offset + 16 <= len(data):
        _, _, size, whole = struct.unpack("<IIII", data[offset : offset + 16])
        assert size == whole, "tcpdump cut no packet off"
        frame = data[offset + 16 : offset + 16 + size]
        offset += 16 + size
        ethertype = int.from_bytes(frame[at : at + 2], "big")
        if ethertype == 0x0800:
            found.append(_ipv4(frame[header:]))
        elif ethertype == 0x86DD:
            found.append(_ipv6(frame[header:]))
    return found


def _ipv4(data: bytes) -> Packet:
    start = (data[0] & 15) * 4
    return _packet(data, start, data[9], data[12:16], data[16:20])


def _ipv6(data: bytes) -> Packet:
    return _packet(data, 40, data[6], data[8:24], data[24:40])


def _packet(data: bytes, start: int, number: int, source: bytes, destination: bytes) -> Packet:
    protocol = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}.get(number, str(number))
    ports = (0, 0)
    flags = 0
    if protocol in ("tcp", "udp"):
        ports = struct.unpack(">HH", data[start : start + 4])
    if protocol == "tcp":
        flags = data[start + 13]
    opens = flags & 0x12 == 0x02
    return Packet(str(ip_address(source)), str(ip_address(destination)), protocol, *ports, opens, data)
