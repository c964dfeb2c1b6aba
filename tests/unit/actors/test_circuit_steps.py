"""What is recorded of requests and circuits: one process or several, one forwarder or two, whatever becomes of them."""

from __future__ import annotations

import pytest

from actors.circuit_steps import MAX_WATCHED
from actors.end_codes import OTHER, failure_code
from actors.links import ForwarderPolicy
from actors.relay_server import RelayServerPolicy
from protocol.connection import ConnectionLimits
from tests.support.bridged import BridgedRelay
from tests.support.handover import MovingRelay
from tests.support.peers import START, MemoryPeer, MemoryRelay, MemoryStream
from tests.support.traces import Collector
from tracing.spans import Status as SpanStatus

CIRCUIT = ["circuit", "hop.connect", "relay.admit", "splice", "stop.connect"]
RATIOS = pytest.mark.parametrize("ratio", [0.0, 1.0], ids=["kept", "recorded"])
PROCESSES = pytest.mark.parametrize("shared", [True, False], ids=["one process", "several"])


def relay_of(collector: Collector, **policy: float) -> tuple[MemoryRelay, MemoryPeer, MemoryPeer]:
    relay = MemoryRelay(RelayServerPolicy(rate_limits=False, **policy), tracer=collector.tracer)  # type: ignore[arg-type]
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    for peer in (alice, bob):
        relay.attach(peer)
    return relay, alice, bob


def reserved(collector: Collector, **policy: float) -> tuple[MemoryRelay, MemoryPeer, MemoryPeer]:
    """Bob has a reservation; what was recorded of that is gone."""
    relay, alice, bob = relay_of(collector, **policy)
    relay.reserve(bob)
    collector.spans.clear()
    return relay, alice, bob


def close(relay: MemoryRelay, *views: MemoryStream) -> None:
    for view in views:
        view.finish()
    relay.run()


@PROCESSES
def test_a_reservation_is_one_trace(shared: bool) -> None:
    collector = Collector(shared=shared)
    relay, _, bob = relay_of(collector)
    relay.reserve(bob)
    assert collector.names == ["hop.reserve", "relay.reserve", "reservation"]
    collector.check("reservation")
    root = collector.one("reservation")
    assert str(root.attributes["descord.peer"]).startswith("peer-")
    assert str(root.attributes["network.peer.address"]).startswith("address-")


@PROCESSES
def test_a_circuit_is_one_trace(shared: bool) -> None:
    collector = Collector(shared=shared)
    relay, alice, bob = reserved(collector)
    here, there = relay.circuit(alice, bob)
    collector.spans[:] = [span for span in collector.spans if span.name in CIRCUIT]
    assert collector.names == ["hop.connect", "relay.admit", "stop.connect"]
    relay.now += 5
    here.send(b"x" * 1000)
    relay.run()
    there.send(b"y" * 10)
    close(relay, here, there)
    assert collector.names == CIRCUIT
    collector.check("circuit")
    splice, root = collector.one("splice"), collector.one("circuit")
    for span in (splice, root):
        assert span.attributes["descord.bytes_to_target"] == 1000
        assert span.attributes["descord.bytes_to_source"] == 10
        assert span.attributes["descord.close_reason"] == "finished"
    assert splice.attributes["descord.class"] == "public"
    assert [(event.name, event.time, event.attributes) for event in splice.events] == [
        ("first byte", START + 5, {"to": "target"}),
        ("first byte", START + 5, {"to": "source"}),
    ]
    assert collector.one("relay.admit").attributes["descord.circuit"] == root.attributes["descord.circuit"]
    assert all(span.status is not SpanStatus.ERROR for span in collector.spans)


