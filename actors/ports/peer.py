"""A peer that talks to others at a privacy level, and is reached at one: for asyncio programs.

    async with PrivateNode.start(settings) as node:                     # actors/private_node.py
        async with Peer(identity, node, handlers={"/echo/1.0.0": echo}) as peer:
            await peer.listen(Level.HIGH)                               # reached through relays, refreshed, replaced
            stream = await peer.open(other, "/echo/1.0.0", level=Level.HIGH)

PrivacyRouter says by which ways a peer is reached; this goes them, best first.  Each level has connections of its own,
so that what is open at one is never used at another:

    LOW        one client, that dials whatever it is told to, and goes on from a relay to a direct connection
    HIGH       one client, that dials chosen relays and nothing else; with several relays in a row one for each peer
               that is dialled, with a new peer id, and another to each relay before the last
    MAXIMUM    a client for each peer that is dialled, with a new peer id and its own circuits in Tor; one that listens
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Final

from actors.ports.attempts import AllFailed, Attempt, GiveWay, Late, first_answer, in_a_while, seen, unless_closed
from actors.ports.client import Handler
from actors.ports.connections import DialError, PeerConnection, PeerStream
from actors.ports.diallers import LevelRefused
from actors.ports.guides import RELAY_SEARCH, Guides
from actors.ports.onion_side import OnionSide
from actors.ports.peer_terms import NoPath, PeerPolicy, Router, Target
from actors.ports.reachable import Reachable
from actors.ports.receipts_client import OwnRelay
from actors.ports.resolver import Resolver
from actors.ports.tor import TorControl
from actors.ports.ways import Ways
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import Level, Path, RelayAt

__all__ = ["NoPath", "Peer", "PeerPolicy", "Router", "Target"]

log = logging.getLogger(__name__)

#: Ways to a peer that are tried, each for path_timeout.
MAX_PATHS: Final = 6

#: Connections on which a stream is asked for, while those before are silent.
MAX_CONNECTIONS: Final = 3


class Peer:
    """See the module.  ``handlers``: by protocol, what is done with a stream that another peer opens (ports/client.py).
    ``accepted``: told of each connection that another peer made.  ``bare``: as of Client; at HIGH alone.
    ``own``: the relay of whoever this peer talks for, by whose merits it is served."""

    def __init__(
        self,
        identity: Identity,
        router: Router,
        *,
        handlers: Mapping[str, Handler] | None = None,
        policy: PeerPolicy | None = None,
        resolver: Callable[[], Resolver] = Resolver,
        accepted: Callable[[PeerConnection], None] = lambda _: None,
        bare: Callable[[PeerConnection, PeerStream], None] | None = None,
        own: OwnRelay | None = None,
    ) -> None:
        self.identity = identity
        self.peer_id = identity.peer_id
        self.policy = policy or PeerPolicy()
        self._router = router
        self._ways = Ways(identity, router, handlers or {}, self.policy, resolver, accepted, bare, own)
        #: At which of LOW and HIGH this peer id is known: never at both, for at LOW it is seen where it is.
        self._known_at: Level | None = None
        self._late = Late()
        self._guides = {
            Level.LOW: Guides(router, self.policy, self._ways, self._late, lambda: self._ways.low.client),
            Level.HIGH: Guides(router, self.policy, self._ways, self._late, lambda: self._ways.high),
        }
        self._onion: OnionSide | None = None
        self._tor = TorControl(self.policy.tor_control)
        self._reachable: Reachable | None = None
        self._dialling: dict[tuple[Level, Target, bool, int], asyncio.Task[PeerConnection]] = {}
        self._beginning: set[asyncio.Task[None]] = set()
        self._listening = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(
        self,
        target: str | PeerId,
        *protocols: str,
        level: Level,
        relayed: bool = False,
        hops: int = 1,
        padded: bool = False,
    ) -> PeerStream:
        """A stream to ``target`` (see :meth:`connect`) for the first of ``protocols`` that it speaks.  ``padded``: what
        is written leaves in frames of a few sizes; a peer that cannot is not talked to.  NoPath, ClientError."""

        async def attempt(give_way: GiveWay) -> PeerStream:
            connection = await self.connect(target, level=level, relayed=relayed, hops=hops)
            asked = connection.now()

            def look() -> None:
                if connection.doubt(asked):
                    self._late.tell(connection.relay)
                    give_way()

            with in_a_while(self.policy.next_path_after, look if level is not Level.MAXIMUM else None):
                return await connection.open(*protocols, padded=padded or None)

        try:
            return await first_answer([attempt] * MAX_CONNECTIONS, PeerStream.reset, after_failure=False)
        except AllFailed as failed:
            raise failed.failures[0] from None

    async def connect(
        self, target: str | PeerId, *, level: Level, relayed: bool = False, hops: int = 1
    ) -> PeerConnection:
        """A connection to ``target``: the one that there is at that level, or a new one.

        ``target``: a peer id, which is looked for through relays, or a multiaddr that ends in /p2p/PEER; a relay that
        is named in it is then the caller's own choice.

        ``relayed``: whether a relay will do at LOW, at first or for good; without it a relay is used there only to
        agree on a direct connection.  ``hops``: relays in a row at HIGH, up to 3: none then knows both
        ends, and the target sees a new peer id.

        NoPath; also for LOW where this peer id is known at HIGH with one relay, and the other way round."""
        wanted = target if isinstance(target, PeerId) else None
        at = Target(wanted) if wanted is not None else Target.parse(str(target))
        if at.peer == self.peer_id:
            raise NoPath(f"{at.peer} is this peer itself")
        if hops != 1 and level is not Level.HIGH:
            raise NoPath(f"several relays in a row are had at the privacy level {Level.HIGH}, not at {level}")
        self._check_open()
        if hops == 1:
            self._be_known(level)
        if level is Level.HIGH and hops == 1:
            try:
                self._ways.relays.check_unseen(at.peer)  # though there be a connection: it may be one that called us
            except LevelRefused as error:
                raise NoPath(f"no way to {at.peer} at the privacy level {level}: {error}") from None
        named = at.relay
        for connection in self._ways.open_to(level, at.peer, hops):
            if level is Level.LOW and not relayed and connection.relay is not None:
                continue
            if level is Level.HIGH and named is not None and connection.relay != named:
                continue
            return connection
        key = (level, at, relayed and level is Level.LOW, hops)
        task = self._dialling.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._reach(at, level, relayed, hops))
            self._dialling[key] = task
            task.add_done_callback(lambda _: self._dialling.pop(key, None))
            task.add_done_callback(seen)
        return await unless_closed(task, "the peer was closed while it dialled")

    async def direct(self, relayed: PeerConnection) -> PeerConnection:
        """The direct connection at LOW to the peer that ``relayed`` leads to, once a hole is punched; what is open
        on ``relayed`` goes on there.  DialError: it cannot be had, and the message says why."""
        return await self._ways.low.direct(relayed)

    async def dial_via_relay(self, target: str | PeerId, *protocols: str) -> PeerStream:
        """A stream to ``target`` through a relay: at HIGH."""
        return await self.open(target, *protocols, level=Level.HIGH)

    async def select_relay(self, level: Level = Level.HIGH) -> RelayAt:
        """The relay that would be used at ``level``.  NoPath: none will do, and the message says why."""
        told = await self._router.relays(level, 1, RELAY_SEARCH, ())
        if not told.relays:
            raise NoPath(f"no relay for the privacy level {level}: {told.problem}")
        return told.relays[0]

    async def listen(self, level: Level, *, key: str = "") -> tuple[str, ...]:
        """Be reached at ``level`` from now on; the addresses that others dial, as they are now (:attr:`addresses`).

        LOW: through relays, from which each who connects is led on to a direct connection where NATs let it.
        HIGH: through relays, which are replaced when they fail.  MAXIMUM: at an onion of Tor's; ``key``: of a former
        one (:attr:`onion_key`), "": a new one.  NoPath, ClientError."""
        self._check_open()
        self._be_known(level)
        # A task of its own, for close() to end.
        task = asyncio.get_running_loop().create_task(self._listen(level, key))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        await unless_closed(task, "the peer was closed while it began to listen", shared=False)
        return self.addresses

    async def _listen(self, level: Level, key: str) -> None:
        async with self._listening:
            match level:
                case Level.HIGH:
                    if self._reachable is None:
                        self._reachable = Reachable(
                            self._ways.high, self._ways.relays, self._router, self.identity, self.policy.relays
                        )
                    await self._reachable.begin()
                case Level.MAXIMUM:
                    if self._onion is None:
                        onion = OnionSide(self._tor, self._ways.by_onion)
                        await onion.begin(key)
                        self._onion = onion
                case Level.LOW:
                    self._reachable = self._ways.low.reachable
                    await self._reachable.begin()

    def _check_open(self) -> None:
        if self._closed:
            raise DialError("this peer was closed")

    def _be_known(self, level: Level) -> None:
        # Whoever meets this peer id at LOW sees where it is, and can tell whoever met it at HIGH, or be him.
        if level is Level.MAXIMUM:
            return
        if self._known_at not in (None, level):
            raise NoPath(
                f"{self.peer_id} is known at the privacy level {self._known_at}: at {level} be another Peer, with "
                f"another identity, or who knows this one from both learns where it is"
            )
        self._known_at = level

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs at which others reach this peer."""
        found = list(self.reachable.addresses) if self.reachable is not None else []
        if self._onion is not None:
            found.append(self._onion.address)
        return tuple(found)

    @property
    def reachable(self) -> Reachable | None:
        """How it is reached through relays, at HIGH or at LOW; None: it is not."""
        return self._reachable

    @property
    def onion_key(self) -> str:
        """The private keys of the onion and of who is met there: whoever has them has the address.  "": no onion."""
        return "" if self._onion is None else self._onion.key

    @property
    def onion_peer(self) -> PeerId | None:
        """Who is met there: another peer id than elsewhere, so that the two are not told to be one."""
        return None if self._onion is None else self._onion.peer

    async def close(self) -> None:
        """Say good-bye and end."""
        self._closed = True
        tasks = [*self._dialling.values(), *self._beginning]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._reachable is not None:
            await self._reachable.close()
        if self._onion is not None:
            await self._onion.close()
        await self._ways.close()
        await self._tor.close()

    # Ways.

    async def _reach(self, target: Target, level: Level, relayed: bool, hops: int) -> PeerConnection:
        if target.offered or level is Level.MAXIMUM:
            return await self._reach_at(target, level, relayed, hops)

        async def go(addresses: tuple[bytes, ...]) -> PeerConnection:
            return await self._reach_at(Target(target.peer, addresses), level, relayed, hops, chosen=False)

        return await self._guides[level].reach(target.peer, go, self._ways.drop, afar=hops > 1)

    async def _reach_at(
        self, target: Target, level: Level, relayed: bool, hops: int, *, chosen: bool = True
    ) -> PeerConnection:
        """``chosen``: whether the caller chose the relay that is named."""
        # At LOW a relay leads to a hole that is punched; only with ``relayed`` it will do where none can be.
        by_relay = relayed or level is Level.LOW
        told = await self._router.paths(
            level, target.peer, target.offered, chosen=chosen and bool(target.offered), relayed=by_relay, hops=hops
        )
        if not told.paths:
            raise NoPath(f"no way to {target.peer} at the privacy level {level}: {told.problem}")
        ways = self._late.last(told.paths[:MAX_PATHS], lambda path: next(iter(path.relays), None))
        doubted: list[Path] = []

        async def attempt(path: Path, give_way: GiveWay) -> PeerConnection:
            def look() -> None:
                self._late.tell(relay := PeerId(path.relays[0].peer))
                if hops == 1 and self._ways.high.doubt(relay, began):
                    doubted.append(path)  # it may be the connection to it that died
                give_way()

            began = self._ways.high.now() if level is Level.HIGH else 0.0
            with in_a_while(self.policy.next_path_after, look if level is Level.HIGH else None):
                return await self._ways.go(path, target.peer, level, relayed=relayed, hops=hops)

        def attempts() -> Iterator[Attempt[PeerConnection]]:
            for path in ways:
                yield partial(attempt, path)
            for path in doubted:
                yield partial(attempt, path)

        try:
            return await first_answer(attempts(), self._ways.drop)
        except AllFailed as failed:
            why = "; ".join(map(str, failed.failures[:4]))
            raise NoPath(f"no way to {target.peer} at the privacy level {level}: {why}") from None
