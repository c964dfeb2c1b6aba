"""What a peer sends before it was answered: kept within bounds, in order, and never at another's cost."""

from __future__ import annotations

import gc
import weakref

import pytest

from actors.inbound_streams import QuietOwner
from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import identify, messages, relay_hop
from protocol.relay_hop import HopClient
from tests.support.bridged import BridgedRelay
from tests.support.peers import MemoryPeer, MemoryRelay, MemoryStream


def pair(relay: MemoryRelay) -> tuple[MemoryPeer, MemoryPeer]:
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice)
    if isinstance(relay, BridgedRelay):
        relay.attach(bob, forwarder=1)
    else:
        relay.attach(bob)
    relay.reserve(bob)
    return alice, bob


def asked(peer: MemoryPeer, target: MemoryPeer | None, behind: bytes = b"") -> tuple[MemoryStream, HopClient]:
    """A request to reserve or to connect, with ``behind`` in the same write."""
    view, client = peer.hop()
    if target is None:
        client.reserve()
    else:
        client.connect(target.peer_id)
    view.send(client.data_to_send() + behind)
    return view, client


@pytest.mark.parametrize("size", [5_000, 70_000, 200_000])
@pytest.mark.parametrize("request_kind", ["reserve", "connect"])
@pytest.mark.parametrize("answers", [True, False])
def test_too_much_ahead_of_the_answer_costs_that_stream_alone(size: int, request_kind: str, answers: bool) -> None:
    """The answer came for a stream that was finished already: that ended the target's connection, or the forwarder."""
    relay = MemoryRelay()
    alice, bob = pair(relay)
    honest = relay.circuit(alice, bob)
    bob.answers = answers
    mallory = MemoryPeer("mallory")
    relay.attach(mallory)
    view, _ = asked(mallory, bob if request_kind == "connect" else None, b"x" * size)
    relay.run()
    relay.advance(40)
    bob.answers = True
    honest[0].send(b"unharmed")
    relay.run()
    assert honest[1].received == b"unharmed"
    assert bob.error is None and alice.error is None
    if request_kind == "connect":
        assert view.reset
        assert relay.relay_server.circuits_in_all == len(relay.forwarder.circuits) == 1
    assert not relay.forwarder._setup.asked and not relay.forwarder._setup.opening
    relay.connect(mallory, bob.peer_id)


def test_a_little_ahead_of_the_answer_arrives() -> None:
    relay = MemoryRelay()
    alice, bob = pair(relay)
    asked(alice, bob, b"hello")
    relay.run()
    assert bob.accepted[0].received == b"hello"


@pytest.mark.parametrize("make", [MemoryRelay, BridgedRelay])
def test_an_end_does_not_overtake_what_was_sent_before_it(make: type[MemoryRelay]) -> None:
    """CONNECT, the request and FIN in one go; the same from the target behind its OK."""
    relay = make()
    alice, bob = pair(relay)
    view, client = asked(alice, bob, b"request")
    view.finish()
    relay.run()
    there = bob.accepted[0]
    assert there.received == b"request" and there.finished
    there.send(b"response")
    there.finish()
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), relay_hop.ConnectAccepted)
    assert client.trailing_data() == b"response" and view.finished
    assert not relay.forwarder.circuits and not relay.relay_server.circuits_in_all


@pytest.mark.parametrize("make", [MemoryRelay, BridgedRelay])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_target_that_answers_speaks_and_ends_in_one_go(make: type[MemoryRelay], frames: int) -> None:
    relay = make()
    alice, bob = pair(relay)
    bob.answers = False
    view, client = asked(alice, bob)
    relay.run()
    bob.answer_late()
    there = bob.accepted[0]
    for _ in range(frames):
        there.send(b"hello")
    there.finish()
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), relay_hop.ConnectAccepted)
    assert client.trailing_data() == b"hello" * frames and view.finished


def test_a_refused_stream_keeps_nothing_and_ends_in_time() -> None:
    relay = MemoryRelay()
    alice, bob = pair(relay)
    bob.accepts = False
    view, _ = asked(alice, bob, b"x" * 3000)
    relay.run()
    stream = next(iter(relay.links[alice].connection.session.streams.values()))
    assert type(stream.owner) is QuietOwner, "the machine with what came early is gone"
    assert not view.reset
    relay.advance(relay.forwarder.policy.stream_timeout + 1)
    assert view.reset and not relay.links[alice].connection.session.streams


@pytest.mark.parametrize("how", ["reset", "connection lost", "finished both ways", "time"])
def test_what_ended_is_freed_without_a_collection(how: str) -> None:
    """A cycle of stream and owner lives until the garbage collector looks at the oldest objects, hours later."""
    relay = MemoryRelay()
    alice, _ = pair(relay)
    view = alice.open(identify.PUSH_PROTOCOL)
    relay.run()
    stream = relay.links[alice].connection.session.streams[view.stream.id]
    owner = weakref.ref(_Held.of(stream.owner))
    del stream
    gc.disable()
    try:
        match how:
            case "reset":
                view.stream.session.reset(view.stream)
                relay.run()
            case "connection lost":
                relay.detach(alice)
            case "finished both ways":
                view.send(b"\0")
                view.finish()
                relay.run()
            case "time":
                relay.advance(relay.forwarder.policy.stream_timeout + 1)
        assert owner() is None
    finally:
        gc.enable()


class _Held:
    """Something that lives as long as the owner that it is put into."""

    @classmethod
    def of(cls, owner: object) -> _Held:
        held = cls()
        machine = owner._machine  # type: ignore[attr-defined]
        machine._trailing = held
        return held


def test_an_end_that_comes_while_the_question_waits() -> None:
    """RelayServer starts: the end of a reservation must not be forgotten because its beginning waits."""
    server = RelayServer(RelayServerPolicy(rate_limits=False), forwarders=("forwarder/0",))
    server.handle_deadline(1000.0)
    server.handle(messages.ReserveAsked(1, "forwarder/0", 7, b"peer", "192.0.2.1"), 1000.0)
    server.handle(messages.ReservationEnded("forwarder/0", 7, b"peer"), 1000.1)
    sends = server.handle(messages.ForwarderReport("forwarder/0", 1, (), ()), 1000.2)
    assert server.reservations_in_all == 0 and not sends


@pytest.mark.parametrize("ahead", [5_000, 70_000])
def test_an_error_does_not_keep_what_led_to_it(ahead: int) -> None:
    """A traceback that somebody keeps, be it in a frame that it leads to, keeps bytes and machine with it."""
    relay = MemoryRelay()
    alice, bob = pair(relay)
    gc.collect()
    gc.disable()
    try:
        view, _ = asked(alice, bob, b"x" * ahead)
        relay.run()
        assert view.reset
        alice.streams.clear()
        del view
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(one).__name__ for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not {"frame", "traceback", "HopStream", "HopServer", "RemoteProtocolError"} & set(left)
