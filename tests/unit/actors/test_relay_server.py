"""RelayServer: who may reserve and connect, what a refusal says, and what a restart learns."""

from __future__ import annotations

import pytest

from actors.actor import Send
from actors.circuit_counts import LIMITS
from actors.relay_server import ADMISSION_TIMEOUT, MAX_WAITING, REPORT_WAIT, RelayServer, RelayServerPolicy
from protocol import messages as m
from protocol.relay_hop import Status
from protocol.reputation_messages import Contributed

ZERO, ONE = "forwarder/0", "forwarder/1"


def report(forwarder: str = ZERO, *held: m.HeldReservation, circuits: tuple[m.HeldCircuit, ...] = ()) -> m.Message:
    return m.ForwarderReport(forwarder, 1, held, circuits)


def started(now: float = 0.0, forwarders: tuple[str, ...] = (ZERO,), **policy: float) -> RelayServer:
    """One whose forwarders have reported that they hold nothing."""
    relay = RelayServer(RelayServerPolicy(**({"rate_limits": False} | policy)), forwarders)
    relay.handle_deadline(now)
    for forwarder in forwarders:
        relay.handle(report(forwarder), now)
    return relay


def reserve(relay: RelayServer, peer: str, now: float = 0.0, *, connection: int = 1, address: str = "192.0.2.1",
            forwarder: str = ZERO, request: int = 1) -> m.Message:  # fmt: skip
    (send,) = relay.handle(m.ReserveAsked(request, forwarder, connection, peer.encode(), address), now)
    assert send.receiver == forwarder
    return send.message


def connect(relay: RelayServer, source: str, target: str, now: float = 0.0, *, connection: int = 9,
            forwarder: str = ZERO, address: str = "192.0.2.9") -> m.Message:  # fmt: skip
    (send,) = relay.handle(m.ConnectAsked(2, forwarder, connection, source.encode(), target.encode(), address), now)
    assert send.receiver == forwarder
    return send.message


def refusal(message: m.Message) -> tuple[int, str, int]:
    assert isinstance(message, m.ReserveRefused | m.ConnectRefused)
    return message.status, message.reason, message.retry_after


def held(peer: str, connection: int = 1, until: float = 100.0) -> m.HeldReservation:
    return m.HeldReservation(connection, peer.encode(), "192.0.2.1", until)


def joined(number: int, source: str, target: str, target_forwarder: str = ZERO) -> m.HeldCircuit:
    return m.HeldCircuit(number, source.encode(), target.encode(), 1, 2, 0.0, target_forwarder)


# Reserving.


def test_a_grant_says_until_when_and_what_a_circuit_may_carry() -> None:
    relay = started(reservation_duration=60.0, circuit_duration=120.0, circuit_data=1024)
    assert reserve(relay, "bob", now=5.0) == m.ReserveGranted(1, 1, 65.0, 120.0, 1024)


@pytest.mark.parametrize("limit", ["max_reservations", "max_reservations_per_ip", "max_reservations_per_group"])
def test_a_full_relay_names_the_limit_its_value_and_when_to_come_back(limit: str) -> None:
    relay = started(reservation_duration=30.0, **{limit: 2})
    reserve(relay, "a"), reserve(relay, "b")
    status, reason, retry_after = refusal(reserve(relay, "c", now=10.0))
    assert status == Status.RESERVATION_REFUSED
    assert f"({limit})" in reason and "2" in reason
    assert retry_after == 20


def test_the_end_of_the_connection_frees_the_slot() -> None:
    relay = started(max_reservations=1)
    reserve(relay, "a", connection=7)
    relay.handle(m.ReservationEnded(ZERO, 6, b"a"), 0.0)
    assert isinstance(reserve(relay, "b"), m.ReserveRefused)
    relay.handle(m.ReservationEnded(ZERO, 7, b"a"), 0.0)
    assert isinstance(reserve(relay, "b"), m.ReserveGranted)


