"""The client's sockets, clock and waiting: against a real node, and against servers that do not play along."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.circuit_client import ClientPolicy
from actors.peer_link import PeerLink
from actors.ports.client import Client, DialError, PeerConnection, PeerStream, StreamError
from actors.ports.client_sockets import Socket
from actors.ports.diallers import LevelRefused, RelayDialler
from actors.ports.resolver import Resolver, ResolverPolicy
from actors.refresh_schedule import RefreshPolicy
from protocol.connection import ConnectionLimits
from protocol.identity import Identity
from tests.support.dns import NameServer
from tests.support.peers import seeded
from tests.support.process import NodeProcess

ECHO = "/test/echo/1.0.0"
BROKEN = "/test/broken/1.0.0"
BRIEF = "/test/brief/1.0.0"
SILENT = "/test/silent/1.0.0"
PATIENCE = 10.0

_numbers = itertools.count()


async def echo(_: PeerConnection, stream: PeerStream) -> None:
    while part := await stream.read():
        await stream.write(part)
    await stream.finish()


async def broken(_: PeerConnection, stream: PeerStream) -> None:
    raise ZeroDivisionError(stream.protocol)


async def brief(_: PeerConnection, stream: PeerStream) -> None:
    await stream.write(b"seen enough")


async def silent(_: PeerConnection, stream: PeerStream) -> None:
    await asyncio.Event().wait()


def client(**arguments: object) -> Client:
    identity = Identity.from_seed(seeded(f"client {next(_numbers)}"))
    handlers = {ECHO: echo, BROKEN: broken, BRIEF: brief, SILENT: silent}
    return Client(identity, handlers=handlers, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    process = NodeProcess(tmp_path_factory.mktemp("client") / "node", "--rate-limits", "off")
    yield process
    process.stop()


@pytest.fixture
def relay(node: NodeProcess) -> str:
    return str(node.ready["addresses"][0])


@asynccontextmanager
async def joined(relay: str) -> AsyncIterator[tuple[Client, Client, PeerConnection]]:
    """Two clients, and the connection of the first to the second through the relay."""
    async with client() as alice, client() as bob:
        reservation = await bob.reserve(relay)
        yield alice, bob, await alice.connect(reservation.addresses[0])


async def test_streams_are_read_and_written(relay: str) -> None:
    async with joined(relay) as (_, _, connection):
        stream = await connection.open("/test/unknown", ECHO)
        assert stream.protocol == ECHO
        data = bytes(range(256)) * 8000

        async def write() -> None:
            await stream.write(data)
            await stream.finish()

        writing = asyncio.create_task(write())
        assert await stream.read_exactly(len(data)) == data
        assert await stream.read() == b""
        await writing
        with pytest.raises(StreamError, match="finished"):
            await stream.write(b"more")


async def test_many_streams_at_once(relay: str) -> None:
    async with joined(relay) as (_, _, connection):

        async def talk(number: int) -> None:
            stream = await connection.open(ECHO)
            text = f"stream {number}".encode() * 1000
            await stream.write(text)
            await stream.finish()
            assert await stream.read_exactly(len(text)) == text

        await asyncio.gather(*(talk(number) for number in range(100)))


async def test_a_handler_that_fails_costs_its_stream(relay: str) -> None:
    async with joined(relay) as (_, _, connection):
        stream = await connection.open(BROKEN)
        with pytest.raises(StreamError, match="reset"):
            while await stream.read():
                pass
        assert await connection.ping() > 0


async def test_a_handler_that_returns_finishes_its_stream(relay: str) -> None:
    async with joined(relay) as (_, _, connection):
        stream = await connection.open(BRIEF)
        await stream.write(bytes(1 << 20))  # which nobody reads
        assert await stream.read() == b"seen enough"
        assert await stream.read() == b""
        await stream.finish()


async def test_a_writer_waits_for_its_reader_and_can_give_up(relay: str) -> None:
    async with joined(relay) as (_, _, connection):
        stream = await connection.open(SILENT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await stream.write(bytes(8 << 20))
        assert await connection.ping() > 0
        stream.reset()
        with pytest.raises(StreamError):
            await stream.write(b"more")


async def test_dials_of_one_relay_share_a_connection(relay: str) -> None:
    async with client() as alice, client() as bob, client() as carol:
        reservations = await asyncio.gather(bob.reserve(relay), carol.reserve(relay))
        await asyncio.gather(*(alice.connect(each.addresses[0]) for each in reservations))
        assert len([link for link in alice.core.links if link.relay is None]) == 1


async def test_everything_ends_with_the_client(relay: str) -> None:
    async with client() as bob:
        reservation = await bob.reserve(relay)
        alice = client()
        connection = await alice.connect(reservation.addresses[0])
        stream = await connection.open(SILENT)
        reading = asyncio.create_task(stream.read())
        await alice.close()
        with pytest.raises(StreamError, match="closed"):
            await reading
        assert not alice.core.links
    assert await connection.wait_ended() == "closed"


async def test_one_who_gives_up_dialling_leaves_nothing_behind() -> None:
    """The server accepts and says nothing."""
    spoken_to = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)
        spoken_to.set()
        await reader.read()

    async with server(listen) as address, client() as alice:
        dialling = asyncio.create_task(alice.connect(address))
        await spoken_to.wait()
        await alice.close()
        with pytest.raises(DialError, match="closed"):
            await dialling
        assert not alice.core.links


# Names.


async def test_a_relay_is_dialled_by_name(node: NodeProcess, relay: str) -> None:
    async with NameServer() as names:
        names.zone["relay.example", "A"] = ["127.0.0.1"]
        names.zone["_dnsaddr.relay.example", "TXT"] = [f"dnsaddr={relay}"]
        peer_id = node.ready["peer_id"]
        for address in (f"/dns4/relay.example/tcp/{node.port}/p2p/{peer_id}", f"/dnsaddr/relay.example/p2p/{peer_id}"):
            async with client(resolver=Resolver(nameservers=[names.address])) as alice:
                assert str((await alice.connect(address)).peer) == peer_id
                reservation = await alice.reserve(address)
                assert reservation.addresses[0].startswith(
                    f"/dns{'addr' if 'dnsaddr' in address else '4'}/relay.example"
                )


async def test_a_dead_address_of_a_name_does_not_hold_up_the_live_one(relay: str) -> None:
    async with NameServer() as names, server(lambda reader, _: reader.read()) as mute:
        dead = "/ip4/127.0.0.1/tcp/1"
        names.zone["_dnsaddr.relay.example", "TXT"] = [f"dnsaddr={each}" for each in (dead, mute, relay)]
        async with client(resolver=Resolver(nameservers=[names.address])) as alice:
            async with asyncio.timeout(PATIENCE / 2):
                await alice.connect("/dnsaddr/relay.example")


async def test_a_name_without_address_says_so() -> None:
    async with NameServer() as names:
        alice = client(resolver=Resolver(ResolverPolicy(timeout=2), nameservers=[names.address]))
        with pytest.raises(DialError, match=r"nobody\.example.*no such name"):
            await alice.connect("/dns4/nobody.example/tcp/4001")
        await alice.close()


# Reservations.


async def test_a_reservation_is_refreshed_and_taken_again(tmp_path: Path) -> None:
    first = NodeProcess(tmp_path / "node")
    address = str(first.ready["addresses"][0])
    try:
        async with client(refresh=RefreshPolicy(refresh_at=0.01, least_life=10, first_delay=0.1)) as bob:
            reservation = await bob.reserve(address.replace("/p2p-circuit", "") + "/p2p-circuit")
            grants = reservation.grants
            first.stop()
            await asyncio.wait_for(reservation.changed(), PATIENCE)
            assert reservation.failure
            second = NodeProcess(tmp_path / "node", "--listen", address.split("/p2p/")[0])
            try:
                while reservation.failure:
                    await asyncio.wait_for(reservation.changed(), PATIENCE)
                assert reservation.grants > grants
                async with client() as alice:
                    assert await (await alice.connect(reservation.addresses[0])).ping() > 0
            finally:
                second.stop()
    finally:
        first.stop()


async def test_a_client_ends_though_its_relay_ends_at_that_moment(relay: str) -> None:
    bob = client()
    await bob.reserve(relay)
    (link,) = bob.core.links
    await asyncio.sleep(0)  # the task that keeps the reservation waits now
    bob.core.lost(link, "the relay is gone", bob.now())
    closed, _ = await asyncio.wait({asyncio.create_task(bob.close())}, timeout=PATIENCE / 2)
    assert closed


# Servers that do not play along.

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    """A TCP server; its address."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with running:
        yield f"/ip4/127.0.0.1/tcp/{running.sockets[0].getsockname()[1]}"


