"""Forwarders of a real node are replaced, one by one: circuits, reservations and bytes are what they were."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.relay_hop import RequestRefused, ReservationGranted
from tests.support import tree
from tests.support.peers import MemoryStream
from tests.support.process import PATIENCE, REPOSITORY, SocketPeer
from tests.support.ray_node import RayNode, peers

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")

Start = Callable[..., RayNode]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[RayNode] = []

    def run(*flags: str, **options: Any) -> RayNode:
        nodes.append(RayNode(tmp_path / "node", "--status-interval", "0", *flags, **options))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def restarted(node: RayNode) -> dict[str, Any]:
    node.process.send_signal(signal.SIGHUP)
    event = node.until_event(lambda event: event["event"].startswith("restart"))
    assert event["event"] == "restarted", event
    node.now = event
    return event


def status(node: RayNode, command: str = "status") -> dict[str, Any]:
    line = [sys.executable, "-m", "actors.cli", command, "--json", "--data-dir", str(node.data_dir)]
    told = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return dict(json.loads(told.stdout))


class Talks:
    """Circuits of every kind: on one forwarder, on the other, and from each to the other."""

    def __init__(self, node: RayNode) -> None:
        self.node = node
        self.moved = 0
        self.circuits: list[tuple[SocketPeer, SocketPeer, MemoryStream, MemoryStream]] = []
        (alice, self.bob), (carol, self.dave) = (there[:2] for there in peers(node, 2).values())
        for target in (self.bob, self.dave):
            assert isinstance(target.reserve(), ReservationGranted)
        # Diallers with two circuits are bound to where they are: one of the two is bridged.
        for target in (self.bob, self.dave):
            for dialler in (alice, carol):
                self.circuits.append((dialler, target, *dialler.circuit(target)))

    def go_on(self) -> None:
        for dialler, target, here, there in self.circuits:
            for one, other in ((here, there), (there, here)):
                one.send(b"x" * 50_000)
                dialler.pass_on(target, lambda other=other: len(other.received) == 50_000)
                other.take()
                self.moved += 50_000

    def one_more(self) -> None:
        """To one of the peers that reserved before, from one that connects now."""
        for target in (self.bob, self.dave):
            dialler = SocketPeer(self.node, f"dialler {len(self.circuits)}")
            self.circuits.append((dialler, target, *dialler.circuit(target)))
        self.go_on()


def test_all_goes_on_in_other_processes(start: Start) -> None:
    node = start("--metrics-port", "0")
    talks = Talks(node)
    talks.go_on()
    forwarders = {pid for name, pid in node.now["actors"].items() if name.startswith("forwarder/")}
    for _ in range(3):
        known = node.tree
        told = restarted(node)
        assert told["forwarders"] == 2 and told["connections"] >= len(talks.circuits)
        assert told["circuits"] >= len(talks.circuits)
        now = {pid for name, pid in told["actors"].items() if name.startswith("forwarder/")}
        assert len(now) == 2 and not now & forwarders
        former, forwarders = forwarders, now
        tree.until(lambda former=former: not any(map(tree.alive, former)), PATIENCE, "a former process stayed")
        talks.go_on()
        talks.one_more()
    # Nothing is counted twice because two counted it.
    node_status: dict[str, Any] = {}

    def counted() -> bool:
        node_status.update(status(node))
        return int(node_status["bytes"]) >= talks.moved

    tree.until(counted, PATIENCE, "bytes are not counted")
    assert node_status["bytes"] == talks.moved
    assert (node_status["circuits"], node_status["reservations"]) == (len(talks.circuits), 2)
    known = node.tree
    assert node.stop() == 0
    node.nothing_is_left(known)


def test_as_many_as_the_settings_say(start: Start, tmp_path: Path) -> None:
    """More, fewer, one, and more again: by signal and by command."""
    file = tmp_path / "config.toml"
    file.write_text("runtime = 'ray'\nforwarders = 2\n")
    node = start("--config", str(file))
    talks = Talks(node)
    for number in (3, 1, 2, 4, 2):
        file.write_text(f"runtime = 'ray'\nforwarders = {number}\n")
        if number == 4:
            told = status(node, "restart-forwarders")
            node.until_event(lambda event: event["event"] == "restarted")
        else:
            told = restarted(node)
        assert told["forwarders"] == number
        talks.go_on()
        talks.one_more()
        told = status(node)
        assert sum(name.startswith("forwarder/") for name in told["actors"]) == number
        assert (told["circuits"], told["reservations"]) == (len(talks.circuits), 2)


def test_settings_are_read_anew_or_it_is_said_that_they_are_not(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    common = "runtime = 'ray'\nforwarders = 2\n"
    file.write_text(f"{common}max_circuits_per_peer = 2\n")
    with open(tmp_path / "log", "wb"):
        node = start("--config", str(file), stderr=tmp_path / "log")
    talks = Talks(node)
    dialler = talks.circuits[0][0]
    assert isinstance(dialler.connect(talks.bob)[1], RequestRefused)
    file.write_text(f"{common}max_circuits_per_peer = 4\nping_rate_per_connection = 5\nlog_level = 'debug'\n")
    restarted(node)
    talks.go_on()
    talks.circuits.append((dialler, talks.bob, *dialler.circuit(talks.bob)))
    talks.go_on()
    assert "log_level: changed, and in force once the node itself is started anew" in (tmp_path / "log").read_text()
    assert "ping_rate_per_connection: changed" not in (tmp_path / "log").read_text()
    # And what is wrong changes nothing.
    file.write_text(f"{common}max_circuits_per_peer = 'many'\n")
    node.process.send_signal(signal.SIGHUP)
    event = node.until_event(lambda event: event["event"].startswith("restart"))
    assert event["event"] == "restart_failed" and "max_circuits_per_peer = 'many'" in event["reason"]
    talks.go_on()
