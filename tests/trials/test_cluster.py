"""A node on a cluster: forwarders spread evenly over hosts, circuits between hosts, and the loss of a host.

The hosts are Ray nodes on this machine, started by what deploy/cluster/ starts them with.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.relay_hop import ReservationGranted
from tests.support import tree
from tests.support.cluster import Cluster
from tests.support.process import PATIENCE, SocketPeer
from tests.support.ray_node import CLEAN, RayNode, peers

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start("a")
        cluster.start("b")
        yield cluster
    finally:
        cluster.stop()


def hosts(cluster: Cluster, node: RayNode) -> dict[str, str]:
    """The host of each actor."""
    pids = {name: cluster.pids(name) for name in cluster.hosts if cluster.hosts[name].poll() is None}
    return {
        actor: next((name for name, there in pids.items() if pid in there), "?")
        for actor, pid in node.now["actors"].items()
        if not actor.startswith("spare/")
    }


def carries(dialler: SocketPeer, target: SocketPeer) -> None:
    here, there = dialler.circuit(target)
    here.send(b"x" * 100_000)
    dialler.pass_on(target, lambda: len(there.received) == 100_000)


def test_two_hosts_of_which_one_is_lost(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = RayNode(
        tmp_path / "node", "--ray-address", cluster.address, "--forwarders", "4",
        stderr=tmp_path / "stderr", variables=cluster.environment(),
    )  # fmt: skip
    try:
        everywhere = hosts(cluster, node)
        placed = {actor: host for actor, host in everywhere.items() if actor.startswith("forwarder/")}
        assert Counter(placed.values()) == {"a": 2, "b": 2}
        others = {actor: host for actor, host in everywhere.items() if actor not in placed}
        assert set(others.values()) == {"a"} and "relay_server" in others, "beside the node's own process"

        by_pid = peers(node, 2)
        on = {host: [] for host in "ab"}  # type: dict[str, list[list[SocketPeer]]]
        for actor, host in placed.items():
            on[host].append(by_pid[node.now["actors"][actor]])
        (alice, anna), (abel, *_) = on["a"][0][:2], on["a"][1]
        bob = on["b"][0][0]
        for target in (anna, bob):
            assert isinstance(target.reserve(), ReservationGranted)
        kept = alice.circuit(anna)
        for dialler, target in ((abel, anna), (alice, bob), (bob, anna)):
            carries(dialler, target)  # over two forwarders of a host, and between hosts

        fallen = [actor for actor, host in placed.items() if host == "b"]
        began = time.monotonic()
        cluster.lose("b")
        up = [node.replaced(actor) for actor in fallen[:1]]
        first = time.monotonic() - began
        while sum(actor.startswith("forwarder/") for actor in node.now["actors"]) < 4:
            node.until_event(lambda event: event["event"] == "actors")
        every = time.monotonic() - began
        assert set(hosts(cluster, node).values()) == {"a"}, "what is left serves all"

        # What was on the other host is lost, and nothing else.
        here, there = kept
        here.send(b"still")
        alice.pass_on(anna, lambda: there.take() == b"still")
        carries(abel, anna)
        carol = SocketPeer(node, "carol")
        assert isinstance(carol.reserve(), ReservationGranted)
        carries(alice, carol)
        with capsys.disabled():
            lost = sum(len(there) for there in on["b"])
            print(f"\na host lost: {lost} connections with it; its first forwarder was up again after {first:.2f} s "
                  f"({up[0]}), all after {every:.2f} s")  # fmt: skip

        head = next(pid for pid in cluster.pids("a") if Path(f"/proc/{pid}/comm").read_text() == "gcs_server\n")
        os.kill(head, signal.SIGKILL)
        assert node.process.wait(PATIENCE) == 70, "without the head the node ends, so that it is started again"
        assert "head of the Ray cluster" in (tmp_path / "stderr").read_text()
        tree.until(lambda: not os.path.exists(node.folder), CLEAN, "the run folder was left behind")
    finally:
        node.stop()