def test_a_reservation_that_ran_out_is_nobodys() -> None:
    relay = started(reservation_duration=60.0)
    reserve(relay, "bob")
    assert relay.next_deadline() == 60.0
    assert isinstance(connect(relay, "alice", "bob", now=59.9), m.ConnectAdmitted)
    assert refusal(connect(relay, "alice", "bob", now=60.0))[0] == Status.NO_RESERVATION
    relay.handle_deadline(60.0)
    assert relay.reservations_in_all == 0


# Connecting.


def test_a_circuit_goes_to_the_connection_that_reserved_last() -> None:
    relay = started(forwarders=(ZERO, ONE), circuit_duration=9.0, circuit_data=8)
    reserve(relay, "bob", connection=3)
    reserve(relay, "bob", now=1.0, connection=4, forwarder=ONE)
    admitted = connect(relay, "alice", "bob", now=2.0)
    assert isinstance(admitted, m.ConnectAdmitted)
    assert (admitted.request_id, admitted.connection, admitted.target) == (2, 9, b"bob")
    assert (admitted.target_forwarder, admitted.target_connection) == (ONE, 4)
    assert (admitted.limit_duration, admitted.limit_data) == (9.0, 8)
    relay.handle(m.ReservationEnded(ONE, 4, b"bob"), 3.0)
    older = connect(relay, "alice", "bob", now=3.0)
    assert isinstance(older, m.ConnectAdmitted) and older.target_connection == 3


def test_nobody_is_connected_to_itself_or_to_one_that_did_not_reserve() -> None:
    relay = started()
    reserve(relay, "bob")
    assert refusal(connect(relay, "bob", "bob"))[0] == Status.PERMISSION_DENIED
    assert refusal(connect(relay, "alice", "carol"))[0] == Status.NO_RESERVATION
    assert relay.circuits_in_all == 0


def test_circuits_in_all_are_limited() -> None:
    relay = started(max_circuits=1)
    reserve(relay, "bob"), reserve(relay, "dave")
    first = connect(relay, "alice", "bob")
    status, reason, retry_after = refusal(connect(relay, "carol", "dave"))
    assert status == Status.RESOURCE_LIMIT_EXCEEDED and "1" in reason and "(max_circuits)" in reason and retry_after
    assert isinstance(first, m.ConnectAdmitted)
    relay.handle(m.CircuitEnded(first.circuit, ZERO, 0, 0, ""), 1.0)
    assert isinstance(connect(relay, "carol", "dave"), m.ConnectAdmitted)


@pytest.mark.parametrize(
    ("source", "target"), [("alice", "dave"), ("carol", "bob"), ("bob", "dave"), ("dave", "alice")]
)
def test_circuits_of_one_peer_count_at_both_ends(source: str, target: str) -> None:
    relay = started(max_circuits_per_peer=1)
    for peer in ("alice", "bob", "dave"):
        reserve(relay, peer)
    connect(relay, "alice", "bob")
    status, reason, _ = refusal(connect(relay, source, target))
    assert status == Status.RESOURCE_LIMIT_EXCEEDED and "(max_circuits_per_peer)" in reason
    assert isinstance(connect(relay, "carol", "dave"), m.ConnectAdmitted)


def test_one_dialler_cannot_take_all_of_a_targets_circuits() -> None:
    relay = started(max_circuits_per_pair=2)
    reserve(relay, "bob")
    first = connect(relay, "alice", "bob")
    connect(relay, "alice", "bob")
    status, reason, _ = refusal(connect(relay, "alice", "bob"))
    assert status == Status.RESOURCE_LIMIT_EXCEEDED and "(max_circuits_per_pair)" in reason
    assert isinstance(connect(relay, "carol", "bob"), m.ConnectAdmitted)
    relay.handle(m.CircuitEnded(first.circuit, ZERO, 1, 1, ""), 1.0)
    assert isinstance(connect(relay, "alice", "bob"), m.ConnectAdmitted)


