"""A real node of several processes: what it says, what it carries, what it listens on, and what is left of it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.relay_hop import ReservationGranted
from tests.support import tree
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")

#: Seconds in which everything of a node that died must be gone.
CLEAN = 5.0


class RayNode(NodeProcess):
    """A node with two forwarders, and where it keeps itself."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.memory = tree.shared_memory()
        super().__init__(
            data_dir, "--forwarders", "2", "--rate-limits", "off", *flags, "--max-connections-per-ip", "4000"
        )
        self.folder = str(self.ready["run_folder"])
        self.now = self.ready

    def pid(self, name: str) -> int:
        """Of an actor, a spare, or a process of Ray's."""
        return int({**self.now["actors"], **self.now["processes"]}[name])

    def until_event(self, true: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        while not true(event := self.event()):
            if event["event"] == "actors":
                self.now = event
        if event["event"] == "actors":
            self.now = event
        return event

    def replaced(self, name: str) -> None:
        """Until an actor has another process, or another actor its place."""
        slot, old = name.partition(".")[0], self.now["actors"][name]

        def is_new(event: dict[str, Any]) -> bool:
            return event["event"] == "actors" and any(
                other.partition(".")[0] == slot and pid != old for other, pid in event["actors"].items()
            )

        self.until_event(is_new)

    @property
    def tree(self) -> set[int]:
        return {self.process.pid, self.pid("janitor"), *tree.processes(self.folder)}

    def nothing_is_left(self, known: set[int]) -> None:
        tree.until(lambda: not any(tree.alive(pid) for pid in known), CLEAN, "a process was left behind")
        tree.until(lambda: not os.path.exists(self.folder), CLEAN, "the run folder was left behind")
        assert not tree.processes(self.folder)
        assert tree.shared_memory() <= self.memory
        assert not any(self.port in ports for ports in tree.listening(known).values())


Start = Callable[..., RayNode]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[RayNode] = []

    def run(*flags: str) -> RayNode:
        nodes.append(RayNode(tmp_path / f"node{len(nodes)}", *flags))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def forwarder_of(node: RayNode, peer: SocketPeer) -> int:
    """The pid of the process that has the other end of the peer's connection."""
    here, there = peer.sock.getsockname()[1], peer.sock.getpeername()[1]
    for name, pid in node.now["actors"].items():
        if not name.startswith("forwarder/"):
            continue
        shown = subprocess.run(
            ["ss", "-Htnp", "state", "established", f"sport = :{there} and dport = :{here}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if f"pid={pid}," in shown:
            return int(pid)
    raise AssertionError("nobody has it")


def peers(node: RayNode, count: int) -> dict[int, list[SocketPeer]]:
    """Peers by the forwarder that they are on, until each has ``count``."""
    found: dict[int, list[SocketPeer]] = {
        pid: [] for name, pid in node.now["actors"].items() if name.startswith("forwarder/")
    }
    number = 0
    while any(len(there) < count for there in found.values()):
        peer = SocketPeer(node, f"peer {number} of {node.process.pid}")
        number += 1
        found[forwarder_of(node, peer)].append(peer)
        assert number < 200, "one forwarder gets no connections"
    return found


def test_a_node_of_two_forwarders(start: Start) -> None:
    """What it says when it is ready; circuits on one forwarder and between two; the status; what it listens on."""
    node = start("--status-interval", "0.5")
    assert node.ready["pid"] == node.process.pid
    assert {"relay_server", "forwarder/0", "forwarder/1"} <= set(node.ready["actors"])
    assert len({*node.ready["actors"].values(), node.process.pid}) == len(node.ready["actors"]) + 1

    (alice, bob), (carol, dave) = (there[:2] for there in peers(node, 2).values())
    assert {str(peer.connection.peer) for peer in (alice, bob, carol, dave)} == {node.ready["peer_id"]}
    for target, diallers in ((bob, (alice, carol)), (dave, (alice, carol))):
        assert isinstance(target.reserve(), ReservationGranted)
        for dialler in diallers:
            here, there = dialler.circuit(target)
            here.send(b"x" * 100_000)
            dialler.pass_on(target, lambda there=there: len(there.received) == 100_000)
    status = node.until_event(lambda event: event["event"] == "status" and event["bytes"] >= 400_000)
    assert (status["circuits"], status["reservations"]) == (4, 2)

    listening = tree.listening(node.tree)
    assert set(listening) == {"127.0.0.1"}, "nothing of it listens where others reach it"
    assert node.port in listening["127.0.0.1"]
    assert os.stat(node.folder).st_mode & 0o777 == 0o700
    assert os.stat(f"{node.folder}/token").st_mode & 0o777 == 0o600


def test_sigterm_says_good_bye_and_leaves_nothing(start: Start) -> None:
    node = start()
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    known = node.tree
    began = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    for peer in (alice, bob):
        peer.until_gone()
        assert peer.connection.session.remote_going_away
        peer.sock.close()
    assert node.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < 4.0
    node.nothing_is_left(known)


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['ray'] = None; sys.argv[1:1] = []; from actors.node import main; sys.exit(main())"
    command = [sys.executable, "-c", hide, "--forwarders", "2", "--data-dir", str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 2
    assert "pip install 'descord-relay[ray]'" in ended.stderr


def test_a_port_that_is_taken_is_named_before_ray_is_started(start: Start, tmp_path: Path) -> None:
    node = start()
    address = f"/ip4/127.0.0.1/tcp/{node.port}"
    command = [
        sys.executable,
        "-m",
        "actors.node",
        "--forwarders",
        "2",
        "--data-dir",
        str(tmp_path / "x"),
        "--listen",
        address,
    ]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 69 and address in ended.stderr
