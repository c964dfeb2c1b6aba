"""What a node's owner lets it do, on real nodes: the cap, the modes, and `descord-relay mode` while they run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import identify, relay_hop
from protocol.identify import IdentifyReader
from protocol.relay_hop import ConnectAccepted, RequestRefused, ReservationGranted, Status
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer
from tests.support.ray_node import RayNode, peers

#: MB an hour and bytes a second of the cap: a transfer that takes seconds is small.
CAP, RATE = 180, 50_000

Start = Callable[..., NodeProcess]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.trial)])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(*flags: str, **options: Any) -> NodeProcess:
        kind = NodeProcess if request.param == "local" else RayNode
        nodes.append(kind(tmp_path / "node", "--status-interval", "0", *flags, **options))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def mode(node: NodeProcess, *words: str) -> dict[str, Any]:
    """`descord-relay mode`, to that node."""
    told = command(node, "mode", *words, "--json")
    assert told.returncode == 0, told.stderr
    return dict(json.loads(told.stdout))


def command(node: NodeProcess, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "actors.cli", *words, "--data-dir", str(node.data_dir)]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)


def config(node: NodeProcess) -> Path:
    return node.data_dir / "no-config" / "descord-relay" / "config.toml"


class Transfer:
    """From one peer to another over a node."""

    def __init__(self, alice: SocketPeer, bob: SocketPeer) -> None:
        self.alice, self.bob = alice, bob
        assert isinstance(bob.reserve(), ReservationGranted)
        self.here, self.there = alice.circuit(bob)

    def send(self, size: int) -> None:
        self.here.send(bytes(size))
        self.alice.flush()

    def until(self, size: int) -> None:
        self.alice.pass_on(self.bob, lambda: self.arrived >= size)

    @property
    def arrived(self) -> int:
        return len(self.there.received)


def pairs(node: NodeProcess) -> list[tuple[SocketPeer, SocketPeer]]:
    """Two pairs of peers, each on a forwarder of its own if there are two."""
    if isinstance(node, RayNode):
        return [(alice, bob) for alice, bob, *_ in peers(node, 2).values()]
    return [(SocketPeer(node, f"alice {number}"), SocketPeer(node, f"bob {number}")) for number in range(2)]


def protocols(peer: SocketPeer) -> tuple[str, ...]:
    """What the node says that it serves."""
    view = peer.open(identify.PROTOCOL)
    peer.until(lambda: view.finished)
    reader = IdentifyReader()
    reader.receive_data(view.take())
    reader.receive_eof()
    event = reader.next_event()
    assert event is not None
    return event.message.protocols


def test_a_cap_holds_over_all_forwarders_until_it_is_taken_off(start: Start) -> None:
    node = start()
    told = mode(node, "--max-bandwidth", str(CAP))
    began = time.monotonic()
    assert told["settings"]["max_bandwidth"] == CAP and told["overruled"] == {}
    both = pairs(node)
    transfers = [Transfer(alice, bob) for alice, bob in both]
    for one in transfers:
        one.send(250_000)
    for one in transfers:
        one.until(40_000)
        assert sum(transfer.arrived for transfer in transfers) <= RATE * (time.monotonic() - began + 1)
    # Each has more to send than passes in a second: nothing new is begun.
    alice, bob = both[0]
    _, refused = alice.connect(bob)
    assert isinstance(refused, RequestRefused) and refused.status == Status.RESOURCE_LIMIT_EXCEEDED
    assert "max_bandwidth" in refused.reason and refused.retry_after > 0
    status = json.loads(command(node, "status", "--json").stdout)
    assert (status["mode"], status["max_bandwidth"], status["paused"]) == ("cooperative", CAP, "")
    assert status["refusals"] == {"max_bandwidth": 1}
    mode(node, "--max-bandwidth", "0")
    for one in transfers:
        one.until(250_000)
    assert isinstance(alice.connect(bob)[1], ConnectAccepted)
    # Kept, and the rest of the file as it was: there was none.
    assert tomllib.loads(config(node).read_text()) == {"max_bandwidth": 0}


def test_a_node_that_relays_no_more_says_so_and_drains(start: Start) -> None:
    node = start()
    (alice, bob), _ = pairs(node)
    transfer = Transfer(alice, bob)
    assert relay_hop.PROTOCOL in protocols(alice)
    told = mode(node, "client-only", "--max-circuits", "7")
    assert (told["settings"]["mode"], told["settings"]["max_circuits"]) == ("client-only", 7)
    # Peers are told unasked, and a circuit goes on.
    hop = relay_hop.PROTOCOL.encode()
    alice.pass_on(bob, lambda: any(view.finished and hop not in view.received for view in bob.pushed))
    assert relay_hop.PROTOCOL not in protocols(alice)
    transfer.send(100_000)
    transfer.until(100_000)
    assert json.loads(command(node, "status", "--json").stdout)["paused"] == "this node does not relay"
    text = command(node, "mode", "cooperative").stdout
    assert "max_circuits   7  (file " in text and "cooperative: " in text
    assert relay_hop.PROTOCOL in protocols(alice)
    assert isinstance(alice.connect(bob)[1], ConnectAccepted)


def test_what_is_kept_holds_after_the_next_start(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node", "--max-circuits", "3", "--status-interval", "0")
    try:
        config(node).parent.mkdir(parents=True)
        config(node).write_text("# mine\nmax_circuits = 4\n")
        told = mode(node, "dedicated", "--max-circuits", "5", "--public", "off", "--run-when", "always")
        assert told["overruled"] == {"max_circuits": "flag"} and told["settings"]["max_circuits"] == 3
        assert config(node).read_text().startswith("# mine\nmax_circuits = 5\n")
        assert "which wins" in command(node, "mode", "--max-circuits", "6").stdout
        wrong = command(node, "mode", "--max-bandwidth", "lots")
        assert wrong.returncode == 1 and "a whole number" in wrong.stderr
        # A node that takes over reads it anew, too.
        node.process.send_signal(signal.SIGHUP)
        assert node.event()["event"] == "upgraded"
        assert json.loads(command(node, "status", "--json").stdout)["mode"] == "dedicated"
    finally:
        node.stop()
    node = NodeProcess(tmp_path / "node", "--status-interval", "0")
    try:
        settings = mode(node)["settings"]
        assert (settings["mode"], settings["public"], settings["max_circuits"]) == ("dedicated", False, 6)
    finally:
        node.stop()
