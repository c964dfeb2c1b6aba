"""Commands of `descord-relay` that talk to a peer at a privacy level.

descord-relay ping PEER --privacy high          by which way is it reached, and how far is that
descord-relay expose SERVICE HOST:PORT          let peers reach a TCP service of this host
descord-relay forward LOCAL PEER SERVICE        a local port that leads to a peer's service
descord-relay socks LOCAL                       a local SOCKS port that leads to any peer's: PEER.LEVEL.descord
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from actors.circuit_client import ClientPolicy
from actors.ports.asn import system_of
from actors.ports.connections import AddressError, ClientError, PeerConnection
from actors.ports.own_relay import own_relay
from actors.ports.peer import Peer
from actors.ports.peer_terms import PeerPolicy
from actors.ports.resolver import Resolver, ResolverPolicy
from actors.ports.storage import folder_at, load_or_create_identity
from actors.ports.tunnels import Exposed, LocalPort, TunnelError, book_of, handlers, host_and_port
from actors.settings import Settings, SettingsError
from protocol.connection import ConnectionLimits
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import MAX_HOPS, Level

COMMANDS: Final = ("expose", "forward", "socks")

#: The folder of this user's identity as a peer, within that of nodes: another than a node's, which says where it is.
FOLDER: Final = "peer"

Print = Callable[[dict[str, Any], str], None]


def add_parsers(commands: Any) -> None:
    """Their flags."""
    expose = commands.add_parser(
        "expose",
        help="let peers reach a TCP service of this host, at a privacy level",
        description="Be reached at a privacy level, and pass what allowed peers send to SERVICE on to HOST:PORT. "
        "Nobody is allowed unless you say so. Ends with Ctrl-C.",
    )
    expose.add_argument("service", metavar="SERVICE", help="its name; its port, such as 80, for those who use SOCKS")
    expose.add_argument("address", metavar="HOST:PORT", help="where it listens, such as 127.0.0.1:8080")
    expose.add_argument(
        "--allow", nargs="+", default=[], metavar="PEER", help="peer ids that may connect; any: anybody may"
    )
    _privacy(expose, tuple(Level))

    forward = commands.add_parser(
        "forward",
        help="a local port that leads to a peer's service, at a privacy level",
        description="Carry each connection to a local port to a service that PEER exposes. Ends with Ctrl-C.",
    )
    forward.add_argument("local", metavar="LOCAL", help="PORT or HOST:PORT to listen at; port 0 takes any")
    forward.add_argument("peer", metavar="PEER", help="a peer id, or a multiaddr that ends in /p2p/PEER")
    forward.add_argument("service", metavar="SERVICE", help="its name, as it was given to expose")
    _privacy(forward, tuple(Level))

    socks = commands.add_parser(
        "socks",
        help="a local SOCKS port that leads to any peer's services",
        description="A SOCKS 5 port for programs that know nothing of libp2p: PEER.high.descord is the peer PEER, "
        "through a relay, and the port is the service. So are PEER.low.descord and PEER.maximum.descord, where "
        "--privacy allows them. Ends with Ctrl-C.",
    )
    socks.add_argument("local", metavar="LOCAL", nargs="?", default="1081", help="PORT or HOST:PORT (default: 1081)")
    socks.add_argument(
        "--privacy",
        nargs="+",
        choices=tuple(Level),
        default=[Level.HIGH],
        help="the levels that a host name may ask for (default: high)",
    )
    socks.add_argument(
        "--peer",
        nargs="+",
        default=[],
        metavar="ADDRESS",
        help="where peers are, as expose prints it: at maximum nobody is asked",
    )
    for command in (expose, forward, socks):
        command.add_argument(
            "--data-dir",
            metavar="DIR",
            help="folder of this peer's identity (default: peer, in the node's data folder)",
        )
        command.add_argument("--json", action="store_true", help="one JSON object a line")
        _padded(command, "; callers that do not pad are refused" if command is expose else "")
    _relayed(forward)


def add_ping_flags(ping: argparse.ArgumentParser) -> None:
    """What ping takes for a privacy level."""
    ping.add_argument(
        "--privacy", choices=tuple(Level), help="reach PEER at this level, and by no other way; it may be a peer id"
    )
    _relayed(ping)
    _padded(ping)


def _privacy(command: argparse.ArgumentParser, levels: tuple[Level, ...]) -> None:
    command.add_argument(
        "--privacy",
        choices=levels,
        default=Level.HIGH,
        help="high: through a relay; maximum: by Tor"
        + ("; low: directly" if Level.LOW in levels else "")
        + " (default: high)",
    )


def _padded(command: argparse.ArgumentParser, beside: str = "") -> None:
    command.add_argument(
        "--padded",
        action="store_true",
        help="hide how long messages are, from relays and who watches the links; the other end must be ours too"
        + beside,
    )


def _relayed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--hops",
        type=int,
        choices=range(1, MAX_HOPS + 1),
        default=1,
        help="at high: relays in a row; with two or three none knows both ends, and PEER sees a new peer id",
    )
    command.add_argument("--relayed", action="store_true", help="at low: a relay will do where there is no direct way")


def policy_of(
    settings: Settings, *, padded: bool = False, meets: Callable[[PeerId], bool] = lambda _: True
) -> PeerPolicy:
    """From the settings.  ``meets``: as of PeerPolicy."""
    limits = ConnectionLimits(
        handshake_timeout=settings.handshake_timeout,
        keepalive_interval=settings.keepalive_interval,
        keepalive_timeout=settings.keepalive_timeout,
    )
    return PeerPolicy(
        relays=settings.relays_kept,
        path_timeout=settings.path_timeout,
        next_path_after=settings.next_path_after,
        tor_socks=settings.tor_socks,
        tor_control=settings.tor_control,
        padded=padded,
        private_network=settings.private_network,
        meets=meets,
        receipts=settings.receipts,
        system_of=system_of(settings),
        client=ClientPolicy(stream_timeout=settings.stream_timeout, connection=limits),
    )


@contextlib.asynccontextmanager
async def peer_of(
    settings: Settings,
    folder: Path,
    level: Level | None,
    identity: Identity,
    exposed: dict[str, Exposed] | None = None,
    told: Callable[[str], None] = lambda _: None,
    *,
    padded: bool,
    meets: Callable[[PeerId], bool] = lambda _: True,
    merits: bool = True,
) -> AsyncIterator[Peer]:
    """A peer, and the node beside it that knows relays.  ``level``: the only one that is used, None: any.  ``meets``:
    as of PeerPolicy.  ``merits``: it is served by those of the relay on this machine, which gives passes to few."""
    # Only now: most commands need none of it.
    from actors.private_node import node_for

    with contextlib.nullcontext(folder) if level is Level.MAXIMUM else folder_of_node(folder) as place:
        async with contextlib.AsyncExitStack() as stack:
            router = await stack.enter_async_context(node_for(level, os.environ, place))
            peer = Peer(
                identity,
                router,
                handlers=handlers(exposed or {}, told),
                policy=policy_of(settings, padded=padded, meets=meets),
                resolver=lambda: Resolver(ResolverPolicy(timeout=settings.resolver_timeout)),
                own=own_relay(settings.data_dir, identity.peer_id) if merits else None,
            )
            yield await stack.enter_async_context(peer)


@contextlib.contextmanager
def folder_of_node(folder: Path) -> Iterator[Path]:
    """``folder``, so that relays are remembered; another for the time being where a second process has it."""
    with contextlib.ExitStack() as stack:
        place = folder
        if folder.is_dir():
            lock = stack.enter_context((folder / "lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="descord-relay-")))
        else:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="descord-relay-")))
        yield place


async def run(arguments: argparse.Namespace, settings: Settings, show: Print) -> int:
    """One of the commands, until it is cancelled.  ClientError, AddressError, SettingsError."""
    folder = _folder(arguments, settings)
    identity = load_or_create_identity(folder)

    def told(text: str) -> None:
        show({"event": "refused", "error": text}, text)

    try:
        match arguments.command:
            case "expose":
                await _expose(arguments, settings, folder, identity, show, told)
            case "forward":
                await _forward(arguments, settings, folder, identity, show, told)
            case _:
                await _socks(arguments, settings, folder, show, told)
    except TunnelError as error:
        raise AddressError(str(error)) from error
    return 0


def _folder(arguments: argparse.Namespace, settings: Settings) -> Path:
    folder = Path(arguments.data_dir).expanduser() if arguments.data_dir else settings.data_dir / FOLDER
    level = getattr(arguments, "privacy", Level.HIGH)  # several of them for socks, which knows what to do
    return folder_at(Level(level), folder) if isinstance(level, str) else folder


async def _expose(
    arguments: argparse.Namespace,
    settings: Settings,
    folder: Path,
    identity: Identity,
    show: Print,
    told: Callable[[str], None],
) -> None:
    level = Level(arguments.privacy)
    host, port = host_and_port(arguments.address)
    allow: frozenset[PeerId] | None = None
    if arguments.allow != ["any"]:
        try:
            allow = frozenset(PeerId.parse(text) for text in arguments.allow)
        except ValueError as error:
            raise TunnelError(f"--allow: {error}; or any, for anybody") from error
        if level is Level.MAXIMUM:
            raise TunnelError(
                "at maximum each caller has a new peer id, so --allow can name nobody: with --allow any, whoever "
                "knows the onion address may connect"
            )
    exposed = {arguments.service: Exposed(host, port, allow)}

    def meets(caller: PeerId) -> bool:  # at low: whoever does is told where we are
        return allow is None or caller in allow

    padded = arguments.padded
    async with peer_of(settings, folder, level, identity, exposed, told, padded=padded, meets=meets) as peer:
        key = folder / "onion-key"
        addresses = await peer.listen(level, key=_read(key) if level is Level.MAXIMUM else "")
        if level is Level.MAXIMUM:
            _write(key, peer.onion_key)
        _show_exposed(show, arguments, peer, addresses)
        if allow == frozenset():
            told("nobody may connect: name those who may with --allow PEER ...")
        with contextlib.suppress(asyncio.CancelledError):  # this is how it ends
            while peer.reachable is not None:
                before = peer.addresses
                await peer.reachable.changed()
                if peer.addresses != before:
                    _show_exposed(show, arguments, peer, peer.addresses)
            await asyncio.Event().wait()


def _show_exposed(show: Print, arguments: argparse.Namespace, peer: Peer, addresses: tuple[str, ...]) -> None:
    met = peer.onion_peer or peer.peer_id
    event = {
        "event": "exposed",
        "service": arguments.service,
        "peer_id": str(met),
        "addresses": list(addresses),
        "published": peer.reachable is not None and peer.reachable.copies > 0,
    }
    text = f"{arguments.service} is reached as {met}, privacy {arguments.privacy}; others may use\n"
    if not addresses:
        text = f"{arguments.service} is not reached now: {peer.reachable.problem if peer.reachable else ''}; trying on"
    show(event, text + "\n".join(f"  {address}" for address in addresses))


async def _socks(
    arguments: argparse.Namespace, settings: Settings, folder: Path, show: Print, told: Callable[[str], None]
) -> None:
    host, port = host_and_port(arguments.local)
    book = book_of(arguments.peer)
    async with contextlib.AsyncExitStack() as stack:
        peers: dict[Level, Peer] = {}
        for level in dict.fromkeys(map(Level, arguments.privacy)):  # somebody of its own at each
            place = folder_at(level, folder)
            identity = load_or_create_identity(place)
            made = peer_of(settings, place, level, identity, padded=arguments.padded)
            peers[level] = await stack.enter_async_context(made)
        first = peers.get(Level.HIGH) or next(iter(peers.values()))
        await _serve(LocalPort(told), lambda local: local.socks(host, port, peers, book), first, show)


async def _forward(
    arguments: argparse.Namespace,
    settings: Settings,
    folder: Path,
    identity: Identity,
    show: Print,
    told: Callable[[str], None],
) -> None:
    level = Level(arguments.privacy)
    host, port = host_and_port(arguments.local)
    async with peer_of(settings, folder, level, identity, padded=arguments.padded) as peer:

        async def begin(local: LocalPort) -> None:
            target, service = arguments.peer, arguments.service
            await local.forward(
                peer, host, port, target, service, level, relayed=arguments.relayed, hops=arguments.hops
            )

        await _serve(LocalPort(told), begin, peer, show)


async def _serve(local: LocalPort, begin: Callable[[LocalPort], Any], peer: Peer, show: Print) -> None:
    try:
        await begin(local)
    except OSError as error:
        raise ClientError(f"the local port cannot be had: {error.strerror or error}") from error
    host, port = local.address
    show(
        {"event": "listening", "host": host, "port": port, "peer_id": str(peer.peer_id)},
        f"listening at {host}:{port}; this peer is {peer.peer_id}",
    )
    try:
        with contextlib.suppress(asyncio.CancelledError):  # this is how it ends
            await asyncio.Event().wait()
    finally:
        await local.close()


@contextlib.asynccontextmanager
async def connected(
    arguments: argparse.Namespace, settings: Settings, identity: Identity, show: Print
) -> AsyncIterator[PeerConnection]:
    """For ping: the peer at the level that was asked for."""
    level = Level(arguments.privacy)
    folder = settings.data_dir / FOLDER
    async with peer_of(settings, folder, level, identity, padded=arguments.padded, merits=False) as peer:
        connection = await peer.connect(arguments.address, level=level, relayed=arguments.relayed, hops=arguments.hops)
        if level is Level.LOW and connection.relay is not None:
            show(
                {"event": "punching", "relay": str(connection.relay)},
                f"reached through relay {connection.relay}; trying to go on directly, for some 45 s at most",
            )
            try:
                connection = await peer.direct(connection)
            except ClientError as error:  # the relay is the way, as was allowed
                show({"event": "not punched", "error": str(error)}, str(error))
        yield connection


def _read(path: Path) -> str:
    return path.read_text("ascii").strip() if path.exists() else ""


def _write(path: Path, key: str) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(key + "\n")
    except OSError as error:
        raise SettingsError(f"the onion's key cannot be kept at {path}: {error.strerror}") from error
