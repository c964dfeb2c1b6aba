"""Circuits under a cap, seen from their peers: slower, and otherwise as without one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.circuit_setup import CircuitSetup
from actors.end_codes import end_code
from actors.links import ForwarderPolicy
from actors.relay_server import RelayServerPolicy
from protocol import metering
from protocol.discovery_messages import ClassTold
from protocol.metering import Meter, window
from protocol.relay_hop import ConnectAccepted, RequestRefused, Status
from protocol.yamux import INITIAL_WINDOW
from tests.support.bridged import BridgedRelay
from tests.support.capped import pass_time, set_terms, terms
from tests.support.handover import MovingRelay
from tests.support.peers import MemoryPeer, MemoryRelay, MemoryStream
from tests.support.traces import Collector

RATE = 100_000.0


def numbered(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range((size + 3) // 4))[:size]


def capped(rate: float = RATE, *, relay: MemoryRelay | None = None, **policy: float) -> tuple:
    """A relay under a cap whose bucket is full, with a circuit."""
    relay = relay or MemoryRelay(RelayServerPolicy(rate_limits=False, **policy))
    set_terms(relay, terms(rate))
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice), relay.attach(bob)
    pass_time(relay, 2)
    return relay, *relay.circuit(alice, bob)


@pytest.mark.parametrize("write", [700, 16 * 1024, 300_000])
def test_bytes_arrive_in_order_both_ways_no_faster_than_the_cap(write: int) -> None:
    relay, here, there = capped()
    data = numbered(600_000)
    for start in range(0, len(data), write):
        here.send(data[start : start + write])
        there.send(data[::-1][start : start + write])
    begun = relay.now
    while len(there.received) < len(data) or len(here.received) < len(data):
        pass_time(relay, 1)
        assert len(here.received) + len(there.received) <= RATE * (relay.now - begun + 1)
    assert relay.now - begun <= 2 * len(data) / RATE + 1
    assert (there.take(), here.take()) == (data, data[::-1])


def test_no_more_is_held_than_a_peer_may_send_unasked() -> None:
    relay, here, there = capped(1000.0)
    here.send(bytes(2_000_000)), there.send(bytes(2_000_000))
    for _ in range(100):
        pass_time(relay, 2, step=0.5)
        for stream in relay.forwarder.links[1].connection.session.streams.values():
            assert len(stream.held or b"") <= INITIAL_WINDOW
    assert relay.forwarder.switch.meter.owed <= 2 * INITIAL_WINDOW


def test_an_end_waits_for_what_is_held() -> None:
    relay, here, there = capped(10_000.0)
    there.send(numbered(30_000)), here.send(numbered(50_000))
    relay.run()
    here.finish(), there.finish()
    relay.run()
    assert not here.finished and not there.finished
    pass_time(relay, 10)
    assert (there.take(), here.take()) == (numbered(50_000), numbered(30_000))
    assert here.finished and there.finished and not here.reset and not there.reset
    assert not relay.forwarder.circuits and not relay.relay_server.circuits_in_all
    for link in relay.links.values():
        assert link.connection.session.streams == {}


@pytest.mark.parametrize("limit", [1000, 20_000, 300_000])
def test_the_data_limit_is_exact(limit: int) -> None:
    relay, here, there = capped(10_000.0, circuit_data=limit)
    here.send(numbered(limit + 1))
    pass_time(relay, limit / 10_000 + 2)
    assert there.take() == numbered(limit) and there.reset and here.reset
    assert not relay.forwarder.circuits


def test_a_stalled_reader_costs_others_nothing() -> None:
    relay, here, there = capped(50_000.0)
    carol = MemoryPeer("carol")
    relay.attach(carol)
    bob = next(peer for peer in relay.links if peer.peer_id == MemoryPeer("bob").peer_id)
    relay.stalled.add(bob)
    here.send(bytes(2_000_000))
    pass_time(relay, 20)
    alice = next(iter(relay.links))
    relay.reserve(carol)
    view, event = relay.connect(alice, carol.peer_id)
    assert isinstance(event, ConnectAccepted)
    view.send(bytes(200_000))
    pass_time(relay, 6)
    assert len(carol.accepted[-1].received) == 200_000
    assert not there.reset


def test_what_there_is_is_shared_by_class_and_nobody_starves() -> None:
    friend, carol, dave, bob = (MemoryPeer(name) for name in ("friend", "carol", "dave", "bob"))
    policy = RelayServerPolicy(rate_limits=False, trusted_peers=(friend.peer_id.bytes,))
    collector = Collector()
    relay = MemoryRelay(policy, tracer=collector.tracer)
    relay.relay_server.handle(ClassTold(carol.peer_id.bytes, relay.now + 86_400.0), relay.now)
    for peer in (friend, carol, dave, bob):
        relay.attach(peer)
    circuits = [relay.circuit(peer, bob) for peer in (carol, friend, dave)]
    set_terms(relay, terms(RATE))
    for here, _ in circuits:
        here.send(bytes(5_000_000))
    pass_time(relay, 2)
    before = [len(there.received) for _, there in circuits]
    pass_time(relay, 10)
    rates = [(len(there.received) - size) / 10 for (_, there), size in zip(circuits, before, strict=True)]
    assert sum(rates) == pytest.approx(RATE, rel=0.01)
    assert rates == pytest.approx([RATE * weight / 7 for weight in (4, 2, 1)], rel=0.1)
    # What the others do not need is the public's.
    for here, _ in circuits[:2]:
        here.stream.session.reset(here.stream)
    pass_time(relay, 8)  # what was held for them came over the owner's line, and is paid for first
    left = len(circuits[2][1].received)
    pass_time(relay, 10)
    assert (len(circuits[2][1].received) - left) / 10 == pytest.approx(RATE, rel=0.05)
    told = relay.forwarder.steps.metrics(relay.forwarder._counters(), 0).bytes_by_class
    assert set(told) == {"operator", "trusted", "public"} and sum(told.values()) == relay.forwarder.arena.bytes_switched
    classes = {span.attributes["descord.class"] for span in collector.spans if span.name == "splice"}
    assert classes == {"operator", "trusted"}


def test_new_circuits_are_refused_while_the_cap_is_spent() -> None:
    relay, here, there = capped(10_000.0)
    alice, bob = relay.links
    here.send(bytes(200_000))
    pass_time(relay, 1)
    _, refused = relay.connect(alice, bob.peer_id)
    assert isinstance(refused, RequestRefused)
    assert refused.status == Status.RESOURCE_LIMIT_EXCEEDED and "max_bandwidth" in refused.reason
    assert 15 <= refused.retry_after <= 20
    assert relay.relay_server.refused_here == {"max_bandwidth": 1}
    pass_time(relay, refused.retry_after)
    assert len(there.received) == 200_000
    assert isinstance(relay.connect(alice, bob.peer_id)[1], ConnectAccepted)


def test_a_cap_comes_and_goes_while_a_circuit_runs() -> None:
    relay, here, there = capped(0.0)
    data = numbered(3_000_000)
    here.send(data[:1_000_000])
    relay.run()
    assert len(there.received) == 1_000_000
    set_terms(relay, terms(RATE))
    here.send(data[1_000_000:2_000_000])
    pass_time(relay, 3)
    assert 1_200_000 <= len(there.received) <= 1_300_000
    assert relay.forwarder.switch.meter.owed
    set_terms(relay, terms(2 * RATE))
    pass_time(relay, 2)
    assert 1_550_000 <= len(there.received) <= 1_700_000
    set_terms(relay, terms(0.0))
    relay.run()
    here.send(data[2_000_000:])
    relay.run()
    assert there.take() == data and not relay.forwarder.switch.meter.owed
    (circuit,) = relay.forwarder.circuits.values()
    assert circuit.bytes_to_target == 3_000_000 == relay.forwarder.arena.bytes_switched


def test_with_quota_ahead_frames_pass_without_a_stop() -> None:
    """The way that costs little is taken under a cap too, when there is enough."""
    relay, here, there = capped(10_000_000.0)
    for _ in range(2):  # the first finds no quota here yet, and fetches some
        here.send(bytes(500))
        relay.run()
    (circuit,) = relay.forwarder.circuits.values()
    ahead = circuit.source.budget
    assert ahead > 60_000
    sealer = next(link for link in relay.links.values()).connection.session
    dear = sealer.dear
    for _ in range(50):
        here.send(bytes(1200))
        relay.run()
    assert len(there.received) == 61_000 and sealer.dear == dear
    assert circuit.source.budget == ahead - 60_000


def test_a_bridged_circuit_is_paid_for_once() -> None:
    relay = BridgedRelay(RelayServerPolicy(rate_limits=False), moves=False)
    set_terms(relay, terms(RATE))
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice), relay.attach(bob, forwarder=1)
    pass_time(relay, 2)
    here, there = relay.circuit(alice, bob)
    here.send(numbered(400_000)), there.send(numbered(400_000))
    pass_time(relay, 4)
    passed = len(here.received) + len(there.received)
    assert 400_000 <= passed <= 500_000
    pass_time(relay, 4)
    assert there.take() == here.take() == numbered(400_000)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 60_000), st.booleans()), min_size=1, max_size=12),
    every=st.integers(1, 40),
    restart=st.booleans(),
    finish=st.booleans(),
)
def test_hand_overs_under_a_cap_lose_no_byte(
    sizes: list[tuple[int, bool]], every: int, restart: bool, finish: bool
) -> None:
    turns = 0

    def moves() -> bool:
        nonlocal turns
        turns += 1
        return turns % every == 0

    policy = ForwarderPolicy(rate_limits=False, rate=50_000.0)
    relay = MovingRelay(RelayServerPolicy(rate_limits=False), policy, moves=moves)
    _, here, there = capped(50_000.0, relay=relay)
    sent: dict[bool, bytearray] = {True: bytearray(), False: bytearray()}
    begun = relay.now
    for number, (size, back) in enumerate(sizes):
        data = bytes([number]) * size
        (there if back else here).send(data)
        sent[back] += data
        pass_time(relay, 0.3)
        if number % 5 == 4:
            relay.hand_over(restart_relay_server=restart)
    if finish:
        here.finish()
    pass_time(relay, sum(len(data) for data in sent.values()) / 50_000 + 10, step=0.1)
    assert there.take() == sent[False] and here.take() == sent[True]
    assert there.finished == finish and not here.reset
    assert relay.forwarder.arena.bytes_switched <= 50_000 * (relay.now - begun + 1)
    assert not relay.forwarder.switch.meter.owed


def test_a_relay_server_that_begins_anew_gives_no_more() -> None:
    relay, here, there = capped(10_000.0, relay=MovingRelay(
        RelayServerPolicy(rate_limits=False), ForwarderPolicy(rate_limits=False, rate=10_000.0)))  # fmt: skip
    here.send(bytes(250_000))
    begun, before = relay.now, len(there.received)
    for _ in range(10):
        pass_time(relay, 0.9)
        relay.hand_over(restart_relay_server=True)
    assert len(there.received) - before <= 10_000 * (relay.now - begun + 1)
    pass_time(relay, 30)
    assert len(there.received) == 250_000


def test_what_a_flood_may_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits that were quiet all send what they may: when too much is held, the one with most ends."""
    monkeypatch.setattr("protocol.switching.MOST_OWED", 500_000)
    relay, here, there = capped(10_000.0)
    alice, bob = relay.links
    circuits: list[tuple[MemoryStream, MemoryStream]] = [(here, there)]
    circuits += [relay.circuit(alice, bob) for _ in range(4)]
    reasons: list[str] = []
    report = CircuitSetup.report_ended

    def noted(setup: CircuitSetup) -> None:
        reasons.extend(end_code(circuit) for circuit in setup._switch.ended)
        report(setup)

    monkeypatch.setattr(CircuitSetup, "report_ended", noted)
    for number, (view, _) in enumerate(circuits):
        view.send(bytes(200_000 - number))
    relay.run()
    assert relay.forwarder.switch.meter.owed <= 500_000
    assert set(reasons) == {"max_bandwidth"} and len(relay.forwarder.circuits) == 5 - len(reasons) >= 2


def test_windows_follow_the_rate() -> None:
    assert window(1000.0, 1 << 20) == INITIAL_WINDOW
    assert window(2e6, 1 << 20) == 500_000
    assert window(1e9, 1 << 20) == 1 << 20


def test_nothing_is_kept_of_circuits_that_are_over() -> None:
    relay, here, there = capped(10_000.0)
    meter: Meter = relay.forwarder.switch.meter
    here.send(bytes(100_000))
    relay.run()
    assert meter.waiting and meter.owed
    relay.detach(next(iter(relay.links)))
    assert not meter.waiting and not meter.owed and not meter._prepaid and there.reset
    assert meter.tokens < 0  # what came is paid for
    assert metering.AHEAD_SHARE > 1
