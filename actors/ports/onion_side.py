"""A peer that is reached at the privacy level MAXIMUM (actors/ports/peer.py): its onion, and who is met there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from multiaddr import Multiaddr

from actors.ports.client import Client
from actors.ports.connections import ClientError
from actors.ports.host import random_bytes
from actors.ports.tor import ONION_PORT, TorControl
from protocol.identity import Identity, PeerId

log = logging.getLogger(__name__)

#: Seconds until an onion that was lost with its Tor is made again: first, and at most.
ONION_AGAIN: Final = 1.0
MOST_ONION_DELAY: Final = 60.0


class OnionSide:
    """``peer``: who is met there.  ``key``: Tor's of the onion, a space, and the seed of ``peer``: an address holds
    only with both.  ``made``: the client of an identity, that dials by Tor and by no other way."""

    peer: PeerId
    client: Client
    key = ""

    def __init__(self, tor: TorControl, made: Callable[[Identity], Client]) -> None:
        self._tor = tor
        self._made = made
        self._name = ""
        self._keeping: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """What others dial, a multiaddr."""
        return f"/onion3/{self._name}:{ONION_PORT}/p2p/{self.peer}"

    async def begin(self, key: str) -> None:
        """Until others can find it.  ``key``: of a former one, "": a new one.  TorError."""
        tor_key, _, seed = key.partition(" ")
        secret = bytes.fromhex(seed) if seed else random_bytes(32)
        identity = Identity.from_seed(secret)
        client = self._made(identity)
        try:
            port = await client.listen_here()
            self._name, tor_key = await self._tor.publish(port, tor_key)
        except BaseException:
            await client.close()
            raise
        self.client, self.peer, self.key = client, identity.peer_id, f"{tor_key} {secret.hex()}"
        client.announce([Multiaddr(f"/onion3/{self._name}:{ONION_PORT}").to_bytes()])
        self._keeping = asyncio.get_running_loop().create_task(self._keep(port, tor_key))

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self.client.close()

    async def _keep(self, port: int, key: str) -> None:
        """An onion lives as long as the connection to Tor's control port: after a restart of Tor it is made again."""
        delay = ONION_AGAIN
        while True:
            await self._tor.lost.wait()
            try:
                await self._tor.publish(port, key)
            except Exception as error:
                if not isinstance(error, ClientError):
                    log.exception("a fault while the onion was made again")
                log.warning("the onion is not reached: %s; trying again in %g s", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MOST_ONION_DELAY)
            else:
                log.info("the onion is reached again")
                delay = ONION_AGAIN
