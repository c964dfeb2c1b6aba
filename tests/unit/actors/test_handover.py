"""A forwarder hands over: peers receive what they would have received, and RelayServer knows what is where."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors import handover
from actors.handover_state import GroupState, JoinedState
from actors.links import ForwarderPolicy
from actors.relay_server import RelayServerPolicy
from actors.reservations import household
from protocol import identify, messages, perf, ping, relay_hop
from protocol.connection import ConnectionLimits
from protocol.errors import LocalProtocolError
from protocol.handover import CircuitState
from protocol.noise import StaticKey
from protocol.relay_hop import ConnectAccepted, RequestRefused, ReservationGranted
from tests.support.handover import MovingBridges, MovingRelay
from tests.support.peers import MemoryPeer, MemoryStream, seeded

NAMES = ("alice", "bob", "carol")
POLICY = ForwarderPolicy(
    rate_limits=False,
    serve_perf=True,
    circuit_window=300_000,
    connection=ConnectionLimits(keepalive_interval=0),
)


class Recording(MemoryPeer):
    """``wire``: every byte that came from the relay, still sealed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.wire = bytearray()

    def receive(self, data: bytes, now: float) -> None:
        self.wire += data
        super().receive(data, now)


class Conversation:
    """Steps that peers take through one relay; each is (kind, who, whom, size)."""

    def __init__(self, piece: int, moves: Callable[[], bool]) -> None:
        policy = RelayServerPolicy(rate_limits=False, circuit_data=2_000_000, circuit_duration=1000)
        self.relay = MovingRelay(policy, POLICY, piece=piece, moves=moves)
        self.peers = [Recording(name) for name in NAMES]
        for peer in self.peers:
            self.relay.attach(peer)
        self.circuits: list[tuple[MemoryStream, MemoryStream]] = []
        self.streams: list[MemoryStream] = []

    def step(self, kind: str, who: int, whom: int, size: int) -> None:
        peer, other = self.peers[who % 3], self.peers[whom % 3]
        relay = self.relay
        if kind == "connect" and peer is not other:
            relay.reserve(other)
            before = len(other.accepted)
            view, event = relay.connect(peer, other.peer_id)
            if isinstance(event, ConnectAccepted) and len(other.accepted) > before:
                self.circuits.append((view, other.accepted[-1]))
        elif kind in ("send", "finish", "reset", "pause") and self.circuits:
            view = self.circuits[who % len(self.circuits)][whom % 2]
            stream = view.stream
            if stream.closed or stream.fin_sent or stream.fin_after_held:
                return
            if kind == "send":
                view.send(bytes([size & 255]) * size)
            elif kind == "finish":
                view.finish()
            elif kind == "pause":
                view.reading = not view.reading
            else:
                stream.session.reset(stream)
        elif kind == "stall":
            (relay.stalled.discard if peer in relay.stalled else relay.stalled.add)(peer)
        elif kind == "ping":
            self.streams.append(peer.open(ping.PROTOCOL, bytes(size % 200)))
        elif kind == "more" and self.streams:
            view = self.streams[who % len(self.streams)]
            if not (view.stream.closed or view.stream.fin_sent or view.stream.fin_after_held):
                view.send(bytes(size % 1000))
        elif kind == "identify":
            self.streams.append(peer.open(identify.PROTOCOL))
        elif kind == "perf":
            view = peer.open(perf.PROTOCOL, size.to_bytes(8, "big"))
            view.finish()
        elif kind == "half a request":
            self.streams.append(peer.open(relay_hop.PROTOCOL, b"\x30"[: size % 2]))
        elif kind == "time":
            relay.advance(size % 20)
        relay.run()
        deadline = relay.forwarder.next_deadline()
        while deadline is not None and deadline <= relay.now:
            relay._post(relay.forwarder.handle_deadline(relay.now))
            relay.run()
            deadline = relay.forwarder.next_deadline()

    def outcome(self) -> tuple[object, ...]:
        server, forwarder = self.relay.relay_server, self.relay.forwarder
        assert server.circuits_in_all == len(forwarder.circuits) + len(forwarder._setup.opening)
        assert forwarder._links.counts() == Counter(link.address for link in forwarder.links.values())
        return (
            [bytes(peer.wire) for peer in self.peers],
            [str(peer.error) for peer in self.peers],
            server.reservations_in_all,
            len(forwarder.links),
            forwarder.arena.bytes_switched,
            forwarder.refusals,
        )


