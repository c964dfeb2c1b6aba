"""What a peer that hides needs of a node: relays to choose from, what is known of them, PrivacyRouter.

It listens to nobody, relays for nobody, announces nothing: a node as `descord-relay relays` has one where none runs
(actors/lookout.py), for as long as the peer lives.  It has an identity of its own, so that who asks for relays cannot
be told to be who is talked to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from actors import privacy_levels
from actors.desk import DESK
from actors.lookout import settings_to_look
from actors.network_names import PRIVACY, REPUTATION
from actors.node import Node
from actors.ports.host import random_bytes
from actors.settings import Settings
from protocol.discovery_messages import Observed
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import (
    Level,
    PathsTold,
    PathsWanted,
    RelaysChosen,
    RelaysChosenWanted,
)

#: Seconds beyond those of a search in which PrivacyRouter answers.
PATIENCE: Final = 5.0


class PrivateNode:
    """The Router of actors/ports/peer.py, by a node in this process."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @classmethod
    @asynccontextmanager
    async def start(cls, settings: Settings) -> AsyncIterator[PrivateNode]:
        """``settings``: as of actors.lookout.settings_to_look.  BindError."""
        # Whoever is on the same network need not hear that somebody looks for relays, nor a router that one is here.
        settings = replace(settings, mdns=False, port_mapping=False)
        node = Node(settings, Identity.from_seed(random_bytes(32)), lambda event: None)
        await node.start()
        try:
            yield cls(node)
        finally:
            await node.close()

    async def paths(
        self, level: Level, target: PeerId, offered: tuple[bytes, ...], *, chosen: bool, relayed: bool, hops: int
    ) -> PathsTold:
        told = await self._node.desk.ask(
            PRIVACY,
            lambda number: PathsWanted(number, DESK, level, target.bytes, offered, chosen, relayed, hops),
            PATIENCE,
        )
        return told if isinstance(told, PathsTold) else PathsTold(0, (), "PrivacyRouter does not answer")

    async def relays(self, level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen:
        told = await self._node.desk.ask(
            PRIVACY,
            lambda number: RelaysChosenWanted(number, DESK, level, count, within, avoid),
            within + PATIENCE,
        )
        return told if isinstance(told, RelaysChosen) else RelaysChosen(0, (), "PrivacyRouter does not answer")

    def observe(self, seen: Observed) -> None:
        self._node.running().post(DESK, REPUTATION, seen)


class NoNode:
    """The Router at MAXIMUM: nothing is asked of anybody, so a process that speaks to Tor alone needs no more."""

    async def paths(
        self, level: Level, target: PeerId, offered: tuple[bytes, ...], *, chosen: bool, relayed: bool, hops: int
    ) -> PathsTold:
        if level is not Level.MAXIMUM:
            return PathsTold(0, (), f"this peer speaks at {Level.MAXIMUM} alone")
        found, problem = privacy_levels.paths(level, target.bytes, offered, (), lambda: 0.0)
        return PathsTold(0, tuple(found), problem)

    async def relays(self, level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen:
        return RelaysChosen(0, (), f"this peer speaks at {Level.MAXIMUM} alone")

    def observe(self, seen: Observed) -> None:
        pass


@asynccontextmanager
async def node_for(
    level: Level | None, environment: Mapping[str, str], folder: Path
) -> AsyncIterator[PrivateNode | NoNode]:
    """The Router of a peer that speaks at ``level`` alone; None: at any.  At MAXIMUM there is no node, for it would
    dial relays from this host's own IP.  Else one with the settings of actors.lookout.settings_to_look.  BindError,
    SettingsError."""
    if level is Level.MAXIMUM:
        yield NoNode()
        return
    async with PrivateNode.start(settings_to_look(environment, folder)) as node:
        yield node
