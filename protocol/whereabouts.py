"""Whereabouts: through which relays a peer is reached, signed by it, and asking a relay for them.

A peer that looks for another one in the DHT itself shows its IP to whoever sits near the other's key, the other peer
included; one that publishes there shows its own.  So at High both have a relay do it, to which they are known anyway:

    peer -> relay   WhereaboutsWanted: where is that peer?    -> WhereaboutsTold
    peer -> relay   WhereaboutsSaid: I am reached there       -> WhereaboutsKept

Whereabouts are a signed peer record as every libp2p peer makes it, of which more is demanded: each address leads
through a relay or is an onion's, so that a record says where a peer is reached and never where it is.  Its sequence is
the Unix time in milliseconds at which it was signed, and it holds for two hours.

Source: ours; the record is https://github.com/libp2p/specs/blob/master/RFC/0003-routing-records.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.codec import decode_untrusted
from protocol.envelope import open_peer_record, seal_peer_record
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId
from protocol.multiaddr_form import IP4, IP6, NAMES, P2P, P2P_CIRCUIT, TCP, parts

PROTOCOL: Final = "/descord/whereabouts/1.0.0"

#: Bytes of a record in its envelope: eight circuit addresses of relays with names, and an RSA key, are 1.8 kB.
MAX_RECORD: Final = 2048

#: Addresses: a peer is reached through a few relays.
MAX_ADDRESSES: Final = 8

#: Bytes of any message.
MAX_MESSAGE: Final = MAX_RECORD + 64

#: Seconds for which a record holds: two reservations' time, so that a peer that is gone is soon looked for no more.
LIFE: Final = 7200

#: Seconds by which clocks may differ.
CLOCK_SKEW: Final = 600

ONION3: Final = 445

_Peer = Annotated[bytes, Meta(min_length=2, max_length=64)]
_Record = Annotated[bytes, Meta(max_length=MAX_RECORD)]


class WhereaboutsWanted(msgspec.Struct, frozen=True, array_like=True, tag="wanted"):
    """Through which relays is ``peer`` reached?"""

    peer: _Peer


class WhereaboutsTold(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    """``record``: its record, b"": none was found.  ``problem``: why not, for a person."""

    record: _Record
    problem: Annotated[str, Meta(max_length=256)] = ""


class WhereaboutsSaid(msgspec.Struct, frozen=True, array_like=True, tag="said"):
    """``record``: mine, to be kept where others look for it."""

    record: _Record


class WhereaboutsKept(msgspec.Struct, frozen=True, array_like=True, tag="kept"):
    """``copies``: how many peers keep it now.  ``problem``: why none does, for a person."""

    copies: Annotated[int, Meta(ge=0, le=1024)]
    problem: Annotated[str, Meta(max_length=256)] = ""


WhereaboutsMessage = WhereaboutsWanted | WhereaboutsTold | WhereaboutsSaid | WhereaboutsKept


def encode(message: WhereaboutsMessage) -> bytes:
    """As it is on the stream, without its length."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes) -> WhereaboutsMessage:
    """RemoteProtocolError whatever is wrong with it."""
    message: WhereaboutsMessage = decode_untrusted(data, WhereaboutsMessage, MAX_MESSAGE)  # type: ignore[arg-type]
    return message


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """``addresses``: binary multiaddrs, of relays up to /p2p-circuit, or onions.  ``expires_at``: Unix time, seconds;
    a greater ``sequence`` replaces a smaller."""

    peer: PeerId
    sequence: int
    addresses: tuple[bytes, ...]

    @property
    def expires_at(self) -> float:
        return self.sequence / 1000 + LIFE


def seal_whereabouts(identity: Identity, addresses: Sequence[bytes], now: float) -> bytes:
    """Our own record.  ValueError when an address is none that may be in it, or there are too many."""
    if len(addresses) > MAX_ADDRESSES or not all(is_hidden(address) for address in addresses):
        raise ValueError(f"whereabouts are at most {MAX_ADDRESSES} addresses through relays, or onions")
    return seal_peer_record(identity, int(now * 1000), addresses)


def open_whereabouts(record: bytes, now: float) -> Whereabouts:
    """What ``record`` says.  RemoteProtocolError, by code: ``oversized``, ``envelope`` (not signed by the peer that it
    is about), ``expired``, ``early`` (signed in the future), ``address`` (one that would say where the peer is)."""
    if len(record) > MAX_RECORD:
        raise RemoteProtocolError(f"whereabouts of {len(record)} bytes, at most {MAX_RECORD}", "oversized")
    opened = open_peer_record(record)
    said = Whereabouts(opened.peer, opened.sequence, opened.addresses)
    if said.sequence / 1000 > now + CLOCK_SKEW:
        raise RemoteProtocolError("whereabouts that were signed in the future", "early")
    if said.expires_at <= now:
        raise RemoteProtocolError("whereabouts that hold no longer", "expired")
    if not 0 < len(said.addresses) <= MAX_ADDRESSES:
        raise RemoteProtocolError(f"whereabouts with {len(said.addresses)} addresses", "address")
    if not all(is_hidden(address) for address in said.addresses):
        raise RemoteProtocolError("whereabouts with an address that leads to the peer itself", "address")
    return said


def is_hidden(address: bytes) -> bool:
    """Whether it is a relay's address by TCP, its peer id and /p2p-circuit, or an onion's: so that it says nothing of
    where the peer is."""
    try:
        found = parts(address)
    except RemoteProtocolError:
        return False
    codes = tuple(code for code, _ in found)
    if codes == (ONION3,):
        return True
    return codes[1:] == (TCP, P2P, P2P_CIRCUIT) and (codes[0] in (IP4, IP6) or codes[0] in NAMES)
