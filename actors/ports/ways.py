"""The clients of a peer (actors/ports/peer.py), one or more for each level, and going one way to another peer with one.

What is open at a level is never used at another, and who has seen our IP is not talked to as if it had not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from weakref import WeakSet

from multiaddr import Multiaddr

from actors.ports.client import Client, Handler
from actors.ports.connections import ClientError, DialError, PeerConnection, PeerStream
from actors.ports.diallers import LevelRefused, RelayDialler, TorDialler
from actors.ports.host import random_bytes
from actors.ports.low_side import LowSide
from actors.ports.peer_terms import PeerPolicy, Router, name_of, way_of
from actors.ports.receipts_client import OwnRelay, ReceiptsClient
from actors.ports.resolver import Resolver
from protocol.discovery_messages import Observed
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import Level, Path, RelayAt

#: How a circuit's end is told when somebody said good-bye, and when its relay was lost.  A reset may be the other end's
#: doing, or the relay's or its limits': it counts neither way.
_WELL: Final = ("closed", "the peer closed the connection", "the peer closed the circuit")
_LOST: Final = "the connection to its relay is over: "


class Ways:
    """As of Peer.  ``relays``: dials at HIGH with one relay."""

    def __init__(
        self,
        identity: Identity,
        router: Router,
        handlers: Mapping[str, Handler],
        policy: PeerPolicy,
        resolver: Callable[[], Resolver],
        accepted: Callable[[PeerConnection], None],
        bare: Callable[[PeerConnection, PeerStream], None] | None,
        own: OwnRelay | None,
    ) -> None:
        self.receipts = ReceiptsClient(identity, policy.receipts, own)
        self.relays = RelayDialler(resolver())
        self._identity = identity
        self._router = router
        self._handlers = handlers
        self._policy = policy
        self._resolver = resolver
        self._accepted = accepted
        self._bare = bare
        self._low: LowSide | None = None
        self._high: Client | None = None
        #: At MAXIMUM: by whom is dialled.
        self.contexts: dict[PeerId, Client] = {}
        #: At HIGH through several relays: by whom is dialled, and how many there are.
        self._chains: dict[tuple[PeerId, int], Client] = {}
        #: At LOW: connections through a relay that a caller may have.  Others only lead to a direct one, and end.
        self._lent: WeakSet[PeerConnection] = WeakSet()
        self._closed = False
        self._clients: set[Client] = set()
        self._circuits: dict[PeerConnection, asyncio.Task[None]] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def begun(self) -> frozenset[Level]:
        """At which of LOW and HIGH it has a client."""
        found = {Level.LOW: self._low, Level.HIGH: self._high}
        return frozenset(level for level, one in found.items() if one is not None)

    @property
    def low(self) -> LowSide:
        """What this peer is at LOW."""
        if self._low is None:
            self._low = LowSide(
                self._identity,
                self._router,
                self._handlers,
                self._policy,
                self._resolver,
                self._met,
                self.receipts.before_use,
            )
        return self._low

    @property
    def high(self) -> Client:
        """By whom is dialled, and who is met, at HIGH with one relay."""
        if self._high is None:
            self._high = self._made(
                Client(
                    self._identity,
                    policy=self._policy.client,
                    dialler=self.relays,
                    padded=self._policy.padded,
                    handlers=self._handlers,
                    # A relay sees our IP: it is not to learn what we serve, nor to be served.
                    served_direct=False,
                    before_use=self.receipts.before_use,
                    accepted=self._met,
                    bare=self._bare,
                )
            )
        return self._high

    def by_onion(self, who: Identity) -> Client:
        """Who is met at an onion."""
        return Client(
            who,
            policy=self._policy.client,
            dialler=TorDialler(self._policy.tor_socks),
            padded=self._policy.padded,
            handlers=self._handlers,
            accepted=self._accepted,
        )

    def context(self, dialler: RelayDialler | TorDialler) -> Client:
        """Somebody new, who dials; through relays also somebody else to each before the last."""
        return Client(
            Identity.from_seed(random_bytes(32)),
            policy=self._policy.client,
            dialler=dialler,
            unlinked=isinstance(dialler, RelayDialler),
            padded=self._policy.padded,
        )

    def relay_dialler(self) -> RelayDialler:
        """For a context."""
        return RelayDialler(self._resolver())

    def open_to(self, level: Level, peer: PeerId, hops: int) -> list[PeerConnection]:
        """Connections that may be used again, direct ones first."""
        match level:
            case Level.HIGH if hops > 1:
                client = self._chains.get((peer, hops))
            case Level.HIGH:
                client = self._high
            case Level.MAXIMUM:
                client = self.contexts.get(peer)
            case Level.LOW:
                client = None if self._low is None else self._low.client
        found = [] if client is None else client.open_to(peer, relayed=level is Level.HIGH)
        if level is Level.LOW:
            found = [one for one in found if one.relay is None or one in self._lent or one.link.inbound]
        return sorted(found, key=lambda one: one.relay is not None)

    async def go(self, path: Path, target: PeerId, level: Level, *, relayed: bool, hops: int) -> PeerConnection:
        """One way to ``target``.  ``relayed``: whether a relay will do at LOW.  DialError, with the way's name."""
        try:
            async with asyncio.timeout(self._policy.path_timeout if level is not Level.MAXIMUM else None):
                match level:
                    case Level.HIGH if hops > 1:
                        return await self._along(path, target, hops)
                    case Level.HIGH:
                        return await self._through_one(path, target)
                    case Level.MAXIMUM:
                        return await self._by_tor(path, target)
                    case Level.LOW:
                        connection = await self._low_way(path, target)
            if connection.relay is None:
                return connection
            if relayed:
                self._lent.add(connection)
                return connection
            return await self.low.lead_on(connection)
        except TimeoutError:
            if path.relays and hops == 1:
                self._router.observe(Observed(path.relays[0].peer, "circuit_failed"))
            raise DialError(f"{name_of(path)}: no answer within {self._policy.path_timeout:g} s") from None
        except ClientError as error:
            raise DialError(f"{name_of(path)}: {error}") from error

    async def relay(self, relay: RelayAt, client: Client | None = None) -> PeerConnection:
        """A connection to a relay that was chosen, by ``client``; None: at HIGH.  DialError."""
        client = client or self.high
        if client is self._high:
            self.relays.allow([PeerId(relay.peer)])
        failure: ClientError | None = None
        for address in relay.addresses:
            try:
                return await client.connect(f"{Multiaddr(address)}/p2p/{PeerId(relay.peer)}")
            except DialError as error:
                failure = error
        raise failure or DialError("the relay has no address")

    def drop(self, late: PeerConnection) -> None:
        """A connection that nobody wants."""
        self._end(late.close())

    async def close(self) -> None:
        """Say good-bye to all, at the same time; the relays are told first what they carried."""
        self._closed = True
        for connection in list(self._circuits):
            await connection.close()
        await asyncio.gather(*self._circuits.values(), return_exceptions=True)
        await self.receipts.close()
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        closing = [client.close() for client in self._clients]
        if self._low is not None:
            closing.append(self._low.close())
        await asyncio.gather(*closing, *self._ending, return_exceptions=True)
        await asyncio.gather(*self._circuits.values(), return_exceptions=True)

    # Ways.

    async def _low_way(self, path: Path, target: PeerId) -> PeerConnection:
        if path.relays:
            return await self._through(self.low.client, path.relays[0], target)
        return await self.low.client.connect(f"{Multiaddr(path.address)}/p2p/{target}")

    async def _through_one(self, path: Path, target: PeerId) -> PeerConnection:
        if len(path.relays) != 1:  # PrivacyRouter never says so; if it did, an IP would be shown
            raise LevelRefused("a way without a relay is none at the privacy level high")
        self.relays.talk_to(target)
        self.relays.allow([PeerId(path.relays[0].peer)])
        return await self._through(self.high, path.relays[0], target)

    async def _by_tor(self, path: Path, target: PeerId) -> PeerConnection:
        context = self.contexts.get(target)
        if context is None:
            context = self._made(self.context(TorDialler(self._policy.tor_socks)))
            self.contexts[target] = context
        try:
            connection = await context.connect(f"{Multiaddr(path.address)}/p2p/{target}")
        except BaseException:
            if not context.busy:
                self._forget(context, self.contexts, target)
            raise
        self._close_with(connection, context, self.contexts, target)
        return connection

    async def _along(self, path: Path, target: PeerId, hops: int) -> PeerConnection:
        """One relay within the other; see the module of Peer for who we are to whom."""
        if len(path.relays) != hops:  # as in _through_one
            raise LevelRefused(f"a way through {len(path.relays)} relays is none through {hops}")
        first = path.relays[0]
        # Each try is a context of its own: whom one relay has seen is not seen again by others.
        dialler = self.relay_dialler()
        dialler.allow([PeerId(first.peer)])
        client = self._made(self.context(dialler))
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
        except BaseException:
            self._forget(client, self._chains, (target, hops))
            raise

    async def _through(self, client: Client, relay: RelayAt, target: PeerId) -> PeerConnection:
        failure: ClientError | None = None
        for address in relay.addresses:
            try:
                connection = await client.connect(
                    f"{Multiaddr(address)}/p2p/{PeerId(relay.peer)}/p2p-circuit/p2p/{target}"
                )
            except DialError as error:
                failure = error
                continue
            self._watch(connection)
            return connection
        self._router.observe(Observed(relay.peer, "circuit_failed"))
        raise failure or DialError("the relay has no address")

    # What is watched, and ends.

    def _met(self, connection: PeerConnection) -> None:
        """Somebody has called, at HIGH or LOW."""
        if connection.relay is not None:
            # At HIGH one whom we have dialled has seen our IP, as a relay.
            if self._closed or (self._low is None and not self.relays.met(connection.peer)):
                self.drop(connection)
                return
            self._watch(connection)
        self._accepted(connection)

    def _watch(self, connection: PeerConnection) -> None:
        """A circuit through one relay counts for that relay when it has ended."""
        link = connection.link
        assert link.relay is not None and connection.relay is not None, "a circuit"
        relay, by = connection.relay, connection.carried_by

        async def watch() -> None:
            reason = await connection.wait_ended()
            carried = link.sent + link.received
            if reason in (*_WELL, f"{_LOST}closed"):
                self._router.observe(Observed(relay.bytes, "circuit", carried=carried))
            elif reason.startswith(_LOST):
                self._router.observe(Observed(relay.bytes, "dropped", carried=carried))
            self.receipts.used(by, link.sent, link.received)

        task = self._circuits[connection] = asyncio.get_running_loop().create_task(watch())
        task.add_done_callback(lambda _: self._circuits.pop(connection, None))

    def _close_with(self, connection: PeerConnection, client: Client, contexts: dict[Any, Client], key: object) -> None:
        """A context is over with its connection: nothing of it is kept, nor found again."""

        async def watch() -> None:
            await connection.wait_ended()
            self._forget(client, contexts, key)

        self._follow(watch())

    def _follow(self, watching: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(watching)
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    def _made(self, client: Client) -> Client:
        self._clients.add(client)
        return client

    def _forget(self, client: Client, contexts: dict[Any, Client], key: object) -> None:
        if contexts.get(key) is client:
            del contexts[key]
        if client in self._clients:
            self._clients.discard(client)
            self._end(client.close())

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        """By itself: who has given up waiting is not held up, and close() waits for it."""
        task = asyncio.get_running_loop().create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