KINDS = (
    *("connect", "connect", "send", "send", "send", "send", "finish", "reset", "pause", "stall"),
    *("ping", "more", "identify", "perf", "half a request", "time"),
)
SIZES = st.one_of(st.integers(0, 2000), st.integers(0, 400_000))
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 5), SIZES), min_size=6, max_size=24
)


@settings(max_examples=50, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(steps=STEPS, piece=st.sampled_from([0, 61, 1400, 9000]), every=st.integers(1, 9), first=st.integers(1, 60))
def test_peers_receive_the_same_bytes_whenever_it_happens(
    steps: list[tuple[str, int, int, int]], piece: int, every: int, first: int
) -> None:
    """Handed over between every ``every`` turns from the ``first`` on."""

    def run(moving: bool) -> tuple[object, ...]:
        turns = itertools.count()

        def now() -> bool:
            turn = next(turns)
            return moving and turn >= first and turn % every == 0

        conversation = Conversation(piece, now)
        for step in [("connect", 0, 1, 0), *steps]:
            conversation.step(*step)
        return conversation.outcome()

    assert run(moving=True) == run(moving=False)


def attached(relay: MovingRelay, *names: str) -> list[MemoryPeer]:
    peers = [MemoryPeer(name) for name in names]
    for peer in peers:
        relay.attach(peer)
    return peers


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_handshake_moves_after_any_of_its_bytes(upgrade: bool) -> None:
    relay = MovingRelay(piece=1)
    moved = 0

    def every_time() -> bool:
        nonlocal moved
        moved += 1
        return True

    relay.moves = every_time
    (alice,) = attached(relay, "alice")
    assert alice.ready and moved > 200
    relay.moves = lambda: False
    relay.hand_over(restart_relay_server=upgrade)
    assert isinstance(relay.reserve(alice), ReservationGranted)


@pytest.mark.parametrize("upgrade", [False, True])
def test_reservations_and_circuits_are_where_they_were(upgrade: bool) -> None:
    relay = MovingRelay()
    alice, bob, carol = attached(relay, "alice", "bob", "carol")
    here, there = relay.circuit(alice, bob)
    relay.hand_over(restart_relay_server=upgrade)
    here.send(b"still joined")
    relay.run()
    assert there.take() == b"still joined"
    assert isinstance(relay.connect(carol, bob.peer_id)[1], ConnectAccepted)
    assert (relay.relay_server.reservations_in_all, relay.relay_server.circuits_in_all) == (1, 2)
    relay.detach(bob)
    assert (relay.relay_server.reservations_in_all, relay.relay_server.circuits_in_all) == (0, 0)


def test_a_request_that_waits_for_the_answer_is_asked_again_by_the_successor() -> None:
    relay = MovingRelay()
    (alice,) = attached(relay, "alice")
    post, lost = relay._post, []
    relay._post = lambda sends: bool(lost.extend(sends))  # on their way
    view, client = alice.hop()
    client.reserve()
    view.send(client.data_to_send())
    relay.run()
    assert any(isinstance(send.message, messages.ReserveAsked) for send in lost)
    relay._post = post
    relay.hand_over()
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), ReservationGranted)
    assert relay.relay_server.reservations_in_all == 1


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_circuit_that_is_being_made_is_made_by_the_successor(upgrade: bool) -> None:
    relay = MovingRelay()
    alice, bob = attached(relay, "alice", "bob")
    relay.reserve(bob)
    bob.answers = False
    view, client = alice.hop()
    client.connect(bob.peer_id)
    view.send(client.data_to_send() + b"ahead of the answer")
    relay.run()
    (group,) = handover.groups(relay.forwarder)
    assert len(group) == 2
    relay.hand_over(restart_relay_server=upgrade)
    bob.answer_late()
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), ConnectAccepted)
    assert bob.accepted[0].take() == b"ahead of the answer"
    assert relay.relay_server.circuits_in_all == len(relay.forwarder.circuits) == 1


def test_the_time_of_a_target_that_does_not_answer_goes_on() -> None:
    relay = MovingRelay()
    alice, bob = attached(relay, "alice", "bob")
    relay.reserve(bob)
    bob.answers = False
    view, client = alice.hop()
    client.connect(bob.peer_id)
    view.send(client.data_to_send())
    relay.run()
    relay.advance(POLICY.stop_timeout - 2)
    relay.hand_over()
    relay.advance(3)
    client.receive_data(view.take())
    refused = client.next_event()
    assert isinstance(refused, RequestRefused) and "in time" in refused.reason
    assert relay.relay_server.circuits_in_all == 0