@pytest.mark.parametrize("other", ["192.0.2.9", "2001:db8::2", "2001:db8:0:0:1::"])
def test_the_diallers_of_one_household_cannot_take_the_relay(other: str) -> None:
    """A host with IPv6 has as many addresses as it likes, all of one /64."""
    address = "2001:db8::1" if ":" in other else other
    relay = started(max_circuits_per_ip=2)
    for peer in ("bob", "dave", "frank"):
        reserve(relay, peer)
    connect(relay, "alice", "bob", address=address)
    connect(relay, "carol", "dave", address=other)
    status, reason, _ = refusal(connect(relay, "erin", "frank", address=other))
    assert status == Status.RESOURCE_LIMIT_EXCEEDED and "(max_circuits_per_ip)" in reason
    assert isinstance(connect(relay, "erin", "frank", address="2001:db8:0:1::1"), m.ConnectAdmitted)


@pytest.mark.parametrize(
    "end",
    [
        lambda n: m.CircuitEnded(n, ZERO, 1, 1, "limit"),
        lambda n: m.CircuitFailed(n, ZERO, 203, "no answer"),
        lambda n: m.ActorDown(ZERO),
    ],
)
def test_whatever_ends_a_circuit_frees_it_once(end: object) -> None:
    relay = started(forwarders=(ZERO, ONE))
    reserve(relay, "bob", forwarder=ONE)
    admitted = connect(relay, "alice", "bob")
    relay.handle(m.CircuitOpened(admitted.circuit, ZERO), 0.0)
    for _ in range(2):
        relay.handle(end(admitted.circuit), 1.0)
        assert relay.circuits_in_all == 0 and not any(relay._counts.held(setting) for setting in LIMITS)


def test_an_admitted_circuit_of_which_nothing_is_heard_is_forgotten() -> None:
    relay = started(reservation_duration=9999.0)
    reserve(relay, "bob")
    connect(relay, "alice", "bob")
    opened = connect(relay, "alice", "bob", now=1.0)
    relay.handle(m.CircuitOpened(opened.circuit, ZERO), 1.0)
    assert relay.next_deadline() == ADMISSION_TIMEOUT
    relay.handle_deadline(ADMISSION_TIMEOUT)
    assert relay.circuits_in_all == 1


# Rates.


@pytest.mark.parametrize(
    ("rates", "setting"),
    [
        ({"reserve_rate_per_peer": 8.0}, "reserve_rate_per_peer"),
        ({"reserve_rate_per_ip": 8.0}, "reserve_rate_per_ip"),
    ],
)
def test_reserving_too_often_says_how_often_is_not(rates: dict[str, float], setting: str) -> None:
    relay = started(rate_limits=True, **rates)
    assert [isinstance(reserve(relay, "a"), m.ReserveGranted) for _ in range(2)] == [True, True]
    status, reason, retry_after = refusal(reserve(relay, "a"))
    assert status == Status.RESERVATION_REFUSED
    assert f"({setting})" in reason and "8 a minute" in reason
    assert retry_after == 8  # a token every 7.5 s: whoever waits as told is not refused again
    assert isinstance(reserve(relay, "a", now=float(retry_after)), m.ReserveGranted)
    assert isinstance(reserve(relay, "b", address="203.0.113.1"), m.ReserveGranted)


@pytest.mark.parametrize("setting", ["connect_rate_per_peer", "connect_rate_per_ip"])
def test_connecting_too_often_says_how_often_is_not(setting: str) -> None:
    relay = started(rate_limits=True, **{setting: 4.0})
    reserve(relay, "bob")
    connect(relay, "alice", "bob")
    status, reason, retry_after = refusal(connect(relay, "alice", "bob"))
    assert status == Status.RESOURCE_LIMIT_EXCEEDED and f"({setting})" in reason and "4 a minute" in reason
    assert retry_after == 15


def test_one_address_cannot_use_up_what_a_peer_may_ask_elsewhere() -> None:
    relay = started(rate_limits=True, reserve_rate_per_ip=4.0, reserve_rate_per_peer=4.0)
    reserve(relay, "a")
    assert "per_ip" in refusal(reserve(relay, "b"))[1]
    assert isinstance(reserve(relay, "b", address="203.0.113.1"), m.ReserveGranted)


