"""How a client's connections are made: every one of them, and every look-up of a name, is a Dialler's.

    TcpDialler     addresses and names, directly
    PortDialler    the same, always from one port: the client of privacy level Low, which punches holes from it
    RelayDialler   the same, but only to relays that were chosen: the client of privacy level High
    TorDialler     onion addresses, through a SOCKS port of Tor's: the client of level Maximum

So what a level forbids is refused in one place, whoever asks for it, and by whatever mistake.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, Final, Protocol, TypeVar

from actors.dial_address import ONION, DialAddress, DialAddressError, parse_dial_address
from actors.newest import keep_newest
from actors.ports.connections import AddressError, DialError, reason_of
from actors.ports.resolver import ResolveError, Resolver
from protocol.identity import PeerId

#: Seconds for a connection to be made.  Tor has to build a circuit to the onion first.
CONNECT_TIMEOUT: Final = 10.0
TOR_TIMEOUT: Final = 60.0

#: Connections that wait to be taken while a hole is punched: one is wanted, of a peer that proves itself.
BACKLOG: Final = 4

#: Peers that are remembered as dialled, and as talked to: more than one peer meets in its life.
MAX_REMEMBERED: Final = 65_536

Wire = TypeVar("Wire", bound=asyncio.BaseProtocol)


class LevelRefused(DialError):
    """The privacy level of this client forbids what was asked; the message says what to do."""


class Dialler(Protocol):
    """``onions``: whether an address may be an onion's."""

    onions: bool

    async def find(self, address: DialAddress) -> list[DialAddress]:
        """Where ``address`` leads, names resolved.  DialError."""
        ...

    async def open(self, address: DialAddress, wire: Callable[[], Wire]) -> Wire:
        """A connection to what :meth:`find` gave, as ``wire()`` has it.  DialError."""
        ...

    async def close(self) -> None: ...


class TcpDialler:
    """Directly."""

    onions = False

    def __init__(self, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or Resolver()

    async def find(self, address: DialAddress) -> list[DialAddress]:
        if address.host == ONION:
            raise LevelRefused(f"{address.transport} is dialled by Tor alone: ask for the privacy level maximum")
        if not address.named:
            return [address]
        asked = DialAddress(address.host, address.value, address.port, address.peer)
        try:
            return [parse_dial_address(text) for text in await self._resolver.resolve(str(asked))]
        except ResolveError as error:
            raise DialError(str(error)) from error
        except DialAddressError as error:
            raise AddressError(str(error)) from error

    async def open(self, address: DialAddress, wire: Callable[[], Wire]) -> Wire:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, made = await asyncio.get_running_loop().create_connection(wire, address.value, address.port)
                return made
        except TimeoutError:
            raise DialError(f"no answer within {CONNECT_TIMEOUT:g} s") from None
        except OSError as error:
            raise DialError(reason_of(error)) from error

    async def close(self) -> None:
        await self._resolver.close()


class PortDialler(TcpDialler):
    """From one local port for all connections, so that a NAT which maps a port the same for every destination shows
    all peers the same one: what relays see is then where a hole can be punched (actors/ports/hole_punch.py).

    The port is this host's choice, held until :meth:`close`; while a hole is punched, and only then, it listens."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        super().__init__(resolver)
        self._held: dict[socket.AddressFamily, socket.socket] = {}
        self._listening = 0
        self._servers: dict[socket.AddressFamily, asyncio.Server] = {}
        self._beginning = asyncio.Lock()

    @asynccontextmanager
    async def listening(self, wire: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[None]:
        """Whoever connects to the port meanwhile is ``wire()``'s: a SYN that comes before ours has left, where no NAT
        keeps it out, is then taken and not refused.  One for all who wait at a time: of two, the system would give
        either what is the other's."""
        self._listening += 1
        try:
            async with self._beginning:
                for family in list(self._held):
                    if family not in self._servers:
                        sock = self._bound(family)
                        try:
                            server = await asyncio.get_running_loop().create_server(wire, sock=sock, backlog=BACKLOG)
                        except BaseException:
                            sock.close()
                            raise
                        self._servers[family] = server
            yield
        finally:
            self._listening -= 1
            if not self._listening:
                servers, self._servers = self._servers, {}
                for server in servers.values():
                    server.close()

    def port(self, family: socket.AddressFamily) -> int:
        """The local port; 0: none was needed yet."""
        held = self._held.get(family)
        return 0 if held is None else int(held.getsockname()[1])

    async def open(self, address: DialAddress, wire: Callable[[], Wire]) -> Wire:
        family = socket.AF_INET6 if ":" in address.value else socket.AF_INET
        try:
            sock = self._bound(family)
        except OSError as error:
            raise DialError(f"no local port to dial from: {reason_of(error)}") from error
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.sock_connect(sock, (address.value, address.port))
                _, made = await loop.create_connection(wire, sock=sock)
                return made
        except TimeoutError:
            sock.close()
            raise DialError(f"no answer within {CONNECT_TIMEOUT:g} s") from None
        except OSError as error:
            sock.close()
            if error.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE) and not self._listening:
                # A connection of the same two ends is there, or was a minute ago: another port will do, though what is
                # seen of it is where no hole is punched.
                return await super().open(address, wire)
            raise DialError(reason_of(error)) from error
        except BaseException:
            sock.close()
            raise

    async def close(self) -> None:
        for held in self._held.values():
            held.close()
        self._held.clear()
        await super().close()

    def _bound(self, family: socket.AddressFamily) -> socket.socket:
        if family not in self._held:
            self._held[family] = _shared(family, 0)
        return _shared(family, self.port(family))


