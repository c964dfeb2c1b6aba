"""A host hands its sockets to another, on a real loop: what is refused, what is taken back, what moves with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import uvloop

from actors.node import Node
from actors.ports import handover as ports
from actors.ports.channel import MAX_DESCRIPTORS, Channel, ChannelClosed
from actors.ports.handover import Arrival, Departure, HandoverBroken, HandoverRefused
from actors.ports.handover_frames import Complete, Go, Ready
from actors.settings import load_settings
from protocol import perf
from protocol.handover import VERSION
from protocol.identity import Identity
from protocol.relay_hop import ReservationGranted
from tests.support.peers import seeded
from tests.support.process import SocketPeer

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def run(loop: Callable[[], asyncio.AbstractEventLoop], scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario)


class Stage:
    """An old node and what it takes to make its successor, in one process."""

    def __init__(self, folder: Path, *, timeout: float = 5.0) -> None:
        flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", str(folder), "--serve-perf", "on"]
        self.settings = load_settings([*flags, "--rate-limits", "off"], {"HOME": str(folder)})
        self.identity = Identity.from_seed(seeded("relay"))
        self.timeout = timeout
        self.old = Node(self.settings, self.identity, lambda event: None)
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.new = Node(self.settings, self.identity, lambda event: None, former=theirs)

    @property
    def arrival(self) -> Arrival:
        assert self.new._former is not None
        return self.new._former._arrival

    async def __aenter__(self) -> Stage:
        await self.old.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.channel.close()
        for node in (self.old, self.new):
            await node.host.close(0)
            await node.runtime.stop()

    async def peer(self, name: str, **options: Any) -> SocketPeer:
        node: Any = SimpleNamespace(port=self.old._bound[0][1])
        return await asyncio.to_thread(SocketPeer, node, name, **options)

    def departure(self) -> Departure:
        assert self.old._forwarder is not None
        return Departure(
            self.channel,
            self.old.host,
            self.old._forwarder,
            self.old._static,
            self.old.runtime.now,
            agent="old",
            timeout=self.timeout,
            flush=self.old._flush,
        )

    async def hand_over(self) -> tuple[dict[str, Any] | BaseException, tuple[float, ...] | BaseException]:
        """What became of it on the new side, and on the old."""
        departure = self.departure()
        arriving = asyncio.create_task(self._arrive())
        try:
            await departure.agree(self.old._listening, self.old._own_addresses)
            left: tuple[float, ...] | BaseException = await departure.hand_over()
        except (HandoverRefused, HandoverBroken) as error:
            left = error
            self.channel.close()
        (arrived,) = await asyncio.gather(arriving, return_exceptions=True)
        return arrived, left

    async def _arrive(self) -> dict[str, Any]:
        await self.new.start()
        return await self.new.begin()


@contextlib.asynccontextmanager
async def circuit(stage: Stage) -> AsyncIterator[Callable[[bytes], Coroutine[Any, Any, None]]]:
    """A way to send bytes over a circuit and see them arrive."""
    alice, bob = await stage.peer("alice"), await stage.peer("bob")
    assert isinstance(await asyncio.to_thread(bob.reserve), ReservationGranted)
    here, there = await asyncio.to_thread(alice.circuit, bob)

    async def passes(data: bytes) -> None:
        here.send(data)
        await asyncio.to_thread(alice.pass_on, bob, lambda: len(there.received) == len(data))
        assert there.take() == data

    yield passes
    for peer in (alice, bob):
        peer.sock.close()


@LOOPS
def test_circuits_and_the_listening_socket_move(loop: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Stage(tmp_path) as stage, circuit(stage) as passes:
            idle = [socket.create_connection(("127.0.0.1", stage.old._bound[0][1])) for _ in range(40)]
            await passes(b"before" * 10_000)
            arrived, left = await stage.hand_over()
            assert isinstance(arrived, dict) and isinstance(left, tuple), (arrived, left)
            assert (arrived["connections"], arrived["circuits"]) == (42, 1)
            assert len(left) == arrived["groups"] >= 2
            await passes(b"after" * 10_000)
            assert not stage.old.host._endpoints and not stage.old.host.listeners
            assert not stage.old._forwarder.links  # type: ignore[union-attr]
            assert stage.new._bound == stage.old._bound
            late = await stage.peer("late")
            assert late.ready
            for sock in (*idle, late.sock):
                sock.close()

    run(loop, scenario())


@LOOPS
def test_what_a_socket_did_not_take_moves_with_it(loop: Any, tmp_path: Path) -> None:
    size = 24 << 20

    async def scenario() -> None:
        async with Stage(tmp_path) as stage:
            alice = await stage.peer("alice", window=size)
            view = alice.open(perf.PROTOCOL, size.to_bytes(8, "big"))
            view.finish()
            alice.flush()
            endpoint = next(iter(stage.old.host._endpoints.values()))
            for _ in range(100_000):
                if endpoint.connection.blocked:
                    break
                await asyncio.sleep(0)
            assert endpoint.connection.blocked
            arrived, left = await stage.hand_over()
            assert isinstance(arrived, dict) and isinstance(left, tuple), (arrived, left)
            await asyncio.to_thread(alice.until, lambda: view.finished)
            assert len(view.received) == size
            assert stage.new.host._backlog_total == 0
            alice.sock.close()

    run(loop, scenario())


async def refused(stage: Stage, reason: str) -> None:
    async with circuit(stage) as passes:
        arrived, left = await stage.hand_over()
        assert isinstance(arrived, HandoverRefused) and isinstance(left, HandoverRefused), (arrived, left)
        assert reason in str(left)
        await passes(b"as before")
        late = await stage.peer("late")
        assert late.ready
        late.sock.close()


def test_a_state_that_cannot_be_read_is_refused_before_anything_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Stage(tmp_path) as stage:
            stage.arrival._hello = msgspec.structs.replace(stage.arrival._hello, reads=(VERSION - 1, VERSION + 1))
            await refused(stage, f"state of version {VERSION} cannot be read")

    asyncio.run(scenario())


def test_an_old_process_of_another_version_is_refused_by_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with Stage(tmp_path) as stage:
            # The old one would hand over state of a version that only a later one reads.
            monkeypatch.setattr(ports, "VERSION", VERSION + 1)
            await refused(stage, f"state of version {VERSION + 1}")

    asyncio.run(scenario())


def test_another_identity_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Stage(tmp_path) as stage:
            other = Identity.from_seed(seeded("somebody else"))
            stage.arrival._hello = msgspec.structs.replace(stage.arrival._hello, peer_id=other.peer_id.bytes)
            await refused(stage, "another identity")

    asyncio.run(scenario())


def test_a_port_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Stage(tmp_path) as stage:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                wanted = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
                stage.new.settings = load_settings(
                    ["--listen", wanted, "--data-dir", str(tmp_path)], {"HOME": str(tmp_path)}
                )
                async with circuit(stage) as passes:
                    _, left = await stage.hand_over()
                    assert isinstance(left, HandoverRefused) and wanted in str(left)
                    await passes(b"as before")

    asyncio.run(scenario())


@LOOPS
@pytest.mark.parametrize("after_receipt", [False, True])
def test_a_successor_that_dies_midway_costs_what_it_has_taken(
    loop: Any, after_receipt: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small groups go first: a lone connection is taken, then the group of the circuit."""
    monkeypatch.setattr(ports, "LONE_BATCH", 1)
    take = Arrival._take
    groups = 0

    async def dies(self: Arrival, frame: Any, sockets: Any, *rest: Any) -> None:
        nonlocal groups
        groups += 1
        if groups == 2 and not after_receipt:
            for sock in sockets:
                sock.close()
            raise ChannelClosed("it died")
        await take(self, frame, sockets, *rest)
        if groups == 1 and after_receipt:
            raise ChannelClosed("it died")

    monkeypatch.setattr(Arrival, "_take", dies)

    async def scenario() -> None:
        async with Stage(tmp_path) as stage, circuit(stage) as passes:
            alone = await stage.peer("alone")
            before = len(os.listdir("/proc/self/fd"))

            async def die_then_close() -> None:
                await stage._arrive()

            departure = stage.departure()
            arriving = asyncio.create_task(die_then_close())
            await departure.agree(stage.old._listening, stage.old._own_addresses)

            def closed(_: object) -> None:
                stage.new._former._channel.close()  # type: ignore[union-attr]

            monkeypatch.setattr(stage.new._former, "_channel", stage.arrival._channel)
            leaving = asyncio.create_task(departure.hand_over())
            with contextlib.suppress(ChannelClosed):
                await arriving
            closed(None)
            with pytest.raises(HandoverBroken):
                await leaving
            await passes(b"it never moved")
            assert len(stage.old._forwarder.links) == 2  # type: ignore[union-attr]
            carol = await stage.peer("carol")
            assert carol.ready
            for peer in (alone, carol):
                peer.sock.close()
            assert len(os.listdir("/proc/self/fd")) <= before + 8

    run(loop, scenario())


