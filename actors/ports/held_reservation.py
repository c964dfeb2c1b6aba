"""A reservation that is held: asked for, refreshed in time, and taken again when the relay comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final

from multiaddr import Multiaddr

from actors.dial_address import DialAddress
from actors.ports.clock import ahead
from actors.ports.connections import ClientError, PeerConnection, RelayRefused
from actors.refresh_schedule import RefreshSchedule
from protocol.identity import PeerId
from protocol.relay_hop import Limit

if TYPE_CHECKING:
    from actors.ports.client import Client

#: /p2p-circuit in a binary multiaddr (multiaddr protocol table, 290).
_P2P_CIRCUIT: Final = b"\xa2\x02"


class Reservation:
    """A place on a relay, refreshed in time and taken again when the relay comes back, until :meth:`close`.

    ``relay``: who keeps it.  ``addresses``: what others dial to reach us, multiaddrs.  ``expires_at``: Unix seconds.
    ``limit``: what circuits may carry; None: no limit named.  ``grants``: how often it was granted.  ``failure``: why
    the last attempt failed, "" when it did not.
    """

    def __init__(self, client: Client, address: DialAddress, schedule: RefreshSchedule) -> None:
        self.relay: PeerId | None = address.peer
        self.addresses: tuple[str, ...] = ()
        self.expires_at = 0
        self.limit: Limit | None = None
        self.grants = 0
        self.failure = ""
        self.reached_at: tuple[bytes, ...] = ()
        self._client = client
        self._address = address
        self._schedule = schedule
        self._connection: PeerConnection | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._change = asyncio.Event()

    @property
    def connection(self) -> PeerConnection | None:
        """The one to the relay, as it was last."""
        return self._connection

    async def changed(self) -> None:
        """Until it is granted again or an attempt fails."""
        await self._change.wait()

    async def refresh(self) -> None:
        """Ask now.  RelayRefused, DialError, ClientError."""
        if self._connection is None or not self._connection.usable:
            self._connection = await self._client.dial(self._address)
        connection = self._connection
        granted = await self._client.ask_reservation(connection)
        now = self._client.now()
        self._schedule.granted(granted.expires_at - ahead(self._client.now), now)
        self.relay = connection.peer
        self.expires_at, self.limit = granted.expires_at, granted.limit
        self.reached_at = tuple(address + _P2P_CIRCUIT for address in granted.addrs)
        texts = [f"{self._address.transport}/p2p/{self.relay}"]
        for address in granted.addrs:
            with contextlib.suppress(Exception):  # what a relay says need not be a multiaddr
                texts.append(str(Multiaddr(address)))
        me = self._client.peer_id
        self.addresses = tuple(f"{text}/p2p-circuit/p2p/{me}" for text in dict.fromkeys(texts))
        self.grants += 1
        self.failure = ""
        self._tell()

    async def close(self) -> None:
        """Refresh it no more.  The relay forgets it when it expires, or when the connection ends."""
        self._client.forget(self)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])

    def keep(self) -> None:
        """Refresh it from now on."""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            assert self._connection is not None
            wait = max(self._schedule.due - self._client.now(), 0.0)
            ended = ""
            if self._connection.ended:
                await asyncio.sleep(wait)
            else:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: in Python 3.11 that loses a cancellation which comes together with the result.
                    async with asyncio.timeout(wait):
                        ended = await self._connection.wait_ended()
            if ended:
                self._failed(f"the connection to the relay is over: {ended}", 0)
                continue
            try:
                await self.refresh()
            except RelayRefused as error:
                self._failed(str(error), error.refusal.retry_after)
            except ClientError as error:
                self._failed(str(error), 0)

    def _failed(self, reason: str, retry_after: float) -> None:
        self.failure = reason
        self._schedule.failed(self._client.now(), random.random(), retry_after)
        self._tell()

    def _tell(self) -> None:
        self._client.reservation_changed()
        change, self._change = self._change, asyncio.Event()
        change.set()
