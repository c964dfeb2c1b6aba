"""Names of relays become addresses, for PublicRelays (actors/public_relays.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.actor import Send
from actors.ports.resolver import ResolveError, Resolver
from actors.public_relays import PublicRelays
from protocol.discovery_messages import NameResolved


class Names:
    """The port of ``actor``.  ``post``: says something in its name, which is ``name``."""

    def __init__(self, actor: PublicRelays, resolver: Resolver, post: Callable[[Send], None], name: str) -> None:
        self._actor = actor
        self._resolver = resolver
        self._post = post
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """After each turn of the actor: resolve what it wants to know."""
        wanted, self._actor.wanted = self._actor.wanted, []
        for text in wanted:
            task = asyncio.get_running_loop().create_task(self._resolve(text))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ask no more."""
        self.drop()
        await self._resolver.close()

    def drop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _resolve(self, text: str) -> None:
        try:
            resolved = NameResolved(text, tuple(await self._resolver.resolve(text)))
        except ResolveError as error:
            resolved = NameResolved(text, (), str(error))
        self._post(Send(self._name, resolved))
