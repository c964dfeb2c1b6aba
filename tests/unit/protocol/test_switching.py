"""The label switch, seen from the two peers whose circuit passes it."""

from __future__ import annotations

import itertools

import pytest

from actors.relay_server import RelayServerPolicy
from protocol.relay_hop import ConnectAccepted
from protocol.yamux import DATA, HEADER, INITIAL_WINDOW
from tests.support.peers import MemoryPeer, MemoryRelay, MemoryStream


def numbered(size: int) -> bytes:
    """Bytes whose order shows."""
    return b"".join(number.to_bytes(4, "big") for number in range((size + 3) // 4))[:size]


def relay_with(*names: str, piece: int = 0, window: int = INITIAL_WINDOW, **policy: float) -> tuple:
    relay = MemoryRelay(RelayServerPolicy(rate_limits=False, **policy), piece=piece)
    peers = [MemoryPeer(name, window=window) for name in names]
    for peer in peers:
        relay.attach(peer)
    return relay, *peers


def send_all(relay: MemoryRelay, view: MemoryStream, data: bytes, write: int) -> None:
    for start in range(0, len(data), write):
        view.send(data[start : start + write])
        relay.run()


@pytest.mark.parametrize("window", [INITIAL_WINDOW, 4 * INITIAL_WINDOW, 16 * INITIAL_WINDOW])
@pytest.mark.parametrize("write", [1, 1200, 16 * 1024, 65536, 300_000])
def test_bytes_arrive_in_order_both_ways(write: int, window: int) -> None:
    relay, alice, bob = relay_with("alice", "bob", window=window)
    here, there = relay.circuit(alice, bob)
    data = numbered(3000 if write == 1 else 2_000_000)
    send_all(relay, here, data, write)
    send_all(relay, there, data[::-1], write)
    assert there.take() == data
    assert here.take() == data[::-1]


@pytest.mark.parametrize("piece", [1, 7, 12, 13, 1000, 65537])
def test_any_cut_of_the_input_gives_the_same_bytes(piece: int) -> None:
    relay, alice, bob = relay_with("alice", "bob", piece=piece)
    here, there = relay.circuit(alice, bob)
    data = numbered(2_000 if piece < 100 else 700_000)
    for start in range(0, len(data), 777 if piece < 100 else 60_000):
        here.send(data[start : start + (777 if piece < 100 else 60_000)])
    relay.run()
    assert there.take() == data


def test_many_small_frames_leave_in_few_noise_messages() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    here, there = relay.circuit(alice, bob)
    sealer = relay.links[bob].connection._sealer
    before = sealer.counter
    for _ in range(50):
        here.send(b"x" * 1200)
    relay.run()
    assert len(there.take()) == 60_000
    assert sealer.counter - before <= 2


def test_circuits_that_share_connections_do_not_mix() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    pairs = [relay.circuit(alice, bob) for _ in range(8)]
    for turn in range(20):
        for index, (here, there) in enumerate(pairs):
            here.send(bytes([index]) * (100 + turn))
            there.send(bytes([100 + index]) * (50 + turn))
    relay.run()
    for index, (here, there) in enumerate(pairs):
        assert set(there.take()) == {index}
        assert set(here.take()) == {100 + index}


def test_half_close_passes_and_the_other_direction_goes_on() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    here, there = relay.circuit(alice, bob)
    here.send(b"question")
    here.finish()
    relay.run()
    assert there.take() == b"question" and there.finished and not there.reset
    there.send(b"answer")
    relay.run()
    assert here.take() == b"answer" and not here.finished
    there.finish()
    relay.run()
    assert here.finished and not here.reset
    assert not relay.forwarder.circuits
    assert not relay.relay_server.circuits_in_all
    assert relay.links[alice].connection.session.streams == {}
    assert relay.links[bob].connection.session.streams == {}


@pytest.mark.parametrize("who", ["source", "target"])
def test_reset_passes_and_ends_only_its_circuit(who: str) -> None:
    relay, alice, bob = relay_with("alice", "bob")
    first, second = relay.circuit(alice, bob), relay.circuit(alice, bob)
    ended, other = first if who == "source" else first[::-1]
    ended.stream.session.reset(ended.stream)
    relay.run()
    assert other.reset
    second[0].send(b"still here")
    relay.run()
    assert second[1].take() == b"still here"
    assert len(relay.forwarder.circuits) == 1


@pytest.mark.parametrize("limit", [1, 1000, 131_072, 1_000_000])
@pytest.mark.parametrize("direction", ["to target", "to source"])
def test_the_data_limit_is_exact_in_each_direction(limit: int, direction: str) -> None:
    relay, alice, bob = relay_with("alice", "bob", circuit_data=limit)
    here, there = relay.circuit(alice, bob)
    sender, receiver = (here, there) if direction == "to target" else (there, here)
    data = numbered(limit)
    send_all(relay, sender, data, 10_000)
    assert receiver.take() == data
    assert not receiver.reset and not sender.reset
    receiver.send(b"x" * min(limit, 100))  # the other direction has a budget of its own
    relay.run()
    assert len(sender.take()) == min(limit, 100)
    sender.send(b"!")
    relay.run()
    assert receiver.take() == b"" and receiver.reset and sender.reset
    assert not relay.forwarder.circuits


def test_a_write_across_the_limit_delivers_what_the_limit_allows() -> None:
    relay, alice, bob = relay_with("alice", "bob", circuit_data=1000)
    here, there = relay.circuit(alice, bob)
    here.send(numbered(5000))
    relay.run()
    assert there.take() == numbered(1000) and there.reset


def test_the_time_limit_resets_both_streams() -> None:
    relay, alice, bob = relay_with("alice", "bob", circuit_duration=120)
    here, there = relay.circuit(alice, bob)
    relay.advance(119)
    assert not here.reset
    relay.advance(2)
    assert here.reset and there.reset and not relay.forwarder.circuits


def test_a_receiver_that_stops_reading_costs_its_window_and_holds_up_nobody() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    stalled, busy = relay.circuit(alice, bob), relay.circuit(alice, bob)
    stalled[1].reading = False
    stalled[0].send(b"s" * 5_000_000)
    relay.run()
    assert len(stalled[1].received) <= INITIAL_WINDOW
    data = numbered(3_000_000)
    send_all(relay, busy[0], data, 65536)
    assert busy[1].take() == data
    held = relay.forwarder.circuits
    assert sum(len(stream.held or b"") for c in held.values() for stream in (c.source, c.target)) < 1024
    # When it reads again, everything comes.
    stalled[1].reading = True
    stalled[1].stream.session.consume(stalled[1].stream, len(stalled[1].received))
    relay.run()
    assert len(stalled[1].received) == 5_000_000


@pytest.mark.parametrize("window", [INITIAL_WINDOW, 64 * INITIAL_WINDOW])
def test_a_peer_whose_socket_takes_nothing_costs_at_most_the_cap_a_circuit(window: int) -> None:
    relay, alice, bob = relay_with("alice", "bob", window=window)
    circuits = [relay.circuit(alice, bob) for _ in range(4)]
    relay.stalled.add(bob)
    for here, _ in circuits:
        here.send(b"x" * 20_000_000)
    relay.run()
    cap = relay.forwarder.switch.window_cap
    assert len(relay.backlog[bob]) <= 4 * cap * 1.01 + 100_000
    relay.stalled.clear()
    relay.run()
    assert [len(there.received) for _, there in circuits] == [20_000_000] * 4


def test_a_sender_that_overruns_its_window_loses_its_connection_and_no_other() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    carol = MemoryPeer("carol")
    relay.attach(carol)
    bad, good = relay.circuit(alice, bob), relay.circuit(carol, bob)
    bad[1].reading = False
    bad[0].stream.send_window = 1 << 31
    bad[0].send(b"x" * (INITIAL_WINDOW + 1_000_000))
    relay.run()
    assert relay.links[alice].connection.error is not None
    assert relay.links[alice].connection.error.code == "window"
    assert len(bad[1].received) <= INITIAL_WINDOW
    relay.detach(alice)
    assert bad[1].reset
    good[0].send(b"unharmed")
    relay.run()
    assert good[1].take() == b"unharmed"


def test_bytes_sent_before_the_answer_belong_to_the_circuit() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    relay.reserve(bob)
    view, client = alice.hop()
    client.connect(bob.peer_id)
    view.send(client.data_to_send() + b"early")
    relay.run()
    client.receive_data(view.take())
    assert isinstance(client.next_event(), ConnectAccepted)
    assert bob.accepted[0].take() == b"early"


def test_empty_frames_and_frames_of_reset_streams_are_dropped() -> None:
    relay, alice, bob = relay_with("alice", "bob")
    here, there = relay.circuit(alice, bob)
    alice.connection.session.control += HEADER.pack(DATA, here.stream.id, 0) * 100
    alice.connection.mark_dirty()
    relay.run()
    there.stream.session.reset(there.stream)
    here.send(b"x" * 100_000)  # on its way before the reset is known
    relay.run()
    assert here.reset
    assert relay.links[alice].connection.error is None


def test_credit_is_never_more_than_receiver_and_cap_allow() -> None:
    for window, cap in itertools.product([INITIAL_WINDOW, 8 * INITIAL_WINDOW], [INITIAL_WINDOW, 1 << 20]):
        relay, alice, bob = relay_with("alice", "bob", window=window)
        relay.forwarder.switch.window_cap = cap
        here, there = relay.circuit(alice, bob)
        for _ in range(100):
            here.send(b"x" * 50_000)
            relay.run()
            circuit = next(iter(relay.forwarder.circuits.values()))
            granted, allowed = circuit.source.receive_window, circuit.target.send_window
            assert granted <= max(cap, INITIAL_WINDOW)
            assert granted <= allowed + 1024
        assert len(there.take()) == 5_000_000
