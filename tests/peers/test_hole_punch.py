"""What a hole is punched to: only what the other may have us dial."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from actors.dial_address import parse_dial_address
from actors.ports.client import Client
from actors.ports.connections import DialError, StreamError
from actors.ports.diallers import PortDialler
from actors.ports.hole_punch import MAX_TAKEN, HolePuncher, _of_few_hosts
from protocol.addresses import encode_tcp
from protocol.dcutr import ATTEMPTS, PeerSeenAt, PunchInitiator
from protocol.identity import Identity
from tests.support.peers import seeded

STRANGER = Identity.from_seed(seeded("stranger")).peer_id


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "192.168.1.1", "10.0.0.1", "169.254.1.1", "::1", "fd00::1", "0.0.0.0"]
)
async def test_nobody_has_us_dial_into_our_own_network(address: str) -> None:
    dialler = PortDialler()
    async with Client(Identity.from_seed(seeded("alice")), dialler=dialler) as client:
        puncher = HolePuncher(dialler, private=False)
        puncher.client = client
        with pytest.raises(DialError, match="no address that may be dialled"):
            await puncher._punch((encode_tcp(ip_address(address), 22),), STRANGER, server=False)
        assert not client.busy


def at(host: str, port: int) -> bytes:
    return encode_tcp(ip_address(host), port)


class Door(PortDialler):
    """``listens``: set from when its port first did."""

    def __init__(self) -> None:
        super().__init__()
        self.listens = asyncio.Event()

    @asynccontextmanager
    async def listening(self, wire: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[None]:
        async with super().listening(wire):
            self.listens.set()
            yield


@asynccontextmanager
async def punching() -> AsyncIterator[tuple[HolePuncher, Door, Client]]:
    """A peer that has its port already, as one that is connected to a relay."""
    dialler = Door()
    async with Client(Identity.from_seed(seeded("alice")), dialler=dialler) as client:
        puncher = HolePuncher(dialler, private=True)
        puncher.client = client
        dialler._bound(socket.AF_INET).close()
        yield puncher, dialler, client


@pytest.mark.parametrize("others", [0, 15])
async def test_who_is_awaited_gets_through_beside_others(others: int) -> None:
    async with asyncio.timeout(30), punching() as (puncher, dialler, alice):
        waiting = [
            asyncio.ensure_future(
                puncher._punch((at("127.0.0.9", 1),), Identity.from_seed(seeded(f"other {n}")).peer_id, server=True)
            )
            for n in range(others)
        ]
        await asyncio.sleep(0)
        identity = Identity.from_seed(seeded("bob"))
        for _ in range(10):
            from_port = PortDialler()
            async with Client(identity, dialler=from_port) as bob:
                from_port._bound(socket.AF_INET).close()
                there = at("127.0.0.1", from_port.port(socket.AF_INET))
                begun = asyncio.ensure_future(puncher._punch((there,), identity.peer_id, server=True))
                await asyncio.sleep(0)  # it waits for bob now
                await dialler.listens.wait()
                here = parse_dial_address(f"/ip4/127.0.0.1/tcp/{dialler.port(socket.AF_INET)}")
                connection = await bob._dial_ip(here, alice.peer_id)
                direct = await begun
                assert direct.peer == identity.peer_id and not connection.ended
            await direct.wait_ended()
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not dialler._servers and not puncher._awaited


async def test_strangers_at_the_port_are_told_nothing_and_leave_nothing() -> None:
    async with asyncio.timeout(30), punching() as (puncher, dialler, alice):
        begun = asyncio.ensure_future(puncher._punch((at("127.0.0.9", 1),), STRANGER, server=True))
        await dialler.listens.wait()
        for _ in range(50):
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", dialler.port(socket.AF_INET), local_addr=("127.0.0.7", 0)
                )
                writer.write(b"\x13/multistream/1.0.0\n")
                assert await reader.read() == b""
                writer.close()
            except ConnectionError:
                pass  # it was quicker
        assert not alice._sockets and not alice.core.links
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)


async def test_one_who_is_awaited_comes_no_more_often_than_he_is_wanted() -> None:
    async with asyncio.timeout(30), punching() as (puncher, dialler, alice):
        begun = asyncio.ensure_future(puncher._punch((at("127.0.0.7", 1),), STRANGER, server=True))
        await dialler.listens.wait()
        made = [
            await asyncio.open_connection("127.0.0.1", dialler.port(socket.AF_INET), local_addr=("127.0.0.7", 0))
            for _ in range(3 * MAX_TAKEN)
        ]
        await asyncio.sleep(0)
        assert len(alice.core.links) <= MAX_TAKEN
        for _, writer in made:
            writer.close()
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)


def test_ports_of_two_hosts_are_dialled_at_most() -> None:
    named = [at(f"203.0.113.{host}", port) for host in (1, 2, 3) for port in (1, 2)]
    assert _of_few_hosts(named) == tuple(named[:4])


class Asking:
    """The stream of a peer that asks for a hole to somebody who refuses, as often as it may."""

    def __init__(self, port: int) -> None:
        self._machine = PunchInitiator([at("127.0.0.44", port)], 0.0)
        self._said = self._machine.data_to_send()

    async def read(self) -> bytes:
        said, self._said = self._said, b""
        return said

    async def write(self, data: bytes) -> None:
        self._machine.receive_data(data)
        assert isinstance(self._machine.next_event(), PeerSeenAt)
        self._machine.synchronise(1.0)
        self._said = self._machine.data_to_send()


async def test_who_was_called_has_us_dial_three_times_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.ports.hole_punch.DIAL_TIMEOUT", 0.2)
    bob = Identity.from_seed(seeded("bob")).peer_id

    class Called:
        relay, peer, link = STRANGER, bob, SimpleNamespace(inbound=False)

    async with asyncio.timeout(30), punching() as (puncher, dialler, _):
        monkeypatch.setattr(puncher, "seen_at", lambda: (at("127.0.0.1", 5),))
        connection: Any = Called()
        for _ in range(ATTEMPTS):
            dialler.listens.clear()
            await puncher.answer(connection, Asking(7000))  # type: ignore[arg-type]
            assert dialler.listens.is_set()
        dialler.listens.clear()
        with pytest.raises(StreamError, match="attempts were made"):
            await puncher.answer(connection, Asking(7000))  # type: ignore[arg-type]
        assert not dialler.listens.is_set()


async def test_a_host_without_a_file_descriptor_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(30), punching() as (puncher, dialler, _):

        def none_left(_: socket.AddressFamily) -> socket.socket:
            raise OSError(errno.EMFILE, "too many open files")

        monkeypatch.setattr(dialler, "_bound", none_left)
        with pytest.raises(DialError, match="no port to punch a hole from: too many open files"):
            await puncher._punch((at("127.0.0.9", 1),), STRANGER, server=True)
