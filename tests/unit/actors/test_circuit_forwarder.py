"""CircuitForwarder between peers in memory: requests, refusals, time, and those who vanish."""

from __future__ import annotations

import pytest

from actors.links import ForwarderPolicy
from actors.relay_server import RelayServerPolicy
from protocol import identify, ping, relay_hop
from protocol.connection import ConnectionLimits, State
from protocol.envelope import open_peer_record, open_voucher
from protocol.relay_hop import ConnectAccepted, HopClient, RequestRefused, ReservationGranted, Status
from tests.support.peers import START, MemoryPeer, MemoryRelay, MemoryStream


def attached(relay: MemoryRelay, *names: str) -> list[MemoryPeer]:
    peers = [MemoryPeer(name) for name in names]
    for peer in peers:
        relay.attach(peer)
    return peers


def asking(relay: MemoryRelay, source: MemoryPeer, target: MemoryPeer) -> tuple[MemoryStream, HopClient]:
    view, client = source.hop()
    client.connect(target.peer_id)
    view.send(client.data_to_send())
    relay.run()
    return view, client


def answer(view: MemoryStream, client: HopClient) -> object:
    client.receive_data(view.take())
    return client.next_event()


def quiet(**more: float) -> ForwarderPolicy:
    limits = ConnectionLimits(keepalive_interval=0)
    return ForwarderPolicy(rate_limits=False, connection=limits, **more)  # type: ignore[arg-type]


def consistent(relay: MemoryRelay) -> None:
    """RelayServer and forwarder agree, and nothing is left over."""
    assert relay.relay_server.circuits_in_all == len(relay.forwarder.circuits) + len(relay.forwarder._setup.opening)


def test_a_reservation_has_addresses_and_a_voucher() -> None:
    relay = MemoryRelay(RelayServerPolicy(rate_limits=False, circuit_data=1000, circuit_duration=60))
    (bob,) = attached(relay, "bob")
    granted = relay.reserve(bob)
    assert isinstance(granted, ReservationGranted)
    assert granted.expires_at == int(START + 3600)
    assert granted.limit == relay_hop.Limit(60, 1000)
    assert [address[-38:] for address in granted.addrs] == [relay.peer_id.bytes]
    voucher = open_voucher(granted.voucher)
    assert (voucher.relay, voucher.peer, voucher.expires_at) == (relay.peer_id, bob.peer_id, granted.expires_at)


def test_peers_are_told_times_as_clocks_show_them_by_now() -> None:
    """The system's clock was set a day ahead after the relay had started, and then back by an hour."""
    day = 86_400.0
    relay = MemoryRelay(wall=lambda when: when + day)
    (bob,) = attached(relay, "bob")
    granted = relay.reserve(bob)
    assert isinstance(granted, ReservationGranted) and granted.expires_at == int(START + day + 3600)
    assert open_voucher(granted.voucher).expires_at == granted.expires_at
    assert relay.links[bob].reserved_until == START + 3600, "it holds as long as it was granted for"
    relay.forwarder.set_addresses([bytes.fromhex("04010203060610e1")], relay.now)
    first = sequence(bob, relay)
    assert first == int(START + day)
    day -= 3600.0
    relay.forwarder.set_addresses([bytes.fromhex("04010203050610e1")], relay.now)
    assert sequence(bob, relay) == first + 1, "a newer record has a greater number, whatever happened to the clock"
    day += 7200.0
    relay.forwarder.set_addresses([bytes.fromhex("04010203040610e1")], relay.now)
    assert sequence(bob, relay) == int(START + day)


def sequence(peer: MemoryPeer, relay: MemoryRelay) -> int:
    """Of the record that the relay shows to ``peer`` now."""
    view = peer.open(identify.PROTOCOL)
    relay.run()
    return open_peer_record(identified(view).signed_peer_record).sequence


@pytest.mark.parametrize(
    ("target", "status", "word"),
    [("nobody", Status.NO_RESERVATION, "no reservation"), ("alice", Status.PERMISSION_DENIED, "itself")],
)
def test_refusals_say_why(target: str, status: Status, word: str) -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    relay.reserve(alice)
    _, refused = relay.connect(alice, MemoryPeer(target).peer_id)
    assert isinstance(refused, RequestRefused) and refused.status == status and word in refused.reason
    assert relay.forwarder.refusals[status.name] == 1


@pytest.mark.parametrize("what", ["reserve", "connect"])
def test_not_over_a_relayed_connection(what: str) -> None:
    relay = MemoryRelay()
    (bob,) = attached(relay, "bob")
    relay.reserve(bob)
    alice = MemoryPeer("alice")
    relay.attach(alice, relayed=True)
    refused = relay.reserve(alice) if what == "reserve" else relay.connect(alice, bob.peer_id)[1]
    assert isinstance(refused, RequestRefused) and refused.status == Status.PERMISSION_DENIED
    assert "relayed" in refused.reason and relay.relay_server.reservations_in_all == 1