def test_a_circuit_lasts_as_long_as_it_was_to() -> None:
    relay = MovingRelay(RelayServerPolicy(rate_limits=False, circuit_duration=100))
    alice, bob = attached(relay, "alice", "bob")
    here, _ = relay.circuit(alice, bob)
    relay.advance(60)
    relay.hand_over()
    relay.advance(38)
    assert not here.reset
    relay.advance(4)
    assert here.reset


def test_deadlines_follow_the_clock_of_the_successor() -> None:
    relay = MovingRelay(RelayServerPolicy(rate_limits=False, circuit_duration=100))
    alice, bob = attached(relay, "alice", "bob")
    here, _ = relay.circuit(alice, bob)
    relay.advance(60)
    relay.hand_over(shift=-1000.0)
    relay.now -= 1000.0
    relay.advance(38)
    assert not here.reset
    relay.advance(4)
    assert here.reset


def test_an_idle_connection_is_closed_when_it_would_have_been() -> None:
    def closed_after(move: bool) -> int:
        relay = MovingRelay(forwarder_policy=ForwarderPolicy(connection=ConnectionLimits(keepalive_interval=0)))
        (alice,) = attached(relay, "alice")
        for seconds in range(1000):
            if alice.connection.session.remote_going_away:
                return seconds
            relay.advance(1)
            if move and seconds % 7 == 0:
                relay.hand_over()
        raise AssertionError("it was never closed")

    assert closed_after(True) == closed_after(False)


@pytest.mark.parametrize("addresses", [("192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::2")])
def test_limits_hold_while_connections_are_on_their_way(addresses: tuple[str, str]) -> None:
    policy = ForwarderPolicy(rate_limits=False, max_connections_per_ip=2, max_connections=4)
    relay = MovingRelay(forwarder_policy=policy)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    for peer, address in zip((alice, bob), addresses, strict=True):
        relay.attach(peer, address)
    home = household(addresses[0])
    old, new = relay.forwarder, relay.successor("forwarder/0.1")
    new._links.expect(old._links.counts())
    assert new.admit(addresses[0], relay.now) == "max_connections_per_ip"
    for address in ("192.0.2.8", "192.0.2.9"):
        assert new.admit(address, relay.now) == ""
        new.accept(address, b"", b"", relay.now)
    assert new.admit("192.0.2.9", relay.now) == "max_connections"
    first, second = handover.groups(old)
    relay.move(old, new, first)
    assert new.admit(addresses[0], relay.now) == "max_connections"
    assert new._links.counts() == {home: 2, "192.0.2.8": 1, "192.0.2.9": 1}
    old.lost(second[0], "gone on the way")
    new.adopted(old.name)
    assert new.admit(addresses[0], relay.now) == ""
    assert new._links.counts() == {home: 1, "192.0.2.8": 1, "192.0.2.9": 1}
    assert {alice.ready, bob.ready} == {True}


def test_groups_are_what_circuits_join_and_the_small_ones_go_first() -> None:
    relay = MovingRelay()
    alice, bob, carol, dave, erin = attached(relay, "alice", "bob", "carol", "dave", "erin")
    relay.circuit(alice, bob)
    relay.circuit(carol, bob)
    relay.circuit(dave, dave_friend := attached(relay, "friend")[0])
    links = {link: peer for peer, link in relay.links.items()}
    found = [{links[link] for link in group} for group in handover.groups(relay.forwarder)]
    assert found == [{erin}, {dave, dave_friend}, {alice, bob, carol}]


def test_a_circuit_whose_end_only_waits_for_its_window_needs_no_circuit_any_more() -> None:
    """Both finished, one has bytes held: they reach it, and the FIN behind them."""
    relay = MovingRelay()
    alice, bob = attached(relay, "alice", "bob")
    here, there = relay.circuit(alice, bob)
    (circuit,) = relay.forwarder.circuits.values()
    there.finish()
    relay.run()
    circuit.target.send_window = 3  # as after a first window that the STOP message was taken from
    here.send(b"abcdef")
    here.finish()
    relay.run()
    assert circuit.source.closed and not circuit.target.closed
    relay.hand_over()
    assert not relay.forwarder.circuits and relay.relay_server.circuits_in_all == 0
    there.stream.session.grant(there.stream, 1000)
    relay.run()
    assert there.take() == b"abcdef" and there.finished


def test_peers_that_are_to_be_told_new_addresses_are_told_by_the_successor() -> None:
    relay = MovingRelay()
    alice, bob = attached(relay, "alice", "bob")
    relay.forwarder.set_addresses([bytes.fromhex("04050607080610e1")], relay.now + 5)
    relay.hand_over()
    relay.advance(6)
    assert len(alice.pushed) == len(bob.pushed) == 1


