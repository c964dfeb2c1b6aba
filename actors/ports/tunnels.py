"""TCP programs that know nothing of libp2p, talking to each other at a privacy level.

    forward   a local port      ─► a stream to one peer's service            `descord-relay forward`
    socks     a local SOCKS port ─► PEER.LEVEL.descord, the port its service  `descord-relay socks`
    expose    a peer's stream    ─► a host and port here                      `descord-relay expose`

A service is a name, and the protocol of its streams is /descord/service/NAME.  Nobody reaches one who is not allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.ports.client import Handler
from actors.ports.connections import CHUNK as FRAME
from actors.ports.connections import ClientError, PeerConnection, PeerStream, StreamError
from actors.ports.peer import Peer
from actors.ports.peer_terms import Target
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.privacy_messages import Level
from protocol.socks5 import ConnectRequested, Reply, SocksServer

log = logging.getLogger(__name__)

PREFIX: Final = "/descord/service/"
SUFFIX: Final = ".descord"

#: What a service may be called: as it stands in a protocol's name.
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: Connections of one local port, or to one service, at a time.
MAX_TUNNELS: Final = 512

#: Seconds for a client's SOCKS request, and for a service's TCP connection.
SOCKS_TIMEOUT: Final = 10.0
CONNECT_TIMEOUT: Final = 10.0

#: Bytes that are read at a time.
CHUNK: Final = FRAME

Told = Callable[[str], None]

#: Where peers are said to be: multiaddrs that end in /p2p/PEER.
Book = Mapping[PeerId, Sequence[str]]


class TunnelError(ValueError):
    """What was asked for cannot be; the message says why."""


def protocol_of(service: str) -> str:
    """The protocol of a service's streams.  TunnelError: it cannot be called so."""
    if not _SERVICE.fullmatch(service):
        raise TunnelError(
            f"{service!r} is no name of a service: letters, digits, dots, dashes, at most 64, as 80 or ssh"
        )
    return PREFIX + service


def host_and_port(text: str, default_host: str = "127.0.0.1") -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT``.  TunnelError."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if separator else default_host
    if not host or not port.isdecimal() or not int(port) < 65536:
        raise TunnelError(f"{text!r} is no HOST:PORT")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Exposed:
    """``allow``: who may connect; None: anybody."""

    host: str
    port: int
    allow: frozenset[PeerId] | None


def handlers(exposed: Mapping[str, Exposed], told: Told = lambda _: None) -> dict[str, Handler]:
    """By protocol, what :class:`Peer` is to do with streams to these services, by their names.  TunnelError."""
    return {protocol_of(service): _serve(service, one, told) for service, one in exposed.items()}


def _serve(service: str, exposed: Exposed, told: Told) -> Handler:
    running = 0

    async def serve(connection: PeerConnection, stream: PeerStream) -> None:
        nonlocal running
        if exposed.allow is not None and connection.peer not in exposed.allow:
            told(f"{connection.peer} may not use {service} (--allow)")
            raise StreamError("not allowed")
        if running >= MAX_TUNNELS:
            told(f"{service} has {MAX_TUNNELS} connections: no more are taken")
            raise StreamError("busy")
        running += 1
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    reader, writer = await asyncio.open_connection(exposed.host, exposed.port, limit=CHUNK)
            except (TimeoutError, OSError) as error:
                told(f"{service} does not answer at {exposed.host}:{exposed.port}: {error or 'no answer'}")
                raise StreamError("the service does not answer") from error
            try:
                await join(stream, reader, writer)
            except OSError as error:  # how services end: nothing of ours failed
                raise StreamError(f"{service} ended the connection: {error}") from error
        finally:
            running -= 1

    return serve


