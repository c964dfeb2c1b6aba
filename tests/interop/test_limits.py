"""A circuit at its limit: the dialer sees a reset, and what was carried is what was allowed."""

from __future__ import annotations

import time

import pytest

from .conftest import IMPLEMENTATIONS, MIB, StartNode, StartPeer
from .node import Node
from .peer import Peer, PeerError

each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

DURATION = 2
# Noise and yamux at both ends of the circuit: handshake, frame headers, tags, window updates, identify.
OVERHEAD = 32 * 1024


def connect(node: Node, dialer: Peer, target: Peer) -> None:
    target.call("reserve", relay=node.address)
    assert dialer.call("connect", addr=node.circuit_to(target.peer_id))["relayed"] is True


@each
def test_data_limit_resets_the_circuit(implementation: str, start_node: StartNode, start_peer: StartPeer) -> None:
    """A flood ends in an error at the dialer, and the target got no more than the limit."""
    node = start_node(circuit_data=MIB)
    dialer, target = start_peer(implementation), start_peer("rust")
    connect(node, dialer, target)
    flooded = dialer.call("flood", peer=target.peer_id)
    assert flooded["error"]
    # What a library takes from its caller and has not sent yet counts as sent there: its buffers, at most.
    assert flooded["sent"] < 32 * MIB
    received = target.wait_for("push_ended")["received"]
    assert MIB // 2 < received < MIB
    target.wait_for("disconnection", lambda event: event["peer"] == dialer.peer_id)


@each
def test_data_limit_counts_each_direction_by_itself(
    implementation: str, start_node: StartNode, start_peer: StartPeer
) -> None:
    """The specification counts on each direction: nearly the limit one way and then the other way."""
    node = start_node(circuit_data=MIB)
    dialer, target = start_peer(implementation), start_peer("go")
    connect(node, dialer, target)
    for command in ("send", "fetch"):
        done = dialer.call(command, peer=target.peer_id, bytes=MIB - 3 * OVERHEAD)
        assert done["sha256_local"] == done["sha256_remote"]
    with pytest.raises(PeerError):
        dialer.call("fetch", peer=target.peer_id, bytes=MIB)


@each
def test_duration_limit_resets_the_circuit(implementation: str, start_node: StartNode, start_peer: StartPeer) -> None:
    node = start_node(circuit_duration=DURATION)
    dialer, target = start_peer(implementation), start_peer("go")
    connect(node, dialer, target)
    started = time.monotonic()
    target.wait_for("disconnection", lambda event: event["peer"] == dialer.peer_id, timeout=DURATION + 10)
    dialer.wait_for("disconnection", lambda event: event["peer"] == target.peer_id, timeout=DURATION + 10)
    assert DURATION - 1 < time.monotonic() - started < DURATION + 3
    # The reservation is not the circuit: the next one starts afresh.
    assert dialer.call("connect", addr=node.circuit_to(target.peer_id))["relayed"] is True
    dialer.call("ping", peer=target.peer_id)


@each
def test_limit_of_one_circuit_leaves_the_others(
    implementation: str, start_node: StartNode, start_peer: StartPeer
) -> None:
    node = start_node(circuit_data=MIB)
    spender, other, target = start_peer("go"), start_peer(implementation), start_peer("rust")
    connect(node, other, target)
    connect(node, spender, target)
    spender.call("flood", peer=target.peer_id)
    done = other.call("send", peer=target.peer_id, bytes=MIB // 2, seed=3)
    assert done["sha256_local"] == done["sha256_remote"]
