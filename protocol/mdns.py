"""What libp2p peers say over multicast DNS: one TXT string for each address, with the peer id in it.

    PTR  _p2p._udp.local            -> NAME._p2p._udp.local
    TXT  NAME._p2p._udp.local       -> dnsaddr=/ip4/192.168.1.5/tcp/4001/p2p/12D3Koo...  (one or more)

NAME is random, 32 to 63 characters, and says nothing of the peer.

Source: https://github.com/libp2p/specs/blob/master/discovery/mdns.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from multiaddr import Multiaddr

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId

SERVICE: Final = "_p2p._udp.local."

#: "It should be between 32 and 63 characters" (specification, "Service Name").
NAME_SIZE: Final = 40
PREFIX: Final = b"dnsaddr="

#: Bytes of a TXT string: one of them is its length.
MAX_STRING: Final = 255

#: Bytes of a TXT record that are read, and addresses in it: a datagram of mDNS has at most 9000.
MAX_TXT: Final = 9000
MAX_ADDRESSES: Final = 16

#: Bytes of all strings that we send: with names and headers it is one datagram on every link.
MAX_SENT: Final = 1000


@dataclass(frozen=True, slots=True)
class Heard:
    """``peer`` says that it is at ``addresses``, binary multiaddrs without /p2p."""

    peer: PeerId
    addresses: tuple[bytes, ...]


def txt_of(addresses: Iterable[bytes], peer: PeerId) -> bytes:
    """The TXT record of a peer at ``addresses`` (binary multiaddrs without /p2p), as it is on the wire: those that fit,
    in their order."""
    record = bytearray()
    for address in addresses:
        text = PREFIX + f"{Multiaddr(address)}/p2p/{peer}".encode()
        if len(text) <= MAX_STRING and len(record) + 1 + len(text) <= MAX_SENT:
            record += bytes((len(text),)) + text
    return bytes(record)


def read_txt(record: bytes) -> Heard:
    """Who says it, of a TXT record.  RemoteProtocolError when it is cut, too large, of two peers or of none; strings
    that are no address of libp2p's are skipped, as the specification asks."""
    peer: PeerId | None = None
    addresses: dict[bytes, None] = {}
    for text in _strings(record):
        if not text.startswith(PREFIX) or len(addresses) >= MAX_ADDRESSES:
            continue
        found = _read(text[len(PREFIX) :])
        if found is None:
            continue
        if peer not in (None, found[0]):
            raise RemoteProtocolError("a TXT record of two peers", "mdns")
        peer = found[0]
        addresses[found[1]] = None
    if peer is None:
        raise RemoteProtocolError("a TXT record without an address", "mdns")
    return Heard(peer, tuple(addresses))


def _strings(record: bytes) -> Sequence[bytes]:
    if len(record) > MAX_TXT:
        raise RemoteProtocolError(f"a TXT record of {len(record)} bytes, at most {MAX_TXT}", "mdns")
    strings, at = [], 0
    while at < len(record):
        end = at + 1 + record[at]
        if end > len(record):
            raise RemoteProtocolError("a TXT record that is cut", "mdns")
        strings.append(record[at + 1 : end])
        at = end
    return strings


def _read(text: bytes) -> tuple[PeerId, bytes] | None:
    """(peer, address) of ``/ip4/.../tcp/.../p2p/PEER``; None for anything else."""
    try:
        parts = [(protocol.name, value) for protocol, value in Multiaddr(text.decode("ascii")).items()]
        if [name for name, _ in parts] not in (["ip4", "tcp", "p2p"], ["ip6", "tcp", "p2p"]):
            return None
        (version, ip), (_, port), (_, peer) = parts
        return PeerId.parse(peer), Multiaddr(f"/{version}/{ip}/tcp/{port}").to_bytes()
    except Exception:  # multiaddr raises many types for one thing: it is no multiaddr
        return None