def speaker(data: bytes) -> Serve:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await reader.read()

    return speak


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100_000, b"\x13/multistream/1.0.0\n\x03na\n", bytes(1 << 20)],
    ids=["silence", "http", "ones", "na", "zeros"],
)
async def test_a_server_that_is_no_peer(data: bytes) -> None:
    policy = ClientPolicy(connection=ConnectionLimits(handshake_timeout=0.5))
    async with server(speaker(data)) as address, client(policy=policy) as alice:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(DialError, match="cannot connect to /ip4/127"):
                await alice.connect(address)
        assert not alice.core.links


async def test_another_peer_than_the_one_that_was_asked_for(relay: str) -> None:
    other = Identity.from_seed(seeded("other")).peer_id
    async with client() as alice:
        with pytest.raises(DialError, match="expected peer"):
            await alice.connect(f"{relay.split('/p2p/')[0]}/p2p/{other}")


async def test_a_reservation_is_refreshed_in_time_by_a_client_whose_clock_was_set(relay: str) -> None:
    """It started in 1970, and the time came later: what the relay says is of today."""
    async with client() as bob:
        real = bob.now
        bob.now = lambda: real() - 1_500_000_000.0
        reservation = await bob.reserve(relay)
        assert 0 < reservation._schedule.due - bob.now() < 3600