def test_a_state_that_does_not_fit_together_leaves_nothing_behind() -> None:
    relay = MovingRelay()
    alice, bob = attached(relay, "alice", "bob")
    relay.circuit(alice, bob)
    (group,) = handover.groups(relay.forwarder)
    static = StaticKey(relay.identity, seeded("relay static"))
    state = handover.release(relay.forwarder, group)
    new = relay.successor("forwarder/0.1")
    (joined,) = state.circuits
    for wrong in ((7, 1), (0, 999)):
        circuit = CircuitState(5, wrong, joined.circuit.target, 0, 0.0)
        broken = GroupState(state.links, (JoinedState(circuit, 0.0),), state.admissions, ())
        with pytest.raises(LocalProtocolError, match="fit together"):
            handover.adopt(new, broken, relay.now, static=static)
        assert not new.links and not new.circuits and not new._links.counts()
    handover.adopt(new, state, relay.now, static=static)
    assert len(new.links) == 2 and len(new.circuits) == 1


HOSTS = pytest.mark.parametrize("plain", [True, False], ids=["one host", "two hosts"])
SIDES = pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)], ids=["the dialler's", "the target's", "both"])


def on_two(relay: MovingBridges) -> tuple[MemoryPeer, MemoryPeer]:
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    return alice, bob


@HOSTS
@SIDES
def test_a_bridged_circuit_goes_on(sides: tuple[int, ...], plain: bool) -> None:
    relay = MovingBridges(plain=plain)
    alice, bob = on_two(relay)
    here, there = relay.circuit(alice, bob)
    there.reading = False
    here.send(bytes(range(256)) * 8192)
    relay.run()
    for side in sides:
        relay.hand_over(side)
    there.stream.session.consume(there.stream, len(there.received))
    there.reading = True
    relay.run()
    assert there.take() == bytes(range(256)) * 8192
    there.send(b"and back")
    there.finish()
    relay.run()
    assert here.take() == b"and back" and here.finished
    assert relay.relay_server.circuits_in_all == 1
    assert isinstance(relay.connect(alice, bob.peer_id)[1], ConnectAccepted)
    relay.detach(alice)
    assert relay.relay_server.circuits_in_all == 0
    for forwarder in relay.forwarders.values():
        assert not forwarder.circuits and not any(link.bridge for link in forwarder.links.values())


@HOSTS
@SIDES
def test_a_bridged_circuit_that_is_being_made_is_made(sides: tuple[int, ...], plain: bool) -> None:
    relay = MovingBridges(plain=plain)
    alice, bob = on_two(relay)
    relay.reserve(bob)
    bob.answers = False
    view, client = alice.hop()
    client.connect(bob.peer_id)
    view.send(client.data_to_send())
    relay.run()
    for side in sides:
        relay.hand_over(side)
    bob.answer_late()
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), ConnectAccepted)
    view.send(b"hello")
    relay.run()
    assert bob.accepted[0].take() == b"hello"


@HOSTS
def test_a_bridge_that_waits_for_the_relay_servers_word_waits_on(plain: bool) -> None:
    relay = MovingBridges(plain=plain)
    relay.late_words = []
    alice, bob = on_two(relay)
    relay.reserve(bob)
    view, client = alice.hop()
    client.connect(bob.peer_id)
    view.send(client.data_to_send())
    relay.run()
    (word,) = relay.late_words
    relay.late_words = None
    # The word came, and its answer has not been read: it is in the old forwarder when it hands over.
    target = list(relay.forwarders)[1]
    early = relay.forwarders[target]._bridges._early
    assert len(early) == 1
    relay.hand_over(1)
    (successor,) = [f for name, f in relay.forwarders.items() if name == f"{target}.1"]
    assert list(successor._bridges._early) == [word.token]
    link = relay.links[bob]
    successor.handle(msgspec.structs.replace(word, target_connection=link.id), relay.now)
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), ConnectAccepted)


def test_a_word_that_waits_for_its_bridge_goes_with_its_target() -> None:
    relay = MovingBridges()
    alice, bob = on_two(relay)
    relay.reserve(bob)
    old = relay.forwarders["forwarder/1"]
    word = messages.BridgeExpected(9, b"t" * 16, alice.peer_id.bytes, bob.peer_id.bytes, relay.links[bob].id)
    old.handle(word, relay.now)
    relay.hand_over(1)
    (kept,) = relay.forwarders["forwarder/1.1"]._bridges._expected.values()
    assert kept == msgspec.structs.replace(word, target_connection=relay.links[bob].id)
    assert not old._bridges._expected
