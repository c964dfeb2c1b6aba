"""Our own client through our own relay, against each implementation, in both roles.

What the other tests show of the relay, these show of the client: reserve and be dialled, dial through, bytes by hash,
half-close, refresh.  It runs in the test's loop; the peers are processes and are asked from threads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.ports.client import Client, PeerConnection, PeerStream, RelayRefused
from actors.refresh_schedule import RefreshPolicy
from protocol.identity import Identity
from protocol.relay_hop import Status
from tests.support.peers import seeded

from .conftest import IMPLEMENTATIONS, MIB, StartNode
from .node import Node
from .peer import Peer

PUSH = "/descord-interop/push/1.0.0"
HALF_CLOSE = "/descord-interop/halfclose/1.0.0"
# More than the first window of 256 KiB, so that the answer needs credit after the half-close.
ECHO_BYTES = 600_000

each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
Peers = Callable[[str, str], Peer]


async def answer_push(_: PeerConnection, stream: PeerStream) -> None:
    """The count, that many bytes, their hash back."""
    left = int.from_bytes(await stream.read_exactly(8), "big")
    digest = hashlib.sha256()
    while part := await stream.read():
        digest.update(part)
        left -= len(part)
    assert left == 0
    await stream.write(digest.digest())
    await stream.finish()


async def answer_half_close(_: PeerConnection, stream: PeerStream) -> None:
    """Everything back, once the other end has finished."""
    received = bytearray()
    while part := await stream.read():
        received += part
    await stream.write(received)
    await stream.finish()


async def read_all(stream: PeerStream) -> bytes:
    received = bytearray()
    while part := await stream.read():
        received += part
    return bytes(received)


def numbered(size: int) -> bytes:
    """Bytes whose order shows."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


def ask(process: Peer, command: str, /, **arguments: Any) -> asyncio.Future[dict[str, Any]]:
    return asyncio.ensure_future(asyncio.to_thread(process.call, command, **arguments))


@pytest_asyncio.fixture
async def ours() -> AsyncIterator[Client]:
    identity = Identity.from_seed(seeded(f"ours {asyncio.get_running_loop().time()}"))
    async with Client(identity, handlers={PUSH: answer_push, HALF_CLOSE: answer_half_close}) as client:
        yield client


@each
async def test_ours_dials_through(implementation: str, node: Node, peers: Peers, ours: Client) -> None:
    target = peers(implementation, "target")
    await ask(target, "reserve", relay=node.address)
    connection = await ours.connect(node.circuit_to(target.peer_id))
    assert (str(connection.peer), str(connection.relay)) == (target.peer_id, node.peer_id)
    assert (connection.limit is None) or (connection.limit.data, connection.limit.duration) == (0, 0)
    for _ in range(3):
        assert 0 < await connection.ping() < 10
    assert PUSH in (await connection.identify()).protocols

    data = numbered(MIB)
    stream = await connection.open(PUSH)
    await stream.write(len(data).to_bytes(8, "big"))
    await stream.write(data)
    await stream.finish()
    assert await read_all(stream) == hashlib.sha256(data).digest()

    for size in (ECHO_BYTES, 0):
        stream = await connection.open(HALF_CLOSE)
        await stream.write(data[:size])
        await stream.finish()
        assert await read_all(stream) == data[:size]
    await connection.close()


@each
async def test_ours_is_dialled(implementation: str, node: Node, peers: Peers, ours: Client) -> None:
    dialer = peers(implementation, "dialer")
    reservation = await ours.reserve(node.address)
    me = str(ours.peer_id)
    assert node.circuit_to(me) in reservation.addresses
    assert (await ask(dialer, "connect", addr=node.circuit_to(me)))["relayed"] is True
    assert (await ask(dialer, "ping", peer=me))["rtt_ms"] > 0
    for _ in range(2):
        sent = await ask(dialer, "send", peer=me, bytes=MIB, seed=7)
        assert sent["sha256_local"] == sent["sha256_remote"]
    for size in (ECHO_BYTES, 0):
        assert (await ask(dialer, "echo_half_close", peer=me, bytes=size))["equal"] is True
    known = await ask(dialer, "identify", peer=me)
    assert {PUSH, HALF_CLOSE} <= set(known["protocols"])
    await ask(dialer, "disconnect", peer=me)