async def test_one_that_was_reset_before_it_was_looked_at_leaves_nothing() -> None:
    """The system then no longer says who it was."""
    other = Identity.from_seed(seeded("other")).peer_id
    with socket.create_server(("127.0.0.1", 0)) as door:
        async with client() as alice:
            for made in (
                lambda: Socket(alice, None, inbound=True),
                lambda: alice.taken(lambda ip, port: (other, True)),
            ):
                with socket.create_connection(door.getsockname()) as dialler:
                    accepted, _ = door.accept()
                    dialler.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.setblocking(False)
                transport, _ = await asyncio.get_running_loop().connect_accepted_socket(made, accepted)
                assert transport.is_closing() and not alice._sockets and not alice.core.links


async def test_a_relay_that_resets_whoever_comes_leaves_nothing() -> None:
    other = Identity.from_seed(seeded("other")).peer_id

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with server(reset) as address, client() as alice:
        for _ in range(100):
            with pytest.raises(DialError):
                await alice.connect(f"{address}/p2p/{other}")
        assert not alice._sockets and not alice.core.links


async def test_who_was_dialled_is_not_talked_to_and_who_was_talked_to_is_not_dialled() -> None:
    """From the first packet on, and for good; a relay that says nothing stops no other."""
    other, third = (Identity.from_seed(seeded(name)).peer_id for name in ("other", "third"))
    accepted = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read(-1)

    dialler = RelayDialler()
    async with server(say_nothing) as address, Client(Identity.from_seed(seeded("alice")), dialler=dialler) as alice:
        dialler.allow([other])
        dialling = asyncio.ensure_future(alice.connect(f"{address}/p2p/{other}"))
        await accepted.wait()
        with pytest.raises(LevelRefused, match="has seen its IP"):
            dialler.talk_to(other)
        dialler.met(other)  # it calls, which nobody can keep it from
        assert dialler.may_dial(other)
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)
        with pytest.raises(LevelRefused):
            dialler.talk_to(other)
        dialler.talk_to(third)
        dialler.allow([third])
        with pytest.raises(LevelRefused, match="was talked to through a relay"):
            await alice.connect(f"{address}/p2p/{third}")
        assert not dialler.may_dial(third)


async def test_what_comes_as_who_asked_is_cancelled_is_closed() -> None:
    class Nowhere:
        def write(self, data: bytes) -> None: ...
        def close(self) -> None: ...

    asked: list[Callable[[PeerLink], None]] = []
    async with client() as alice:
        link = alice.core.attach(Nowhere(), None, alice.now())
        waiting = asyncio.ensure_future(alice._within(lambda answer, now: asked.append(answer), "no circuit"))
        await asyncio.sleep(0)
        asked[0](link)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled() and link.ended and link not in alice.core.links


async def test_a_stream_that_comes_as_who_asked_is_cancelled_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[asyncio.Future[PeerStream]] = []
    reset: list[PeerStream] = []

    def forget(stream: PeerStream) -> None:
        reset.append(stream)

    monkeypatch.setattr(PeerStream, "reset", forget)
    async with client() as alice:
        monkeypatch.setattr(alice.core, "open", lambda link, protocols, opened, *_: came.append(opened))
        link = alice.core.attach(None, None, alice.now())  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(PeerConnection(alice, link).open(ECHO, padded=False))
        await asyncio.sleep(0)
        came[0](SimpleNamespace(changed=None))  # type: ignore[operator]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled() and len(reset) == 1
        link.wire = None