@pytest.mark.parametrize("plain", [True, False], ids=["one host", "two hosts"])
def test_a_bridged_circuit_is_one_trace_of_three_processes(plain: bool) -> None:
    collector = Collector(shared=False)
    relay = BridgedRelay(plain=plain, tracer=collector.tracer)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    relay.reserve(bob)
    collector.spans.clear()
    view, _ = relay.connect(alice, bob.peer_id)
    view.send(b"x")
    close(relay, view, bob.accepted[-1])
    assert collector.names == sorted([*CIRCUIT, "bridge.connect", "splice"])
    first, second = (span for span in collector.spans if span.name == "splice")
    second.name = "splice there"
    collector.check("circuit")
    assert {collector.by[span.span_id] for span in (first, second)} == {"forwarder/0", "forwarder/1"}
    assert collector.by[collector.one("stop.connect").span_id] == "forwarder/1"
    assert collector.by[collector.one("circuit").span_id] == "forwarder/0"
    assert [event.name for event in first.events] == [event.name for event in second.events] == ["first byte"]


@PROCESSES
def test_a_circuit_whose_dialler_moved_is_one_trace(shared: bool) -> None:
    """Its request began on one forwarder and is answered on another, which has no bridge to tell of."""
    collector = Collector(shared=shared)
    relay = BridgedRelay(moves=True, tracer=collector.tracer)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    relay.reserve(bob)
    collector.spans.clear()
    view, _ = relay.connect(alice, bob.peer_id)
    view.send(b"x")
    close(relay, view, bob.accepted[-1])
    assert relay.moved == 1
    assert collector.names == CIRCUIT
    collector.check("circuit")
    assert [event.name for event in collector.one("splice").events] == ["first byte"]


def test_the_word_of_a_bridge_may_come_late() -> None:
    collector = Collector(shared=False)
    relay = BridgedRelay(tracer=collector.tracer)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    relay.reserve(bob)
    collector.spans.clear()
    relay.late_words = []
    relay.connect(alice, bob.peer_id)
    (word,), relay.late_words = relay.late_words, None
    relay._post(relay.forwarders["forwarder/1"].handle(word, relay.now))
    relay.run()
    stop = collector.one("stop.connect")
    assert stop.parent_id == collector.one("hop.connect").parent_id != b""


@RATIOS
@PROCESSES
def test_a_refused_circuit_is_always_kept(ratio: float, shared: bool) -> None:
    collector = Collector(ratio, shared=shared)
    relay, alice, bob = relay_of(collector)
    relay.connect(alice, bob.peer_id)
    assert collector.names == ["circuit", "hop.connect", "relay.admit"]
    collector.check("circuit")
    assert {span.status for span in collector.spans} == {SpanStatus.ERROR}
    assert collector.one("relay.admit").attributes["descord.refused_by"] == "no_reservation"
    root = collector.one("circuit")
    assert (root.description, root.attributes["descord.status"]) == ("no_reservation", "NO_RESERVATION")


@RATIOS
@PROCESSES
def test_a_refused_reservation_is_always_kept(ratio: float, shared: bool) -> None:
    collector = Collector(ratio, shared=shared)
    relay, alice, _ = reserved(collector, max_reservations=1)
    relay.reserve(alice)
    assert collector.names == ["hop.reserve", "relay.reserve", "reservation"]
    collector.check("reservation")
    assert collector.one("relay.reserve").description == "max_reservations"


@RATIOS
@PROCESSES
@pytest.mark.parametrize("how", ["refused", "timeout", "vanished"])
def test_a_circuit_that_the_target_does_not_take_is_kept_with_what_came_before(
    ratio: float, shared: bool, how: str
) -> None:
    collector = Collector(ratio, shared=shared)
    relay, alice, bob = reserved(collector)
    if how == "refused":
        bob.accepts = False
    else:
        bob.answers = False
    relay.connect(alice, bob.peer_id)
    if how == "timeout":
        relay.advance(16)
    elif how == "vanished":
        relay.detach(bob)
    assert collector.names == ["circuit", "hop.connect", "relay.admit", "stop.connect"]
    collector.check("circuit")
    code = {"refused": "target_refused", "timeout": "stop_timeout", "vanished": "target_reset"}[how]
    assert collector.one("stop.connect").description == collector.one("circuit").description == code
    assert collector.one("relay.admit").status is SpanStatus.UNSET
    assert relay.forwarder.steps.failed == {code: 1}


