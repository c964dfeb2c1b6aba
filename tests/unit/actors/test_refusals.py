"""What is counted is told apart, and why a connection ended is one of few words."""

from __future__ import annotations

import pytest

from actors.end_codes import OTHER
from actors.links import ForwarderPolicy, Link
from actors.refusals import Reasons, tell_apart
from actors.relay_server import RelayServerPolicy
from protocol import messages
from protocol.connection import ConnectionLimits, State
from protocol.relay_hop import RequestRefused
from tests.support.peers import MemoryPeer, MemoryRelay


def test_a_forwarders_counts_are_told_apart() -> None:
    counts = {
        "NO_RESERVATION": 1,
        "max_connections": 2,
        "protocol error: oversized": 3,
        "stream error: negotiation": 4,
        "circuit failed: stop_timeout": 5,
        "connection lost: max_backlog": 6,
    }
    assert tell_apart(counts) == Reasons(
        limits={"max_connections": 2},
        answers={"no_reservation": 1},
        failures={"stop_timeout": 5},
        lost={"max_backlog": 6},
        errors={("connection", "oversized"): 3, ("stream", "negotiation"): 4},
    )


def relay_and_link(**policy: object) -> tuple[MemoryRelay, MemoryPeer, Link]:
    relay = MemoryRelay(forwarder_policy=ForwarderPolicy(rate_limits=False, **policy))  # type: ignore[arg-type]
    alice = MemoryPeer("alice")
    return relay, alice, relay.attach(alice)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("the peer left 70000000 bytes unread (max_backlog)", "max_backlog"),
        ("the peer left most bytes unread (max_backlog_total)", "max_backlog_total"),
        ("the peer took none of 5 bytes (write_timeout)", "write_timeout"),
        ("connection lost: Connection reset by peer", "network"),
        ("internal error", "internal_error"),
        ("connection closed by the peer", ""),
        ("connection closed", ""),
    ],
)
def test_why_a_connection_was_lost(reason: str, code: str) -> None:
    relay, _, link = relay_and_link()
    relay.forwarder.lost(link, reason)
    assert tell_apart(relay.forwarder.refusals).lost == ({code: 1} if code else {})


def test_what_time_ends_is_counted_by_its_setting() -> None:
    relay, alice, link = relay_and_link(idle_timeout=10.0)
    relay.advance(30)
    assert link.connection.state is State.CLOSED
    relay.detach(alice)
    assert relay.forwarder.refusals == {"connection lost: idle_timeout": 1}

    limits = ConnectionLimits(keepalive_interval=10.0, keepalive_timeout=5.0)
    relay, silent, _ = relay_and_link(connection=limits)
    relay.reserve(silent)
    relay.stalled.add(silent)
    relay.advance(20)
    relay.detach(silent)
    assert relay.forwarder.refusals == {"connection lost: keepalive_timeout": 1}

    relay = MemoryRelay(forwarder_policy=ForwarderPolicy(connection=ConnectionLimits(handshake_timeout=3.0)))
    mute = relay.forwarder.accept("192.0.2.7", b"", b"", relay.now)
    relay.advance(5)
    relay.forwarder.lost(mute, "connection closed")
    assert relay.forwarder.refusals == {"connection lost: handshake_timeout": 1}


def test_a_breach_of_the_protocol_is_counted_once() -> None:
    relay = MemoryRelay()
    link = relay.forwarder.accept("192.0.2.7", b"", b"", relay.now)
    link.connection.receive_data(b"\xff" * 100, relay.now)
    relay.forwarder.received(link, relay.now)
    relay.forwarder.lost(link, "connection closed")
    told = tell_apart(relay.forwarder.refusals)
    assert list(told.errors.values()) == [1] and not told.lost


def test_a_circuit_that_fails_is_counted_by_why() -> None:
    relay, alice, _ = relay_and_link()
    bob = MemoryPeer("bob")
    relay.attach(bob)
    relay.reserve(bob)
    bob.accepts = False
    _, refused = relay.connect(alice, bob.peer_id)
    assert isinstance(refused, RequestRefused)
    told = tell_apart(relay.forwarder.refusals)
    assert told.failures == {"target_refused": 1} and OTHER not in told.failures and not told.limits


def test_refusals_and_ends_are_noted_for_the_log() -> None:
    relay = MemoryRelay(RelayServerPolicy(rate_limits=False, max_reservations=1))
    notes: list[str] = []
    relay.forwarder._note = relay.forwarder._setup._note = lambda text, *values: notes.append(text % values)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    for peer in (alice, bob):
        relay.attach(peer)
        relay.reserve(peer)
    relay.forwarder.lost(relay.links[bob], "the peer left 5 bytes unread (max_backlog)")
    assert notes == [
        "refused with RESERVATION_REFUSED: all 1 reservations are taken (max_reservations)",
        "connection of a peer is over: connection lost: max_backlog",
    ]


def test_a_relay_server_that_starts_hears_what_was_counted() -> None:
    relay, _, _ = relay_and_link()
    relay.advance(2)  # it was told, and nothing has changed since
    said = relay.forwarder.handle(messages.ReportWanted(), relay.now)
    assert [type(send.message).__name__ for send in said] == ["ForwarderCounters", "ForwarderReport"]