def _shared(family: socket.AddressFamily, port: int) -> socket.socket:
    """A socket at ``port`` (0: the system's choice), which others of this process may have too."""
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    except BaseException:
        made.close()
        raise
    return made


class RelayDialler(TcpDialler):
    """To relays that :meth:`allow` named, and to nobody else: whoever is talked to behind them never sees this IP.

    A peer may be both, a relay and somebody to be talked to.  To us it is what it was first, for good: who was dialled
    has seen our IP, and who was talked to is not to."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        super().__init__(resolver)
        self._relays: set[PeerId] = set()
        self._dialled: dict[PeerId, None] = {}
        self._talked: dict[PeerId, None] = {}
        self._met: dict[PeerId, None] = {}

    def allow(self, relays: Iterable[PeerId]) -> None:
        """These were chosen as relays."""
        self._relays.update(relays)

    def talk_to(self, peer: PeerId) -> None:
        """``peer`` is talked to through a relay from now on, and is not dialled.  LevelRefused: it was."""
        self.check_unseen(peer)
        _remember(self._talked, peer)

    def check_unseen(self, peer: PeerId) -> None:
        """LevelRefused: it was dialled, and has seen our IP."""
        if peer in self._dialled:
            raise LevelRefused(
                f"{peer} is a relay that this peer has connected to itself, and has seen its IP: go through several "
                f"relays (--hops 2), which it sees as somebody else"
            )

    def met(self, peer: PeerId) -> bool:
        """``peer`` has called us through a relay; False: it is one that we have dialled, and is not to be talked to."""
        if peer in self._dialled:
            return False
        _remember(self._met, peer)  # apart: strangers fill it
        return True

    def may_dial(self, relay: PeerId) -> bool:
        """Whether it is not somebody that was talked to."""
        return relay not in self._talked and relay not in self._met

    async def find(self, address: DialAddress) -> list[DialAddress]:
        # Before a name is looked up: the question alone would say who is looked for.
        self._check(address)
        return await super().find(address)

    async def open(self, address: DialAddress, wire: Callable[[], Wire]) -> Wire:
        if address.peer is not None:
            self._check(address)
            _remember(self._dialled, address.peer)
        return await super().open(address, wire)

    def _check(self, address: DialAddress) -> None:
        if address.peer is not None and not self.may_dial(address.peer):
            raise LevelRefused(f"{address.peer} was talked to through a relay: as a relay it would see this peer's IP")
        if address.peer is None or address.peer not in self._relays:
            raise LevelRefused(
                f"{address} was not chosen as a relay: at the privacy level high nobody else is dialled directly"
            )


def _remember(peers: dict[PeerId, None], peer: PeerId) -> None:
    keep_newest(peers, peer, None, MAX_REMEMBERED)


class TorDialler:
    """``proxy``: HOST:PORT of Tor's SOCKS port.  Each dialler has streams of its own in Tor (IsolateSOCKSAuth): what
    two of them do cannot be told to be one person's.  Nothing is ever dialled or looked up beside Tor."""

    onions = True

    def __init__(self, proxy: str = "127.0.0.1:9050") -> None:
        host, _, port = proxy.rpartition(":")
        if not host or not port.isdecimal():
            raise AddressError(f"{proxy!r} is no HOST:PORT of Tor's SOCKS port (tor_socks)")
        self._proxy = (host.strip("[]"), int(port))
        self._isolation = token_hex(16)

    async def find(self, address: DialAddress) -> list[DialAddress]:
        if address.host != ONION or address.target is not None:
            raise LevelRefused(
                f"{address} is no onion address: at the privacy level maximum nothing else is dialled or looked up"
            )
        return [address]

    async def open(self, address: DialAddress, wire: Callable[[], Wire]) -> Wire:
        await self.find(address)
        try:
            from python_socks import ProxyError, ProxyTimeoutError, ProxyType
            from python_socks.async_.asyncio import Proxy
        except ImportError:
            raise DialError("the privacy level maximum needs the extra tor: pip install 'descord-relay[tor]'") from None
        host, port = self._proxy
        proxy: Any = Proxy(ProxyType.SOCKS5, host, port, self._isolation, self._isolation, rdns=True)
        try:
            socket = await proxy.connect(f"{address.value}.onion", address.port, timeout=TOR_TIMEOUT)
            _, made = await asyncio.get_running_loop().create_connection(wire, sock=socket)
            return made
        except ProxyTimeoutError:
            raise DialError(f"Tor did not reach the onion within {TOR_TIMEOUT:g} s") from None
        except ProxyError as error:
            raise DialError(f"Tor could not reach the onion: {error}") from error
        except OSError as error:
            # Also where nothing listens there: that no Tor runs must not look like a peer that is away.
            raise DialError(
                f"Tor's SOCKS port {host}:{port} does not answer ({reason_of(error)}): start Tor (on Debian: apt-get "
                f"install tor), or say where it is (tor_socks)"
            ) from error

    async def close(self) -> None:
        pass
