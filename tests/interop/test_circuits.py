"""Every implementation reaches every other through the relay, both ways, and the bytes are the same."""

from __future__ import annotations

from .conftest import MIB, Circuit

# More than the first window of 256 KiB, so that the answer needs credit after the half-close.
ECHO_BYTES = 600_000


def test_ping_over_the_circuit(circuit: Circuit) -> None:
    for _ in range(3):
        assert 0 < circuit.dialer.call("ping", peer=circuit.target.peer_id)["rtt_ms"] < 10_000


def test_target_pings_back(circuit: Circuit) -> None:
    """The circuit is one connection, whoever opened it."""
    assert circuit.target.call("ping", peer=circuit.dialer.peer_id)["rtt_ms"] > 0


def test_half_close_passes_through(circuit: Circuit) -> None:
    """The target answers after it has read to the end: a half-close made a close would lose the answer."""
    for size in (ECHO_BYTES, 0):
        echoed = circuit.dialer.call("echo_half_close", peer=circuit.target.peer_id, bytes=size)
        assert echoed["equal"] is True


def test_push_arrives_whole(circuit: Circuit) -> None:
    sent = circuit.dialer.call(
        "send", peer=circuit.target.peer_id, bytes=circuit.size, seed=7, timeout=circuit.patience
    )
    assert sent["sha256_local"] == sent["sha256_remote"]


def test_pull_arrives_whole(circuit: Circuit) -> None:
    fetched = circuit.dialer.call("fetch", peer=circuit.target.peer_id, bytes=circuit.size, timeout=circuit.patience)
    assert fetched["sha256_local"] == fetched["sha256_remote"]


def test_both_ways_at_once(circuit: Circuit) -> None:
    """Streams in both directions, opened from both ends, do not wait for each other."""
    size = min(circuit.size, 4 * MIB)
    transfers = [
        circuit.dialer.start("send", peer=circuit.target.peer_id, bytes=size, seed=1),
        circuit.dialer.start("fetch", peer=circuit.target.peer_id, bytes=size),
        circuit.target.start("send", peer=circuit.dialer.peer_id, bytes=size, seed=2),
        circuit.target.start("fetch", peer=circuit.dialer.peer_id, bytes=size),
    ]
    for transfer in transfers:
        done = transfer.result(circuit.patience)
        assert done["sha256_local"] == done["sha256_remote"]