@pytest.mark.parametrize("setting", ["reserve_rate_per_ip", "connect_rate_per_ip"])
def test_a_host_with_many_addresses_has_one_rate(setting: str) -> None:
    relay = started(rate_limits=True, **{setting: 4.0})
    reserve(relay, "bob", address="192.0.2.1")
    answers = []
    for number in range(3):
        address = f"2001:db8::{number:x}"
        if setting == "reserve_rate_per_ip":
            answers.append(reserve(relay, f"peer {number}", address=address))
        else:
            answers.append(connect(relay, f"peer {number}", "bob", address=address))
    assert [isinstance(answer, m.ReserveGranted | m.ConnectAdmitted) for answer in answers] == [True, False, False]
    assert f"({setting})" in refusal(answers[-1])[1]


def test_a_rate_of_nothing_refuses_and_goes_on() -> None:
    relay = started(rate_limits=True, reserve_rate_per_peer=0.0)
    reserve(relay, "a")
    assert refusal(reserve(relay, "a"))[2] == 3600


def test_rates_can_be_lifted() -> None:
    relay = started(rate_limits=False, reserve_rate_per_peer=4.0)
    assert all(isinstance(reserve(relay, "a"), m.ReserveGranted) for _ in range(100))


# Restarting.


def test_it_asks_its_forwarders_first_of_all() -> None:
    relay = RelayServer(RelayServerPolicy(), (ZERO, ONE))
    assert relay.next_deadline() == 0.0
    assert relay.handle_deadline(5.0) == [Send(ZERO, m.ReportWanted()), Send(ONE, m.ReportWanted())]
    assert relay.next_deadline() == 5.0 + REPORT_WAIT


def test_requests_wait_until_each_forwarder_has_reported() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO, ONE))
    relay.handle_deadline(0.0)
    assert relay.handle(m.ConnectAsked(2, ZERO, 9, b"alice", b"bob", "192.0.2.9"), 0.1) == []
    assert relay.handle(report(ZERO), 0.2) == []
    (send,) = relay.handle(report(ONE, held("bob", 4)), 0.3)
    assert isinstance(send.message, m.ConnectAdmitted) and send.message.target_forwarder == ONE


def test_they_wait_a_second_for_a_silent_forwarder_and_no_longer() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO, ONE))
    relay.handle_deadline(0.0)
    relay.handle(m.ReserveAsked(1, ZERO, 1, b"bob", "192.0.2.1"), 0.1)
    relay.handle(report(ZERO), 0.2)
    assert relay.handle_deadline(0.5) == []
    (send,) = relay.handle_deadline(REPORT_WAIT)
    assert isinstance(send.message, m.ReserveGranted)
    assert isinstance(reserve(relay, "carol", now=1.1), m.ReserveGranted)


def test_a_report_that_comes_late_adds_to_what_was_decided_meanwhile() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO,))
    relay.handle_deadline(0.0)
    relay.handle_deadline(REPORT_WAIT)
    reserve(relay, "bob", now=1.1)
    connect(relay, "alice", "bob", now=1.2)
    relay.handle(report(ZERO, held("carol", 2), circuits=(joined(99, "dave", "carol"),)), 1.3)
    assert (relay.reservations_in_all, relay.circuits_in_all) == (2, 2)


def test_a_circuit_admitted_before_a_late_report_counts_once() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO,))
    relay.handle_deadline(0.0)
    relay.handle_deadline(REPORT_WAIT)
    reserve(relay, "bob", now=1.1)
    admitted = connect(relay, "alice", "bob", now=1.2)
    relay.handle(report(ZERO, held("bob"), circuits=(joined(admitted.circuit, "alice", "bob"),)), 1.3)
    assert (relay.reservations_in_all, relay.circuits_in_all) == (1, 1)
    assert relay._counts.held("max_circuits_per_peer") == {b"alice": 1, b"bob": 1}


def test_a_further_report_replaces_the_forwarders_first() -> None:
    relay = started(forwarders=(ZERO, ONE))
    reserve(relay, "bob"), reserve(relay, "carol", forwarder=ONE)
    connect(relay, "alice", "bob"), connect(relay, "alice", "carol", forwarder=ONE)
    relay.handle(report(ZERO, held("dave", 5)), 1.0)
    assert (relay.reservations_in_all, relay.circuits_in_all) == (2, 1)


