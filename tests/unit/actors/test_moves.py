"""Diallers' connections that move to their targets' forwarders."""

from __future__ import annotations

import msgspec
import pytest

from actors.links import ForwarderPolicy
from actors.moves import MoveState, decode
from actors.relay_server import RelayServerPolicy
from protocol import messages, relay_hop
from protocol.codec import CodecError
from protocol.errors import LocalProtocolError
from protocol.relay_hop import Status
from tests.support.bridged import NAMES, BridgedRelay
from tests.support.peers import MemoryPeer, MemoryStream

FIRST, SECOND = NAMES


def attached(relay: BridgedRelay) -> tuple[MemoryPeer, MemoryPeer]:
    """A dialler on the first forwarder, a target on the second."""
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    return alice, bob


def carries(relay: BridgedRelay, here: MemoryStream, there: MemoryStream) -> None:
    for sender, receiver in ((here, there), (there, here)):
        sender.send(b"m" * 100_000)
        relay.run()
        assert receiver.take() == b"m" * 100_000


def test_the_circuit_is_local_where_the_target_is() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    here, there = relay.circuit(alice, bob)
    carries(relay, here, there)
    assert relay.moved == 1 and relay.home[alice] is relay.forwarders[SECOND]
    assert not relay.forwarders[FIRST].links and not relay.bridges
    assert len(relay.forwarders[SECOND].circuits) == relay.relay_server.circuits_in_all == 1
    here.finish()
    there.finish()
    relay.run()
    assert relay.relay_server.circuits_in_all == 0


def test_a_second_circuit_needs_no_move() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    first = relay.circuit(alice, bob)
    second = relay.circuit(alice, bob)
    assert relay.moved == 1
    carries(relay, *first)
    carries(relay, *second)


def test_circuits_asked_for_at_once() -> None:
    """The first moves the connection; what was asked meanwhile is asked again from there."""
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    relay.reserve(bob)
    views = []
    for _ in range(5):
        view, client = alice.hop()
        client.connect(bob.peer_id)
        view.send(client.data_to_send())
        views.append((view, client))
    relay.run()
    for view, client in views:
        client.receive_data(view.take())
        assert isinstance(client.next_event(), relay_hop.ConnectAccepted)
    assert relay.moved == 1
    assert relay.relay_server.circuits_in_all == len(relay.forwarders[SECOND].circuits) == 5


def test_a_dialler_with_a_circuit_or_a_reservation_stays() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    carol = MemoryPeer("carol")
    relay.attach(carol, forwarder=0)
    local = relay.circuit(alice, carol)
    bridged = relay.circuit(alice, bob)
    reserved = relay.circuit(carol, bob)
    assert relay.moved == 0 and relay.bridges
    for pair in (local, bridged, reserved):
        carries(relay, *pair)


def test_circuits_to_two_places_asked_for_at_once() -> None:
    """It cannot be in both."""
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    carol = MemoryPeer("carol")
    relay.attach(carol, forwarder=0)
    for peer in (bob, carol):
        relay.reserve(peer)
    asked = []
    for peer in (bob, carol, bob):
        view, client = alice.hop()
        client.connect(peer.peer_id)
        view.send(client.data_to_send())
        asked.append((view, client))
    relay.run()
    for view, client in asked:
        client.receive_data(view.take())
        assert isinstance(client.next_event(), relay_hop.ConnectAccepted)
    standing = [abs(number) for forwarder in relay.forwarders.values() for number in forwarder.circuits]
    assert len(set(standing)) == relay.relay_server.circuits_in_all == 3
    for (view, _), there in zip(asked, (bob.accepted[0], carol.accepted[0], bob.accepted[1]), strict=True):
        carries(relay, view, there)


def test_it_is_bridged_when_it_cannot_be_sent() -> None:
    relay = BridgedRelay(moves=True)
    relay.immovable = True
    alice, bob = attached(relay)
    here, there = relay.circuit(alice, bob)
    assert relay.moved == 0 and relay.bridges and relay.home[alice] is relay.forwarders[FIRST]
    carries(relay, here, there)


