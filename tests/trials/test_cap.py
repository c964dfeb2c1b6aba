"""The bandwidth cap of a node whose actors are killed one after the other."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.runtimes.test_mode import CAP, RATE, Transfer, mode, pairs
from tests.support.ray_node import RayNode, forwarder_of, peers


def test_a_cap_holds_through_the_fall_of_any_actor(tmp_path: Path) -> None:
    """RelayServer has the bucket, each forwarder a part of it: whoever takes their place begins with nothing."""
    node = RayNode(tmp_path / "node", "--status-interval", "0")
    try:
        mode(node, "--max-bandwidth", str(CAP))
        began = time.monotonic()
        (first, second) = pairs(node)
        transfer, other = Transfer(*first), Transfer(*second)
        transfer.send(200_000), other.send(60_000)
        transfer.until(20_000)
        os.kill(node.pid("relay_server"), signal.SIGKILL)
        node.replaced("relay_server")
        other.until(60_000)
        transfer.until(50_000)
        lost = forwarder_of(node, first[0])
        os.kill(lost, signal.SIGKILL)
        name = next(name for name, pid in node.now["actors"].items() if pid == lost)
        node.replaced(name)
        alice, bob = next(two for pid, two in peers(node, 2).items() if pid == node.pid(node_name(node, name)))[:2]
        third = Transfer(alice, bob)
        third.send(200_000)
        third.until(30_000)
        passed = transfer.arrived + other.arrived + third.arrived
        assert passed <= RATE * (time.monotonic() - began + 1)
    finally:
        node.stop()


def node_name(node: RayNode, former: str) -> str:
    """Who is in the place of ``former`` now."""
    place = former.partition(".")[0]
    return next(name for name in node.now["actors"] if name.partition(".")[0] == place)
