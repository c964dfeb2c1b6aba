"""Ports that a router passes on, between actors and their port.

PortMapper   -> its port       MappingWanted, answered by MappingResult
PortMapper   -> Reachability   ExternalAddresses
whoever asks peers who they are -> Reachability   AddressObserved
"""

from __future__ import annotations

import msgspec

from protocol.message_base import Message


class MappingWanted(msgspec.Struct, frozen=True):
    """To the port, which is in the same process.  ``ports``: (ours, the outer one that is suggested); none: end what
    there is.  ``lease``: seconds."""

    number: int
    ports: tuple[tuple[int, int], ...]
    lease: int


class PortMapping(msgspec.Struct, frozen=True, array_like=True):
    """``address``: the router's outer one, as text, "": not known.  ``lifetime``: seconds."""

    internal_port: int
    external_port: int
    address: str
    lifetime: int
    method: str


class MappingResult(Message, frozen=True):
    """Of MappingWanted ``number``.  ``problem``: why there is none, for a person."""

    number: int
    mapped: tuple[PortMapping, ...]
    problem: str = ""


class ExternalAddresses(Message, frozen=True):
    """Binary multiaddrs outside this network that lead to us, as a router says; none: there are none any more."""

    addresses: tuple[bytes, ...]


class AddressObserved(Message, frozen=True):
    """A peer of ``network`` (actors/dial_policy.py) sees us at ``address``, a binary multiaddr: identify says so."""

    address: bytes
    network: str


#: To PortMapper.
MappingMessage = MappingResult

#: To Reachability.
ExternalMessage = ExternalAddresses | AddressObserved
