"""Staying reachable at the privacy level High: several relays at once, each replaced when it fails, and told to others.

PrivacyRouter chooses ─► a reservation on each ─► our signed whereabouts ─► one of them publishes them
a relay fails ─► another takes its place, and the others serve meanwhile ─► whereabouts again
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from multiaddr import Multiaddr

from actors.ports.client import Client
from actors.ports.connections import ClientError, DialError
from actors.ports.diallers import RelayDialler
from actors.ports.held_reservation import Reservation
from actors.ports.whereabouts_client import say_whereabouts
from protocol.addresses import is_global
from protocol.discovery_messages import Observed
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import Level, RelayAt
from protocol.whereabouts import LIFE, MAX_ADDRESSES, is_hidden, seal_whereabouts

if TYPE_CHECKING:
    from actors.ports.peer_terms import Router

log = logging.getLogger(__name__)

#: Seconds in which relays are looked for, and in which one must have granted a reservation.
SEARCH: Final = 10.0
RESERVE_TIMEOUT: Final = 10.0

#: Seconds for which a relay that failed is not tried again, unless there is no other.
AVOID: Final = 120.0

#: Seconds until what failed is tried again: first, and at most; doubled each time, and drawn from its upper half.
FIRST_DELAY: Final = 1.0
MOST_DELAY: Final = 60.0

#: Seconds after which whereabouts are told again: half of the time for which they hold.
REPUBLISH: Final = LIFE / 2


class NotReachable(ClientError):
    """No relay would have us; the message says why."""


class Reachable:
    """``relays``: how many are kept.  ``client``: has the connections; ``dialler``: dials chosen relays
    alone; None: anybody may be dialled."""

    def __init__(
        self, client: Client, dialler: RelayDialler | None, router: Router, identity: Identity, relays: int
    ) -> None:
        self.problem = ""
        #: How many peers keep our whereabouts; 0: they are not published, and who dials needs an address.
        self.copies = 0
        self._client = client
        self._dialler = dialler
        self._router = router
        self._identity = identity
        self._wanted = relays
        self._held: dict[PeerId, Reservation] = {}
        self._avoid: dict[bytes, float] = {}
        self._told: tuple[bytes, ...] = ()
        self._told_at = 0.0
        self._sequence = 0.0
        self._keeping: asyncio.Task[None] | None = None
        self._change = asyncio.Event()
        self._watching: dict[PeerId, asyncio.Task[None]] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """What others dial, as multiaddrs."""
        return tuple(address for one in self._held.values() if not one.failure for address in one.addresses)

    @property
    def relays(self) -> tuple[PeerId, ...]:
        """Those through which others reach us now."""
        return tuple(peer for peer, one in self._held.items() if not one.failure)

    async def changed(self) -> None:
        """Until relays, or what is published, are others."""
        await self._change.wait()

    async def begin(self) -> None:
        """Until the first relay has us.  NotReachable when none does; then nothing goes on."""
        if self._keeping is not None:
            return
        await self._fill()
        if not self.relays:
            raise NotReachable(f"no relay through which others could reach this peer: {self.problem}")
        with contextlib.suppress(ClientError):
            await self._publish()
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        tasks = [task for task in (self._keeping, *self._watching.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> None:
        failures = 0
        while True:
            delay = REPUBLISH - (time.monotonic() - self._told_at)
            if failures:
                delay = min(delay, min(FIRST_DELAY * 2.0 ** (failures - 1), MOST_DELAY) * (0.5 + random.random() / 2))
            change = self._change
            if not self._lacking or failures:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(delay, 0.0)):
                        await change.wait()
            try:
                if self._lacking:
                    await self._fill()
                await self._publish()
                failures = failures + 1 if self._lacking else 0
            except ClientError as error:
                failures += 1
                self.problem = str(error)
                log.info("not as reachable as wanted: %s", error)
            except Exception:
                failures += 1
                log.exception("a fault while staying reachable")

    @property
    def _lacking(self) -> int:
        return max(self._wanted - len(self.relays), 0)

    async def _fill(self) -> None:
        """Reserve on as many as are lacking, at the same time."""
        now = time.monotonic()
        self._avoid = {peer: until for peer, until in self._avoid.items() if until > now}
        held = tuple(peer.bytes for peer in self._held)
        lacking = self._lacking
        told = await self._router.relays(Level.HIGH, lacking, 0.0, (*held, *self._avoid))
        if len(told.relays) < lacking:
            told = await self._router.relays(Level.HIGH, lacking, SEARCH, (*held, *self._avoid))
        if not told.relays and self._avoid:
            told = await self._router.relays(Level.HIGH, lacking, SEARCH, held)  # better one that failed than none
        self.problem = told.problem
        await asyncio.gather(*(self._reserve(relay) for relay in told.relays))
        if self._lacking < self._wanted:
            for peer in [peer for peer, one in self._held.items() if one.failure]:
                if len(self._held) > self._wanted:
                    await self._drop(peer)

    async def _reserve(self, relay: RelayAt) -> None:
        peer = PeerId(relay.peer)
        if self._dialler is not None:
            if not self._dialler.may_dial(peer):
                self._avoid[peer.bytes] = time.monotonic() + AVOID
                return
            self._dialler.allow([peer])
        failure: ClientError | None = None
        for address in relay.addresses:
            try:
                async with asyncio.timeout(RESERVE_TIMEOUT):
                    reservation = await self._client.reserve(f"{Multiaddr(address)}/p2p/{peer}")
            except TimeoutError:
                failure = DialError(f"no answer within {RESERVE_TIMEOUT:g} s")
            except DialError as error:
                failure = error
            except ClientError as error:
                failure = error
                break
            else:
                self._held[peer] = reservation
                self._watching[peer] = asyncio.get_running_loop().create_task(self._watch(peer, reservation))
                self._tell()
                return
        self.problem = f"{peer}: {failure or 'the relay has no address'}"
        self._failed(peer)

    async def _watch(self, peer: PeerId, reservation: Reservation) -> None:
        failed = False
        while True:
            await reservation.changed()
            if reservation.failure and not failed:
                self.problem = f"{peer}: {reservation.failure}"
                self._failed(peer)
            failed = bool(reservation.failure)
            self._tell()

    def _failed(self, peer: PeerId) -> None:
        self._avoid[peer.bytes] = time.monotonic() + AVOID
        self._router.observe(Observed(peer.bytes, "unreachable"))

    async def _drop(self, peer: PeerId) -> None:
        watching = self._watching.pop(peer)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._held.pop(peer).close()

    async def _publish(self) -> None:
        """Our whereabouts, through one of the relays.  ClientError when none of them would."""
        reached = tuple(dict.fromkeys(
            address for one in self._held.values() if not one.failure for address in _best(one.reached_at)
        ))[:MAX_ADDRESSES]  # fmt: skip
        due = time.monotonic() - self._told_at >= REPUBLISH
        if not reached:
            self._told_at = time.monotonic()  # there is nothing to tell, and will be when relays change
            return
        if reached == self._told and self.copies and not due:
            return
        self._sequence = max(self._sequence + 0.001, time.time())
        record = seal_whereabouts(self._identity, reached, self._sequence)
        connections = [one.connection for one in self._held.values()]
        # Each of them keeps it too, so that it is found where others ask.
        answers = await asyncio.gather(
            *(say_whereabouts(one, record) for one in connections if one is not None and one.usable),
            return_exceptions=True,
        )
        failure: ClientError | None = None
        self.copies = 0
        for answer in answers:
            if isinstance(answer, ClientError):
                failure = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self.copies = max(self.copies, answer)
        self._told_at = time.monotonic()
        self._told = reached
        self._tell()
        if not self.copies:
            raise failure or DialError("no relay to publish through")

    def _tell(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()


def _best(addresses: tuple[bytes, ...]) -> list[bytes]:
    """Those of a relay that others can use: two, and public ones before others."""
    usable = [address for address in addresses if is_hidden(address)]
    return sorted(usable, key=lambda address: not is_global(address))[:2]
