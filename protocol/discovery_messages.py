"""How relays are found, rated and told of, between actors.

node        -> DHTAdvertiser, MdnsDiscovery   DescriptorChanged: publish this, or nothing any more
node        -> DHTAdvertiser                  DhtModeChanged: answer others, or only ask them
directory   -> DHTAdvertiser, MdnsDiscovery   RelaysWanted: search
those       -> directory                      RelayFound, as they come; RelaysSearched
directory   -> ReputationTracker              Observed; RatingsWanted -> Ratings
whoever     -> directory                      BestRelaysWanted -> BestRelays
"""

from __future__ import annotations

import msgspec

from protocol.message_base import Message


class DescriptorChanged(Message, frozen=True):
    """``envelope``: the node's signed descriptor (protocol/descriptor.py); b"": there is none, withdraw the last."""

    envelope: bytes


class ReachabilityChanged(Message, frozen=True):
    """``addresses``: binary multiaddrs of this node at which others have confirmed to reach it; none: nowhere."""

    addresses: tuple[bytes, ...]


class DhtModeChanged(Message, frozen=True):
    """``server``: others reach this node, so it answers them and keeps records for them; else it only asks."""

    server: bool


class RelaysWanted(Message, frozen=True):
    """Search now, for at most ``timeout`` seconds, and tell ``asker``."""

    request_id: int
    asker: str
    timeout: float


class RelayFound(Message, frozen=True):
    """``source`` (the name of the actor that searches: dht, mdns, public; or cache) says that ``peer`` is a relay, at
    ``addresses`` (binary multiaddrs without /p2p).  ``descriptor``: its signed descriptor, b"" when the source has
    none.  Nothing of it is verified.  ``request_id``: 0 when it came unasked."""

    source: str
    peer: bytes
    addresses: tuple[bytes, ...]
    descriptor: bytes = b""
    request_id: int = 0


class NameResolved(Message, frozen=True):
    """To PublicRelays, from its port: ``name``, a multiaddr with a name, leads to ``addresses``, multiaddrs with
    /p2p/PEER and without names.  ``problem``: why it leads nowhere, for a person."""

    name: str
    addresses: tuple[str, ...]
    problem: str = ""


class RelaysSearched(Message, frozen=True):
    """The search is over.  ``problem``: why it found less than it might, for a person; "" when nothing is known."""

    source: str
    request_id: int
    problem: str = ""


class Observed(Message, frozen=True):
    """What this node saw of a relay itself.  ``kind``: ``probe`` (reached; ``latency`` in seconds; ``works``: it
    answered as a relay, though it may be full), ``unreachable``,
    ``circuit`` (one that worked; ``carried``: bytes both ways), ``circuit_failed`` (and it was the relay's fault),
    ``dropped`` (a circuit ended by the relay without its limits saying so)."""

    peer: bytes
    kind: str
    latency: float = 0.0
    carried: int = 0
    works: bool = False


class ClassTold(Message, frozen=True):
    """To RelayServer: ``peer`` is an operator, whose relay works, ``until`` then (Unix time); a time that is over: no
    longer.  ``standing``: what it counts beside other operators, as actors/vouching.py has it.  ``operator``: whose
    pass it has, and with whom it shares what an operator is given; b"": it is one itself."""

    peer: bytes
    until: float
    standing: float = 1.0
    operator: bytes = b""


class RatingsWanted(Message, frozen=True):
    request_id: int
    asker: str
    peers: tuple[bytes, ...]


class Rating(msgspec.Struct, frozen=True, array_like=True):
    """``score``: 0 to 100, None: unrated.  ``uptime``: 0 to 1, ``latency``: seconds, both None when not known."""

    peer: bytes
    score: float | None
    uptime: float | None
    latency: float | None
    succeeded: int
    failed: int
    carried: int


class Ratings(Message, frozen=True):
    request_id: int
    ratings: tuple[Rating, ...]


class BestRelaysWanted(Message, frozen=True):
    """Best ``count`` relays, within ``timeout`` seconds; ``search``: look for more than is known."""

    request_id: int
    asker: str
    count: int
    timeout: float
    search: bool = True


class FoundRelay(msgspec.Struct, frozen=True, array_like=True):
    """``sources``: who knows it.  ``load``: 0 to 1, None: not told.  ``answer``: what it said when it was probed:
    ``reserves``, ``full``, ``refuses``, ``unreachable``, ``unprobed``.  ``retry_after``: seconds.  ``proved``: of its
    addresses, those at which it has proved its peer id to this node: the others are its own word."""

    peer: bytes
    addresses: tuple[bytes, ...]
    sources: tuple[str, ...]
    latency: float | None
    load: float | None
    score: float | None
    answer: str
    retry_after: int = 0
    agent: str = ""
    last_seen: float = 0.0
    proved: tuple[bytes, ...] = ()


class BestRelays(Message, frozen=True):
    """``problems``: of the sources that found less than they might, for a person."""

    request_id: int
    relays: tuple[FoundRelay, ...]
    problems: tuple[str, ...] = ()


#: To RelayServer.
StandingMessage = ClassTold

#: To DHTAdvertiser and MdnsDiscovery.
DiscoveryMessage = DescriptorChanged | RelaysWanted | DhtModeChanged

#: To the issuer of descriptors, and to whoever else wants to know.
ReachabilityMessage = ReachabilityChanged

#: To PublicRelays.
PublicRelaysMessage = RelaysWanted | NameResolved

#: To the directory of relays.
DirectoryMessage = RelayFound | RelaysSearched | Ratings | BestRelaysWanted

ReputationMessage = Observed | RatingsWanted

#: To whoever asked the directory.
DiscoveryAnswer = BestRelays
