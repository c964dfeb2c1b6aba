"""A RelayServer that starts anew knows what its forwarders hold, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable

from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import messages
from protocol.relay_hop import ConnectAccepted, RequestRefused, ReservationGranted, Status
from tests.support.peers import MemoryPeer, MemoryRelay, MemoryStream


def restart(relay: MemoryRelay, **policy: float) -> None:
    """As the runtime does it: a new RelayServer, whose first deadline is due at once."""
    relay.relay_server = RelayServer(RelayServerPolicy(rate_limits=False, **policy), forwarders=("forwarder/0",))
    relay._post(relay.relay_server.handle_deadline(relay.now))
    relay.run()


def attached(relay: MemoryRelay, *names: str) -> list[MemoryPeer]:
    peers = [MemoryPeer(name) for name in names]
    for peer in peers:
        relay.attach(peer)
    return peers


def test_reservations_and_circuits_outlive_it() -> None:
    relay = MemoryRelay()
    alice, bob = attached(relay, "alice", "bob")
    here, there = relay.circuit(alice, bob)
    restart(relay)
    assert (relay.relay_server.reservations_in_all, relay.relay_server.circuits_in_all) == (1, 1)
    here.send(b"still joined")
    relay.run()
    assert there.take() == b"still joined"
    assert isinstance(relay.connect(alice, bob.peer_id)[1], ConnectAccepted)
    here.stream.session.reset(here.stream)
    relay.run()
    assert relay.relay_server.circuits_in_all == 1


def test_limits_hold_over_it() -> None:
    relay = MemoryRelay()
    alice, bob, carol = attached(relay, "alice", "bob", "carol")
    relay.circuit(alice, bob)
    restart(relay, max_reservations=1, max_circuits=1)
    refused = relay.reserve(carol)
    assert isinstance(refused, RequestRefused) and "max_reservations" in refused.reason
    refused = relay.connect(alice, bob.peer_id)[1]
    assert isinstance(refused, RequestRefused) and "max_circuits" in refused.reason


def test_the_number_of_a_circuit_that_is_being_made_is_not_given_again() -> None:
    relay = MemoryRelay()
    alice, bob, carol = attached(relay, "alice", "bob", "carol")
    relay.reserve(bob)
    bob.answers = False
    waiting, client = alice.hop()
    client.connect(bob.peer_id)
    waiting.send(client.data_to_send())
    relay.run()
    restart(relay)
    assert relay.relay_server.circuits_in_all == 1
    bob.answers = True
    assert isinstance(relay.connect(carol, bob.peer_id)[1], ConnectAccepted)
    bob.answer_late()
    relay.run()
    client.receive_data(waiting.take())
    assert isinstance(client.next_event(), ConnectAccepted)
    assert len(relay.forwarder.circuits) == relay.relay_server.circuits_in_all == 2


def test_what_was_asked_while_it_was_gone_is_asked_again() -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    post, lost = relay._post, []
    relay._post = lambda sends: bool(lost.extend(sends))  # RelayServer is down: its mail is gone with it
    view, client = alice.hop()
    client.reserve()
    view.send(client.data_to_send())
    relay.run()
    assert lost and not view.received
    relay._post = post
    restart(relay)
    client.receive_data(view.take())
    assert isinstance(client.next_event(), ReservationGranted)


def test_a_question_that_the_relay_server_falls_over_is_not_asked_for_ever() -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    asked = []
    relay._post = lambda sends: bool(asked.extend(sends))
    view, client = alice.hop()
    client.reserve()
    view.send(client.data_to_send())
    relay.run()
    for _ in range(3):
        relay.forwarder.handle(messages.ReportWanted(), relay.now)
    relay.run()
    client.receive_data(view.take())
    refused = client.next_event()
    assert isinstance(refused, RequestRefused) and "could not decide" in refused.reason


def asked_and_not_answered(relay: MemoryRelay, peer: MemoryPeer) -> tuple[MemoryStream, Callable[[], None]]:
    """The stream on which ``peer`` asked to reserve; and what has RelayServer hear of it at last."""
    post, late = relay._post, []
    relay._post = lambda sends: bool(late.extend(sends))
    view, client = peer.hop()
    client.reserve()
    view.send(client.data_to_send())
    relay.run()

    def answer() -> None:
        relay._post = post
        post(late)
        relay.run()

    return view, answer


def test_a_reservation_that_nobody_waits_for_any_more_ends_with_its_connection() -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    view, answer = asked_and_not_answered(relay, alice)
    view.stream.session.reset(view.stream)
    relay.run()
    answer()
    assert relay.relay_server.reservations_in_all == 1
    relay.detach(alice)
    assert relay.relay_server.reservations_in_all == 0


def test_a_reservation_whose_peer_left_before_the_answer_is_freed() -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    _, answer = asked_and_not_answered(relay, alice)
    relay.detach(alice)
    answer()
    assert relay.relay_server.reservations_in_all == 0


def test_a_circuit_goes_to_the_peer_that_was_meant_or_to_none() -> None:
    relay = MemoryRelay()
    alice, bob, carol = attached(relay, "alice", "bob", "carol")
    relay.reserve(carol)
    view, client = alice.hop()
    client.connect(bob.peer_id)
    post = relay._post

    def forged(sends: list) -> bool:
        answers = [
            messages.ConnectAdmitted(
                request_id=send.message.request_id,
                connection=send.message.connection,
                circuit=1,
                target=bob.peer_id.bytes,
                target_forwarder="forwarder/0",
                target_connection=relay.links[carol].id,
                limit_duration=0,
                limit_data=0,
            )
            for send in sends
            if isinstance(send.message, messages.ConnectAsked)
        ]
        for answer in answers:
            post(relay.forwarder.handle(answer, relay.now))
        return bool(answers)

    relay._post = forged
    view.send(client.data_to_send())
    relay.run()
    client.receive_data(view.take())
    refused = client.next_event()
    assert isinstance(refused, RequestRefused) and refused.status == Status.NO_RESERVATION
    assert not carol.accepted
