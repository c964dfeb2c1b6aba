"""Privacy levels, and the question by which way a peer is reached at one, between actors.

whoever     -> PrivacyRouter   PathsWanted -> PathsTold;  RelaysChosenWanted -> RelaysChosen
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from protocol.message_base import Message

#: Relays on one path, at most; and addresses of a peer that are looked at.
MAX_HOPS: Final = 3
MAX_OFFERED: Final = 32


class Level(StrEnum):
    """How much of who talks to whom is hidden.  A level is what was asked for or an error, never less.

    ``LOW``: each end sees the other's IP.  ``HIGH``: a relay sees both IPs, and neither end the other's.  ``MAXIMUM``:
    by Tor alone; nobody sees both.
    """

    LOW = "low"
    HIGH = "high"
    MAXIMUM = "maximum"


class RelayAt(msgspec.Struct, frozen=True, array_like=True):
    """A relay, and binary multiaddrs at which it is dialled, without /p2p."""

    peer: bytes
    addresses: tuple[bytes, ...]


class Path(msgspec.Struct, frozen=True, array_like=True):
    """``relays``: in the order in which they are passed, none for a direct connection.  ``address``: where the target
    itself is dialled, a binary multiaddr of its IP, name or onion; b"" behind a relay."""

    relays: tuple[RelayAt, ...]
    address: bytes = b""


class PathsWanted(Message, frozen=True):
    """Ways to ``target`` at ``level``, best first.  ``offered``: binary multiaddrs at which it says that it is reached,
    those through relays up to /p2p-circuit.  ``chosen``: the relays in them are the asker's own choice; else the
    target's, which might name a host of its own as one.  ``relayed``: at LOW, whether a relay will do where nothing
    else does.  ``hops``: relays in a row, at HIGH.  ``avoid``: relays that failed just now."""

    request_id: int
    asker: str
    level: Level
    target: bytes
    offered: tuple[bytes, ...]
    chosen: bool = False
    relayed: bool = False
    hops: int = 1
    avoid: tuple[bytes, ...] = ()


class PathsTold(Message, frozen=True):
    """``problem``: why there is none, for a person; "" when there are some."""

    request_id: int
    paths: tuple[Path, ...]
    problem: str = ""


class RelaysChosenWanted(Message, frozen=True):
    """``count`` relays for ``level``, to be reached through or to ask.  ``timeout``: seconds in which others may be
    looked for when too few are known; 0: nobody is asked."""

    request_id: int
    asker: str
    level: Level
    count: int
    timeout: float
    avoid: tuple[bytes, ...] = ()


class RelaysChosen(Message, frozen=True):
    """Best first.  ``problem``: why there is none, for a person."""

    request_id: int
    relays: tuple[RelayAt, ...]
    problem: str = ""


#: To PrivacyRouter.
PrivacyMessage = PathsWanted | RelaysChosenWanted

#: To who asked it.
PrivacyAnswer = PathsTold | RelaysChosen
