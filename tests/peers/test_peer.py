"""Peers that talk at a privacy level, through real relays: found, refused, replaced."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from actors.lookout import settings_to_look
from actors.ports.client import Client, PeerConnection, PeerStream, StreamError
from actors.ports.client_sockets import Socket
from actors.ports.connections import DialError
from actors.ports.control import ask
from actors.ports.diallers import LevelRefused, RelayDialler, TcpDialler, TorDialler
from actors.ports.hole_punch import MAX_PUNCHING
from actors.ports.low_side import LowSide
from actors.ports.padded import PaddedStream
from actors.ports.peer import NoPath, Peer, PeerPolicy
from actors.ports.storage import load_or_create_identity
from actors.ports.whereabouts_client import say_whereabouts
from actors.private_node import PrivateNode
from protocol import dcutr
from protocol.addresses import encode_tcp, with_peer
from protocol.discovery_messages import Observed
from protocol.identity import Identity, PeerId
from protocol.padding import UNIT, Unpadder, padme
from protocol.privacy_messages import Level, RelaysChosen
from protocol.whereabouts import seal_whereabouts
from tests.runtimes.test_metrics import free_port
from tests.support.peers import seeded
from tests.support.process import PATIENCE, NodeProcess

ECHO = "/test/echo/1.0.0"


async def echo(_: PeerConnection, stream: PeerStream) -> None:
    while part := await stream.read():
        await stream.write(part)


def known(relays: list[NodeProcess]) -> list[str]:
    """Flags of a relay that knows these."""
    return [word for one in relays for word in ("--public-relays", one.ready["addresses"][0])]


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[Callable[..., list[NodeProcess]]]:
    started: list[NodeProcess] = []

    def start(count: int, *more: str, acquainted: bool = True) -> list[NodeProcess]:
        for number in range(len(started), len(started) + count):
            started.append(
                NodeProcess(tmp_path / f"relay-{number}", "--private-network", "on", "--mdns", "off",
                            "--rate-limits", "off", "--listen", f"/ip4/127.{number + 1}.0.1/tcp/0",
                            "--assume-reachable", "on", *more, *(known(started) if acquainted else ()))
            )  # fmt: skip
        return started

    yield start
    for one in started:
        one.stop()


def extending(ports: list[int], expected: int) -> int:
    """How many relays show bytes of extensions in their metrics, once as many do as should: they tell once a second."""
    end = time.monotonic() + PATIENCE
    while True:
        found = 0
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                found += b'descord_relay_relayed_bytes_total{class="extension"' in answer.read()
        if found >= expected or time.monotonic() > end:
            return found
        time.sleep(0.1)


@asynccontextmanager
async def peer(
    name: str,
    tmp_path: Path,
    relays: list[NodeProcess],
    *,
    keep: int = 2,
    serves: bool = True,
    padded: bool = False,
    meets: Callable[[PeerId], bool] = lambda _: True,
) -> AsyncIterator[Peer]:
    environment = {
        "DESCORD_RELAY_PUBLIC_RELAYS": ",".join(one.ready["addresses"][0] for one in relays),
        "DESCORD_RELAY_PRIVATE_NETWORK": "on",
        "DESCORD_RELAY_MDNS": "off",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    settings = dataclasses.replace(settings_to_look(environment, tmp_path / name))
    (tmp_path / name).mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(PrivateNode.start(settings))
        identity = Identity.from_seed(seeded(name))
        handlers = {ECHO: echo} if serves else {}
        policy = PeerPolicy(relays=keep, padded=padded, private_network=True, meets=meets)
        made = Peer(identity, node, handlers=handlers, policy=policy)
        yield await stack.enter_async_context(made)


@asynccontextmanager
async def pair(tmp_path: Path, relays: list[NodeProcess]) -> AsyncIterator[tuple[Peer, Peer]]:
    """bob, who keeps one relay, and alice; within a minute."""
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, relays, keep=1) as bob,
        peer("alice", tmp_path, relays) as alice,
    ):
        yield bob, alice


async def acquainted(folder: Path, start: Callable[..., list[NodeProcess]], *more: Sequence[str]) -> list[NodeProcess]:
    """As many relays as there are flags, each of which knows all others from its settings, once it has tried them."""
    ports = [free_port() for _ in more]
    known_as = [
        f"/ip4/127.{number + 1}.0.1/tcp/{port}/p2p/{load_or_create_identity(folder / f'relay-{number}').peer_id}"
        for number, port in enumerate(ports)
    ]
    for number, flags in enumerate(more):
        others = [word for one in known_as if one != known_as[number] for word in ("--public-relays", one)]
        nodes = start(1, "--listen", known_as[number].partition("/p2p/")[0], *others, *flags, acquainted=False)

    def look(one: NodeProcess) -> None:
        end = time.monotonic() + 2 * PATIENCE
        question = {"command": "relays", "count": len(nodes), "timeout": 5}
        while sum(found["answer"] == "reserves" for found in ask(one.data_dir, question)["relays"]) < len(nodes) - 1:
            assert time.monotonic() < end, ask(one.data_dir, question)

    await asyncio.gather(*(asyncio.to_thread(look, one) for one in nodes))
    return nodes


async def echoed(stream: PeerStream, size: int = 1_000_000) -> None:
    data = hashlib.shake_128(b"privacy").digest(size)

    async def write() -> None:
        await stream.write(data)
        await stream.finish()

    writing = asyncio.ensure_future(write())
    assert await stream.read_exactly(size) == data
    await writing


async def test_a_peer_is_found_by_its_id_and_reached_through_its_relay(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(2)
    async with asyncio.timeout(60), peer("bob", tmp_path, nodes) as bob, peer("alice", tmp_path, nodes) as alice:
        await bob.listen(Level.HIGH)
        assert bob.reachable is not None and len(bob.reachable.relays) == 2 and bob.reachable.copies >= 1
        connection = await alice.connect(bob.peer_id, level=Level.HIGH)
        assert connection.peer == bob.peer_id and connection.relay in bob.reachable.relays
        await echoed(await connection.open(ECHO))
        await echoed(await alice.dial_via_relay(str(bob.peer_id), ECHO), 1000)
        said = await connection.identify()
        assert said.observed_addr == b""
        for address in said.listen_addrs:
            assert address.endswith(b"\xa2\x02"), "only ways through relays are told"


async def test_low_goes_on_from_a_relay_to_a_direct_connection(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    async with pair(tmp_path, nodes) as (bob, alice):
        (address, *_) = await bob.listen(Level.LOW)
        with pytest.raises(NoPath, match="known at the privacy level low"):
            await bob.listen(Level.HIGH)
        first = await alice.connect(address, level=Level.LOW, relayed=True)
        stream = await first.open(ECHO)
        direct = await alice.direct(first) if first.relay is not None else first
        assert direct.relay is None and direct.punched and direct.peer == bob.peer_id
        await echoed(stream)  # what was open goes on
        assert await alice.connect(address, level=Level.LOW) is direct
        assert await alice.connect(address, level=Level.LOW, relayed=True) is direct
        await echoed(await direct.open(ECHO))


async def test_at_high_nobody_is_told_where_we_are_seen(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes, keep=1) as bob,
        peer("alice", tmp_path, nodes) as alice,
        peer("carol", tmp_path, nodes) as carol,
    ):
        (address, *_) = await bob.listen(Level.HIGH)
        for caller, level in ((alice, Level.HIGH), (carol, Level.LOW)):
            connection = await caller.connect(address, level=level, relayed=True)
            assert dcutr.PROTOCOL not in (await connection.identify()).protocols
            with pytest.raises(StreamError, match="speaks none"):  # na
                await connection.open(dcutr.PROTOCOL)
        with pytest.raises(DialError, match="only a connection at the privacy level low"):
            await carol.direct(await alice.connect(address, level=Level.HIGH))
        await connection.close()
        with pytest.raises(NoPath, match="does not punch holes"):
            await carol.connect(address, level=Level.LOW)


@pytest.mark.parametrize("first", [Level.LOW, Level.HIGH])
async def test_who_is_known_at_one_of_low_and_high_is_not_met_at_the_other(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path, first: Level
) -> None:
    """Whoever was called at high could call back at low, and be told where the caller is."""
    nodes = relays(1)
    other = Level.HIGH if first is Level.LOW else Level.LOW
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes, keep=1) as bob,
        peer("alice", tmp_path, nodes, keep=1) as alice,
    ):
        (address, *_) = await bob.listen(Level.HIGH)
        await alice.listen(first)
        for refused in (
            alice.listen(other),
            alice.connect(address, level=other, relayed=other is Level.LOW),
            alice.open(address, ECHO, level=other, relayed=other is Level.LOW),
        ):
            with pytest.raises(NoPath, match=f"known at the privacy level {first}"):
                await refused
        assert alice._ways.begun == {first}


async def test_a_connection_that_leads_to_a_direct_one_is_given_to_nobody(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = relays(1)
    leading, lead = asyncio.Event(), asyncio.Event()
    direct = LowSide.direct

    async def later(self: LowSide, relayed: PeerConnection) -> PeerConnection:
        leading.set()
        await lead.wait()
        return await direct(self, relayed)

    monkeypatch.setattr(LowSide, "direct", later)
    async with pair(tmp_path, nodes) as (bob, alice):
        (address, *_) = await bob.listen(Level.LOW)
        once = asyncio.ensure_future(alice.connect(address, level=Level.LOW))
        await leading.wait()
        given = await alice.connect(address, level=Level.LOW, relayed=True)
        lead.set()
        assert (await once).relay is None
        assert not given.ended
        await echoed(await given.open(ECHO), 1000)


async def test_one_who_calls_often_keeps_nobody_else_from_a_direct_connection(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    asked = asyncio.Event()

    async def never_answer(_: PeerConnection, stream: PeerStream) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes, keep=1) as bob,
        peer("alice", tmp_path, nodes) as alice,
        Client(Identity.from_seed(seeded("mallory")), handlers={dcutr.PROTOCOL: never_answer}) as mallory,
    ):
        (address, *_) = await bob.listen(Level.LOW)
        for _ in range(MAX_PUNCHING):
            await mallory.connect(address)
        await asked.wait()
        assert (await alice.connect(address, level=Level.LOW)).relay is None


async def test_where_a_peer_is_at_low_is_told_to_those_who_are_to_meet_it(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    async with (
        asyncio.timeout(60),
        peer("alice", tmp_path, nodes) as alice,
        peer("mallory", tmp_path, nodes) as mallory,
        peer("bob", tmp_path, nodes, keep=1, meets=lambda who: who == alice.peer_id) as bob,
    ):
        (address, *_) = await bob.listen(Level.LOW)
        refused = await mallory.connect(address, level=Level.LOW, relayed=True)
        met = await alice.connect(address, level=Level.LOW, relayed=True)
        assert (await alice.direct(met)).relay is None
        await echoed(await refused.open(ECHO), 1000)  # by the relay it is served, if a handler will
        assert all(one.relay is not None for one in bob._ways.open_to(Level.LOW, mallory.peer_id, 1))
        assert all(one.relay is not None for one in mallory._ways.open_to(Level.LOW, bob.peer_id, 1))


async def test_nobody_is_dialled_who_is_not_known_as_a_relay(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(2, acquainted=False)
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes[1:], keep=1) as bob,
        peer("alice", tmp_path, nodes[:1]) as alice,
        peer("carol", tmp_path, nodes[:1]) as carol,
    ):
        (address,) = await bob.listen(Level.HIGH)
        with pytest.raises(NoPath, match="nobody says where"):
            await alice.connect(bob.peer_id, level=Level.HIGH)
        # Named whole, the relay is alice's own choice.
        await echoed(await alice.open(address, ECHO, level=Level.HIGH))
        for caller, level in ((carol, Level.LOW), (alice, Level.MAXIMUM)):
            with pytest.raises(NoPath):
                await caller.connect(address, level=level)
        await echoed(await carol.open(address, ECHO, level=Level.LOW, relayed=True), 1000)
        node = nodes[0].ready["addresses"][0]
        with pytest.raises(NoPath, match="level high"):
            await alice.connect(node, level=Level.HIGH)
        assert (await carol.connect(node, level=Level.LOW)).relay is None


async def test_who_is_called_does_not_have_the_caller_connect_to_it(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    """It signs where it is reached: that a good relay is at an address of its own would show it who calls."""
    guide, used = relays(2)
    callers: list[str] = []

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer.get_extra_info("peername")[0])
        writer.close()

    trap = await asyncio.start_server(called, "127.9.0.1", 0)
    async with (
        trap,
        asyncio.timeout(60),
        peer("bob", tmp_path, [used], keep=1) as bob,
        peer("alice", tmp_path, [guide, used]) as alice,
    ):
        await bob.listen(Level.HIGH)
        relay = PeerId.parse(used.ready["peer_id"])
        here = encode_tcp(ip_address("127.9.0.1"), trap.sockets[0].getsockname()[1])
        record = seal_whereabouts(bob.identity, [with_peer(here, relay.bytes) + b"\xa2\x02"], time.time() + 5)
        choose = alice._router.relays

        async def the_guide(level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen:
            told = await choose(level, 8, 5.0, avoid)
            first = tuple(one for one in told.relays if one.peer == PeerId.parse(guide.ready["peer_id"]).bytes)
            assert len(told.relays) == 2 and first, "alice knows both"
            return RelaysChosen(told.request_id, first)

        alice._router.relays = the_guide  # type: ignore[method-assign]
        async with Client(bob.identity) as liar:
            await say_whereabouts(await liar.connect(guide.ready["addresses"][0]), record)
        connection = await alice.connect(bob.peer_id, level=Level.HIGH)
        assert connection.relay == relay
        await echoed(await connection.open(ECHO), 1000)
        assert callers == []


async def test_who_sees_our_ip_already_is_not_reached_as_if_it_did_not(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    """A target that is a relay too is not asked where it is, and not talked to at High over another relay."""
    nodes = relays(2)
    async with asyncio.timeout(60), peer("alice", tmp_path, nodes) as alice:
        relay = nodes[1].ready
        asked: list[tuple[bytes, ...]] = []
        choose = alice._router.relays

        async def remember(level: Level, count: int, within: float, avoid: tuple[bytes, ...]) -> RelaysChosen:
            asked.append(avoid)
            return await choose(level, count, within, avoid)

        alice._router.relays = remember  # type: ignore[method-assign]
        with pytest.raises(NoPath):
            await alice.connect(relay["peer_id"], level=Level.HIGH)
        with pytest.raises(NoPath):
            await alice.connect(relay["peer_id"], level=Level.HIGH, hops=2)
        target = PeerId.parse(relay["peer_id"])
        assert len(asked) >= 2 and all(target.bytes in avoid for avoid in asked)
        assert alice._ways.relays.may_dial(target)
        # Connected to it as a relay, it is refused as a target.
        chosen = await choose(Level.HIGH, 8, 5.0, ())
        await alice._ways.relay(next(one for one in chosen.relays if one.peer == target.bytes))
        circuit = f"{nodes[0].ready['addresses'][0]}/p2p-circuit/p2p/{target}"
        with pytest.raises(NoPath, match="has seen its IP"):
            await alice.connect(circuit, level=Level.HIGH)


async def test_another_relay_takes_the_place_of_one_that_is_lost(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(3)
    async with asyncio.timeout(60), peer("bob", tmp_path, nodes) as bob, peer("alice", tmp_path, nodes) as alice:
        await bob.listen(Level.HIGH)
        assert bob.reachable is not None
        before = set(bob.reachable.relays)
        seen: list[Observed] = []
        alice._router.observe = seen.append  # type: ignore[method-assign]
        connection = await alice.connect(bob.peer_id, level=Level.HIGH)
        await echoed(await connection.open(ECHO), 100_000)
        lost = next(one for one in nodes if one.ready["peer_id"] == str(connection.relay))
        lost.process.kill()
        await connection.wait_ended()
        async with asyncio.timeout(PATIENCE):
            again = await alice.connect(bob.peer_id, level=Level.HIGH)
            await echoed(await again.open(ECHO), 1000)
            while len(bob.reachable.relays) < 2 or set(bob.reachable.relays) == before:
                await bob.reachable.changed()
        assert again.relay != PeerId.parse(lost.ready["peer_id"])
        assert PeerId.parse(lost.ready["peer_id"]) not in bob.reachable.relays
        # What was lost counts against its relay, and what was ended here for the other.
        await again.close()
        await asyncio.gather(*alice._ways._circuits.values())
        first, last = [one for one in seen if one.kind in ("circuit", "dropped")]
        assert (PeerId(first.peer), first.kind) == (connection.relay, "dropped") and first.carried > 200_000
        assert (PeerId(last.peer), last.kind) == (again.relay, "circuit") and 2000 < last.carried < 100_000


async def test_without_any_relay_high_is_an_error(tmp_path: Path) -> None:
    async with peer("alice", tmp_path, []) as alice:
        bob = Identity.from_seed(seeded("bob")).peer_id
        with pytest.raises(NoPath, match="no relay"):
            await alice.connect(bob, level=Level.HIGH)


@pytest.mark.parametrize("hops", [2, 3])
async def test_through_relays_in_a_row_nobody_knows_both_ends(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path, hops: int
) -> None:
    ports = [free_port() for _ in range(4)]
    nodes = await acquainted(tmp_path, relays, *(("--metrics-port", str(port)) for port in ports))
    seen: list[PeerId] = []

    async def remember(connection: PeerConnection, stream: PeerStream) -> None:
        seen.append(connection.peer)
        await echo(connection, stream)

    async with (
        asyncio.timeout(90),
        peer("bob", tmp_path, nodes, keep=1) as bob,
        peer("alice", tmp_path, nodes) as alice,
    ):
        bob._ways._handlers = {ECHO: remember}
        await bob.listen(Level.HIGH)
        connection = await alice.connect(bob.peer_id, level=Level.HIGH, hops=hops)
        assert connection.peer == bob.peer_id
        chain, link = [], connection.link.relay
        while link is not None:
            chain.append((link.peer, link.identity.peer_id))
            link = link.relay
        assert len({relay for relay, _ in chain}) == hops and bob.reachable is not None
        assert chain[0][0] in bob.reachable.relays
        await echoed(await connection.open(ECHO))
        # What they passed on shows in their metrics; others may have led on to who was asked where bob is.
        assert await asyncio.to_thread(extending, ports, hops - 1) >= hops - 1
        # To the last relay and to bob alice is one new peer, to those before another, to nobody herself.
        assert seen == [chain[0][1]] and chain[0][1] != chain[1][1]
        assert alice.peer_id not in {who for _, who in chain}
        assert await alice.connect(bob.peer_id, level=Level.HIGH, hops=hops) is connection
        with pytest.raises(NoPath, match="in a row"):
            await alice.connect(bob.peer_id, level=Level.LOW, hops=hops)


# The one place that every dial passes.


async def test_what_a_level_forbids_is_refused_before_a_name_is_looked_up() -> None:
    from actors.dial_address import parse_dial_address

    relay, other = (Identity.from_seed(seeded(name)).peer_id for name in ("relay", "other"))
    onion = "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234"
    high, maximum, low = RelayDialler(), TorDialler("127.0.0.1:9"), TcpDialler()
    high.allow([relay])
    for dialler, text in (
        (high, f"/ip4/127.0.0.1/tcp/4001/p2p/{other}"),
        (high, f"/dns4/bob.example/tcp/4001/p2p/{other}"),
        (high, "/dnsaddr/bob.example"),
        (high, "/ip4/127.0.0.1/tcp/4001"),
        (high, onion),
        (maximum, f"/ip4/127.0.0.1/tcp/4001/p2p/{relay}"),
        (maximum, f"/dns4/bob.example/tcp/4001/p2p/{relay}"),
        (maximum, f"/ip4/127.0.0.1/tcp/4001/p2p/{relay}/p2p-circuit/p2p/{other}"),
        (low, onion),
    ):
        address = parse_dial_address(text, onion=True)
        with pytest.raises(LevelRefused):
            await dialler.find(address)
    high.talk_to(relay)
    with pytest.raises(LevelRefused):
        await high.find(parse_dial_address(f"/ip4/127.0.0.1/tcp/4001/p2p/{relay}"))


async def test_a_relay_does_not_see_how_long_a_padded_message_is(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are the bytes that alice's socket to the relay takes and gives."""
    seen = [0, 0]
    write, received = Socket.write, Socket.buffer_updated

    def counted_write(self: Socket, data: bytes) -> None:
        seen[0] += len(data) if self._client.peer_id == alice.peer_id else 0
        write(self, data)

    def counted_received(self: Socket, size: int) -> None:
        seen[1] += size if self._client.peer_id == alice.peer_id else 0
        received(self, size)

    nodes = relays(1)
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes, keep=1) as bob,
        peer("alice", tmp_path, nodes, serves=False) as alice,
    ):
        (address,) = await bob.listen(Level.HIGH)

        async def sizes(*lengths: int, padded: bool) -> list[tuple[int, int]]:
            """What each message and its echo cost on alice's link to the relay."""
            stream = await alice.open(address, ECHO, level=Level.HIGH, padded=padded)
            await stream.write(b"begin")
            await stream.read_exactly(5)
            found = []
            for length in lengths:
                before = list(seen)
                await stream.write(bytes(length))
                await stream.read_exactly(length)
                found.append((seen[0] - before[0], seen[1] - before[1]))
            await stream.finish()
            assert await stream.read() == b""
            return found

        connection = await alice.connect(address, level=Level.HIGH)
        await connection.identify()
        await connection.ping()  # what peers say when they meet has been said
        monkeypatch.setattr(Socket, "write", counted_write)
        monkeypatch.setattr(Socket, "buffer_updated", counted_received)
        small, large = (1, 100, 252), (253, 700, 1020)
        plain = await sizes(*small, *large, padded=False)
        assert [cost for cost, _ in plain] == [length + 60 for length in small + large]  # BESIDE in benchmarks/ends.py
        padded = await sizes(*small, *large, padded=True)
        assert (
            len(set(padded[:3])) == len(set(padded[3:])) == 1 and padded[0][0] == 256 + 60 and padded[3][0] == 1024 + 60
        )
        assert await connection.ping(padded=True) > 0
        monkeypatch.undo()
        # Flow control, half-close and ends are as on any stream.
        await echoed(await alice.open(address, ECHO, level=Level.HIGH, padded=True), 3_000_000)


