"""The host's sockets on a real loop, where the loop's own behaviour is what is tested."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy, Link
from actors.ports.clock import steady_clock
from actors.ports.endpoint import HostPolicy
from actors.ports.host import Host, random_bytes
from protocol.identity import Identity
from protocol.noise import StaticKey
from tests.support.peers import seeded

PATIENCE = 5.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Watched(CircuitForwarder):
    """A forwarder that tells when a connection comes and goes."""

    def __init__(self) -> None:
        identity = Identity.from_seed(seeded("host"))
        super().__init__("forwarder/0", ForwarderPolicy(), StaticKey(identity, seeded("static")), random_bytes)
        self.came = asyncio.Event()
        self.went: asyncio.Queue[str] = asyncio.Queue()

    def accept(self, *args: object, **kwargs: object) -> Link:
        self.came.set()
        return super().accept(*args, **kwargs)  # type: ignore[arg-type]

    def lost(self, link: Link, reason: str, now: float | None = None) -> None:
        super().lost(link, reason, now)
        self.went.put_nowait(reason)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("last_words", [b"\x13/multi", b""])
def test_a_reset_right_behind_data_is_noticed(loop: str, last_words: bytes) -> None:
    """uvloop stops watching a socket whose poll reports an error, and calls the reader but once: that call reads the
    data, and nobody would ever look at the socket again."""

    async def scenario() -> None:
        forwarder = Watched()
        host = Host(HostPolicy(), post=lambda send: None, wake=lambda: None, now=steady_clock())
        host.attach(forwarder)
        _, port = host.listen("127.0.0.1", 0)
        client = socket.create_connection(("127.0.0.1", port))
        await asyncio.wait_for(forwarder.came.wait(), PATIENCE)
        # Both before the loop polls again, and nothing that would be answered: writing would find it out.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if last_words:
            client.send(last_words)
        client.close()
        await asyncio.wait_for(forwarder.went.get(), PATIENCE)
        assert not forwarder.links
        await host.close(0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())
