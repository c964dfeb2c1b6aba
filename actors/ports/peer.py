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
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final

from multiaddr import Multiaddr

from actors.ports.attempts import AllFailed, Attempt, GiveWay, Late, first_answer, in_a_while
from actors.ports.client import Client, Handler
from actors.ports.connections import ClientError, DialError, PeerConnection, PeerStream
from actors.ports.diallers import LevelRefused, RelayDialler, TcpDialler, TorDialler
from actors.ports.guides import RELAY_SEARCH, Guides
from actors.ports.host import random_bytes
from actors.ports.low_side import LowSide
from actors.ports.onion_side import OnionSide
from actors.ports.peer_terms import NoPath, PeerPolicy, Router, Target, name_of, way_of
from actors.ports.reachable import Reachable
from actors.ports.resolver import Resolver
from actors.ports.tor import TorControl
from protocol.discovery_messages import Observed
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
    ``accepted``: told of each connection that another peer made.  ``bare``: as of Client; at HIGH alone."""

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
    ) -> None:
        self.identity = identity
        self.peer_id = identity.peer_id
        self.policy = policy or PeerPolicy()
        self._router = router
        self._handlers = handlers or {}
        self._resolver = resolver
        self._accepted = accepted
        self._bare = bare
        #: At which of LOW and HIGH this peer id is known: never at both, for at LOW it is seen where it is.
        self._known_at: Level | None = None
        self._low: LowSide | None = None
        self._high: Client | None = None
        self._relays = RelayDialler(resolver())
        self._late = Late()
        self._guides = Guides(
            router,
            self.policy,
            self.relay,
            lambda: RelayDialler(resolver()),
            self._context,
            self._client_high,
            self._late,
        )
        #: At MAXIMUM: by whom is dialled.
        self._contexts: dict[PeerId, Client] = {}
        #: At HIGH through several relays: by whom is dialled, and how many there are.
        self._chains: dict[tuple[PeerId, int], Client] = {}
        self._onion: OnionSide | None = None
        self._tor = TorControl(self.policy.tor_control)
        self._reachable: Reachable | None = None
        self._dialling: dict[tuple[Level, Target, bool, int], asyncio.Task[PeerConnection]] = {}
        self._watching: set[asyncio.Task[None]] = set()

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
        if hops == 1:
            self._be_known(level)
        named = at.relay
        for connection in self._open_to(level, at.peer, hops):
            if level is Level.LOW and not relayed and connection.relay is not None:
                continue
            if level is Level.HIGH and named is not None and connection.relay != named:
                continue
            return connection
        key = (level, at, relayed, hops)
        task = self._dialling.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._reach(at, level, relayed, hops))
            self._dialling[key] = task
            task.add_done_callback(lambda _: self._dialling.pop(key, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise DialError("the peer was closed while it dialled") from None
            raise

    async def direct(self, relayed: PeerConnection) -> PeerConnection:
        """The direct connection at LOW to the peer that ``relayed`` leads to, once a hole is punched; what is open
        on ``relayed`` goes on there.  DialError: it cannot be had, and the message says why."""
        return await self._low_side().direct(relayed)

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
        self._be_known(level)
        match level:
            case Level.HIGH:
                if self._reachable is None:
                    self._reachable = Reachable(
                        self._client_high(), self._relays, self._router, self.identity, self.policy.relays
                    )
                await self._reachable.begin()
            case Level.MAXIMUM:
                if self._onion is None:
                    onion = OnionSide(self._tor, lambda who: self._client(who, TorDialler(self.policy.tor_socks)))
                    await onion.begin(key)
                    self._onion = onion
            case Level.LOW:
                await self._low_side().reachable.begin()
        return self.addresses

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
        by_relays = (self._reachable, None if self._low is None else self._low.reachable)
        found = [address for one in by_relays if one is not None for address in one.addresses]
        if self._onion is not None:
            found.append(self._onion.address)
        return tuple(found)

    @property
    def reachable(self) -> Reachable | None:
        """How it is reached at HIGH; None: it is not."""
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
        tasks = [*self._dialling.values(), *self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._reachable is not None:
            await self._reachable.close()
        if self._low is not None:
            await self._low.close()
        if self._onion is not None:
            await self._onion.close()
        for client in (self._high, *self._contexts.values(), *self._chains.values()):
            if client is not None:
                await client.close()
        await self._tor.close()

    # Ways.

    async def _reach(self, target: Target, level: Level, relayed: bool, hops: int) -> PeerConnection:
        if target.offered or level is not Level.HIGH:
            return await self._reach_at(target, level, relayed, hops)

        async def go(addresses: tuple[bytes, ...]) -> PeerConnection:
            return await self._reach_at(Target(target.peer, addresses), level, relayed, hops, chosen=False)

        return await self._guides.reach(target.peer, go, self._drop, afar=hops > 1)

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
                if hops == 1 and self._client_high().doubt(relay, began):
                    doubted.append(path)  # it may be the connection to it that died
                give_way()

            began = self._client_high().now() if level is Level.HIGH else 0.0
            with in_a_while(self.policy.next_path_after, look if level is Level.HIGH else None):
                return await self._try(path, target.peer, level, relayed, hops)

        def attempts() -> Iterator[Attempt[PeerConnection]]:
            for path in ways:
                yield partial(attempt, path)
            for path in doubted:
                yield partial(attempt, path)

        try:
            return await first_answer(attempts(), self._drop)
        except AllFailed as failed:
            why = "; ".join(map(str, failed.failures[:4]))
            raise NoPath(f"no way to {target.peer} at the privacy level {level}: {why}") from None

    async def _try(self, path: Path, target: PeerId, level: Level, relayed: bool, hops: int) -> PeerConnection:
        """One way.  DialError, with its name."""
        try:
            async with asyncio.timeout(self.policy.path_timeout if level is not Level.MAXIMUM else None):
                if hops > 1:
                    return await self._go_along(path, target, hops)
                connection = await self._go(path, target, level)
            if level is Level.LOW and connection.relay is not None and not relayed:
                return await self._low_side().lead_on(connection)
            return connection
        except TimeoutError:
            if path.relays and hops == 1:
                self._router.observe(Observed(path.relays[0].peer, "circuit_failed"))
            raise DialError(f"{name_of(path)}: no answer within {self.policy.path_timeout:g} s") from None
        except ClientError as error:
            raise DialError(f"{name_of(path)}: {error}") from error

    def _drop(self, late: PeerConnection) -> None:
        self._follow(late.close())

    async def _go(self, path: Path, target: PeerId, level: Level) -> PeerConnection:
        match level:
            case Level.LOW if not path.relays:
                return await self._low_side().client.connect(f"{Multiaddr(path.address)}/p2p/{target}")
            case Level.LOW:
                return await self._go_through(self._low_side().client, path.relays[0], target)
            case Level.HIGH:
                if len(path.relays) != 1:  # PrivacyRouter never says so; if it did, an IP would be shown
                    raise LevelRefused("a way without a relay is none at the privacy level high")
                if self._client_high().direct_to(target):
                    raise LevelRefused(
                        f"{target} is a relay that this peer is connected to itself, and sees its IP: go through "
                        f"several relays (--hops 2), which it sees as somebody else"
                    )
                self._relays.allow([PeerId(path.relays[0].peer)])
                self._relays.forbid(target)
                return await self._go_through(self._client_high(), path.relays[0], target)
            case Level.MAXIMUM:
                context = self._contexts.get(target)
                if context is None:
                    context = self._context(TorDialler(self.policy.tor_socks))
                    self._contexts[target] = context
                try:
                    connection = await context.connect(f"{Multiaddr(path.address)}/p2p/{target}")
                    self._close_with(connection, context, self._contexts, target)
                    return connection
                except BaseException:
                    if not context.busy:
                        del self._contexts[target]
                        await context.close()
                    raise

    async def _go_along(self, path: Path, target: PeerId, hops: int) -> PeerConnection:
        """One relay within the other; see the module for who we are to whom."""
        if len(path.relays) != hops:  # as in _go
            raise LevelRefused(f"a way through {len(path.relays)} relays is none through {hops}")
        first = path.relays[0]
        # Each try is a context of its own: whom one relay has seen is not seen again by others.
        dialler = RelayDialler(self._resolver())
        dialler.allow([PeerId(first.peer)])
        client = self._context(dialler)
        failure: ClientError | None = None
        try:
            for address in first.addresses:
                try:
                    connection = await client.connect_through(way_of(address, path.relays), target)
                except DialError as error:
                    failure = error
                else:
                    self._chains[target, hops] = client
                    self._close_with(connection, client, self._chains, (target, hops))
                    return connection
            raise failure or DialError("the first relay has no address")
        finally:
            if self._chains.get((target, hops)) is not client:
                await client.close()

    async def _go_through(self, client: Client, relay: RelayAt, target: PeerId) -> PeerConnection:
        failure: ClientError | None = None
        for address in relay.addresses:
            try:
                connection = await client.connect(
                    f"{Multiaddr(address)}/p2p/{PeerId(relay.peer)}/p2p-circuit/p2p/{target}"
                )
            except DialError as error:
                failure = error
                continue
            self._watch(connection, relay.peer)
            return connection
        self._router.observe(Observed(relay.peer, "circuit_failed"))
        raise failure or DialError("the relay has no address")

    def _close_with(self, connection: PeerConnection, client: Client, contexts: dict[Any, Client], key: object) -> None:
        """A context is over with its connection: nothing of it is kept, nor found again."""

        async def watch() -> None:
            try:
                await connection.wait_ended()
            finally:
                if contexts.get(key) is client:
                    del contexts[key]
                await client.close()

        self._follow(watch())

    def _follow(self, watching: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(watching)
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    def _watch(self, connection: PeerConnection, relay: bytes) -> None:
        """A circuit counts for its relay when it has ended."""

        async def watch() -> None:
            await connection.wait_ended()
            self._router.observe(Observed(relay, "circuit"))

        self._follow(watch())

    async def relay(self, relay: RelayAt) -> PeerConnection:
        """A connection at HIGH to a relay that was chosen.  DialError."""
        self._relays.allow([PeerId(relay.peer)])
        failure: ClientError | None = None
        for address in relay.addresses:
            try:
                return await self._client_high().connect(f"{Multiaddr(address)}/p2p/{PeerId(relay.peer)}")
            except DialError as error:
                failure = error
        raise failure or DialError("the relay has no address")

    # Clients.

    def _open_to(self, level: Level, peer: PeerId, hops: int) -> list[PeerConnection]:
        if hops > 1:
            chain = self._chains.get((peer, hops))
            return [] if chain is None else chain.open_to(peer, relayed=True)
        low, leading = (None, set()) if self._low is None else (self._low.client, self._low.leading)
        client = {Level.LOW: low, Level.HIGH: self._high, Level.MAXIMUM: self._contexts.get(peer)}[level]
        found = [] if client is None else client.open_to(peer, relayed=level is Level.HIGH)
        found = [one for one in found if one not in leading]
        return sorted(found, key=lambda one: one.relay is not None)  # direct ones first, once there are some

    def _low_side(self) -> LowSide:
        if self._low is None:
            self._low = LowSide(
                self.identity, self._router, self._handlers, self.policy, self._resolver, self._accepted
            )
        return self._low

    def _client_high(self) -> Client:
        if self._high is None:
            self._high = self._client(self.identity, self._relays, bare=self._bare)
        return self._high

    def _context(self, dialler: RelayDialler | TorDialler) -> Client:
        """Somebody new, who dials; through relays also somebody else to each before the last."""
        return Client(
            _fresh(),
            policy=self.policy.client,
            dialler=dialler,
            unlinked=isinstance(dialler, RelayDialler),
            padded=self.policy.padded,
        )

    def _client(
        self,
        identity: Identity,
        dialler: TcpDialler | TorDialler,
        bare: Callable[[PeerConnection, PeerStream], None] | None = None,
    ) -> Client:
        return Client(
            identity,
            policy=self.policy.client,
            dialler=dialler,
            padded=self.policy.padded,
            handlers=self._handlers,
            accepted=self._accepted,
            bare=bare,
        )


def _fresh() -> Identity:
    return Identity.from_seed(random_bytes(32))