async def test_a_peer_that_pads_pads_all_that_it_opens(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = await acquainted(tmp_path, relays, (), (), ())
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes, keep=1, padded=True) as bob,
        peer("alice", tmp_path, nodes, padded=True) as alice,
    ):
        await bob.listen(Level.HIGH)
        for hops in (1, 2):
            connection = await alice.connect(bob.peer_id, level=Level.HIGH, hops=hops)
            stream = await connection.open(ECHO)
            assert isinstance(stream, PaddedStream)
            await echoed(stream, 1000)
            assert await connection.ping() > 0 and set(connection._ping_streams) == {True}


async def test_a_padded_stream_whose_finish_was_given_up_can_still_be_finished(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = relays(1)
    reads = asyncio.Event()
    totals: list[int] = []
    received: list[int] = []

    class Counting(Unpadder):
        total = 0

        def receive_data(self, data: bytes | bytearray | memoryview) -> None:
            self.total += len(data)
            super().receive_data(data)

    monkeypatch.setattr("actors.ports.padded.Unpadder", Counting)

    async def later(_: PeerConnection, stream: PeerStream) -> None:
        assert isinstance(stream, PaddedStream) and isinstance(stream._unpadder, Counting)
        await reads.wait()
        total = 0
        while data := await stream.read():
            total += len(data)
        totals.append(total)
        received.append(stream._unpadder.total)
        await stream.write(b"all")

    async with pair(tmp_path, nodes) as (bob, alice):
        bob._ways._handlers = {ECHO: later}
        (address,) = await bob.listen(Level.HIGH)
        stream = await alice.open(address, ECHO, level=Level.HIGH, padded=True)
        written = 0
        with contextlib.suppress(TimeoutError):  # until the other's window is full
            while True:
                async with asyncio.timeout(0.3):
                    await stream.write(bytes(10_000))
                    written += 10_000
        finishing = asyncio.ensure_future(stream.finish())
        await asyncio.sleep(0)
        finishing.cancel()
        await asyncio.gather(finishing, return_exceptions=True)
        reads.set()
        await stream.finish()
        assert await stream.read_exactly(3) == b"all"
        assert totals == [written]
        assert isinstance(stream, PaddedStream) and received == [stream._padder.total]
        assert padme(received[0] // UNIT) * UNIT == received[0]
        with pytest.raises(StreamError, match="was finished"):
            await stream.write(b"more")


async def test_padding_that_was_asked_for_is_never_left_out(
    relays: Callable[..., list[NodeProcess]], tmp_path: Path
) -> None:
    nodes = relays(1)
    async with (
        asyncio.timeout(60),
        peer("bob", tmp_path, nodes, keep=1, padded=True) as bob,
        peer("carol", tmp_path, nodes, keep=1, serves=False) as carol,
        peer("alice", tmp_path, nodes, serves=False) as alice,
    ):
        (bobs,), (carols,) = await bob.listen(Level.HIGH), await carol.listen(Level.HIGH)
        with pytest.raises(StreamError, match=r"padding was asked for.*padded/1\.0\.0"):
            await alice.open(carols, ECHO, level=Level.HIGH, padded=True)
        with pytest.raises(StreamError, match="speaks none of"):
            await alice.open(bobs, ECHO, level=Level.HIGH)
        with pytest.raises(StreamError, match="on a padded stream"):
            await alice.open(bobs, "/other", level=Level.HIGH, padded=True)
        # Who says what is no frame loses that stream, and nothing else.
        raw = await (await alice.connect(bobs, level=Level.HIGH)).open("/descord/padded/1.0.0")
        await raw.write(b"\xff" * 256)
        with pytest.raises(StreamError):
            while await raw.read():
                pass
        await echoed(await alice.open(bobs, ECHO, level=Level.HIGH, padded=True), 1000)
