"""Hosts of py-libp2p that have our transport alone, and meet through real relays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing

pytest.importorskip("libp2p", reason="py-libp2p is in the dev extra")

from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.rsa import create_new_key_pair as create_rsa_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING_ID
from libp2p.host.ping import perform_ping_roundtrip
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from actors.ports.trio_bridge import AsyncioThread, BridgeClosed
from actors.py_libp2p import LISTEN, DescordTransport, TransportError
from tests.support.peers import seeded
from tests.support.process import NodeProcess

HASH = TProtocol("/test/hash/1.0.0")
ECHO = TProtocol("/test/echo/1.0.0")
PATIENCE = 60.0
ASKED = {"socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg"}
SIZE = 4 * 1024 * 1024


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[Callable[[int], list[NodeProcess]]]:
    started: list[NodeProcess] = []

    def start(count: int) -> list[NodeProcess]:
        for number in range(count):
            known = [word for one in started for word in ("--public-relays", one.ready["addresses"][0])]
            started.append(
                NodeProcess(tmp_path / f"relay-{number}", "--private-network", "on", "--mdns", "off",
                            "--rate-limits", "off", "--listen", f"/ip4/127.{number + 1}.0.1/tcp/0",
                            "--assume-reachable", "on", *known)
            )  # fmt: skip
        return started

    yield start
    for one in started:
        one.stop()


def transport_of(name: str, tmp_path: Path, relays: list[NodeProcess]) -> DescordTransport:
    environment = {
        "DESCORD_RELAY_PUBLIC_RELAYS": ",".join(one.ready["addresses"][0] for one in relays),
        "DESCORD_RELAY_PRIVATE_NETWORK": "on",
        "DESCORD_RELAY_PATH_TIMEOUT": "10",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    return DescordTransport(create_new_key_pair(seeded(name)), environment=environment)


@asynccontextmanager
async def host_of(name: str, transport: DescordTransport, *, listen: bool = False) -> AsyncIterator[IHost]:
    host = new_host(create_new_key_pair(seeded(name)), transports=[transport], disable_identify_address_discovery=True)
    host.set_stream_handler(HASH, answer_hash)
    host.set_stream_handler(ECHO, answer_echo)
    async with host.run(listen_addrs=[LISTEN] if listen else []):
        yield host


async def answer_hash(stream: INetStream) -> None:
    digest = hashlib.sha256()
    try:
        while data := await stream.read(65536):
            digest.update(data)
    except StreamEOF:
        pass
    await stream.write(digest.digest())
    await stream.close()


async def answer_echo(stream: INetStream) -> None:
    try:
        while data := await stream.read(65536):
            await stream.write(data)
    except StreamEOF:
        pass
    await stream.close()


async def hashed(host: IHost, peer: ID, size: int = SIZE) -> None:
    data = hashlib.shake_128(b"py").digest(size)
    stream = await host.new_stream(peer, [HASH])
    for at in range(0, size, 65536):
        await stream.write(data[at : at + 65536])
    await stream.close_write()  # type: ignore[attr-defined]
    assert await stream.read(-1) == hashlib.sha256(data).digest()
    await stream.close()


async def echoed(host: IHost, peer: ID, size: int = SIZE) -> None:
    data = hashlib.shake_128(b"echo").digest(size)
    stream = await host.new_stream(peer, [ECHO])
    received = bytearray()

    async def write() -> None:
        for at in range(0, size, 65536):
            await stream.write(data[at : at + 65536])
        await stream.close_write()  # type: ignore[attr-defined]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while len(received) < size:
            received += await stream.read(65536)
    assert received == data
    await stream.close()


def remotes() -> set[tuple[str, int]]:
    """Where this process has TCP connections to."""
    return {tuple(one.raddr) for one in psutil.Process().net_connections("tcp") if one.raddr}


def sockets() -> int:
    return sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{fd}"))  # fmt: skip


@pytest.fixture
def asked_of_sockets() -> Iterator[list[str]]:
    """What threads beside the transport's ask of sockets and the resolver: py-libp2p would, and ours never does."""
    asked: list[str] = []
    listening = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event in ASKED and threading.current_thread().name != "descord-transport":
            asked.append(f"{event} {arguments[1:]} in {threading.current_thread().name}")

    sys.addaudithook(hear)  # it cannot be taken away again
    yield asked
    listening = False


