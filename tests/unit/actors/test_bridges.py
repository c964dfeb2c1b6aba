"""Circuits whose ends sit on two forwarders: nothing that either peer sees differs from a local one."""

from __future__ import annotations

import pytest

from actors.links import ForwarderPolicy
from actors.relay_server import RelayServer, RelayServerPolicy
from actors.relay_streams import StopStream
from protocol import messages, relay_hop
from protocol.arena import Arena
from protocol.connection import ConnectionLimits, State
from protocol.plain_connection import PlainConnection
from protocol.relay_hop import Status
from protocol.switching import Switch
from tests.support.bridged import NAMES, BridgedRelay
from tests.support.peers import MemoryPeer, MemoryStream

HOSTS = pytest.mark.parametrize("plain", [True, False], ids=["one host", "two hosts"])


def attached(relay: BridgedRelay) -> tuple[MemoryPeer, MemoryPeer]:
    """A dialler on the first forwarder, a target on the second."""
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    return alice, bob


def bridged(relay: BridgedRelay) -> tuple[MemoryPeer, MemoryPeer, MemoryStream, MemoryStream]:
    alice, bob = attached(relay)
    here, there = relay.circuit(alice, bob)
    return alice, bob, here, there


def settled(relay: BridgedRelay) -> None:
    """Nothing of a circuit is left, anywhere."""
    assert not relay.relay_server.circuits_in_all
    for forwarder in relay.forwarders.values():
        assert not forwarder.circuits and not forwarder._setup.opening and not forwarder._setup._crossing
        assert not any(link.bridge for link in forwarder.links.values())
        assert not any(link.circuits for link in forwarder.links.values())
        assert forwarder._links._crowd.count() == len(forwarder.links)


@HOSTS
@pytest.mark.parametrize("piece", [0, 1, 7])
def test_bytes_flow_both_ways_and_half_close_passes(plain: bool, piece: int) -> None:
    relay = BridgedRelay(plain=plain, piece=piece)
    _, _, here, there = bridged(relay)
    sent = bytes(range(256)) * (200 if piece == 0 else 4)
    here.send(sent)
    here.finish()
    relay.run()
    assert there.received == sent and there.finished and not here.finished
    there.send(sent[::-1])
    there.finish()
    relay.run()
    assert here.received == sent[::-1] and here.finished
    settled(relay)


def test_more_than_every_window_passes() -> None:
    relay = BridgedRelay()
    _, _, here, there = bridged(relay)
    sent = bytes(i & 0xFF for i in range(3_000_000))
    here.send(sent)
    relay.run()
    assert there.received == sent


def test_a_reader_that_stops_stops_its_sender() -> None:
    """Credit is end to end: what is under way is bounded by the reader's window, and nothing lies in between."""
    relay = BridgedRelay()
    _, _, here, there = bridged(relay)
    there.reading = False
    here.send(bytes(10_000_000))
    relay.run()
    assert len(there.received) <= 256 * 1024
    assert here.stream.held and len(here.stream.held) >= 10_000_000 - 2 * 1024 * 1024
    for forwarder in relay.forwarders.values():
        for circuit in forwarder.circuits.values():
            assert sum(len(s.held or b"") for s in (circuit.source, circuit.target)) < 1024


@HOSTS
@pytest.mark.parametrize("who", ["dialler", "target"])
def test_a_reset_passes(who: str, plain: bool) -> None:
    relay = BridgedRelay(plain=plain)
    _, _, here, there = bridged(relay)
    one, other = (here, there) if who == "dialler" else (there, here)
    one.stream.session.reset(one.stream)
    relay.run()
    assert other.reset
    settled(relay)


@pytest.mark.parametrize("who", ["dialler", "target"])
def test_a_peer_that_goes_ends_its_circuits(who: str) -> None:
    relay = BridgedRelay()
    alice, bob, here, there = bridged(relay)
    relay.detach(alice if who == "dialler" else bob)
    assert (there if who == "dialler" else here).reset
    settled(relay)