def test_more_descriptors_than_one_message_takes() -> None:
    async def scenario() -> None:
        one, other = (Channel(sock) for sock in socket.socketpair())
        reader, writer = os.pipe()
        count = 2 * MAX_DESCRIPTORS + 5
        sending = asyncio.create_task(one.send(Complete((1.0,) * 1000), [writer] * count))
        frame, descriptors = await other.receive()
        await sending
        assert frame == Complete((1.0,) * 1000) and len(descriptors) == count
        os.write(descriptors[-1], b"through the last")
        assert os.read(reader, 100) == b"through the last"
        await one.send(Ready())
        assert await other.receive() == (Ready(), [])
        await other.send(Go())
        assert one.last_words() == [Go()]
        with pytest.raises(ChannelClosed):
            await other.send(Go())
        one.close()
        with pytest.raises(ChannelClosed):
            await other.receive()
        for descriptor in (*descriptors, reader, writer):
            os.close(descriptor)
        other.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "said", ["ffffffffffffffff", "000000020000000091a1", "0000000100000000c0", "0000000100000001c0"]
)
def test_what_is_no_frame_ends_the_channel(said: str) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        theirs.sendall(bytes.fromhex(said))
        with pytest.raises(ChannelClosed):
            await channel.receive()
        channel.close()
        theirs.close()

    asyncio.run(scenario())
