"""`descord-relay`: run a node, and try one from the other side.

    descord-relay run [flags of python -m actors.node]
    descord-relay ping MULTIADDR          is a peer or relay there, directly or through a relay, and how far
    descord-relay reserve RELAY           be reached through a relay: prints the address that others dial
    descord-relay expose SERVICE HOST:PORT    let peers reach a TCP service, at a privacy level
    descord-relay forward LOCAL PEER SERVICE  a local port that leads to a peer's service
    descord-relay socks LOCAL                 a local SOCKS port that leads to any peer's
    descord-relay id                      the peer id of a node's data folder
    descord-relay status                  what the node of a data folder does
    descord-relay contribution            what it did for others this month
    descord-relay mode [MODE] [flags]     when and how much it relays: show that, or change it
    descord-relay restart-forwarders      have it read settings and code anew, without ending a circuit

Exit codes: 0; 1: the peer, relay or node could not be reached, or refused; 2: wrong arguments, settings or identity;
130: ended by a signal before it had done what it was asked to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Never

from actors import cli_node, cli_peer, node
from actors.circuit_client import ClientPolicy
from actors.logs import configure_logging
from actors.ports.client import AddressError, Client, ClientError, PeerConnection, Reservation, StreamError
from actors.ports.control import CommandFailed, NoNode
from actors.ports.host import random_bytes
from actors.ports.resolver import Resolver, ResolverPolicy
from actors.ports.storage import IdentityError, load_identity, load_or_create_identity
from actors.ports.telemetry import log_scrubber, telemetry_config
from actors.settings import Settings, SettingsError, load_settings
from protocol.connection import ConnectionLimits
from protocol.identity import Identity
from protocol.relay_hop import Limit

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

#: What a client takes from the settings; what is wrong with others is their node's affair.
CLIENT_SETTINGS: Final = frozenset({
    "asn_database", "data_dir", "handshake_timeout", "keepalive_interval", "keepalive_timeout", "log_level",
    "next_path_after", "path_timeout", "private_network", "receipts", "relays_kept", "resolver_timeout",
    "stream_timeout", "tor_control", "tor_socks", "trace_identities", "trace_key_rotation",
})  # fmt: skip

Print = Callable[[dict[str, Any], str], None]


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    top = argparse.ArgumentParser(
        prog="descord-relay",
        description="A libp2p circuit relay, and a client to try one with.",
        epilog="descord-relay COMMAND --help tells more. Exit codes: 1: not reached or refused; 2: wrong arguments.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("run", help="run a relay node; takes the flags of python -m actors.node", add_help=False)

    ping = commands.add_parser(
        "ping",
        help="see whether a peer answers, directly or through a relay",
        description="Connect to a peer and measure round trips. It takes an identity of its own for the purpose.",
    )
    ping.add_argument(
        "address",
        metavar="MULTIADDR",
        help="/ip4/192.0.2.1/tcp/4001/p2p/RELAY for a relay or peer; with /p2p-circuit/p2p/PEER behind it, a peer "
        "through that relay; /dns4, /dns6 and /dnsaddr names are resolved",
    )
    ping.add_argument("--count", type=_positive, default=4, metavar="N", help="how many pings (default: 4)")
    ping.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="time between two pings (default: 1)"
    )
    ping.add_argument("--json", action="store_true", help="one JSON object a line")
    cli_peer.add_ping_flags(ping)

    reserve = commands.add_parser(
        "reserve",
        help="be reached through a relay",
        description="Hold a reservation on a relay, refresh it in time, and answer pings of those who dial through it. "
        "Ends with Ctrl-C.",
    )
    reserve.add_argument("address", metavar="RELAY_MULTIADDR", help="/ip4/192.0.2.1/tcp/4001/p2p/RELAY, or by name")
    reserve.add_argument(
        "--data-dir", metavar="DIR", help="folder of the identity to use, not that of a node (default: a new identity)"
    )
    reserve.add_argument("--json", action="store_true", help="one JSON object a line")

    identity = commands.add_parser(
        "id", help="print a node's peer id", description="Print the peer id of a data folder."
    )
    identity.add_argument("--data-dir", metavar="DIR", help="the node's data folder (default: as the node's)")
    identity.add_argument("--json", action="store_true", help="as a JSON object")
    cli_peer.add_parsers(commands)
    cli_node.add_parsers(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["run"]:
        return node.main(given[1:], prog="descord-relay run")
    arguments = parser().parse_args(given)
    try:
        settings = load_settings([], os.environ, only=CLIENT_SETTINGS)
        configure_logging(settings.log_level, log_scrubber(telemetry_config(settings, {}), ()).scrub)
        if arguments.command == "id":
            folder = Path(arguments.data_dir).expanduser() if arguments.data_dir else settings.data_dir
            peer_id = str(load_identity(folder).peer_id)
            print(json.dumps({"peer_id": peer_id}) if arguments.json else peer_id)
            return 0
        if arguments.command in cli_node.COMMANDS:
            return cli_node.run(arguments, settings)
        if arguments.command in cli_peer.COMMANDS:
            return _run(cli_peer.run(arguments, settings, _printer(arguments.json)))
        if arguments.command == "ping":
            return _run(ping(arguments, settings))
        if arguments.data_dir:
            identity = load_or_create_identity(Path(arguments.data_dir).expanduser())
        else:
            identity = _new_identity()
        return _run(reserve(arguments, settings, identity))
    except (SettingsError, IdentityError, AddressError) as error:
        return _fail(error, EXIT_USAGE)
    except (ClientError, NoNode, CommandFailed) as error:
        return _fail(error, EXIT_FAILED)
    except BrokenPipeError:
        # Nobody reads any more.  What Python still has of stdout it would try to write when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def ping(arguments: argparse.Namespace, settings: Settings) -> int:
    """Round trips to a peer, one a line, and what they were in all."""
    show = _printer(arguments.json)
    times: list[float] = []
    failed = 0
    async with _pinged(arguments, settings) as connection:
        agent = ""
        with contextlib.suppress(ClientError):
            agent = (await connection.identify(within=2.0)).agent_version
        show({"event": "connected", **_path(connection), "agent": agent}, _path_line(connection, agent))
        for number in range(1, arguments.count + 1):
            if number > 1:
                await asyncio.sleep(arguments.interval)
            try:
                seconds = await connection.ping(padded=arguments.padded)
            except StreamError as error:
                failed += 1
                show({"event": "lost", "number": number, "error": str(error)}, f"{number}: {error}")
                if connection.ended:
                    break
                continue
            times.append(seconds)
            show(
                {"event": "pong", "number": number, "rtt_ms": round(seconds * 1e3, 3)},
                f"{number}: {seconds * 1e3:.2f} ms",
            )
    milliseconds = [seconds * 1e3 for seconds in times] or [0.0]
    least, mean, most = min(milliseconds), sum(milliseconds) / len(milliseconds), max(milliseconds)
    summary = {"event": "summary", "answers": len(times), "lost": failed}
    text = f"{len(times)} answers, {failed} lost"
    if times:
        summary |= {"least_ms": round(least, 3), "mean_ms": round(mean, 3), "most_ms": round(most, 3)}
        text += f"; least {least:.2f} ms, mean {mean:.2f} ms, most {most:.2f} ms"
    show(summary, text)
    return 0 if times and not failed else EXIT_FAILED


@contextlib.asynccontextmanager
async def _pinged(arguments: argparse.Namespace, settings: Settings) -> AsyncIterator[PeerConnection]:
    if arguments.privacy:
        async with cli_peer.connected(arguments, settings, _new_identity(), _printer(arguments.json)) as connection:
            yield connection
    else:
        async with _client(settings, _new_identity()) as client:
            yield await client.connect(arguments.address)


async def reserve(arguments: argparse.Namespace, settings: Settings, identity: Identity) -> int:
    """Hold a reservation until a signal ends it, and tell what becomes of it."""
    show = _printer(arguments.json)

    def accepted(connection: PeerConnection) -> None:
        show({"event": "peer", **_path(connection)}, f"{connection.peer} connected through the relay")

    async with _client(settings, identity, accepted) as client:
        reservation = await client.reserve(arguments.address)
        _show_reservation(show, reservation)
        with contextlib.suppress(asyncio.CancelledError):  # this is how it ends
            await _tell(show, reservation)
    return 0


async def _tell(show: Print, reservation: Reservation) -> Never:
    while True:
        await reservation.changed()
        if reservation.failure:
            failure = reservation.failure
            show({"event": "failed", "error": failure}, f"{failure}; trying again")
        else:
            _show_reservation(show, reservation)


def _show_reservation(show: Print, reservation: Reservation) -> None:
    until = datetime.fromtimestamp(reservation.expires_at, UTC)
    event = "reserved" if reservation.grants == 1 else "refreshed"
    text = f"{event} on {reservation.relay} until {until:%Y-%m-%d %H:%M:%S} UTC, {_limit(reservation.limit)}"
    if reservation.grants == 1:
        text += "; others dial\n" + "\n".join(f"  {address}" for address in reservation.addresses)
    limit = reservation.limit or Limit(0, 0)
    show(
        {
            "event": event,
            "relay": str(reservation.relay),
            "expires_at": reservation.expires_at,
            "addresses": list(reservation.addresses),
            "limit_data": limit.data,
            "limit_duration": limit.duration,
        },
        text,
    )


def _path(connection: PeerConnection) -> dict[str, Any]:
    limit = connection.limit or Limit(0, 0)
    relay = str(connection.relay) if connection.relay is not None else None
    return {
        "peer": str(connection.peer),
        "relay": relay,
        "hole_punched": connection.punched,
        "onion": connection.onion,
        "limit_data": limit.data,
        "limit_duration": limit.duration,
    }


def _path_line(connection: PeerConnection, agent: str) -> str:
    told = f" ({agent})" if agent.isprintable() and agent else ""
    if connection.onion:
        return f"{connection.peer}{told}, by Tor"
    if connection.relay is None:
        return f"{connection.peer}{told}, directly{' (hole punched)' if connection.punched else ''}"
    return f"{connection.peer}{told}, through relay {connection.relay}, {_limit(connection.limit)}"


def _limit(limit: Limit | None) -> str:
    parts = []
    if limit is not None and limit.data:
        parts.append(f"{limit.data} bytes each way")
    if limit is not None and limit.duration:
        parts.append(f"{limit.duration} s")
    return f"circuits of at most {' and '.join(parts)}" if parts else "no limit on circuits"


def _client(
    settings: Settings, identity: Identity, accepted: Callable[[PeerConnection], None] = lambda _: None
) -> Client:
    limits = ConnectionLimits(
        handshake_timeout=settings.handshake_timeout,
        keepalive_interval=settings.keepalive_interval,
        keepalive_timeout=settings.keepalive_timeout,
    )
    return Client(
        identity,
        policy=ClientPolicy(stream_timeout=settings.stream_timeout, connection=limits),
        resolver=Resolver(ResolverPolicy(timeout=settings.resolver_timeout)),
        accepted=accepted,
    )


def _new_identity() -> Identity:
    return Identity.from_seed(random_bytes(32))


def _run(command: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop serves
        return asyncio.run(_until_signal(command))
    return uvloop.run(_until_signal(command))


async def _until_signal(command: Coroutine[Any, Any, int]) -> int:
    """What ``command`` returns.  A signal cancels it, whatever it waits for; a second one ends the process at once."""
    task = asyncio.ensure_future(command)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if stopped:
            os._exit(EXIT_INTERRUPTED)
        stopped = True
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED


def _printer(as_json: bool) -> Print:
    return lambda event, text: print(json.dumps(event) if as_json else text, flush=True)


def _fail(error: Exception, code: int) -> int:
    print(f"descord-relay: {error}", file=sys.stderr)
    return code


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 86400")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