@pytest.mark.parametrize("who", ["dialler", "target"])
def test_the_data_limit_is_exact_each_way(who: str) -> None:
    relay = BridgedRelay(RelayServerPolicy(rate_limits=False, circuit_data=100_000))
    _, _, here, there = bridged(relay)
    one, other = (here, there) if who == "dialler" else (there, here)
    one.send(bytes(100_000))
    relay.run()
    assert len(other.received) == 100_000 and not other.reset
    one.send(b"x")
    relay.run()
    assert len(other.received) == 100_000 and other.reset and one.reset
    settled(relay)


def test_the_time_limit_ends_it() -> None:
    relay = BridgedRelay(RelayServerPolicy(rate_limits=False, circuit_duration=30))
    _, _, here, there = bridged(relay)
    relay.advance(29)
    assert not here.reset and not there.reset
    relay.advance(2)
    assert here.reset and there.reset
    settled(relay)


def test_bytes_are_counted_once() -> None:
    relay = BridgedRelay()
    _, _, here, there = bridged(relay)
    counted: dict[str, int] = {}

    def count() -> int:
        relay.advance(2)
        counted.update({f.name: f.arena.bytes_switched - f._setup.bytes_counted_elsewhere() for f in forwarders})
        return sum(counted.values())

    forwarders = list(relay.forwarders.values())
    here.send(bytes(50_000))
    relay.run()
    assert count() == 50_000
    here.finish()
    there.finish()
    relay.run()
    assert count() == 50_000
    relay._post([])
    assert relay.relay_server.handle(messages.StatusAsked(1, "x"), relay.now)[0].message.bytes_forwarded == 50_000


def test_words_that_come_behind_their_bridge() -> None:
    relay = BridgedRelay()
    alice, bob = attached(relay)
    relay.reserve(bob)
    relay.late_words = []
    view, event = relay.connect(alice, bob.peer_id)
    assert event is None and len(relay.late_words) == 1
    word, relay.late_words = relay.late_words[0], None
    relay._post(relay.forwarders["forwarder/1"].handle(word, relay.now))
    relay.run()
    assert bob.accepted and view.received


def test_words_that_never_come() -> None:
    relay = BridgedRelay(forwarder_policy=ForwarderPolicy(rate_limits=False, stop_timeout=5))
    alice, bob = attached(relay)
    relay.reserve(bob)
    relay.late_words = []
    view, _ = relay.connect(alice, bob.peer_id)
    relay.advance(6)
    client = relay_hop.HopClient()
    client.connect(bob.peer_id)
    client.receive_data(view.take())
    refused = client.next_event()
    assert isinstance(refused, relay_hop.RequestRefused) and refused.status == Status.CONNECTION_FAILED
    settled(relay)


def test_a_bridge_that_never_comes_is_forgotten() -> None:
    relay = BridgedRelay(forwarder_policy=ForwarderPolicy(rate_limits=False, stop_timeout=5))
    alice, bob = attached(relay)
    relay.reserve(bob)
    relay.unreachable = True
    _, event = relay.connect(alice, bob.peer_id)
    assert isinstance(event, relay_hop.RequestRefused) and event.status == Status.CONNECTION_FAILED
    assert relay.forwarders["forwarder/1"]._bridges._expected
    relay.advance(6)
    assert not relay.forwarders["forwarder/1"]._bridges._expected
    settled(relay)


def test_a_target_that_refuses_is_told_as_it_is() -> None:
    relay = BridgedRelay()
    alice, bob = attached(relay)
    relay.reserve(bob)
    bob.accepts = False
    _, event = relay.connect(alice, bob.peer_id)
    assert isinstance(event, relay_hop.RequestRefused)
    assert event.status == Status.CONNECTION_FAILED and "not now" in event.reason
    settled(relay)


