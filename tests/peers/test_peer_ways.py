"""Who a peer is to whom, in whatever order things happen, and that nothing goes on when it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from actors.ports.client import Client
from actors.ports.client_sockets import Socket
from actors.ports.connections import DialError, PeerConnection, PeerStream, StreamError
from actors.ports.diallers import LevelRefused
from actors.ports.peer import NoPath, Peer, PeerPolicy
from actors.ports.storage import load_or_create_identity
from actors.private_node import NoNode
from protocol import identify
from protocol.addresses import encode_tcp
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import Level, PathsTold, RelayAt, RelaysChosen
from tests.peers.test_peer import ECHO, echo, echoed, pair, peer, relays
from tests.support.peers import seeded
from tests.support.process import NodeProcess

__all__ = ["relays"]  # the fixture


def somebody(name: str) -> Identity:
    return Identity.from_seed(seeded(name))


async def test_whom_we_talk_to_is_no_relay_for_us_and_who_was_our_relay_is_not_talked_to(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    """mallory is reached through a relay, and runs one itself under the same peer id."""
    nodes = relays(2)
    through, own = (one.ready["addresses"][0] for one in nodes)
    mallory = load_or_create_identity(tmp_path / "relay-1")
    address = f"{through}/p2p-circuit/p2p/{mallory.peer_id}"
    async with (
        asyncio.timeout(60),
        peer("alice", tmp_path, nodes) as alice,
        peer("carol", tmp_path, nodes) as carol,
        peer("bob", tmp_path, nodes[1:], keep=1) as bob,
        Client(mallory, handlers={ECHO: echo}) as listening,
    ):
        await listening.reserve(through)
        await bob.listen(Level.HIGH)
        await echoed(await alice.open(address, ECHO, level=Level.HIGH), 1000)
        with pytest.raises(NoPath, match="was talked to through a relay"):
            await alice.open(f"{own}/p2p-circuit/p2p/{bob.peer_id}", ECHO, level=Level.HIGH)
        # The other way round, though the connection is over.
        found = await carol._ways.relay(RelayAt(mallory.peer_id.bytes, (where(own),)))
        await found.close()
        with pytest.raises(NoPath, match="has seen its IP"):
            await carol.open(address, ECHO, level=Level.HIGH)
        await echoed(await carol.open(f"{own}/p2p-circuit/p2p/{bob.peer_id}", ECHO, level=Level.HIGH), 1000)


async def test_our_own_relay_that_calls_us_is_not_met(relays: Callable[..., list[NodeProcess]], tmp_path: Path) -> None:
    """It knows us already, and where we are: it is not to be somebody that we talk to."""
    nodes = relays(2)
    mallory = load_or_create_identity(tmp_path / "relay-1")
    met: list[PeerId] = []

    async def meet(connection: PeerConnection, stream: PeerStream) -> None:
        met.append(connection.peer)
        await echo(connection, stream)

    async with asyncio.timeout(60), peer("bob", tmp_path, nodes) as bob, Client(mallory) as calling:
        bob._ways._handlers = {ECHO: meet}
        addresses = await bob.listen(Level.HIGH)
        assert bob.reachable is not None and set(bob.reachable.relays) >= {mallory.peer_id}
        (address, *_) = [one for one in addresses if str(mallory.peer_id) not in one]
        refused = await calling.connect(address)
        await refused.wait_ended()
        assert met == []
        with pytest.raises(NoPath, match="has seen its IP"):
            await bob.connect(mallory.peer_id, level=Level.HIGH)


def where(text: str) -> bytes:
    _, _, host, _, port, *_ = text.split("/")
    return encode_tcp(ip_address(host), int(port))


async def test_a_relay_that_sees_our_ip_is_served_nothing(relays: Callable[..., list[NodeProcess]]) -> None:
    served: list[PeerConnection] = []
    came: list[PeerConnection] = []
    arrived = asyncio.Event()

    async def serve(connection: PeerConnection, stream: PeerStream) -> None:
        served.append(connection)

    async with asyncio.timeout(30), Client(somebody("relay")) as relay:

        def told(link: object) -> None:
            came.append(relay.connection_of(link))  # type: ignore[arg-type]
            arrived.set()

        relay.core._accepted = told  # type: ignore[assignment]
        listening = await asyncio.get_running_loop().create_server(
            lambda: Socket(relay, None, inbound=True), "127.0.0.1", 0
        )
        port = listening.sockets[0].getsockname()[1]
        async with Peer(somebody("alice"), NoNode(), handlers={ECHO: serve}) as alice:
            await alice._ways.relay(RelayAt(somebody("relay").peer_id.bytes, (at(port),)))
            await arrived.wait()
            with pytest.raises(StreamError):
                await came[0].open(ECHO)
            assert ECHO not in (await came[0].identify()).protocols
            assert identify.PROTOCOL in (await came[0].identify()).protocols
        listening.close()
    assert served == []


def at(port: int) -> bytes:
    return encode_tcp(ip_address("127.0.0.1"), port)


async def test_what_only_leads_to_a_hole_is_given_to_nobody_from_its_first_moment_on(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = relays(1)
    async with pair(tmp_path, nodes) as (bob, alice):
        (address, *_) = await bob.listen(Level.LOW)
        others: list[asyncio.Task[PeerConnection]] = []
        changed = PeerConnection._changed

        def ready(connection: PeerConnection) -> None:
            ours = connection.link.peer == bob.peer_id and connection.link.relay is not None
            if ours and not others and not connection._ready.is_set():  # somebody asks in this very turn
                asking = alice.connect(address, level=Level.LOW, relayed=True)
                others.append(asyncio.get_running_loop().create_task(asking))
            changed(connection)

        monkeypatch.setattr(PeerConnection, "_changed", ready)
        direct = await alice.connect(address, level=Level.LOW)
        (given,) = await asyncio.gather(*others)
        assert direct.relay is None
        await echoed(await given.open(ECHO), 1000)
        assert given.usable


class Knows:
    """A Router that knows one relay, and answers when it may."""

    def __init__(self, *found: RelayAt) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self._found = found

    async def relays(self, level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen:
        self.asked.set()
        await self.answers.wait()
        return RelaysChosen(0, self._found[:count], "")

    async def paths(self, *_: object, **__: object) -> PathsTold:
        return PathsTold(0, (), "none")

    def observe(self, seen: object) -> None: ...


async def test_who_was_closed_while_it_began_to_listen_dials_nobody() -> None:
    dialled: list[object] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(writer.get_extra_info("peername"))

    async with asyncio.timeout(20), await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        router = Knows(RelayAt(somebody("relay").peer_id.bytes, (at(port),)))
        alice = Peer(somebody("alice"), router)
        listening = asyncio.ensure_future(alice.listen(Level.HIGH))
        await router.asked.wait()
        await alice.close()
        router.answers.set()
        with pytest.raises(DialError, match="was closed"):
            await listening
        for _ in range(20):
            await asyncio.sleep(0)
        assert dialled == [] and not alice._ways.high._sockets
        for asked in (alice.listen(Level.HIGH), alice.connect(somebody("bob").peer_id, level=Level.HIGH)):
            with pytest.raises(DialError, match="was closed"):
                await asked


async def test_who_is_cancelled_as_the_peer_is_closed_is_told_so() -> None:
    router = Knows()
    alice = Peer(somebody("alice"), router)
    connecting = asyncio.ensure_future(alice.connect(somebody("bob").peer_id, level=Level.HIGH))
    await router.asked.wait()
    closing = asyncio.ensure_future(alice.close())
    await asyncio.sleep(0)
    connecting.cancel()
    await closing
    await asyncio.gather(connecting, return_exceptions=True)
    assert connecting.cancelled()


async def test_two_who_listen_at_once_listen_once(relays: Callable[..., list[NodeProcess]], tmp_path: Path) -> None:
    nodes = relays(3)
    async with asyncio.timeout(60), peer("bob", tmp_path, nodes, keep=1) as bob:
        first, second = await asyncio.gather(bob.listen(Level.HIGH), bob.listen(Level.HIGH))
        assert first == second and bob.reachable is not None and len(bob.reachable.relays) == 1
        assert len(bob._ways.high._reservations) == 1


async def test_two_calls_to_an_onion_that_is_away_are_both_told_so() -> None:
    """One finds the context that the other ends."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.close()

    onion = f"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234/p2p/{somebody('bob').peer_id}"
    other = onion.replace(":1234", ":1235")
    async with asyncio.timeout(20), await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Peer(somebody("alice"), NoNode(), policy=PeerPolicy(tor_socks=f"127.0.0.1:{port}")) as alice:
            calls = [alice.connect(one, level=Level.MAXIMUM) for one in (onion, onion, other)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(one) for one in answers] == [NoPath] * 3
            assert alice._ways.contexts == {} and not alice._ways._clients


def test_a_refusal_of_a_level_is_a_failure_to_dial() -> None:
    assert issubclass(LevelRefused, DialError) and issubclass(NoPath, DialError)
    assert PeerId(somebody("alice").peer_id.bytes) == somebody("alice").peer_id