def test_a_target_that_refuses() -> None:
    relay = MemoryRelay()
    alice, bob = attached(relay, "alice", "bob")
    relay.reserve(bob)
    bob.accepts = False
    _, refused = relay.connect(alice, bob.peer_id)
    assert isinstance(refused, RequestRefused) and refused.status == Status.CONNECTION_FAILED
    assert "not now" in refused.reason
    consistent(relay)


def test_a_target_that_never_answers() -> None:
    relay = MemoryRelay(forwarder_policy=quiet(stop_timeout=5))
    alice, bob = attached(relay, "alice", "bob")
    relay.reserve(bob)
    bob.answers = False
    view, client = asking(relay, alice, bob)
    relay.advance(4)
    assert answer(view, client) is None and relay.relay_server.circuits_in_all == 1
    relay.advance(2)
    refused = answer(view, client)
    assert isinstance(refused, RequestRefused) and "in time" in refused.reason
    bob.answer_late()
    relay.run()
    consistent(relay)
    assert not relay.relay_server.circuits_in_all and not relay.links[bob].connection.session.streams


@pytest.mark.parametrize("how", ["reset", "gone"])
def test_a_dialler_that_vanishes_while_it_waits(how: str) -> None:
    relay = MemoryRelay()
    alice, bob = attached(relay, "alice", "bob")
    relay.reserve(bob)
    bob.answers = False
    view, _ = asking(relay, alice, bob)
    if how == "reset":
        view.stream.session.reset(view.stream)
        relay.run()
    else:
        relay.detach(alice)
    assert not relay.relay_server.circuits_in_all and not relay.forwarder._setup.opening
    bob.answer_late()
    relay.run()
    assert not bob.accepted, "its stream was reset"
    assert not relay.links[bob].connection.session.streams


def test_a_target_that_vanishes() -> None:
    relay = MemoryRelay()
    alice, bob = attached(relay, "alice", "bob")
    here, _ = relay.circuit(alice, bob)
    bob.answers = False
    view, client = asking(relay, alice, bob)
    relay.detach(bob)
    assert here.reset and isinstance(answer(view, client), RequestRefused)
    assert not relay.relay_server.circuits_in_all and not relay.relay_server.reservations_in_all
    _, refused = relay.connect(alice, bob.peer_id)
    assert isinstance(refused, RequestRefused) and refused.status == Status.NO_RESERVATION


def test_a_peer_that_reserved_twice_is_reached_on_its_newest_connection() -> None:
    relay = MemoryRelay()
    alice, older, newer = MemoryPeer("alice"), MemoryPeer("bob"), MemoryPeer("bob")
    for peer in (alice, older, newer):
        relay.attach(peer)
    relay.reserve(older)
    relay.reserve(newer)
    assert relay.relay_server.reservations_in_all == 1
    assert isinstance(relay.connect(alice, newer.peer_id)[1], ConnectAccepted)
    assert newer.accepted and not older.accepted
    relay.detach(older)
    assert isinstance(relay.connect(alice, newer.peer_id)[1], ConnectAccepted)


def test_identify_tells_who_we_are_and_who_they_seem() -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    view = alice.open(identify.PROTOCOL)
    relay.run()
    reader = identify.IdentifyReader()
    reader.receive_data(view.take())
    event = reader.next_event()
    assert event is not None and view.finished
    message = event.message
    assert message.public_key == relay.identity.public_key.encode()
    assert message.observed_addr == bytes.fromhex("04c0000207061f90")
    assert {relay_hop.PROTOCOL, identify.PROTOCOL, ping.PROTOCOL} <= set(message.protocols)
    assert open_peer_record(message.signed_peer_record).addresses == message.listen_addrs


def test_an_identify_push_is_heard() -> None:
    relay = MemoryRelay()
    (alice,) = attached(relay, "alice")
    alice.open(identify.PUSH_PROTOCOL, identify.encode_identify(identify.IdentifyMessage(agent_version="a" * 500)))
    relay.run()
    assert relay.links[alice].agent == "a" * 128


def test_a_stream_that_asks_nothing_is_ended_and_its_connection_is_not() -> None:
    relay = MemoryRelay(forwarder_policy=quiet(stream_timeout=5))
    (alice,) = attached(relay, "alice")
    views = [alice.open(relay_hop.PROTOCOL), alice.open("/nothing/1.0.0")]
    relay.run()
    relay.advance(6)
    assert all(view.reset for view in views)
    assert isinstance(relay.reserve(alice), ReservationGranted)