def test_the_setting_forbids_it() -> None:
    relay = BridgedRelay(RelayServerPolicy(rate_limits=False, move_diallers=False), moves=True)
    alice, bob = attached(relay)
    carries(relay, *relay.circuit(alice, bob))
    assert relay.moved == 0 and relay.bridges


def test_forwarders_of_two_hosts_do_not_try() -> None:
    relay = BridgedRelay(plain=False, moves=True)
    alice, bob = attached(relay)
    carries(relay, *relay.circuit(alice, bob))
    assert relay.moved == 0


def test_the_word_comes_behind_the_connection() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    relay.reserve(bob)
    relay.late_words = []
    view, event = relay.connect(alice, bob.peer_id)
    assert event is None and relay.moved == 1 and not bob.accepted
    word, relay.late_words = relay.late_words[0], None
    relay._post(relay.forwarders[SECOND].handle(word, relay.now))
    relay.run()
    assert bob.accepted and view.received
    assert not relay.forwarders[SECOND]._bridges._arrived


def test_the_word_never_comes() -> None:
    relay = BridgedRelay(forwarder_policy=ForwarderPolicy(rate_limits=False, stop_timeout=5), moves=True)
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
    assert relay.relay_server.circuits_in_all == 0 and not relay.forwarders[SECOND]._bridges._arrived
    # The connection is as good as ever.
    relay.late_words = None
    carries(relay, *relay.circuit(alice, bob))


def test_the_word_is_of_another_dialler() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    relay.reserve(bob)
    relay.late_words = []
    relay.connect(alice, bob.peer_id)
    word, relay.late_words = relay.late_words[0], None
    forged = msgspec.structs.replace(word, source=bob.peer_id.bytes)
    relay._post(relay.forwarders[SECOND].handle(forged, relay.now))
    relay.run()
    assert not bob.accepted and relay.relay_server.circuits_in_all == 0


def test_a_dialler_that_goes_at_once() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    relay.reserve(bob)
    bob.answers = False
    view, _ = relay.connect(alice, bob.peer_id)
    assert relay.moved == 1
    view.stream.session.reset(view.stream)
    relay.run()
    assert relay.relay_server.circuits_in_all == 0 and not relay.forwarders[SECOND]._setup.opening


@pytest.mark.parametrize("number", [0, 1])
def test_what_falls_with_a_forwarder(number: int) -> None:
    """Once moved, a dialler has nothing to do with the forwarder that it came to first."""
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    here, there = relay.circuit(alice, bob)
    relay.lose_forwarder(number)
    if number == 0:
        carries(relay, here, there)
        assert relay.relay_server.circuits_in_all == 1
    else:
        assert relay.relay_server.circuits_in_all == 0


def test_state_of_another_version_or_none() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    relay.reserve(bob)
    sent: list[MoveState] = []
    first = relay.forwarders[FIRST]
    original = first.move_out
    first.move_out = lambda *words: sent.append(original(*words)) or sent[-1]  # type: ignore[func-returns-value]
    relay.connect(alice, bob.peer_id)
    state = msgspec.structs.replace(sent[0], version=sent[0].version + 1)
    with pytest.raises(LocalProtocolError, match="version"):
        decode(msgspec.msgpack.encode(state))
    with pytest.raises(CodecError):
        decode(msgspec.msgpack.encode(sent[0])[:-1])


def test_counts_of_addresses_move_along() -> None:
    relay = BridgedRelay(moves=True)
    alice, bob = attached(relay)
    relay.circuit(alice, bob)
    assert not relay.forwarders[FIRST]._links._crowd.of("192.0.2.7")
    assert relay.forwarders[SECOND]._links._crowd.of("192.0.2.7") == 2
    report = relay.forwarders[SECOND]._report()
    assert isinstance(report, messages.ForwarderReport) and len(report.circuits) == 1