def test_the_targets_forwarder_does_not_report_a_circuit_away() -> None:
    relay = RelayServer(RelayServerPolicy(), (ZERO, ONE))
    relay.handle_deadline(0.0)
    relay.handle(report(ZERO, circuits=(joined(5, "alice", "bob", ONE),)), 0.1)
    relay.handle(report(ONE, held("bob", 4)), 0.2)
    assert relay.circuits_in_all == 1


def test_requests_that_wait_are_bounded() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False, max_reservations=10**6), (ZERO,))
    relay.handle_deadline(0.0)
    for request in range(MAX_WAITING):
        assert not relay.handle(m.ReserveAsked(request, ZERO, 1, b"bob", "192.0.2.1"), 0.1)
    (send,) = relay.handle(m.ReserveAsked(MAX_WAITING, ZERO, 1, b"bob", "192.0.2.1"), 0.1)
    status, reason, retry_after = refusal(send.message)
    assert status == Status.RESOURCE_LIMIT_EXCEEDED and str(MAX_WAITING) in reason and retry_after == 1
    (send,) = relay.handle(m.ConnectAsked(MAX_WAITING, ZERO, 1, b"alice", b"bob", "192.0.2.1"), 0.1)
    assert refusal(send.message)[0] == Status.RESOURCE_LIMIT_EXCEEDED


def test_what_is_asked_twice_while_it_waits_is_answered_once() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO,))
    relay.handle_deadline(0.0)
    for _ in range(2):
        relay.handle(m.ReserveAsked(1, ZERO, 1, b"bob", "192.0.2.1"), 0.1)
    assert len(relay.handle(report(), 0.2)) == 1


def test_a_forwarder_that_fell_is_not_waited_for_and_not_answered() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO, ONE))
    relay.handle_deadline(0.0)
    relay.handle(m.ReserveAsked(1, ONE, 1, b"bob", "192.0.2.1"), 0.1)
    relay.handle(m.ReserveAsked(1, ZERO, 1, b"carol", "192.0.2.1"), 0.1)
    relay.handle(report(ZERO), 0.2)
    (send,) = relay.handle(m.ActorDown(ONE), 0.3)
    assert send.receiver == ZERO and relay.reservations_in_all == 1


def test_a_fallen_forwarders_connections_are_gone() -> None:
    relay = started(forwarders=(ZERO, ONE))
    reserve(relay, "bob"), reserve(relay, "carol", forwarder=ONE)
    relay.handle(m.ActorDown(ONE), 1.0)
    assert refusal(connect(relay, "alice", "carol", now=1.0))[0] == Status.NO_RESERVATION
    assert isinstance(connect(relay, "alice", "bob", now=1.0), m.ConnectAdmitted)


def test_what_ran_out_before_the_report_came_is_not_held() -> None:
    relay = started(now=50.0)
    relay.handle(report(ZERO, held("bob", until=50.0), held("carol", until=51.0)), 50.0)
    assert relay.reservations_in_all == 1


def test_limits_that_a_report_exceeds_refuse_new_ones_and_end_nothing() -> None:
    relay = started(max_reservations=1)
    relay.handle(report(ZERO, held("bob"), held("carol", 2)), 0.0)
    assert relay.reservations_in_all == 2
    assert isinstance(reserve(relay, "dave"), m.ReserveRefused)
    assert isinstance(reserve(relay, "bob"), m.ReserveRefused)  # until one is free


def test_no_circuits_number_is_given_again_by_a_successor() -> None:
    first = started(now=1000.0, max_circuits_per_pair=100)
    reserve(first, "bob", now=1000.0)
    numbers = {connect(first, "alice", "bob", now=1000.0).circuit for _ in range(50)}
    # It fell; its answers were still on their way when its successor was told what there is.
    second = started(now=1001.0)
    reserve(second, "bob", now=1001.0)
    assert connect(second, "alice", "bob", now=1001.0).circuit not in numbers


# Status.