def test_an_idle_connection_is_closed_and_a_reserved_or_busy_one_is_not() -> None:
    relay = MemoryRelay(forwarder_policy=quiet(idle_timeout=10))
    idle, alice, bob = attached(relay, "idle", "alice", "bob")
    relay.circuit(alice, bob)
    relay.advance(25)
    states = [relay.links[peer].connection.state for peer in (idle, alice, bob)]
    assert states == [State.CLOSED, State.MULTIPLEXED, State.MULTIPLEXED]
    assert idle.connection.session.remote_going_away


@pytest.mark.parametrize("busy", [1, 7, 14, 16, 30, 59, 61, 100])
def test_a_connection_is_closed_about_when_its_time_is_over_and_never_before(busy: int) -> None:
    """Whenever its last stream ended."""
    relay = MemoryRelay(forwarder_policy=quiet(idle_timeout=60, stream_timeout=1000))
    (alice,) = attached(relay, "alice")
    view = alice.open(ping.PROTOCOL)
    relay.run()
    relay.advance(busy)
    view.finish()
    relay.run()
    assert not relay.links[alice].connection.session.streams
    relay.advance(59)
    assert relay.links[alice].connection.state is State.MULTIPLEXED
    relay.advance(17)
    assert relay.links[alice].connection.state is State.CLOSED


def test_a_silent_peer_is_pinged_and_one_that_does_not_answer_is_gone() -> None:
    limits = ConnectionLimits(keepalive_interval=10, keepalive_timeout=5)
    relay = MemoryRelay(forwarder_policy=ForwarderPolicy(rate_limits=False, connection=limits, idle_timeout=1000))
    (alive,) = attached(relay, "alive")
    relay.reserve(alive)
    relay.advance(60)
    assert relay.links[alive].connection.state is State.MULTIPLEXED
    silent = MemoryPeer("silent")
    relay.attach(silent)
    relay.reserve(silent)
    relay.stalled.add(silent)
    relay.advance(20)
    assert relay.links[silent].connection.state is State.CLOSED


def test_limits_of_connections() -> None:
    policy = ForwarderPolicy(max_connections=3, max_connections_per_ip=2, rate_limits=False)
    relay = MemoryRelay(forwarder_policy=policy)
    alice, _ = attached(relay, "alice", "bob")
    assert relay.forwarder.admit("192.0.2.7", relay.now) == "max_connections_per_ip"
    relay.attach(MemoryPeer("carol"), "192.0.2.8")
    assert relay.forwarder.admit("192.0.2.9", relay.now) == "max_connections"
    relay.detach(alice)
    assert relay.forwarder.admit("192.0.2.7", relay.now) == ""
    assert relay.forwarder.refusals == {"max_connections": 1, "max_connections_per_ip": 1}


def test_a_host_with_many_addresses_is_one_where_connections_are_counted() -> None:
    policy = ForwarderPolicy(max_connections_per_ip=2, connection_rate_per_ip=16.0)
    relay = MemoryRelay(forwarder_policy=policy)
    peers = [MemoryPeer(name) for name in ("alice", "bob", "carol")]
    relay.attach(peers[0], "2001:db8::1")
    relay.attach(peers[1], "2001:db8::2")
    assert relay.forwarder.admit("2001:db8::3", relay.now) == "max_connections_per_ip"
    assert relay.forwarder.connection_counts() == {"2001:db8::/64": 2}
    relay.attach(peers[2], "2001:db8:0:1::1")
    for peer in peers:
        relay.detach(peer)
    assert not relay.forwarder.connection_counts()
    assert [relay.forwarder.admit(f"2001:db8::{number:x}", relay.now) for number in range(3)] == [
        "",
        "",
        "connection_rate_per_ip",
    ]


def test_good_bye_is_said_to_everybody() -> None:
    relay = MemoryRelay()
    peers = attached(relay, "alice", "bob")
    relay.forwarder.close_all()
    relay.run()
    assert all(peer.connection.session.remote_going_away for peer in peers)


def identified(view: MemoryStream) -> identify.IdentifyMessage:
    reader = identify.IdentifyReader()
    reader.receive_data(view.take())
    event = reader.next_event()
    assert event is not None
    return event.message


def test_new_addresses_are_pushed_to_peers_in_a_newer_record() -> None:
    relay = MemoryRelay()
    alice = MemoryPeer("alice")
    relay.attach(alice)
    view = alice.open(identify.PROTOCOL)
    relay.run()
    first = open_peer_record(identified(view).signed_peer_record)
    view.finish()
    moved = [bytes.fromhex("04cb0071090610e1")]
    relay.forwarder.set_addresses(moved, relay.now)
    relay.forwarder.set_addresses(moved, relay.now)  # nothing new: nothing is said
    relay.advance(2)
    assert len(alice.pushed) == 1
    message = identified(alice.pushed[0])
    assert list(message.listen_addrs) == moved
    record = open_peer_record(message.signed_peer_record)
    assert list(record.addresses) == moved and record.sequence > first.sequence
    assert relay.links[alice].connection.session.streams == {}