def test_a_target_that_left_meanwhile() -> None:
    relay = BridgedRelay()
    alice, bob = attached(relay)
    relay.reserve(bob)
    relay.late_words = []
    view, _ = relay.connect(alice, bob.peer_id)
    relay.detach(bob)
    word, relay.late_words = relay.late_words[0], None
    relay._post(relay.forwarders["forwarder/1"].handle(word, relay.now))
    relay.run()
    client = relay_hop.HopClient()
    client.connect(bob.peer_id)
    client.receive_data(view.take())
    refused = client.next_event()
    assert isinstance(refused, relay_hop.RequestRefused) and refused.status == Status.NO_RESERVATION
    settled(relay)


def test_a_dialler_that_gives_up_while_the_target_thinks() -> None:
    relay = BridgedRelay()
    alice, bob = attached(relay)
    relay.reserve(bob)
    bob.answers = False
    view, _ = relay.connect(alice, bob.peer_id)
    view.stream.session.reset(view.stream)
    relay.run()
    settled(relay)


@pytest.mark.parametrize("number", [0, 1])
def test_a_forwarder_that_falls_costs_only_what_it_held(number: int) -> None:
    relay = BridgedRelay()
    _, _, here, there = bridged(relay)
    carol, dave = MemoryPeer("carol"), MemoryPeer("dave")
    for peer in (carol, dave):
        relay.attach(peer, forwarder=1 - number)
    one, other = relay.circuit(carol, dave)
    relay.lose_forwarder(number)
    survivor = there if number == 0 else here
    assert survivor.reset
    one.send(b"still here")
    relay.run()
    assert other.received == b"still here"
    assert relay.relay_server.circuits_in_all == 1


def test_a_new_relay_server_learns_of_bridged_circuits_once() -> None:
    relay = BridgedRelay()
    bridged(relay)
    relay.relay_server = RelayServer(relay.relay_server.policy, forwarders=NAMES, randomness=relay._random)
    relay._post(relay.relay_server.handle_deadline(relay.now))
    relay.run()
    assert relay.relay_server.circuits_in_all == 1
    assert relay.relay_server.reservations_in_all == 1
    relay.lose_forwarder(1)
    assert relay.relay_server.circuits_in_all == 0


def test_a_token_opens_one_bridge() -> None:
    """Whoever saw a token can do nothing with it."""
    relay = BridgedRelay()
    alice, bob = attached(relay)
    second = relay.forwarders["forwarder/1"]
    relay.reserve(bob)
    relay.late_words = []
    relay.connect(alice, bob.peer_id)
    word, relay.late_words = relay.late_words[0], None
    relay._post(second.handle(word, relay.now))
    relay.run()
    assert len(bob.accepted) == 1 and not second._bridges._expected
    thief = second.accept_bridge(relay.now, plain=True)
    sender = PlainConnection(Switch(Arena()), relay.now, initiator=True, limits=ConnectionLimits())
    StopStream(sender.session.open_stream(), alice.peer_id, None, lambda *answer: None, word.token)
    thief.connection.receive_data(sender.data_to_send(), relay.now)
    second.received(thief, relay.now)
    relay.advance(second.policy.stream_timeout + 1)
    assert len(bob.accepted) == 1
    assert not second._bridges._early and not thief.connection.session.streams


def test_a_bridge_of_another_node_is_closed() -> None:
    """Between hosts both ends prove the node's own identity."""
    relay = BridgedRelay(plain=False)
    second = relay.forwarders["forwarder/1"]
    link = second.accept_bridge(relay.now, plain=False)
    stranger = MemoryPeer("stranger")
    for _ in range(4):
        data = stranger.output()
        if data:
            link.connection.receive_data(data, relay.now)
            second.received(link, relay.now)
        stranger.receive(link.connection.data_to_send(), relay.now)
    assert link.connection.state is State.CLOSED
    assert second.refusals["protocol error: bridge"] == 1
