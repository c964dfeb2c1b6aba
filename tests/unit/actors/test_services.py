"""Actors that speak protocols over a forwarder's connections: streams of both sides, dials, limits, ends."""

from __future__ import annotations

import pytest

from actors import dialling, services
from actors.dialling import STAGGER
from actors.links import ForwarderPolicy
from actors.moves import may_move
from actors.refusals import STREAM_ERROR
from actors.services import FIRST, IDLE, MAX_MESSAGE, MAX_STREAMS_PER_CONNECTION
from protocol import identify, ping
from protocol.messages import ActorDown, ActorUp
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from protocol.wire import frame
from tests.support.forwarders import SERVICE, Network, Node, multiaddr
from tests.support.peers import MemoryPeer, MemoryRelay

KAD = "/descord/kad/1.0.0"
ALICE, BOB = "203.0.113.1", "198.51.100.2"


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def nodes(network: Network) -> tuple[Node, Node]:
    """Bob serves KAD."""
    alice, bob = network.add("alice", ALICE), network.add("bob", BOB)
    bob.serve(KAD)
    return alice, bob


def want(to: Node, payload: bytes | None = b"question", **more: object) -> StreamWanted:
    fields = {"peer": to.peer, "addresses": (multiaddr(to.address),), "protocol": KAD, **more}
    return StreamWanted(request_id=7, asker=SERVICE, payload=payload, **fields)


