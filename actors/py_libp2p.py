"""A transport for py-libp2p: its host dials and listens through PrivacyRouter, and in no other way.

    key_pair = create_new_key_pair()
    transport = DescordTransport(key_pair)
    host = new_host(key_pair, transports=[transport], disable_identify_address_discovery=True)
    async with host.run(listen_addrs=[LISTEN]):             # reached through relays; transport.addresses
        await host.connect(transport.peer(PEER_ID_OR_CIRCUIT_ADDRESS))
        stream = await host.new_stream(peer_id, [PROTOCOL])

It is a natively multiplexing transport: py-libp2p gets connections whose other end was proved already.  Raw bytes under
py-libp2p's own Noise and yamux would do too, but then each circuit would be upgraded by other code than the one that
the levels, their diallers and their tests with go, rust and js are about, and once more for the connections
to relays; so the host's key is given to our Peer, and there is one identity, one Noise and one yamux.

Levels.  HIGH, through one relay, is what there is.  LOW is py-libp2p's own TCP.  At MAXIMUM and through several relays
each context must be somebody new, and a host of py-libp2p cannot be: on whatever connection, its identify tells its
public key and a record that it signed.  So these are refused, rather than had in name.

A host that has another transport beside is refused when it starts.  Whom it finds by mDNS, bootstrap or a DHT it can
dial only through here; but mDNS, UPnP and bootstrap by name, off unless they are asked for, have sockets of their own,
which no transport sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.ports.connections import AddressError, ClientError, PeerConnection, PeerStream
from actors.ports.peer import Peer
from actors.ports.peer_terms import Target
from protocol.identity import Identity
from protocol.privacy_messages import Level

try:
    import trio
    from libp2p.abc import IListener, ITransport
    from libp2p.crypto.keys import KeyPair, KeyType
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.network.config import RetryConfig
    from libp2p.peer.id import ID
    from libp2p.peer.peerinfo import PeerInfo
    from libp2p.transport.exceptions import OpenConnectionError
    from multiaddr import Multiaddr
    from multiaddr.exceptions import ProtocolLookupError

    from actors.ports.py_libp2p import CircuitConnection
    from actors.ports.trio_bridge import AsyncioThread, BridgeClosed
except ImportError as error:
    raise ImportError(f"the transport for py-libp2p needs: pip install 'descord-relay[libp2p]' ({error})") from error

if TYPE_CHECKING:
    from libp2p.custom_types import THandler

log = logging.getLogger(__name__)

#: What a host is told to listen at.
LISTEN: Final = Multiaddr("/p2p-circuit")

#: Connections that peers have made and the host has not taken yet; one more is closed.
CONNECTION_BACKLOG: Final = 64

#: Peers for which an address was given: the one given longest ago is forgotten first, and then looked for.
MAX_TARGETS: Final = 1024


class TransportError(OpenConnectionError):
    """What was asked for could not be had; the message says why.  Nothing less was tried."""


class ListenError(BaseLibp2pError):
    """No relay would have us; the message says why.  Not of the kinds that py-libp2p's swarm notes at debug level, to
    go on with a host that nobody reaches."""


class CircuitAddress(Multiaddr):  # type: ignore[misc]
    """/.../p2p/RELAY/p2p-circuit.  py-libp2p's get_addrs takes the first peer id that it finds for the host's own, and
    would cut the address there: what is left is where the relay is, as if it were the host."""

    def value_for_protocol(self, proto: Any) -> Any:
        if proto == "p2p":
            raise ProtocolLookupError(proto, str(self))
        return super().value_for_protocol(proto)


class DescordTransport(ITransport):
    """See the module.  For one host, once.

    ``key_pair``: the host's, of Ed25519.  ``level``: HIGH.  ``environment``: settings of the node that looks for
    relays, as README.md's table names them (DESCORD_RELAY_PUBLIC_RELAYS, ...); the process' own when None.
    ``data_dir``: a folder in which relays are remembered; None, or none: nowhere.  TransportError: for another key or
    level."""

    provides_native_muxing = True

    def __init__(
        self,
        key_pair: KeyPair,
        level: Level | str = Level.HIGH,
        *,
        hops: int = 1,
        environment: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        if level != Level.HIGH or hops != 1:
            raise TransportError(_why_not(str(level), hops))
        if key_pair.private_key.get_type() is not KeyType.Ed25519:
            raise TransportError("relays know this peer by an Ed25519 key: libp2p.crypto.ed25519.create_new_key_pair()")
        self.identity = Identity.from_seed(key_pair.private_key.to_bytes())
        self._environment = dict(os.environ if environment is None else environment)
        self._data_dir = data_dir
        self._targets: dict[ID, str] = {}
        self._nursery: trio.Nursery | None = None
        self._thread: AsyncioThread | None = None
        self._starting = trio.Lock()
        self._closed = False
        self._peer: Peer | None = None
        # These belong to the loop's thread.
        self._stack = contextlib.AsyncExitStack()
        self._arrived: asyncio.Queue[CircuitConnection] = asyncio.Queue(CONNECTION_BACKLOG)
        self._connections: dict[PeerConnection, CircuitConnection] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._addresses: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs at which others reach the host now; they change as relays are replaced."""
        return self._addresses

    def peer(self, target: str) -> PeerInfo:
        """For ``host.connect``: ``target`` is a peer id, which is looked for through relays, or an address that ends in
        /p2p-circuit/p2p/PEER, whose relay is then the caller's own choice.  AddressError.

        py-libp2p's dial_peer leaves out addresses with /p2p-circuit, "this node has no relay transport": so the peer
        store gets /p2p/PEER alone, and the rest is remembered here."""
        parsed = Target.parse(target)
        peer = ID(parsed.peer.bytes)
        self._targets.pop(peer, None)
        if parsed.offered:
            if "/p2p-circuit" not in target:
                raise AddressError(f"{target}: at the privacy level {Level.HIGH} a peer is not dialled directly")
            self._targets[peer] = target
            while len(self._targets) > MAX_TARGETS:
                del self._targets[next(iter(self._targets))]
        return PeerInfo(peer, [Multiaddr(f"/p2p/{peer}")])

    # ITransport.

    def protocols(self) -> list[str]:
        return ["p2p", "p2p-circuit"]

    def can_dial(self, maddr: Multiaddr) -> bool:
        names = [one.name for one in maddr.protocols()]
        return names == ["p2p"] or ("p2p-circuit" in names and names[-1] == "p2p")

    def can_listen(self, maddr: Multiaddr) -> bool:
        return [one.name for one in maddr.protocols()] == ["p2p-circuit"]

    async def dial(self, maddr: Multiaddr) -> CircuitConnection:  # type: ignore[override]
        """TransportError; so for an address whose relay :meth:`peer` was not given.  What else stands in py-libp2p's
        peer store is other peers' word, and the relay that they name would see this host's IP."""
        text = str(maddr)
        wanted = text.rpartition("/p2p/")[2]
        given = self._targets.get(ID.from_base58(wanted))
        if text == f"/p2p/{wanted}":
            text = given or wanted
        elif text != given:
            raise TransportError(
                f"{text}: nobody here chose that relay: give transport.peer() the address, or the peer id alone"
            )
        try:
            thread, peer = await self._running()
            return await thread.call(self._connect, peer, text)
        except (ClientError, BridgeClosed) as error:
            raise TransportError(str(error)) from error

    def create_listener(self, handler_function: THandler) -> CircuitListener:
        return CircuitListener(self, handler_function)

    # What the swarm tells.

    def set_background_nursery(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

        async def attend() -> None:
            try:
                await trio.sleep_forever()
            finally:
                await self.close()

        # A swarm that is cancelled, as host.run does in the end, does not come to close its transports.
        nursery.start_soon(attend)

    def set_swarm(self, swarm: Any) -> None:
        """TransportError: the host is somebody else, or has ways that are not of this level."""
        if swarm.get_peer_id() != ID(self.identity.peer_id.bytes):
            raise TransportError(f"the host is {swarm.get_peer_id()}, the transport's key is {self.identity.peer_id}'s")
        others = [type(one).__name__ for one in swarm.transport_manager.get_transports() if one is not self]
        if others:
            raise TransportError(
                f"beside this transport the host has {', '.join(others)}, which shows its IP: give it this one alone"
            )
        # dial_addr_as_responder: what py-libp2p's own hole punching dials.  It is the other's word, and a way of ours.
        for name in ("_dial_addr_single_attempt", "dial_addr_as_responder"):
            if (dial := getattr(swarm, name, None)) is not None:
                setattr(swarm, name, _the_one_asked_for(dial))
        # Peer tries every way that there is; to have it do so four times tells the caller minutes later why none was.
        swarm.retry_config = RetryConfig(max_retries=0)

    async def close(self) -> None:
        """Say good-bye to all; nothing is left, neither a thread nor a socket."""
        with trio.CancelScope(shield=True):
            async with self._starting:
                self._closed = True
                thread, self._thread, self._peer = self._thread, None, None
                if thread is not None:
                    try:
                        await thread.call(self._end)
                    finally:
                        await thread.stop()

    # For the listener.

    async def listen(self) -> AsyncioThread:
        """ListenError."""
        try:
            thread, peer = await self._running()
            await thread.call(self._listen, peer)
        except (ClientError, BridgeClosed) as error:
            raise ListenError(f"the host is not reached at the privacy level {Level.HIGH}: {error}") from error
        return thread

    async def arrived(self) -> CircuitConnection:
        """The next connection that a peer made; in the loop's thread."""
        return await self._arrived.get()

    async def _running(self) -> tuple[AsyncioThread, Peer]:
        async with self._starting:
            if self._closed:
                raise BridgeClosed("the host has ended, and its transport with it")
            if self._thread is None:
                thread = AsyncioThread("descord-transport")
                try:
                    self._peer = await thread.call(self._begin, thread)
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await thread.call(self._end)
                        await thread.stop()
                    raise
                self._thread = thread
            assert self._peer is not None
            return self._thread, self._peer

    # In the loop's thread.

    async def _begin(self, thread: AsyncioThread) -> Peer:
        from actors.cli_peer import folder_of_node, policy_of
        from actors.lookout import settings_to_look
        from actors.ports.resolver import Resolver, ResolverPolicy
        from actors.private_node import PrivateNode

        # Whose folder it is not, uses one that is gone afterwards.
        folder = self._stack.enter_context(folder_of_node(self._data_dir or Path(os.devnull)))
        settings = settings_to_look(self._environment, folder)
        router = await self._stack.enter_async_context(PrivateNode.start(settings))

        def muxed(connection: PeerConnection) -> CircuitConnection:
            found = self._connections.get(connection)
            if found is None:
                for ended in [one for one in self._connections if one.ended]:
                    del self._connections[ended]
                found = self._connections[connection] = CircuitConnection(thread, connection)
            return found

        def accepted(connection: PeerConnection) -> None:
            try:
                self._arrived.put_nowait(muxed(connection))
            except asyncio.QueueFull:
                log.warning("a connection is closed: %d wait for the host already", CONNECTION_BACKLOG)
                # Not within the call in which the peer was heard.
                closing = asyncio.get_running_loop().create_task(connection.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

        def bare(connection: PeerConnection, stream: PeerStream) -> None:
            muxed(connection).take(stream)

        self._muxed = muxed
        return await self._stack.enter_async_context(
            Peer(
                self.identity,
                router,
                policy=policy_of(settings),
                resolver=lambda: Resolver(ResolverPolicy(timeout=settings.resolver_timeout)),
                accepted=accepted,
                bare=bare,
            )
        )

    async def _connect(self, peer: Peer, target: str) -> CircuitConnection:
        return self._muxed(await peer.connect(target, level=Level.HIGH))

    async def _listen(self, peer: Peer) -> None:
        await peer.listen(Level.HIGH)
        if self._watching is None:

            async def watch() -> None:
                while peer.reachable is not None:
                    self._addresses = peer.addresses
                    await peer.reachable.changed()

            self._addresses = peer.addresses
            self._watching = asyncio.get_running_loop().create_task(watch())

    async def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._addresses = ()
        await self._stack.aclose()

    @property
    def nursery(self) -> trio.Nursery:
        """TransportError: the host does not run."""
        if self._nursery is None:
            raise TransportError("the host does not run: async with host.run(...)")
        return self._nursery


class CircuitListener(IListener):
    """Being reached through relays, for as long as the host runs."""

    def __init__(self, transport: DescordTransport, handler: THandler) -> None:
        self._transport = transport
        self._handler = handler
        self._scope = trio.CancelScope()

    async def listen(self, maddr: Multiaddr) -> None:
        """Until the first relay has us.  ListenError."""
        thread = await self._transport.listen()
        self._transport.nursery.start_soon(self._accept, thread)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        own = f"/p2p/{self._transport.identity.peer_id}"
        return tuple(CircuitAddress(one.removesuffix(own)) for one in self._transport.addresses)

    async def close(self) -> None:
        """Take no more connections; the reservations end with the transport."""
        self._scope.cancel()

    async def _accept(self, thread: AsyncioThread) -> None:
        with self._scope:
            async with trio.open_nursery() as handling:
                while True:
                    try:
                        connection = await thread.call(self._transport.arrived)
                    except BridgeClosed:
                        return
                    handling.start_soon(self._handle, connection)

    async def _handle(self, connection: CircuitConnection) -> None:
        """py-libp2p's handler waits until the swarm ends, and holds one of its places for inbound connections."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await connection.wait_ended()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self._handler(connection)  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()


def _the_one_asked_for(dial: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def dial_the_one_asked_for(addr: Multiaddr, peer_id: ID, *more: Any, **named: Any) -> Any:
        # The swarm does not compare: what others put into the peer store as an address of P may say /p2p/Q, and
        # its QUIC and ours would be asked for P and lead to Q.
        _, separator, who = str(addr).rpartition("/p2p/")
        if separator and who != str(peer_id):
            raise TransportError(f"{addr} is not {peer_id}, whom it was kept as an address of")
        return await dial(addr, peer_id, *more, **named)

    return dial_the_one_asked_for


def _why_not(level: str, hops: int) -> str:
    if level == Level.LOW:
        return f"at {level} both see each other's IP: that is py-libp2p's own TCP transport, with another key"
    if level == Level.MAXIMUM or hops != 1:
        return (
            "at maximum, and through several relays, each peer must see somebody new, and the identify of a py-libp2p "
            "host tells its one key to all: use actors.ports.peer.Peer"
        )
    return f"{level!r} is no privacy level that this transport has: {Level.HIGH}"
