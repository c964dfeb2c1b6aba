"""Whatever is killed of a node of several processes, nothing is left behind."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.runtime.janitor import MARK
from protocol.relay_hop import ReservationGranted
from tests.support import tree
from tests.support.process import PATIENCE, REPOSITORY, SocketPeer
from tests.support.ray_node import CLEAN, RayNode

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")

Start = Callable[..., RayNode]


@pytest.mark.parametrize("victim", ["supervisor", "raylet", "gcs_server"])
def test_a_node_that_loses_a_vital_process_ends_whole(start_ray: Start, victim: str, tmp_path: Path) -> None:
    node = start_ray(stderr=tmp_path / "stderr")
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


def test_a_node_that_is_killed_while_it_starts_leaves_nothing(start_ray: Start, tmp_path: Path) -> None:
    for moment in (0.4, 0.9, 1.4, 1.9):
        command = [sys.executable, "-m", "actors.node", "--forwarders", "2", "--data-dir", str(tmp_path / "node")]
        with subprocess.Popen([*command, "--listen", "/ip4/127.0.0.1/tcp/0"], cwd=REPOSITORY) as process:
            folders = tree.run_folders_of(process.pid, moment)
            process.kill()
        for folder in folders:
            tree.until(lambda folder=folder: not os.path.exists(folder), CLEAN, "the run folder was left behind")
            assert not tree.processes(folder)


def test_what_a_node_left_that_was_killed_with_its_janitor_is_swept_by_the_next(
    start_ray: Start, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # on a short path, and no other test's nodes sweep there
        variables = {"TMPDIR": place}
        other, killed = start_ray(variables=variables), start_ray(variables=variables)
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

        following = start_ray(stderr=tmp_path / "stderr", variables=variables)
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


def test_workers_the_spare_and_the_janitor_are_replaced_and_nothing_piles_up(start_ray: Start) -> None:
    node = start_ray()
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
