"""A libp2p peer that dials through relays and is reached through them, for asyncio programs.

    async with Client(identity, handlers={"/echo/1.0.0": echo}) as client:
        reservation = await client.reserve("/dns4/relay.example/tcp/4001/p2p/12D3Koo...")
        print(reservation.addresses)                       # what others dial; kept until closed
        peer = await client.connect(f"{relay}/p2p-circuit/p2p/{other}")
        stream = await peer.open("/echo/1.0.0")
        await stream.write(b"hello")
        await stream.finish()
        print(await stream.read())

The protocol is CircuitClient's (actors/circuit_client.py).  This is its sockets, its clock, and what waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from asyncio.staggered import staggered_race
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final

from actors.circuit_client import CircuitClient, ClientPolicy
from actors.client_streams import ByteStream
from actors.dial_address import DialAddress, DialAddressError, parse_dial_address
from actors.peer_link import PeerLink, Refusal
from actors.ports.attempts import seen, unless_closed
from actors.ports.client_sockets import Awaited, Crossed, Refused, Socket
from actors.ports.clock import steady_clock
from actors.ports.connections import (
    AddressError,
    ClientError,
    DialError,
    PeerConnection,
    PeerStream,
    RelayRefused,
    StreamError,
    reason_of,
)
from actors.ports.diallers import Dialler, TcpDialler
from actors.ports.held_reservation import Reservation
from actors.ports.host import random_bytes
from actors.ports.padded import serve_padded
from actors.ports.resolver import Resolver
from actors.refresh_schedule import RefreshPolicy, RefreshSchedule
from protocol.addresses import text_of
from protocol.identity import Identity, PeerId
from protocol.noise import StaticKey
from protocol.padding import PROTOCOL as PADDED
from protocol.relay_hop import ReservationGranted

__all__ = [
    "AddressError",
    "Client",
    "ClientError",
    "DialError",
    "PeerConnection",
    "PeerStream",
    "RelayRefused",
    "Reservation",
    "StreamError",
]

log = logging.getLogger(__name__)

#: Seconds before the next address of a name is tried beside the first (RFC 8305).
ATTEMPT_DELAY: Final = 0.25

#: Seconds that good-byes have to leave when the client closes.
CLOSE_GRACE: Final = 1.0


Handler = Callable[[PeerConnection, PeerStream], Awaitable[None]]


class Client:
    """See the module.  ``handlers``: by protocol, what is done with a stream that a peer opens; a handler's exception
    resets its stream, its return finishes it.  ``accepted``: told of each peer that connected to us through a relay.
    ``bare``: takes the streams of peers within circuits before a protocol was agreed on, in place of ``handlers``.
    ``dialler``: makes the connections, and looks up names; directly with ``resolver`` when there is none.
    ``unlinked``: to each relay of :meth:`connect_through` before the last this is somebody else.
    ``padded``: ``handlers`` serve padded streams alone (protocol/padding.py), else these and others.  ``offered``: as
    ``handlers``, for what other implementations ask, and never padded.  ``served_direct``: whether all these are for
    peers that are connected without a relay between too.  ``before_use``: awaited before a relay that is connected
    directly is asked for a reservation or a circuit."""

    def __init__(
        self,
        identity: Identity,
        *,
        policy: ClientPolicy | None = None,
        refresh: RefreshPolicy | None = None,
        resolver: Resolver | None = None,
        dialler: Dialler | None = None,
        unlinked: bool = False,
        padded: bool = False,
        offered: Mapping[str, Handler] | None = None,
        served_direct: bool = True,
        before_use: Callable[[PeerConnection], Awaitable[None]] | None = None,
        handlers: Mapping[str, Handler] | None = None,
        accepted: Callable[[PeerConnection], None] = lambda _: None,
        bare: Callable[[PeerConnection, PeerStream], None] | None = None,
    ) -> None:
        self.peer_id = identity.peer_id
        self.padded = padded
        self.now = steady_clock()
        policy = policy or ClientPolicy()
        served = dict(handlers or {})
        if served:
            within = serve_padded(served, policy.stream_timeout)
            served = {PADDED: within} if padded else {**served, PADDED: within}
        served |= offered or {}
        self.core = CircuitClient(
            policy,
            StaticKey(identity, random_bytes(32)),
            random_bytes,
            hop=_new_key if unlinked else None,
            handlers={protocol: partial(self._handle, handler) for protocol, handler in served.items()},
            served_direct=served_direct,
            accepted=lambda link: accepted(self.connection_of(link)),
            bare=bare and (lambda link, view: bare(self.connection_of(link), PeerStream(self, view))),
        )
        self._dialler: Dialler = dialler or TcpDialler(resolver)
        #: Whether peers are told where they are seen.  By Tor that would be this host's own loopback address.
        self.observes = not self._dialler.onions
        self._before_use = before_use
        self._announced: tuple[bytes, ...] = ()
        self._servers: list[asyncio.Server] = []
        self._refresh = refresh or RefreshPolicy()
        self._connections: dict[PeerLink, PeerConnection] = {}
        self._dialling: dict[str, asyncio.Task[PeerConnection]] = {}
        self._reservations: set[Reservation] = set()
        self._handling: set[asyncio.Task[None]] = set()
        self._sockets: set[Socket] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._empty: asyncio.Event | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self, address: str) -> PeerConnection:
        """The peer at a multiaddr, through its relay if it names one.  DialError, RelayRefused."""
        parsed = self._parse(address)
        relay = await self.dial(parsed)
        if parsed.target is None:
            return relay
        if parsed.target == self.peer_id:
            raise DialError(f"{parsed.target} is this peer itself")
        return await self._dial_through(relay, parsed.target)

    def doubt(self, relay: PeerId, since: float) -> bool:
        """Whether there is a direct connection to ``relay`` on which nothing came since (PeerConnection.doubt)."""
        there = [one for one in self._connections.values() if one.relay is None and one.usable and one.peer == relay]
        doubted = [one.doubt(since) for one in there]
        return any(doubted)

    def open_to(self, peer: PeerId, *, relayed: bool) -> list[PeerConnection]:
        """Connections to ``peer`` on which streams can be opened; ``relayed``: those through a relay alone."""
        return [
            one
            for one in self._connections.values()
            if one.usable and one.peer == peer and (one.relay is not None or not relayed)
        ]

    def has(self, connection: PeerConnection) -> bool:
        """Whether it is this client's."""
        return connection.link in self._connections

    def seen_at(self, own_port: Callable[[socket.AddressFamily], int]) -> tuple[bytes, ...]:
        """Where relays in use, dialled from ``own_port``, say that they see us: binary multiaddrs.  Nobody else is
        believed: what they say is told on, and dialled."""
        found = [
            one.link.identified.observed_addr
            for one in self._connections.values()
            if one.usable and one.link.identified is not None and isinstance(one.link.wire, Socket)
            if one.link.wire.local_port == own_port(one.link.wire.family)
            if one.link.reserved or one.link.circuits
        ]
        return tuple(dict.fromkeys(address for address in found if address))

    def taken(self, awaited: Awaited) -> asyncio.BaseProtocol:
        """The wire of a connection that came while peers were dialled at once; ``awaited`` says which of them it must
        prove to be."""
        return Crossed(self, awaited)

    def crossed(self, link: PeerLink) -> None:
        self.connection_of(link).punched = True

    async def dial_at_once(self, addresses: Sequence[bytes], peer: PeerId, *, server: bool) -> PeerConnection:
        """``peer`` directly, at all of ``addresses`` (TCP over IP, binary) at the same time.  ``server``: it dials us
        too, and of what comes together it is the client.  DialError: at none of them."""
        attempts = [partial(self._dial_ip, parse_dial_address(text_of(one)), peer, server=server) for one in addresses]
        connection: PeerConnection | None
        connection, _, failures = await staggered_race(attempts, 0.0)
        if connection is None:
            told = [f"{text_of(one)}: {reason_of(failure)}" for one, failure in zip(addresses, failures, strict=False)]
            raise DialError(f"cannot connect to {'; '.join(told[:4])}")
        connection.punched = True
        return connection

    @property
    def busy(self) -> bool:
        """Whether it has connections, or makes some."""
        return bool(self._sockets or self._dialling)

    async def connect_through(self, relays: Sequence[str], target: PeerId) -> PeerConnection:
        """``target``, through all of ``relays``, one within the other: the first a multiaddr that ends in /p2p/RELAY,
        the others peer ids.  Each sees the one before it and the one behind it.  DialError, RelayRefused."""
        return await self._dial_through(await self.through(relays, known=True), target)

    async def through(self, relays: Sequence[str], *, known: bool) -> PeerConnection:
        """The last of ``relays``, through the others.  ``known``: we are to it who this client is, else
        somebody new.  DialError, RelayRefused."""
        within = await self.dial(self._parse(relays[0]))
        for number, relay in enumerate(relays[1:], 2):
            within = await self._extend(within, PeerId.parse(relay), last=known and number == len(relays))
        return within

    async def reserve(self, relay: str) -> Reservation:
        """A reservation on the relay at a multiaddr, kept until it is closed.  DialError, RelayRefused."""
        address = self._parse(relay.removesuffix("/").removesuffix("/p2p-circuit"))
        if address.target is not None:
            raise AddressError(f"{relay} is the address of a peer behind a relay: give that of the relay alone")
        reservation = Reservation(self, address, RefreshSchedule(self._refresh))
        await reservation.refresh()
        self._reservations.add(reservation)
        self.reservation_changed()
        reservation.keep()
        return reservation

    async def listen_here(self) -> int:
        """Take connections at a port of 127.0.0.1, which is returned: those that a Tor of this host passes on; as many
        as circuits at a time (ClientPolicy.max_circuits).  OSError.

        Not a unix socket: the services that distributions make of Tor see neither /tmp nor anybody's home."""

        def accept() -> asyncio.BaseProtocol:
            here = sum(link.inbound for link in self.core.links)
            return Socket(self, None, inbound=True) if here < self.core.policy.max_circuits else Refused()

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def announce(self, addresses: Sequence[bytes]) -> None:
        """Tell peers that we are reached at these too: binary multiaddrs, of onions."""
        self._announced = tuple(addresses)
        self.reservation_changed()

    async def close(self) -> None:
        """Say good-bye to every peer and end."""
        for server in self._servers:
            server.close()
        for reservation in list(self._reservations):
            await reservation.close()
        tasks = [*self._dialling.values(), *self._handling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self.core.links):
            self.core.close(link, self.now())
        self.turn()
        if self._sockets:
            self._empty = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE):
                    await self._empty.wait()
        for left in list(self._sockets):
            left.abort()
        if self._timer is not None:
            self._timer.cancel()
        await self._dialler.close()

    # For the parts above.

    def turn(self) -> None:
        """Write what there is to write, and set the clock for what is due next."""
        self.core.flush()
        when = self.core.next_deadline()
        if when is None or (self._timer is not None and when == self._timer_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = asyncio.get_running_loop().call_later(max(when - self.now(), 0.0), self._due)

    async def dial(self, address: DialAddress) -> PeerConnection:
        """A direct connection to the peer or relay of ``address``: the one that there is, or a new one."""
        for connection in self._connections.values():
            if connection.usable and connection.relay is None and connection.peer == address.peer:
                return connection
        key = f"{address.transport}/p2p/{address.peer}"
        task = self._dialling.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._dial(address))
            self._dialling[key] = task
            task.add_done_callback(lambda _: self._dialling.pop(key, None))
            task.add_done_callback(seen)
        return await unless_closed(task, "the client was closed while it dialled")

    async def ask_reservation(self, connection: PeerConnection) -> ReservationGranted:
        link = connection.link
        if self._before_use is not None:
            await self._before_use(connection)
        answered: asyncio.Future[ReservationGranted | Refusal] = asyncio.get_running_loop().create_future()
        self.core.reserve(link, partial(_resolve, answered), self.now())
        self.turn()
        answer = await answered
        if isinstance(answer, Refusal):
            raise RelayRefused(f"no reservation on {link.peer}", answer)
        return answer

    def forget(self, reservation: Reservation) -> None:
        self._reservations.discard(reservation)
        self.reservation_changed()

    def reservation_changed(self) -> None:
        addresses = [*self._announced, *(address for one in self._reservations for address in one.reached_at)]
        self.core.served.addresses = tuple(dict.fromkeys(addresses))

    def connection_of(self, link: PeerLink) -> PeerConnection:
        """The one of ``link``."""
        connection = self._connections.get(link)
        if connection is None:
            connection = PeerConnection(self, link)
            if not link.ended:
                self._connections[link] = connection
        for other in [other for other in self._connections if other.ended]:
            del self._connections[other]
        return connection

    def socket_opened(self, opened: Socket) -> None:
        self._sockets.add(opened)

    def socket_closed(self, closed: Socket) -> None:
        self._sockets.discard(closed)
        if self._empty is not None and not self._sockets:
            self._empty.set()

    # Dialling.

    def _parse(self, text: str) -> DialAddress:
        try:
            return parse_dial_address(text, onion=self._dialler.onions)
        except DialAddressError as error:
            raise AddressError(str(error)) from error

    async def _dial(self, address: DialAddress) -> PeerConnection:
        found = await self._dialler.find(address)
        attempts = [partial(self._dial_ip, candidate, address.peer or candidate.peer) for candidate in found]
        connection: PeerConnection | None
        connection, _, failures = await staggered_race(attempts, ATTEMPT_DELAY)
        if connection is not None:
            return connection
        told = [f"{each.transport}: {reason_of(failure)}" for each, failure in zip(found, failures, strict=False)]
        raise DialError(f"cannot connect to {'; '.join(told[:4])}{' ...' if len(told) > 4 else ''}")

    async def _dial_ip(self, address: DialAddress, expected: PeerId | None, *, server: bool = False) -> PeerConnection:
        made = await self._dialler.open(address, lambda: Socket(self, expected, inbound=server))
        if made.link is None:
            raise DialError("connection reset by peer")
        connection = self.connection_of(made.link)
        await connection.wait_ready()
        return connection

    async def _dial_through(self, relay: PeerConnection, target: PeerId) -> PeerConnection:
        if self._before_use is not None and relay.relay is None:
            await self._before_use(relay)
        ask = partial(self.core.connect, relay.link, target)
        return await self._within(ask, f"no circuit to {target} through {relay.peer}")

    async def _extend(self, relay: PeerConnection, onward: PeerId, *, last: bool) -> PeerConnection:
        ask = partial(self.core.extend, relay.link, onward, last=last)
        return await self._within(ask, f"{relay.peer} does not lead on to {onward}")

    async def _within(self, ask: Callable[..., None], otherwise: str) -> PeerConnection:
        answered: asyncio.Future[PeerLink | Refusal] = asyncio.get_running_loop().create_future()

        def answer(result: PeerLink | Refusal) -> None:
            if not answered.done():
                answered.set_result(result)
            elif isinstance(result, PeerLink):  # whoever asked has gone
                asyncio.get_running_loop().call_soon(self._close_link, result)

        ask(answer, now=self.now())
        self.turn()
        try:
            result = await answered
        except asyncio.CancelledError:
            if answered.done() and not answered.cancelled() and isinstance(late := answered.result(), PeerLink):
                self._close_link(late)
            raise
        if isinstance(result, Refusal):
            raise RelayRefused(otherwise, result)
        connection = self.connection_of(result)
        await connection.wait_ready()
        return connection

    # What the core tells.

    def _handle(self, handler: Handler, link: PeerLink, view: ByteStream) -> None:
        stream = PeerStream(self, view)

        async def run() -> None:
            try:
                await handler(self.connection_of(link), stream)
                await stream.finish()
                stream.abandon()
            except asyncio.CancelledError:
                stream.reset()
                raise
            except StreamError:
                stream.reset()
            except Exception:
                log.exception("the handler of %s failed", stream.protocol)
                stream.reset()

        task = asyncio.get_running_loop().create_task(run())
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    def _close_link(self, link: PeerLink) -> None:
        self.core.close(link, self.now())
        self.turn()

    def _due(self) -> None:
        self._timer = None
        self.core.handle_deadline(self.now())
        self.turn()


def _new_key() -> StaticKey:
    return StaticKey(Identity.from_seed(random_bytes(32)), random_bytes(32))


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)
