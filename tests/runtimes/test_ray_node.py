"""A real node of several processes: what it says, what it carries, what it listens on, and what is left of it."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.runtime.janitor import MARK
from protocol.relay_hop import ReservationGranted
from tests.support import tree
from tests.support.process import PATIENCE, REPOSITORY, SocketPeer
from tests.support.ray_node import CLEAN, RayNode, peers

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")

Start = Callable[..., RayNode]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[RayNode] = []

    def run(*flags: str, stderr: Path | None = None, variables: dict[str, str] | None = None) -> RayNode:
        nodes.append(RayNode(tmp_path / f"node{len(nodes)}", *flags, stderr=stderr, variables=variables))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def test_a_node_of_two_forwarders(start: Start) -> None:
    """What it says when it is ready; circuits on one forwarder and between two; the status; what it listens on."""
    node = start("--status-interval", "0.5")
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


# Whatever is killed, nothing is left behind.


@pytest.mark.parametrize("victim", ["supervisor", "raylet", "gcs_server"])
def test_a_node_that_loses_a_vital_process_ends_whole(start: Start, victim: str, tmp_path: Path) -> None:
    node = start(stderr=tmp_path / "stderr")
    alice = SocketPeer(node, "alice")
    known = node.tree
    os.kill(node.process.pid if victim == "supervisor" else node.pid(victim), signal.SIGKILL)
    code = node.process.wait(PATIENCE)
    node.nothing_is_left(known)
    alice.sock.close()
    if victim == "supervisor":
        assert code == -signal.SIGKILL
    else:
        # So that systemd starts it again, and whoever reads its log sees why.
        assert code == 70 and f"Ray's {victim} " in (tmp_path / "stderr").read_text()


def test_a_node_that_is_killed_while_it_starts_leaves_nothing(start: Start, tmp_path: Path) -> None:
    for moment in (0.4, 0.9, 1.4, 1.9):
        command = [sys.executable, "-m", "actors.node", "--forwarders", "2", "--data-dir", str(tmp_path / "node")]
        with subprocess.Popen([*command, "--listen", "/ip4/127.0.0.1/tcp/0"], cwd=REPOSITORY) as process:
            folders = tree.run_folders_of(process.pid, moment)
            process.kill()
        for folder in folders:
            tree.until(lambda folder=folder: not os.path.exists(folder), CLEAN, "the run folder was left behind")
            assert not tree.processes(folder)


def test_what_a_node_left_that_was_killed_with_its_janitor_is_swept_by_the_next(start: Start, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # on a short path, and no other test's nodes sweep there
        variables = {"TMPDIR": place}
        other, killed = start(variables=variables), start(variables=variables)
        # Most of Ray's processes end by themselves when the supervisor does, sooner or later; this one does not.
        mark = {**os.environ, MARK: killed.folder}
        started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=mark)
        known = killed.tree | {started.pid}
        both = (killed.process.pid, killed.pid("janitor"))
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        tree.until(lambda: not any(map(tree.alive, both)), PATIENCE, "it was not killed")
        assert os.path.exists(killed.folder) and tree.alive(started.pid)

        following = start(stderr=tmp_path / "stderr", variables=variables)
        killed.nothing_is_left(known)
        told = rf"[1-9]\d* process(es)? of it ended, {killed.folder} removed"
        assert re.search(told, (tmp_path / "stderr").read_text())
        assert set(os.listdir(place)) == {os.path.basename(node.folder) for node in (other, following)}
        assert all(map(tree.alive, other.tree))
        for node in (other, following):
            peer = SocketPeer(node, "alice")
            assert isinstance(peer.reserve(), ReservationGranted)
            peer.sock.close()
            node.stop()
        started.communicate()


def test_workers_the_spare_and_the_janitor_are_replaced_and_nothing_piles_up(start: Start) -> None:
    node = start()
    known = set(node.tree)
    for victim in ("relay_server", "forwarder/0", "forwarder/1"):
        os.kill(node.pid(victim), signal.SIGKILL)
        node.replaced(victim)
        known |= node.tree
    assert {"relay_server", "forwarder/0.1", "forwarder/1.1"} <= set(node.now["actors"])
    # The spare, and each of Ray's agents, which take the raylet with them.
    tree.until(lambda: len(node.spares()) == 1, PATIENCE, "no spare was started")
    (spare,) = node.spares()
    os.kill(spare, signal.SIGKILL)
    tree.until(lambda: node.spares() not in ([], [spare]), PATIENCE, "no other spare was started")
    os.kill(node.pid("janitor"), signal.SIGKILL)
    tree.until(
        lambda: tree.children(node.process.pid, "janitor.py") not in ([], [node.pid("janitor")]), PATIENCE, "none"
    )
    known |= node.tree
    alice = SocketPeer(node, "alice")
    assert isinstance(alice.reserve(), ReservationGranted)
    # The new janitor does what the first would have done.
    node.process.kill()
    node.process.wait()
    node.nothing_is_left(known)
    alice.sock.close()
