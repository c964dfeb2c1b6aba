"""A real node, and a circuit through it that no attack may disturb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.relay_hop import ReservationGranted
from tests.support.peers import MemoryStream
from tests.support.process import NodeProcess, SocketPeer

Start = Callable[..., NodeProcess]


class Bystanders:
    """Two well-behaved peers and their circuit."""

    def __init__(self, node: NodeProcess) -> None:
        self.alice = SocketPeer(node, "bystander alice")
        self.bob = SocketPeer(node, "bystander bob")
        assert isinstance(self.bob.reserve(), ReservationGranted)
        self.here, self.there = self.alice.circuit(self.bob)
        self.unharmed()

    def unharmed(self, size: int = 200_000) -> None:
        """The circuit still carries bytes, both ways."""
        for sender, receiver in ((self.here, self.there), (self.there, self.here)):
            sender.send(b"u" * size)
            self.alice.pass_on(self.bob, lambda view=receiver: len(view.received) >= size)
            assert len(receiver.take()) == size

    def pair(self) -> tuple[MemoryStream, MemoryStream]:
        """Another circuit between the two."""
        return self.alice.circuit(self.bob)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(*flags: str) -> NodeProcess:
        nodes.append(NodeProcess(tmp_path / f"node{len(nodes)}", "--log-level", "error", *flags))
        return nodes[-1]

    yield run
    for node in nodes:
        assert node.process.poll() is None, "the node did not survive"
        assert node.stop() == 0
