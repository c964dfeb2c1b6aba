"""A real node of several processes: what it says, what it carries, what it listens on, and what is left of it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.relay_hop import ReservationGranted
from tests.support import tree
from tests.support.process import PATIENCE, REPOSITORY, SocketPeer
from tests.support.ray_node import RayNode, peers

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")

Start = Callable[..., RayNode]


def test_a_node_of_two_forwarders(start_ray: Start) -> None:
    """What it says when it is ready; circuits on one forwarder and between two; the status; what it listens on."""
    node = start_ray("--status-interval", "0.5")
    assert node.ready["pid"] == node.process.pid
    assert {"relay_server", "forwarder/0", "forwarder/1"} <= set(node.ready["actors"])
    assert len({*node.ready["actors"].values(), node.process.pid}) == len(node.ready["actors"]) + 1
    priority = os.getpriority(os.PRIO_PROCESS, node.process.pid)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in node.ready["actors"].values()} == {priority}

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


def test_sigterm_says_good_bye_and_leaves_nothing(start_ray: Start) -> None:
    node = start_ray()
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


def test_a_port_that_is_taken_is_named_before_ray_is_started(start_ray: Start, tmp_path: Path) -> None:
    node = start_ray()
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
