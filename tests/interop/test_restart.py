"""A relay that comes back with its identity and address is the same relay: peers reserve again and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import MIB, StartNode, StartPeer
from .node import Node
from .peer import Peer

# Each implementation once as the dialer and once as the target.
RING = (("go", "rust"), ("rust", "js"), ("js", "py"), ("py", "go"))


def talk(node: Node, dialer: Peer, target: Peer) -> None:
    target.call("reserve", relay=node.address)
    assert dialer.call("connect", addr=node.circuit_to(target.peer_id))["relayed"] is True
    dialer.call("ping", peer=target.peer_id)
    done = dialer.call("send", peer=target.peer_id, bytes=MIB, seed=4)
    assert done["sha256_local"] == done["sha256_remote"]


@pytest.mark.parametrize("ending", ["stop", "kill"])
@pytest.mark.parametrize("pair", RING, ids="-to-".join)
def test_peers_return_after_a_restart(
    pair: tuple[str, str],
    ending: str,
    start_node: StartNode,
    start_peer: StartPeer,
    logs: Callable[[str], Path],
) -> None:
    data_dir = logs("restarted")
    first = start_node(data_dir)
    dialer, target = start_peer(pair[0]), start_peer(pair[1])
    talk(first, dialer, target)
    for peer in (dialer, target):
        peer.forget_events()
    if ending == "stop":
        assert first.stop() == 0
    else:
        first.kill()
    for peer in (dialer, target):
        peer.wait_for("disconnection", lambda event: event["peer"] == first.peer_id)

    second = start_node(data_dir, listen=first.transport_address)
    assert (second.peer_id, second.address) == (first.peer_id, first.address)
    talk(second, dialer, target)
