"""Forwarders in memory that dial each other, with services that a test plays: no sockets, no clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from actors.actor import Send
from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy, Link
from protocol.addresses import encode_tcp
from protocol.connection import State
from protocol.identity import Identity
from protocol.noise import StaticKey
from protocol.service_messages import ProtocolsServed, ServiceForwarderMessage
from tests.support.peers import START, seeded

SERVICE = "service"
PORT = 4001


def multiaddr(address: str, port: int = PORT) -> bytes:
    from ipaddress import ip_address

    return encode_tcp(ip_address(address), port)


class Node:
    """A forwarder at ``address``; ``told``: what it said to its service."""

    def __init__(self, network: Network, name: str, address: str, policy: ForwarderPolicy) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.identity = Identity.from_seed(seeded(name))
        self.peer = self.identity.peer_id.bytes
        self._drawn = 0
        self.told: list[Any] = []
        self.forwarder = CircuitForwarder(
            f"forwarder/{name}",
            policy,
            StaticKey(self.identity, seeded(name + " static")),
            self._random,
            now=START,
            addresses=[multiaddr(address)],
            services=[SERVICE],
        )
        #: The other end of each link.
        self.ends: dict[Link, tuple[Node, Link]] = {}

    def _random(self, size: int) -> bytes:
        self._drawn += 1
        return seeded(f"{self.name} {self._drawn}")[:size]

    def serve(self, *protocols: str) -> None:
        self.say(ProtocolsServed(SERVICE, protocols))

    def say(self, message: ServiceForwarderMessage | Any) -> None:
        self.take(self.forwarder.handle(message, self.network.now))
        self.network.run()

    def take(self, sends: Sequence[Send] = ()) -> None:
        for send in [*sends, *self.forwarder.take_sends()]:
            if send.receiver == SERVICE:
                self.told.append(send.message)

    def heard(self, kind: type[Any]) -> list[Any]:
        """What the service was told of that kind, once."""
        self.take()
        found = [message for message in self.told if isinstance(message, kind)]
        self.told = [message for message in self.told if not isinstance(message, kind)]
        return found


class Network:
    """``unreachable``: IP addresses at which connections never come to be, nor fail."""

    def __init__(self) -> None:
        self.now = START
        self.nodes: dict[str, Node] = {}
        self.unreachable: set[str] = set()
        self.attempted: dict[str, int] = defaultdict(int)

    def add(self, name: str, address: str, policy: ForwarderPolicy | None = None) -> Node:
        node = Node(self, name, address, policy or ForwarderPolicy(rate_limits=False))
        self.nodes[address] = node
        return node

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps of at most a quarter of a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.25, end)
            for node in self.nodes.values():
                node.take(node.forwarder.handle_deadline(self.now))
            self.run()

    def run(self) -> None:
        """Until all are silent."""
        for _ in range(10_000):
            moved = [self._turn(node) for node in list(self.nodes.values())]
            if not any(moved):
                return
        raise AssertionError("the forwarders never fall silent")

    def _turn(self, node: Node) -> bool:
        forwarder, moved = node.forwarder, False
        for attempt in forwarder.take_attempts():
            moved = True
            self.attempted[attempt.address] += 1
            if attempt.address not in self.unreachable:
                self._connect(node, attempt)
        forwarder.settle()
        dirty, forwarder.arena.dirty = forwarder.arena.dirty, []
        for connection in dirty:
            data = connection.data_to_send()
            link = connection.owner
            far = node.ends.get(link)
            if far is None or not (data or connection.state is State.CLOSED):
                continue
            moved = True
            self._bring(far, data)
            if connection.state is State.CLOSED:
                self._hang_up(node, link)
        forwarder.arena.reset()
        node.take()
        return moved

    def _connect(self, node: Node, attempt: Any) -> None:
        other = self.nodes.get(attempt.address)
        if other is None:
            node.forwarder.dial_failed(attempt, "Connection refused", self.now)
            return
        near = node.forwarder.dialled(attempt, multiaddr(attempt.address), multiaddr(node.address, 50000), self.now)
        if near is None:
            return
        assert not other.forwarder.admit(node.address, self.now)
        far = other.forwarder.accept(node.address, multiaddr(node.address, 50000), multiaddr(other.address), self.now)
        node.ends[near] = (other, far)
        other.ends[far] = (node, near)

    def _bring(self, end: tuple[Node, Link], data: bytes) -> None:
        node, link = end
        if link.connection.state is not State.CLOSED and link in node.ends:
            link.connection.receive_data(data, self.now)
            node.forwarder.received(link, self.now)

    def _hang_up(self, node: Node, link: Link) -> None:
        other, far = node.ends.pop(link)
        node.forwarder.lost(link, "connection closed", self.now)
        if other.ends.pop(far, None) is not None:
            far.connection.receive_eof()
            other.forwarder.lost(far, "connection closed by the peer", self.now)