def test_a_dialler_that_leaves_is_recorded() -> None:
    collector = Collector(0.0)
    relay, alice, bob = reserved(collector)
    bob.answers = False
    relay.connect(alice, bob.peer_id)
    relay.detach(alice)
    assert collector.one("circuit").description == "dialler_left"
    collector.check("circuit")
    assert relay.forwarder.steps.failed == {"dialler_left": 1}


def test_nothing_is_exported_of_what_is_not_recorded_and_went_well() -> None:
    collector = Collector(0.0, shared=False)
    relay, alice, bob = reserved(collector)
    here, there = relay.circuit(alice, bob)
    here.send(b"x")
    close(relay, here, there)
    assert collector.spans == []
    assert [tracer.open_traces for tracer in collector.tracers.values()] == [0] * len(collector.tracers)


@RATIOS
@pytest.mark.parametrize(
    ("end", "code", "kept"),
    [("data", "data_limit", False), ("time", "time_limit", False), ("reset", "reset", False),
     ("left", "connection_closed", False), ("lost", "connection_lost", True), ("silent", "keepalive_timeout", True),
     ("broke", "protocol_error", True)],
)  # fmt: skip
def test_how_a_circuit_ends(ratio: float, end: str, code: str, kept: bool) -> None:
    collector = Collector(ratio)
    policy = RelayServerPolicy(rate_limits=False, circuit_data=100, circuit_duration=30 if end == "time" else 0)
    limits = ConnectionLimits(keepalive_interval=10 if end == "silent" else 0)
    relay = MemoryRelay(policy, ForwarderPolicy(rate_limits=False, connection=limits), tracer=collector.tracer)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    for peer in (alice, bob):
        relay.attach(peer)
    here, _ = relay.circuit(alice, bob)
    collector.spans.clear()
    match end:
        case "data":
            here.send(bytes(101))
            relay.run()
        case "time":
            relay.advance(31)
        case "reset":
            here.stream.session.reset(here.stream)
            relay.run()
        case "left":
            relay.detach(alice)
        case "lost":
            relay.forwarder.lost(relay.links.pop(alice), "connection lost: Connection reset by peer", relay.now)
        case "silent":
            relay.stalled.add(bob)
            relay.advance(60)
            relay.forwarder.lost(relay.links.pop(bob), "connection closed", relay.now)
        case "broke":
            link = relay.links.pop(alice)
            link.connection.receive_data(bytes(100), relay.now)
            relay.forwarder.received(link, relay.now)
            relay.forwarder.lost(link, "connection closed", relay.now)
    assert relay.forwarder.steps.ended_by == {code: 1}
    if not ratio and not kept:
        assert collector.spans == []
        return
    root, splice = collector.one("circuit"), collector.one("splice")
    assert root.attributes["descord.close_reason"] == code
    assert (root.status is SpanStatus.ERROR) is kept is (splice.status is SpanStatus.ERROR)
    limit = [event.attributes for event in splice.events if event.name == "limit"]
    assert limit == ([{"limit": code}] if code.endswith("limit") else [])


def test_first_bytes_of_circuits_that_are_not_watched_are_seen_within_a_second() -> None:
    collector = Collector()
    relay, alice, bob = reserved(collector)
    ends = [relay.circuit(alice, bob) for _ in range(MAX_WATCHED + 3)]
    assert len(relay.forwarder.steps.watched) == MAX_WATCHED
    relay.now += 10
    for here, there in ends:
        here.send(b"x")
        there.send(b"y")
    relay.run()
    assert not relay.forwarder.steps.watched
    assert len(relay.forwarder.steps._late) == 3
    relay.advance(1)
    assert not relay.forwarder.steps._late
    for here, there in ends:
        close(relay, here, there)
    splices = [span for span in collector.spans if span.name == "splice"]
    assert len(splices) == len(ends)
    assert all({START + 10} == {event.time for event in span.events} for span in splices)