class LocalPort:
    """A TCP port on this host whose connections :meth:`forward` or :meth:`socks` carry to peers.  ``told``: gets a line
    for a person when a connection comes to nothing."""

    def __init__(self, told: Told = lambda _: None) -> None:
        self._told = told
        self._peers: Mapping[Level, Peer] = {}
        self._book: Book = {}
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._server is not None, "listening"
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    async def forward(
        self,
        peer: Peer,
        host: str,
        port: int,
        target: str,
        service: str,
        level: Level,
        *,
        relayed: bool,
        hops: int = 1,
    ) -> None:
        """Carry each connection to ``service`` of ``target``, as ``peer``.  OSError: the port cannot be had."""
        protocol = protocol_of(service)

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = await peer.open(target, protocol, level=level, relayed=relayed, hops=hops)
            await join(stream, reader, writer)

        await self._listen(host, port, carry)

    async def socks(self, host: str, port: int, peers: Mapping[Level, Peer], book: Book | None = None) -> None:
        """Carry each connection to where its SOCKS request says: PEER.LEVEL.descord.  ``peers``: who we are at each of
        the levels that may be asked for.  ``book``: where peers are.  OSError."""
        self._peers, self._book = peers, book or {}
        await self._listen(host, port, self._socks)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _listen(
        self,
        host: str,
        port: int,
        carry: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    ) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            if len(self._running) >= MAX_TUNNELS:
                self._told(f"{MAX_TUNNELS} connections are open: no more are taken")
                writer.transport.abort()
                return
            self._running.add(task)
            try:
                await carry(reader, writer)
            except (ClientError, RemoteProtocolError) as error:
                self._told(str(error))
            except OSError as error:
                log.debug("a local connection ended: %s", error)
            except asyncio.CancelledError:
                pass  # this is how it ends
            except Exception:
                log.exception("a fault while a connection was carried")
            finally:
                self._running.discard(task)
                if not writer.is_closing():
                    writer.transport.abort()

        self._server = await asyncio.start_server(accepted, host, port, limit=CHUNK)

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine = SocksServer()
        try:
            async with asyncio.timeout(SOCKS_TIMEOUT):
                request = await _request(machine, reader, writer)
        except TimeoutError:
            raise RemoteProtocolError(f"no SOCKS request within {SOCKS_TIMEOUT:g} s", "timeout") from None
        stream = None
        try:
            target, level = named(request.host)
            if level not in self._peers:
                raise TunnelError(f"{request.host}: this port was not told to go to anybody at {level} (--privacy)")
            where = whereabouts(target, level, self._book)
            stream = await self._peers[level].open(where, protocol_of(str(request.port)), level=level)
            machine.reply(Reply.SUCCEEDED)
        except (TunnelError, ClientError) as error:
            machine.reply(Reply.NOT_ALLOWED if isinstance(error, TunnelError) else Reply.HOST_UNREACHABLE)
            writer.write(machine.data_to_send())
            await writer.drain()
            writer.close()
            self._told(str(error))
            return
        writer.write(machine.data_to_send())
        await join(stream, reader, writer, machine.trailing_data())


def named(host: str) -> tuple[PeerId, Level]:
    """The peer and level in PEER.LEVEL.descord.  Peer ids in base58 tell capitals apart; a program that does not is
    given the other form, bafz...  TunnelError: nothing else is ever dialled."""
    parts = host.rstrip(".").split(".")
    if len(parts) != 3 or "." + parts[2].lower() != SUFFIX:
        raise TunnelError(f"{host} is not dialled: only PEER.LEVEL{SUFFIX} is, as PEER.{Level.HIGH}{SUFFIX}")
    try:
        level = Level(parts[1].lower())
    except ValueError:
        raise TunnelError(f"{parts[1]} in {host} is no privacy level") from None
    try:
        return PeerId.parse(parts[0]), level
    except ValueError as error:
        raise TunnelError(f"{host} names no peer: {error}") from error


def book_of(addresses: Iterable[str]) -> Book:
    """By peer, multiaddrs that end in /p2p/PEER.  TunnelError."""
    book: dict[PeerId, list[str]] = {}
    for address in addresses:
        try:
            target = Target.parse(address)
        except ClientError as error:
            raise TunnelError(str(error)) from error
        if not target.offered:
            raise TunnelError(f"{address} does not say where the peer is")
        book.setdefault(target.peer, []).append(address)
    return book


def whereabouts(peer: PeerId, level: Level, book: Book) -> str | PeerId:
    """What ``peer`` is called by: its address in ``book`` that is for ``level``, or its id, to be looked for.
    TunnelError: at MAXIMUM nobody is asked where somebody is."""
    for address in book.get(peer, ()):
        onion, circuit = address.startswith("/onion3/"), "/p2p-circuit" in address
        if onion == (level is Level.MAXIMUM) and (circuit or level is not Level.HIGH):
            return address
    if level is not Level.MAXIMUM:
        return peer
    raise TunnelError(
        f"{peer}: at {level} nobody is asked where a peer is: say so with --peer /onion3/...:4001/p2p/{peer}, which "
        f"expose prints"
    )


async def join(
    stream: PeerStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b""
) -> None:
    """Pass bytes both ways, the end of each direction too, until both are over.  StreamError, OSError."""

    async def outward() -> None:
        if first:
            await stream.write(first)
        while data := await reader.read(CHUNK):
            await stream.write(data)
        await stream.finish()

    async def inward() -> None:
        while data := await stream.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    tasks = [asyncio.ensure_future(outward()), asyncio.ensure_future(inward())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except BaseException:
        stream.reset()
        writer.transport.abort()
        raise
    else:
        writer.close()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(
    machine: SocksServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> ConnectRequested:
    while True:
        try:
            event = machine.next_event()
        finally:
            data = machine.data_to_send()
            if data:
                writer.write(data)
                with contextlib.suppress(OSError):
                    await writer.drain()
        if event is not None:
            return event
        received = await reader.read(CHUNK)
        if not received:
            raise RemoteProtocolError("the client ended before it had asked", "closed")
        machine.receive_data(received)
