"""A service's streams over real sockets: what is dialled, refused, given up, and spoken both ways."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest
import uvloop

from actors.actor import Send
from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy
from actors.ports.clock import steady_clock
from actors.ports.endpoint import HostPolicy
from actors.ports.host import Host, random_bytes
from protocol.addresses import encode_tcp
from protocol.identity import Identity
from protocol.noise import StaticKey
from protocol.service_messages import (
    ProtocolsServed,
    ServiceForwarderMessage,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from tests.support.peers import seeded

PATIENCE = 10.0
PROTOCOL = "/test/1.0.0"
SERVICE = "service"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Node:
    """A forwarder on its sockets, whose service is a queue."""

    def __init__(self, name: str) -> None:
        self.told: asyncio.Queue[object] = asyncio.Queue()
        self._now = steady_clock()
        self._timer: asyncio.TimerHandle | None = None
        identity = Identity.from_seed(seeded(name))
        self.peer = identity.peer_id.bytes
        self.host = Host(HostPolicy(), post=self._post, wake=self._wake, now=self._now)
        self.forwarder = CircuitForwarder(
            "forwarder/0",
            ForwarderPolicy(rate_limits=False),
            StaticKey(identity, seeded(name + " static")),
            random_bytes,
            now=self._now(),
            services=[SERVICE],
        )
        self.host.attach(self.forwarder)
        host, port = self.host.listen("127.0.0.1", 0)
        self.address = encode_tcp(ip_address(host), port)

    def _post(self, send: Send) -> None:
        if send.receiver == SERVICE and isinstance(send.message, StreamMessage | StreamOver):
            self.told.put_nowait(send.message)

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.forwarder.next_deadline()
        if deadline is not None:
            delay = max(deadline - self._now(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        for send in self.forwarder.handle_deadline(self._now()):
            self._post(send)
        self.host.end_turn()
        self._wake()

    def say(self, message: ServiceForwarderMessage) -> None:
        for send in self.forwarder.handle(message, self._now()):
            self._post(send)
        self.host.end_turn()
        self._wake()

    async def heard(self) -> StreamMessage | StreamOver:
        message = await asyncio.wait_for(self.told.get(), PATIENCE)
        assert isinstance(message, StreamMessage | StreamOver)
        return message

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.host.close(0)


def want(peer: bytes, *addresses: bytes, timeout: float = 5.0) -> StreamWanted:
    return StreamWanted(1, SERVICE, peer, addresses, PROTOCOL, b"question", timeout)


def nobody() -> bytes:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return encode_tcp(ip_address("127.0.0.1"), sock.getsockname()[1])


async def ask() -> None:
    alice, bob = Node("alice"), Node("bob")
    bob.say(ProtocolsServed(SERVICE, (PROTOCOL,)))
    alice.say(want(bob.peer, nobody(), bob.address))
    asked = await bob.heard()
    assert isinstance(asked, StreamMessage) and (asked.peer, asked.payload) == (alice.peer, b"question")
    assert asked.address == "127.0.0.1" and asked.observed != alice.address, "from any port but its own"
    bob.say(StreamAnswer(asked.stream, b"answer", finish=True))
    answer = await alice.heard()
    assert isinstance(answer, StreamMessage) and answer.payload == b"answer" and answer.observed == bob.address
    alice.say(StreamAnswer(answer.stream, None, finish=True))
    assert {(await end.heard()).code for end in (alice, bob)} == {"finished"}  # type: ignore[union-attr]
    await alice.close()
    await bob.close()


async def nobody_answers() -> None:
    """One refuses, one is silent, one is another peer: each is said, and no socket is left."""
    alice, bob = Node("alice"), Node("bob")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hole = encode_tcp(ip_address("127.0.0.1"), silent.getsockname()[1])
        for message, code, word in (
            (want(bob.peer, nobody()), "dial", "refused"),
            (want(bob.peer, hole, timeout=0.3), "timeout", "0.3"),
            (want(Identity.from_seed(seeded("carol")).peer_id.bytes, bob.address), "peer", "expected"),
            (want(bob.peer, bob.address), "protocol", PROTOCOL),
        ):
            alice.say(message)
            over = await alice.heard()
            assert isinstance(over, StreamOver) and over.code == code and word in over.reason.lower()
    await alice.close()
    await bob.close()
    assert not alice.host._endpoints and not alice.host._outgoing._sockets


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", [ask, nobody_answers])
def test_over_sockets(loop: str, scenario: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())  # type: ignore[arg-type]