def test_status_adds_up_what_forwarders_count_and_what_was_refused() -> None:
    relay = started(forwarders=(ZERO, ONE))
    reserve(relay, "bob")
    connect(relay, "alice", "bob"), connect(relay, "alice", "nobody")
    relay.handle(m.ForwarderCounters(ZERO, 3, 1, 1000, {"handshake": 2}), 0.0)
    relay.handle(m.ForwarderCounters(ZERO, 4, 1, 2000, {"handshake": 3}), 1.0)
    relay.handle(m.ForwarderCounters(ONE, 1, 0, 10, {"handshake": 1}), 1.0)
    expected = m.StatusAnswer(7, 1, 1, 5, 2010, {"handshake": 4}, {"no_reservation": 1}, 1, 2010, "cooperative", 2048)
    assert relay.handle(m.StatusAsked(7, "cli"), 2.0) == [Send("cli", expected)]


def test_the_tracker_is_told_what_was_relayed_since_it_was_told_last() -> None:
    relay = RelayServer(RelayServerPolicy(rate_limits=False), (ZERO, ONE), tracker="tracker")
    relay.handle_deadline(0.0)
    for forwarder in (ZERO, ONE):
        # What was relayed before this RelayServer began, its predecessor has told.
        relay.handle(m.ForwarderReport(forwarder, 1, (), (), bytes_forwarded=500), 0.0)

    def counted(forwarder: str, size: int, now: float) -> list[Send]:
        return relay.handle(m.ForwarderCounters(forwarder, 1, 1, size, {}), now)

    reserve(relay, "bob")
    admitted, failed = connect(relay, "alice", "bob"), connect(relay, "carol", "bob")
    assert isinstance(admitted, m.ConnectAdmitted) and isinstance(failed, m.ConnectAdmitted)
    assert counted(ZERO, 500, 0.5) == [], "nothing came to be yet"
    relay.handle(m.CircuitFailed(failed.circuit, ZERO, 0, ""), 0.5)
    for forwarder in (ZERO, ONE):  # again, when the dialler's connection has moved
        relay.handle(m.CircuitOpened(admitted.circuit, forwarder), 1.0)
    assert counted(ZERO, 600, 1.0) == [Send("tracker", Contributed(100, 1))]
    assert counted(ONE, 1500, 1.0) == [Send("tracker", Contributed(1000, 0))]
    assert counted(ONE, 1500, 2.0) == []
    relay.handle(m.ActorDown(ZERO), 2.0)
    relay.handle(report(ZERO), 3.0)
    assert counted(ZERO, 70, 4.0) == [Send("tracker", Contributed(70, 0, lost=1))], "it began anew"
    assert started().handle(m.ForwarderCounters(ZERO, 1, 1, 9, {}), 1.0) == [], "there is none"


def test_a_forwarder_of_which_no_report_came_is_asked_for_one() -> None:
    """It reported to a predecessor, which fell before it was known who is there."""
    relay = started()
    counters = m.ForwarderCounters("forwarder/7", 1, 0, 0, {})
    assert relay.handle(counters, 1.0) == [Send("forwarder/7", m.ReportWanted())]
    assert relay.handle(report("forwarder/7", held("bob", 4)), 1.1) == []
    assert relay.handle(counters, 2.0) == []
    relay.handle(m.ActorDown("forwarder/7"), 3.0)
    assert relay.reservations_in_all == 0


def test_status_waits_for_those_who_count() -> None:
    """Without them the sums would go back, and then up again."""
    relay = RelayServer(RelayServerPolicy(), forwarders=(ZERO, ONE))
    relay.handle_deadline(0.0)
    relay.handle(m.ForwarderCounters(ZERO, 3, 1, 1000, {}), 0.0)
    relay.handle(report(ZERO), 0.0)
    assert relay.handle(m.StatusAsked(1, "cli"), 0.1) == []
    relay.handle(m.ForwarderCounters(ONE, 1, 0, 10, {}), 0.2)
    relay.handle(report(ONE), 0.2)
    (send,) = relay.handle(m.StatusAsked(2, "cli"), 0.3)
    assert isinstance(send.message, m.StatusAnswer) and send.message.bytes_forwarded == 1010