def test_a_question_and_its_answer_over_a_connection_that_is_dialled(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    assert bob.heard(ForwarderReady) == [ForwarderReady("forwarder/bob", (multiaddr(BOB),))]
    alice.say(want(bob))
    (asked,) = bob.heard(StreamMessage)
    assert (asked.peer, asked.payload, asked.protocol, asked.request_id) == (alice.peer, b"question", KAD, 0)
    assert (asked.address, asked.observed, asked.dialled) == (ALICE, multiaddr(ALICE, 50000), False)
    bob.say(StreamAnswer(asked.stream, b"answer"))
    (answered,) = alice.heard(StreamMessage)
    assert (answered.peer, answered.payload, answered.request_id) == (bob.peer, b"answer", 7)
    assert (answered.observed, answered.dialled) == (multiaddr(BOB), True)
    alice.say(StreamAnswer(answered.stream, b"another"))
    assert [one.payload for one in bob.heard(StreamMessage)] == [b"another"]
    bob.say(StreamAnswer(asked.stream, b"last", finish=True))
    (last,) = alice.heard(StreamMessage)
    alice.say(StreamAnswer(last.stream, None, finish=True))
    assert [(one.code, one.request_id) for one in alice.heard(StreamOver)] == [("finished", 7)]
    assert [(one.code, one.stream) for one in bob.heard(StreamOver)] == [("finished", asked.stream)]
    assert not len(alice.forwarder.services) and not len(bob.forwarder.services)


def test_a_connection_is_used_again_unless_a_fresh_one_is_wanted(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    alice.say(want(bob))
    assert len(bob.heard(StreamMessage)) == 1
    bob.say(want(alice, protocol=ping.PROTOCOL, payload=bytes(32), fixed=32, addresses=()))
    (pong,) = bob.heard(StreamMessage)
    assert pong.payload == bytes(32)
    bob.say(StreamAnswer(pong.stream, b"\1" * 32))
    assert [one.payload for one in bob.heard(StreamMessage)] == [b"\1" * 32]
    assert len(bob.forwarder.links) == 1
    alice.say(want(bob, fresh=True))
    assert len(bob.heard(StreamMessage)) == 1 and len(bob.forwarder.links) == 2


def test_one_that_half_closes_is_answered(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    alice.say(want(bob, finish=True))
    (asked,) = bob.heard(StreamMessage)
    assert not bob.heard(StreamOver), "the service has not answered yet"
    bob.say(StreamAnswer(asked.stream, b"answer"))
    assert [one.payload for one in alice.heard(StreamMessage)] == [b"answer"]
    assert [one.code for one in bob.heard(StreamOver)] == ["finished"]


def test_a_protocol_whose_peer_speaks_first(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    alice.say(want(bob, None, protocol=identify.PROTOCOL, finish=True))
    (told,) = alice.heard(StreamMessage)
    reader = identify.IdentifyReader()
    reader.receive_data(frame(told.payload))
    event = reader.next_event()
    assert event is not None and KAD in event.message.protocols and identify.PROTOCOL in event.message.protocols


def test_it_is_asked_one_thing_at_a_time() -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    stream = alice.open(KAD, b"".join(frame(bytes([n])) for n in range(5)))
    relay.run()
    for number in range(5):
        (asked,) = heard(relay, StreamMessage)
        assert asked.payload == bytes([number])
        tell(relay, StreamAnswer(asked.stream, bytes([number + 100])))
        relay.run()
    assert stream.take() == b"".join(frame(bytes([n + 100])) for n in range(5))


def test_what_a_peer_lays_up_is_bounded_by_its_window() -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    stream = alice.open(KAD, frame(b"first"))
    relay.run()
    stream.send(frame(bytes(100_000)) * 10)
    relay.run()
    assert relay.forwarder.services._buffered <= 256 * 1024
    (asked,) = heard(relay, StreamMessage)
    for _ in range(10):
        tell(relay, StreamAnswer(asked.stream, b""))
        relay.run()
        assert [len(one.payload) for one in heard(relay, StreamMessage)] == [100_000]
    assert relay.forwarder.services._buffered == 0


def test_what_all_lay_up_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_BUFFERED", 300_000)
    relay = served()
    peers = [MemoryPeer(name) for name in "abc"]
    for peer in peers:
        relay.attach(peer)
        stream = peer.open(KAD, frame(b"first"))
        relay.run()
        stream.send(frame(bytes(100_000)))
        stream.send(frame(bytes(100_000)))
        relay.run()
    assert relay.forwarder.services._buffered <= 300_000
    assert relay.forwarder.refusals[STREAM_ERROR + "max_buffered"] == 2
    assert all(peer in relay.links for peer in peers), "the connections live"


@pytest.mark.parametrize("bad", [frame(bytes(MAX_MESSAGE + 1)), b"\xff" * 12, b"\x80\x00"])
def test_a_message_that_is_none_ends_its_stream_and_no_more(bad: bytes) -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    stream, other = alice.open(KAD, bad), alice.open(KAD, frame(b"fine"))
    relay.run()
    assert stream.reset and not other.reset
    assert [one.payload for one in heard(relay, StreamMessage)] == [b"fine"]
    assert len(relay.forwarder.services) == 1


def test_a_bad_one_behind_a_good_one_ends_it_when_its_turn_comes() -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    stream = alice.open(KAD, frame(b"good") + b"\xff" * 12)
    relay.run()
    (asked,) = heard(relay, StreamMessage)
    tell(relay, StreamAnswer(asked.stream, b"answer"))
    relay.run()
    assert stream.reset and [one.code for one in heard(relay, StreamOver)] == ["malformed"]
    assert not len(relay.forwarder.services) and relay.forwarder.services._buffered == 0


def test_a_peer_has_so_many_streams() -> None:
    relay = served()
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice)
    relay.attach(bob)
    streams = [alice.open(KAD) for _ in range(MAX_STREAMS_PER_CONNECTION + 3)]
    relay.run()
    assert sum(stream.reset for stream in streams) == 3
    assert relay.forwarder.refusals[STREAM_ERROR + "max_service_streams"] == 3
    other = bob.open(KAD, frame(b"hello"))
    relay.run()
    assert not other.reset and [one.payload for one in heard(relay, StreamMessage)] == [b"hello"]


def test_those_who_say_nothing_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_STREAMS", 6)
    relay = served()
    idle, honest = MemoryPeer("idle"), MemoryPeer("honest")
    relay.attach(idle)
    relay.attach(honest)
    silent = [idle.open(KAD) for _ in range(6)]
    relay.run()
    asked = [honest.open(KAD, frame(b"question")) for _ in range(6)]
    relay.run()
    assert [stream.reset for stream in silent] == [True] * 6 and not any(stream.reset for stream in asked)
    assert len(heard(relay, StreamMessage)) == 6
    late = idle.open(KAD, frame(b"one too many"))
    relay.run()
    assert late.reset, "all that there are have something to say"
    assert len(relay.forwarder.services) == 6


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_on_which_nothing_is_said_ends(asked: bool) -> None:
    """Whoever is silent: eleven such streams lock another implementation's DHT."""
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    stream = alice.open(KAD, frame(b"question") if asked else b"")
    relay.run()
    relay.advance((IDLE if asked else FIRST) + 1)
    assert stream.reset and not len(relay.forwarder.services)
    (over,) = heard(relay, StreamOver)
    assert over.code == "timeout" and ("service said nothing" if asked else "the peer said nothing") in over.reason


def test_what_came_before_its_end_waits_for_the_service_and_not_for_ever() -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    answered, forgotten = (alice.open(KAD, frame(b"one") + frame(b"two")) for _ in range(2))
    answered.finish()
    forgotten.finish()
    relay.run()
    first, second = heard(relay, StreamMessage)
    tell(relay, StreamAnswer(first.stream, b"answer", finish=True))
    assert [one.payload for one in heard(relay, StreamMessage)] == [b"two"]
    tell(relay, StreamAnswer(first.stream, None))
    assert [one.code for one in heard(relay, StreamOver)] == ["finished"]
    relay.advance(IDLE + 1)
    assert [(one.code, one.stream) for one in heard(relay, StreamOver)] == [("timeout", second.stream)]
    assert not len(relay.forwarder.services) and relay.forwarder.services._buffered == 0


def test_a_service_that_falls_ends_its_streams_and_comes_back() -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    stream = alice.open(KAD, frame(b"question"))
    relay.run()
    heard(relay, ForwarderReady)
    tell(relay, ActorDown(SERVICE))
    relay.run()
    assert stream.reset and not heard(relay, StreamOver)
    refused = alice.open(KAD)
    relay.run()
    assert refused.sink is not None, "nobody agreed to the protocol"
    tell(relay, ActorUp(SERVICE))
    assert len(heard(relay, ForwarderReady)) == 1
    tell(relay, ProtocolsServed(SERVICE, (KAD,)))
    alice.open(KAD, frame(b"again"))
    relay.run()
    assert [one.payload for one in heard(relay, StreamMessage)] == [b"question", b"again"]


def test_other_protocols_are_told_to_peers() -> None:
    relay = served()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    tell(relay, ProtocolsServed(SERVICE, (KAD, "/other/1.0.0", ping.PROTOCOL)))
    relay.advance(1)
    (pushed,) = alice.pushed
    reader = identify.IdentifyReader()
    reader.receive_data(bytes(pushed.received))
    event = reader.next_event()
    assert event is not None and {KAD, "/other/1.0.0"} < set(event.message.protocols)
    tell(relay, ProtocolsServed(SERVICE, ()))
    stream = alice.open(ping.PROTOCOL, bytes(32))
    refused = alice.open(KAD)
    relay.run()
    assert stream.take() == bytes(32), "what the forwarder itself speaks is not taken from it"
    assert refused.sink is not None


def test_nobody_else_is_a_service() -> None:
    relay = served()
    tell(relay, ProtocolsServed("somebody", ("/theirs/1.0.0",)))
    assert "/theirs/1.0.0" not in relay.forwarder.own.served


# Dials.


def test_the_next_address_is_tried_when_one_fails(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    bad = (b"junk", multiaddr("192.0.2.77"), multiaddr("192.0.2.78"), multiaddr(BOB))
    alice.say(want(bob, addresses=bad))
    assert len(bob.heard(StreamMessage)) == 1
    assert network.attempted == {"192.0.2.77": 1, "192.0.2.78": 1, BOB: 1}


def test_one_that_does_not_answer_is_passed_by(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    network.unreachable.add("192.0.2.77")
    alice.say(want(bob, addresses=(multiaddr("192.0.2.77"), multiaddr(BOB))))
    assert not bob.heard(StreamMessage)
    network.advance(STAGGER)
    assert len(bob.heard(StreamMessage)) == 1
    assert len(alice.forwarder.services.dialling) == 0


def test_another_peer_at_the_address_is_not_talked_to(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    carol = network.add("carol", "192.0.2.9")
    carol.serve(KAD)
    alice.say(want(bob, addresses=(multiaddr("192.0.2.9"),)))
    (over,) = alice.heard(StreamOver)
    assert (over.code, over.stream, over.request_id) == ("peer", 0, 7)
    assert not carol.heard(StreamMessage) and not alice.forwarder.links
    alice.say(want(bob, addresses=(multiaddr("192.0.2.9"), multiaddr(BOB))))
    assert len(bob.heard(StreamMessage)) == 1
    alice.say(want(bob, peer=b"", addresses=(multiaddr("192.0.2.9"),)))
    assert len(carol.heard(StreamMessage)) == 1, "who is there was not said"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"addresses": ()}, "dial"),
        ({"addresses": (multiaddr("192.0.2.77"),)}, "dial"),
        ({"protocol": "/nobody/1.0.0"}, "protocol"),
        ({"peer": b"junk"}, "malformed"),
        ({"asker": "stranger"}, "limit"),
    ],
)
def test_what_cannot_be_is_said(nodes: tuple[Node, Node], more: dict[str, object], code: str) -> None:
    alice, bob = nodes
    fields = {"peer": bob.peer, "addresses": (multiaddr(BOB),), "protocol": KAD, "asker": SERVICE, **more}
    message = StreamWanted(request_id=7, payload=b"", **fields)
    said = alice.forwarder.handle(message, alice.network.now)
    alice.network.run()
    over = [send.message for send in said if isinstance(send.message, StreamOver)] + alice.heard(StreamOver)
    assert [(one.code, one.stream) for one in over] == [(code, 0)]
    assert over[0].reason


def test_a_node_does_not_dial_itself(nodes: tuple[Node, Node]) -> None:
    alice, _ = nodes
    alice.say(want(alice))
    assert [one.code for one in alice.heard(StreamOver)] == ["peer"]


def test_a_request_has_its_time(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    network.unreachable.add(BOB)
    alice.say(want(bob, timeout=3.0))
    network.advance(4)
    assert [one.code for one in alice.heard(StreamOver)] == ["timeout"]
    assert not len(alice.forwarder.services.dialling)
    network.unreachable.clear()
    alice.say(want(bob, timeout=3.0))
    assert len(bob.heard(StreamMessage)) == 1
    network.advance(4)
    (over,) = alice.heard(StreamOver)
    assert over.code == "timeout" and over.request_id == 7
    assert [one.code for one in bob.heard(StreamOver)] == ["reset"]


def test_so_many_are_dialled_at_a_time(
    nodes: tuple[Node, Node], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "MAX_DIALS", 2)
    alice, bob = nodes
    network.unreachable |= {f"192.0.2.{n}" for n in range(3)}
    for n in range(3):
        alice.say(want(bob, addresses=(multiaddr(f"192.0.2.{n}"),)))
    assert [one.code for one in alice.heard(StreamOver)] == ["limit"]


def test_dialled_connections_count(network: Network) -> None:
    alice = network.add("alice", ALICE, ForwarderPolicy(rate_limits=False, max_connections=1))
    bob, carol = network.add("bob", BOB), network.add("carol", "192.0.2.9")
    bob.serve(KAD)
    alice.say(want(bob))
    alice.say(want(carol))
    assert [one.code for one in alice.heard(StreamOver)] == ["limit"]
    network.advance(200)
    assert not alice.forwarder.links, "unused, it is closed like any other"
    alice.say(want(bob))
    assert len(alice.forwarder.links) == 1


def test_a_connection_is_released_when_nothing_else_uses_it(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    alice.say(want(bob))
    alice.say(want(bob))
    for asked in bob.heard(StreamMessage):
        bob.say(StreamAnswer(asked.stream, b"answer"))
    first, second = alice.heard(StreamMessage)
    alice.say(StreamAnswer(first.stream, None, reset=True, release=True))
    assert len(alice.forwarder.links) == len(bob.forwarder.links) == 1, "the other is still open"
    alice.say(StreamAnswer(second.stream, None, reset=True, release=True))
    assert not alice.forwarder.links and not bob.forwarder.links
    alice.say(want(bob))
    (asked,) = bob.heard(StreamMessage)
    bob.say(StreamAnswer(asked.stream, None, reset=True, release=True))
    assert len(bob.forwarder.links) == 1, "bob did not dial it"


# Handing over.


def test_streams_of_services_end_when_their_forwarder_hands_over(nodes: tuple[Node, Node], network: Network) -> None:
    alice, bob = nodes
    alice.say(want(bob))
    (asked,) = bob.heard(StreamMessage)
    bob.heard(ForwarderReady)
    (link,) = bob.forwarder.links.values()
    assert not may_move(link, ())
    bob.forwarder.begin_handover("forwarder/new", lambda: None)
    network.run()
    assert [(one.code, one.stream) for one in bob.heard(StreamOver)] == [("gone", asked.stream)]
    assert [one.code for one in alice.heard(StreamOver)] == ["reset"]
    bob.say(want(alice))
    assert [one.code for one in bob.heard(StreamOver)] == ["gone"]
    alice.say(want(bob))
    assert [one.code for one in alice.heard(StreamOver)] == ["protocol"], "it is not served here any more"
    bob.forwarder.handover_failed()
    assert len(bob.heard(ForwarderReady)) == 1
    bob.serve(KAD)
    alice.say(want(bob))
    assert len(bob.heard(StreamMessage)) == 1


def served() -> MemoryRelay:
    relay = MemoryRelay(services=[SERVICE])
    tell(relay, ProtocolsServed(SERVICE, (KAD,)))
    return relay


def tell(relay: MemoryRelay, message: object) -> None:
    relay._post(relay.forwarder.handle(message, relay.now))  # type: ignore[arg-type]


def heard(relay: MemoryRelay, kind: type) -> list:
    relay.run()
    found = [message for message in relay.told if isinstance(message, kind)]
    relay.told = [message for message in relay.told if not isinstance(message, kind)]
    return found