@pytest.mark.parametrize("when", ["asked", "stands"])
def test_a_circuit_that_is_handed_over_goes_on_with_its_trace(when: str) -> None:
    collector = Collector(shared=False)
    relay = MovingRelay(RelayServerPolicy(rate_limits=False), tracer=collector.tracer)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    for peer in (alice, bob):
        relay.attach(peer)
    relay.reserve(bob)
    collector.spans.clear()
    if when == "stands":
        here, there = relay.circuit(alice, bob)
        collector.spans[:] = [span for span in collector.spans if span.name in CIRCUIT]
        here.send(b"x")
        relay.run()
        relay.hand_over(shift=1e-9)
    else:
        bob.answers = False
        here, client = alice.hop()
        client.connect(bob.peer_id)
        here.send(client.data_to_send())
        relay.run()
        relay.hand_over(shift=1e-9)
        bob.answer_late()
        relay.run()
        there = bob.accepted[-1]
    relay.now += 1
    close(relay, here, there)
    assert collector.names == CIRCUIT
    collector.check("circuit")
    root, splice = collector.one("circuit"), collector.one("splice")
    assert collector.by[root.span_id] == collector.by[splice.span_id] == "forwarder/0.1"
    if when == "stands":
        assert [event.name for event in splice.events] == ["first byte", "hand-off"]
        assert collector.by[collector.one("stop.connect").span_id] == "forwarder/0"
        assert relay.forwarder.steps.hand_offs == 1
    else:
        assert [event.name for event in root.events] == ["hand-off"]
        assert collector.by[collector.one("stop.connect").span_id] == "forwarder/0.1"


def test_a_hand_over_that_comes_to_nothing_leaves_the_trace_where_it_was() -> None:
    collector = Collector(0.0)
    relay, alice, bob = reserved(collector)
    relay.circuit(alice, bob)
    steps, (circuit,) = relay.forwarder.steps, relay.forwarder.circuits.values()
    assert steps.splice_state(circuit) == steps.splice_state(circuit)
    relay.forwarder.lost(relay.links.pop(alice), "connection lost: reset", relay.now)
    relay.run()
    assert collector.names == CIRCUIT
    collector.check("circuit")


@RATIOS
def test_circuits_of_a_forwarder_that_fell_are_recorded(ratio: float) -> None:
    collector = Collector(ratio, shared=False)
    relay, alice, bob = reserved(collector)
    relay.circuit(alice, bob)
    relay.forwarder.steps.fell(relay.now + 1)
    assert {"circuit", "hop.connect", "stop.connect", "splice"} <= set(collector.names)
    assert collector.one("circuit").description == "forwarder_fell"
    assert collector.tracers["forwarder/0"].open_traces == 0


def test_a_peers_words_are_no_reason() -> None:
    assert failure_code("the target refused: 12D3KooW and 203.0.113.7") == "target_refused"
    assert failure_code("203.0.113.7") == OTHER


def test_handshakes_that_failed_are_counted_by_why() -> None:
    relay = MemoryRelay()
    for junk, reason in ((b"GET / HTTP/1.1\r\n\r\n", "connection closed"), (b"", "connection lost: reset")):
        link = relay.forwarder.accept("192.0.2.9", b"", b"", relay.now)
        link.connection.receive_data(junk, relay.now)
        relay.forwarder.received(link, relay.now)
        relay.forwarder.lost(link, reason, relay.now)
    assert sum(relay.forwarder.steps.handshake_failures.values()) == 2
    assert relay.forwarder.steps.handshake_failures["lost"] == 1


def test_set_up_is_timed_without_any_tracer() -> None:
    relay = MemoryRelay()
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    for peer in (alice, bob):
        relay.attach(peer)
    relay.reserve(bob)
    bob.answers = False
    relay.connect(alice, bob.peer_id)
    relay.advance(2)
    bob.answer_late()
    relay.run()
    steps = relay.forwarder.steps
    assert (steps.opened, steps.bridged_in) == (1, 0)
    assert [sum(steps.setup[stage].counts) for stage in ("admit", "stop", "total")] == [1, 1, 1]
    assert steps.setup["total"].total == steps.setup["stop"].total == 2.0