@each
async def test_both_ways_over_one_circuit(implementation: str, node: Node, peers: Peers) -> None:
    """The connection is one, whoever opened it: the peer that was dialled opens streams too."""
    dialer = peers(implementation, "dialer")
    arrived: asyncio.Queue[PeerConnection] = asyncio.Queue()
    identity = Identity.from_seed(seeded(f"both ways {implementation}"))
    async with Client(identity, handlers={PUSH: answer_push}, accepted=arrived.put_nowait) as ours:
        await ours.reserve(node.address)
        me = str(ours.peer_id)
        await ask(dialer, "connect", addr=node.circuit_to(me))
        connection = await arrived.get()
        assert str(connection.peer) == dialer.peer_id
        sending = ask(dialer, "send", peer=me, bytes=MIB, seed=3)
        assert 0 < await connection.ping() < 10
        data = numbered(MIB)
        stream = await connection.open(PUSH)
        await stream.write(len(data).to_bytes(8, "big"))
        await stream.write(data)
        await stream.finish()
        assert await read_all(stream) == hashlib.sha256(data).digest()
        sent = await sending
        assert sent["sha256_local"] == sent["sha256_remote"]
        await ask(dialer, "disconnect", peer=me)
        assert await asyncio.wait_for(connection.wait_ended(), 30)


@pytest.mark.parametrize("dialled", ["early", "late"])
async def test_ours_to_ours(node: Node, ours: Client, dialled: str) -> None:
    async with Client(Identity.from_seed(seeded(f"another {dialled}"))) as another:
        if dialled == "early":
            with pytest.raises(RelayRefused) as refused:
                await another.connect(node.circuit_to(str(ours.peer_id)))
            assert refused.value.refusal.status == Status.NO_RESERVATION
        await ours.reserve(node.address)
        connection = await another.connect(node.circuit_to(str(ours.peer_id)))
        assert 0 < await connection.ping() < 10


async def test_a_reservation_is_refreshed_and_outlives_its_relay(
    start_node: StartNode, logs: Callable[[str], Path], ours: Client
) -> None:
    """Refreshed when its time is nearly over; taken again when the relay comes back as the same."""
    data_dir = logs("refreshed")
    first = start_node(data_dir, reservation_duration=60)
    identity = Identity.from_seed(seeded("refreshed"))
    refresh = RefreshPolicy(refresh_at=0.02, first_delay=0.2, most_delay=0.4)
    async with Client(identity, refresh=refresh) as kept:
        reservation = await kept.reserve(first.address)
        expires = reservation.expires_at
        while reservation.grants < 3:
            await asyncio.wait_for(reservation.changed(), 30)
            assert not reservation.failure
        assert reservation.expires_at > expires
        first.kill()
        await asyncio.wait_for(reservation.changed(), 30)
        assert "connection" in reservation.failure
        second = start_node(data_dir, listen=first.transport_address, reservation_duration=60)
        assert second.address == first.address
        while reservation.failure:
            await asyncio.wait_for(reservation.changed(), 30)
        connection = await ours.connect(second.circuit_to(str(kept.peer_id)))
        assert await connection.ping() > 0


async def test_the_limits_that_a_relay_tells(start_node: StartNode, ours: Client) -> None:
    node = start_node(circuit_data=MIB, circuit_duration=77)
    reservation = await ours.reserve(node.address)
    assert reservation.limit is not None
    assert (reservation.limit.data, reservation.limit.duration) == (MIB, 77)
    async with Client(Identity.from_seed(seeded("limited"))) as another:
        connection = await another.connect(node.circuit_to(str(ours.peer_id)))
        assert connection.limit == reservation.limit
        stream = await connection.open(PUSH)
        with pytest.raises(Exception, match="limit"):
            while True:
                await stream.write(bytes(64 * 1024))
        assert "limit" in await connection.wait_ended()
