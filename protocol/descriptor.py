"""What a relay says of itself to those who look for one: where it is, what it has left, until when that holds.

A descriptor is msgpack in a signed envelope of its own domain, so that nobody can say it in a relay's place, nor take
another of its signatures for it.  It is an array; later versions add fields at its end, which this one skips.

    [peer id, addresses, mode, sequence, issued at, expires at, capacity, terms, agent]

Source: ours; the envelope is https://github.com/libp2p/specs/blob/master/RFC/0002-signed-envelopes.md.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from protocol.codec import decode_untrusted
from protocol.envelope import open_envelope, seal
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId

DOMAIN: Final = "descord-relay-descriptor"
PAYLOAD_TYPE: Final = b"/descord/relay-descriptor/1"

#: Bytes of a descriptor in its envelope: with eight addresses and their longest names it is 1.4 kB.
MAX_SIZE: Final = 2048

#: Addresses of a relay, and bytes of each: IPv4, IPv6, and names for them.
MAX_ADDRESSES: Final = 8
MAX_ADDRESS: Final = 128

#: Seconds for which a relay may say what it has: a day, as records in the DHT are kept.
MAX_LIFE: Final = 86_400

#: Seconds by which clocks may differ.
CLOCK_SKEW: Final = 600

#: Bytes a month that nothing exceeds, for counts and sizes that are believed.
_MOST: Final = 2**53

Count = Annotated[int, Meta(ge=0, le=_MOST)]


class Capacity(msgspec.Struct, frozen=True, array_like=True):
    """What is free now.  ``hourly``: bytes that it will still relay within the hour, None: as many as it can.
    ``load``: the share that is in use of what it has least of, 0 to 1."""

    reservations: Count
    circuits: Count
    hourly: Count | None
    load: Annotated[float, Meta(ge=0, le=1)]


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """``circuit_data``: bytes each way, ``circuit_duration``: seconds, 0: unlimited.  ``reservation``: seconds."""

    circuit_data: Count
    circuit_duration: Count
    reservation: Count


class RelayDescriptor(msgspec.Struct, frozen=True, array_like=True):
    """``addresses``: binary multiaddrs without /p2p.  A greater ``sequence`` replaces a smaller.  Times are Unix
    seconds.  ``agent``: software and version."""

    peer_id: Annotated[bytes, Meta(min_length=2, max_length=64)]
    addresses: Annotated[
        tuple[Annotated[bytes, Meta(min_length=2, max_length=MAX_ADDRESS)], ...],
        Meta(min_length=1, max_length=MAX_ADDRESSES),
    ]
    mode: Literal["cooperative", "dedicated"]
    sequence: Count
    issued_at: Count
    expires_at: Count
    capacity: Capacity
    terms: Terms
    agent: Annotated[str, Meta(max_length=64)] = ""

    @property
    def peer(self) -> PeerId:
        """Whose it is.  RemoteProtocolError when that is no peer id."""
        return PeerId(self.peer_id)


def seal_descriptor(descriptor: RelayDescriptor, identity: Identity) -> bytes:
    """``descriptor`` in an envelope that ``identity``, whose it is, has signed."""
    return seal(identity, DOMAIN, PAYLOAD_TYPE, msgspec.msgpack.encode(descriptor))


def open_descriptor(envelope: bytes, now: float) -> RelayDescriptor:
    """What a relay says in ``envelope``; ``now``: Unix time.

    RemoteProtocolError whatever is wrong with it: its size or form, a signature that is not the relay's own, a time
    that is over, is too long, or has not come.  Nothing else of it is checked: neither that the addresses are its own
    nor that it relays.
    """
    if len(envelope) > MAX_SIZE:
        raise RemoteProtocolError(f"a descriptor of {len(envelope)} bytes, at most {MAX_SIZE}", "oversized")
    signer, payload = open_envelope(envelope, DOMAIN, PAYLOAD_TYPE)
    descriptor = decode_untrusted(payload, RelayDescriptor, MAX_SIZE)
    if signer.peer_id != descriptor.peer:
        raise RemoteProtocolError("a descriptor signed by another peer", "forged")
    if descriptor.expires_at <= now:
        raise RemoteProtocolError("a descriptor that has expired", "stale")
    if descriptor.issued_at > now + CLOCK_SKEW:
        raise RemoteProtocolError("a descriptor from the future: one of the two clocks is wrong", "future")
    if not 0 < descriptor.expires_at - descriptor.issued_at <= MAX_LIFE:
        raise RemoteProtocolError(f"a descriptor for longer than {MAX_LIFE} s", "lifetime")
    return descriptor