def test_two_hosts_meet_by_peer_id_through_a_relay(
    relays: Callable[[int], list[NodeProcess]], tmp_path: Path, asked_of_sockets: list[str]
) -> None:
    nodes = relays(2)

    async def meet() -> None:
        bobs, alices = transport_of("bob", tmp_path, nodes), transport_of("alice", tmp_path, nodes)
        with trio.fail_after(PATIENCE):
            async with host_of("bob", bobs, listen=True) as bob, host_of("alice", alices) as alice:
                assert bobs.addresses and all("/p2p-circuit/" in one for one in bobs.addresses)
                assert sorted(map(str, bob.get_addrs())) == sorted(bobs.addresses), "identify tells these alone"
                await alice.connect(alices.peer(str(bob.get_id())))
                await hashed(alice, bob.get_id())
                await echoed(alice, bob.get_id())
                # The other way, on the same connection.
                await hashed(bob, alice.get_id(), 1000)
                stream = await alice.new_stream(bob.get_id(), [PING_ID])
                await perform_ping_roundtrip(stream)
                await stream.close()
                there = {tuple(ports(one)) for one in nodes}
                # The nodes beside the two, which look for relays, listen at a loopback port each, and may meet there.
                listening = {tuple(one.laddr) for one in psutil.Process().net_connections("tcp") if not one.raddr}
                assert len(listening) == 2, "the hosts listen nowhere"
                own = {tuple(one.laddr) for one in psutil.Process().net_connections("tcp")}
                assert remotes() - own <= there, "nothing but the relays is connected"
                assert alice.get_addrs() == []
                (connection,) = alice.get_network().get_connections(bob.get_id())
                assert connection.muxed_conn.relay in {ID.from_base58(one.ready["peer_id"]) for one in nodes}
                # An address that names the relay, after they parted.
                await alice.disconnect(bob.get_id())
                await alice.connect(alices.peer(bobs.addresses[0]))
                await hashed(alice, bob.get_id(), 1000)

    def ports(node: NodeProcess) -> tuple[str, int]:
        address = Multiaddr(node.ready["addresses"][0])
        return str(address.value_for_protocol("ip4")), int(address.value_for_protocol("tcp"))

    # Threads of trio's own pool, which py-libp2p uses, end some seconds later.
    threads, before = {one.name for one in threading.enumerate()}, sockets()
    asked_of_sockets.clear()  # what it took to start the relays
    trio.run(meet)
    assert asked_of_sockets == [], "the hosts have no socket of their own"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
    assert asked_of_sockets, "it would have been heard"
    left = {one.name for one in threading.enumerate()} - threads
    assert not [one for one in left if one.startswith("descord")] and sockets() == before and not remotes()


def causes(error: BaseException | None) -> str:
    told = []
    while error is not None:
        told.append(str(error))
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__
    return "; ".join(told)


def test_what_cannot_be_reached_is_said_and_nothing_less_is_tried(
    relays: Callable[[int], list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    nobody = str(ID.from_pubkey(create_new_key_pair(seeded("nobody")).public_key))

    async def fail() -> None:
        alices = transport_of("alice", tmp_path, nodes)
        with trio.fail_after(PATIENCE), socket.socket() as trap:
            trap.bind(("127.9.0.1", 0))
            trap.listen()
            trap.setblocking(False)
            async with host_of("alice", alices) as alice:
                network, peer = alice.get_network(), ID.from_base58(nobody)
                with pytest.raises(TransportError, match=r"nobody says where|no way to"):
                    await alices.dial(Multiaddr(f"/p2p/{nobody}"))
                circuit = f"{nodes[0].ready['addresses'][0]}/p2p-circuit/p2p/{nobody}"
                with pytest.raises(TransportError, match="nobody here chose that relay"):
                    await alices.dial(Multiaddr(circuit))
                alices.peer(circuit)
                with pytest.raises(TransportError, match="NO_RESERVATION"):
                    await alices.dial(Multiaddr(circuit))
                with pytest.raises(SwarmException) as caught:
                    await network.dial_peer(alices.peer(circuit).peer_id)
                direct = f"/ip4/127.9.0.1/tcp/{trap.getsockname()[1]}"
                with pytest.raises(SwarmException, match="No registered transport"):
                    await network.dial_addr(Multiaddr(direct), peer)
                alice.get_peerstore().add_addrs(peer, [Multiaddr(direct)], 60)
                with pytest.raises(SwarmException, match="No supported transport"):
                    await network.dial_peer(peer)
                with pytest.raises(Exception, match="not dialled directly"):
                    alices.peer(f"{direct}/p2p/{nobody}")
                assert caught.value
                with pytest.raises(BlockingIOError):
                    trap.accept()

    trio.run(fail)


def test_what_strangers_put_into_the_peer_store_leads_nowhere(
    relays: Callable[[int], list[NodeProcess]], tmp_path: Path
) -> None:
    """py-libp2p keeps what identify and the DHT say of a peer's addresses: a relay of the stranger's, another peer."""
    nodes = relays(1)

    async def lure() -> None:
        bobs, alices = transport_of("bob", tmp_path, nodes), transport_of("alice", tmp_path, nodes)
        nobody = ID.from_pubkey(create_new_key_pair(seeded("nobody")).public_key)
        with trio.fail_after(PATIENCE), socket.socket() as trap:
            trap.bind(("127.9.0.1", 0))
            trap.listen()
            trap.setblocking(False)
            async with host_of("bob", bobs, listen=True) as bob, host_of("alice", alices) as alice:
                network, store = alice.get_network(), alice.get_peerstore()
                relay = ID.from_pubkey(create_new_key_pair(seeded("relay of a stranger")).public_key)
                place = f"/ip4/127.9.0.1/tcp/{trap.getsockname()[1]}/p2p/{relay}"
                named = Multiaddr(f"{place}/p2p-circuit/p2p/{nobody}")
                store.add_addrs(nobody, [named], 60)
                assert await network.dial_peer_replacement(nobody) is None  # type: ignore[attr-defined]
                with pytest.raises(SwarmException):
                    await network.dial_addr(named, nobody)  # type: ignore[attr-defined]
                with pytest.raises(BlockingIOError):
                    trap.accept()

                store.clear_addrs(nobody)
                alices.peer(bobs.addresses[0])  # bob may be dialled, for bob
                store.add_addrs(nobody, [Multiaddr(f"/p2p/{bob.get_id()}")], 60)
                with pytest.raises(SwarmException):
                    await network.dial_peer(nobody)
                assert not network.get_connections(bob.get_id())

    trio.run(lure)


def test_a_relay_that_goes_ends_its_connections_and_what_waits_on_them(
    relays: Callable[[int], list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)

    async def lose() -> None:
        bobs, alices = transport_of("bob", tmp_path, nodes), transport_of("alice", tmp_path, nodes)
        with trio.fail_after(PATIENCE):
            async with host_of("bob", bobs, listen=True) as bob, host_of("alice", alices) as alice:
                peer = bob.get_id()
                await alice.connect(alices.peer(bobs.addresses[0]))
                stream = await alice.new_stream(peer, [ECHO])
                await stream.write(b"there?")
                assert await stream.read(6) == b"there?"
                (connection,) = alice.get_network().get_connections(peer)
                nodes[0].process.kill()
                with pytest.raises(StreamError):
                    await stream.read(1)
                await connection.event_closed.wait()  # type: ignore[attr-defined]
                with pytest.raises(TransportError):
                    await alices.dial(Multiaddr(f"/p2p/{peer}"))

    trio.run(lose)


def test_a_writer_waits_for_a_reader_and_a_call_that_is_given_up_leaves_nothing(
    relays: Callable[[int], list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    piece, limit = bytes(65536), 16 * 1024 * 1024

    async def stall() -> None:
        read_on, sent, received = trio.Event(), 0, 0

        async def answer_late(stream: INetStream) -> None:
            nonlocal received
            await read_on.wait()
            with contextlib.suppress(StreamEOF):
                while data := await stream.read(65536):
                    received += len(data)
            await stream.write(b"all")
            await stream.close()

        bobs, alices = transport_of("bob", tmp_path, nodes), transport_of("alice", tmp_path, nodes)
        with trio.fail_after(PATIENCE):
            async with host_of("bob", bobs, listen=True) as bob, host_of("alice", alices) as alice:
                late = TProtocol("/test/late/1.0.0")
                bob.set_stream_handler(late, answer_late)
                await alice.connect(alices.peer(bobs.addresses[0]))
                stream = await alice.new_stream(bob.get_id(), [late])
                while sent < limit:
                    with trio.move_on_after(1) as scope:
                        await stream.write(piece)
                    if scope.cancelled_caught:
                        break
                    sent += len(piece)
                assert sent < limit / 4, "windows and sockets, and nothing that grows"
                # Other streams go on; and one that waits for what never comes can be given up, and read later.
                await echoed(alice, bob.get_id(), 100_000)
                with trio.move_on_after(0.1) as scope:
                    await stream.read(1)
                assert scope.cancelled_caught
                read_on.set()
                await stream.close_write()  # type: ignore[attr-defined]
                assert await stream.read(-1) == b"all"
                assert sent <= received <= sent + len(piece), "and the part of the write that was given up"
                await stream.close()

    trio.run(stall)


def test_a_dial_that_is_given_up_ends(relays: Callable[[int], list[NodeProcess]], tmp_path: Path) -> None:
    nodes = relays(1)
    nobody = ID.from_pubkey(create_new_key_pair(seeded("nobody")).public_key)

    async def give_up() -> None:
        alices = transport_of("alice", tmp_path, nodes)
        async with host_of("alice", alices) as alice:
            with trio.move_on_after(0.02) as scope:
                await alices.dial(Multiaddr(f"/p2p/{nobody}"))
            assert scope.cancelled_caught
            # The transport is as it was.
            with trio.fail_after(PATIENCE), pytest.raises(TransportError):
                await alices.dial(Multiaddr(f"/p2p/{nobody}"))
            assert alice.get_network().get_connections() == []
        with pytest.raises(TransportError, match="has ended"):
            await alices.dial(Multiaddr(f"/p2p/{nobody}"))

    before = sockets()
    trio.run(give_up)
    assert sockets() == before


def test_a_host_with_another_way_or_another_key_does_not_start(tmp_path: Path) -> None:
    async def start(name: str, *beside: TCP) -> None:
        transport = transport_of("alice", tmp_path, [])
        host = new_host(create_new_key_pair(seeded(name)), transports=[transport, *beside])
        with trio.fail_after(PATIENCE):
            async with host.run(listen_addrs=[]):
                await trio.sleep_forever()

    for name, beside, why in (("alice", [TCP()], "which shows its IP"), ("bob", [], "the transport's key is")):
        with pytest.raises(Exception) as caught:
            trio.run(start, name, *beside)
        assert why in causes(caught.value)


def test_a_host_that_nobody_would_reach_does_not_start(tmp_path: Path) -> None:
    async def start() -> None:
        with trio.fail_after(PATIENCE):
            async with host_of("bob", transport_of("bob", tmp_path, []), listen=True):
                await trio.sleep_forever()

    before = sockets()
    with pytest.raises(Exception) as caught:
        trio.run(start)
    assert "not reached at the privacy level high" in causes(caught.value) and "no relay" in causes(caught.value)
    assert sockets() == before


def test_without_the_extra_it_is_said_what_to_install() -> None:
    program = "import sys; sys.modules['libp2p'] = None; import actors.py_libp2p"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode and "pip install 'descord-relay[libp2p]'" in ran.stderr


def test_the_example_in_the_readme_works_as_it_is(relays: Callable[[int], list[NodeProcess]], tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (program,) = [one for one in examples if "DescordTransport" in one]
    (tmp_path / "hello.py").write_text(program)
    environment = os.environ | {
        "DESCORD_RELAY_PUBLIC_RELAYS": relays(1)[0].ready["addresses"][0],
        "DESCORD_RELAY_PRIVATE_NETWORK": "on",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    run = [sys.executable, str(tmp_path / "hello.py")]
    with subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True) as bob:
        try:
            assert bob.stdout is not None
            peer = bob.stdout.readline().strip()
            alice = subprocess.run(
                [*run, peer], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert (alice.returncode, alice.stdout) == (0, "hello, whoever you are\n"), alice.stderr
        finally:
            bob.kill()


@pytest.mark.parametrize(("level", "hops", "why"), [
    ("low", 1, "own TCP"), ("maximum", 1, "identify"), ("high", 2, "identify"), ("highest", 1, "no privacy level"),
])  # fmt: skip
def test_levels_that_would_be_had_in_name_alone_are_refused(level: str, hops: int, why: str) -> None:
    with pytest.raises(TransportError, match=why):
        DescordTransport(create_new_key_pair(), level, hops=hops)


def test_a_key_that_relays_cannot_know_is_refused() -> None:
    with pytest.raises(TransportError, match="Ed25519"):
        DescordTransport(create_rsa_key_pair())


# The bridge.


def test_a_cancelled_call_has_ended_over_there_before_trio_goes_on() -> None:
    import asyncio

    seen: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    async def cancel() -> None:
        thread = AsyncioThread("bridge")
        with trio.move_on_after(0.05) as scope:
            await thread.call(wait)
        assert scope.cancelled_caught and seen == ["ended"]

        async def stopped() -> None:
            with pytest.raises(BridgeClosed):
                await thread.call(wait)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stopped)
            await trio.testing.wait_all_tasks_blocked()
            await thread.stop()
        assert not thread.alive
        with pytest.raises(BridgeClosed):
            await thread.call(wait)

    trio.run(cancel)
