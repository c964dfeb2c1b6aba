"""The table of reservations: whose slot it is, what a full one says, and that what runs out is forgotten."""

from __future__ import annotations

import pytest

from actors.reservations import Reservation, Reservations, group_of, household


def held(peer: str, connection: int = 1, address: str = "192.0.2.1", until: float = 100.0) -> Reservation:
    return Reservation(peer.encode(), "forwarder/0", connection, address, until)


def table(*reservations: Reservation, in_all: int = 100, per_ip: int = 100, per_group: int = 100) -> Reservations:
    made = Reservations(in_all, per_ip, per_group)
    for reservation in reservations:
        made.put(reservation)
    return made


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:0:12ff::1", "2001:db8:0:1200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("not an address", "not an address"),
    ],
)
def test_addresses_that_one_owner_is_likely_to_have_are_one_group(address: str, group: str) -> None:
    assert group_of(address) == group


def test_each_limit_refuses_by_its_name_and_value() -> None:
    full = table(held("a"), in_all=1).refused(b"b", "203.0.113.1", 0.0)
    assert full is not None and full.setting == "max_reservations" and "1" in full.reason
    same_ip = table(held("a"), held("b"), per_ip=2).refused(b"c", "192.0.2.1", 0.0)
    assert same_ip is not None and same_ip.setting == "max_reservations_per_ip" and "2" in same_ip.reason
    same_group = table(held("a"), per_group=1).refused(b"b", "192.0.2.2", 0.0)
    assert same_group is not None and same_group.setting == "max_reservations_per_group"
    assert table(held("a"), per_ip=1, per_group=1).refused(b"b", "198.51.100.1", 0.0) is None


def test_an_address_is_counted_once_however_it_is_written() -> None:
    assert table(held("a", address="::ffff:192.0.2.1"), per_ip=1).refused(b"b", "192.0.2.1", 0.0) is not None


def test_addresses_of_one_household_are_one_where_limits_are_counted() -> None:
    """Every host with IPv6 has as many addresses as it likes, all of one /64."""
    reserved = table(held("a", address="2001:db8::1"), per_ip=1)
    refused = reserved.refused(b"b", "2001:db8::2", 0.0)
    assert refused is not None and refused.setting == "max_reservations_per_ip"
    assert reserved.refused(b"a", "2001:db8::2", 0.0) is None, "it refreshes from another of its addresses"
    assert reserved.refused(b"b", "2001:db8:0:1::1", 0.0) is None


@pytest.mark.parametrize(
    ("address", "home"),
    [
        ("192.0.2.77", "192.0.2.77"),
        ("::ffff:192.0.2.77", "192.0.2.77"),
        ("2001:db8:0:12ff::1", "2001:db8:0:12ff::/64"),
        ("2001:db8:0:12ff::/64", "2001:db8:0:12ff::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("not an address", "not an address"),
    ],
)
def test_whom_an_address_stands_for(address: str, home: str) -> None:
    assert household(address) == home


def test_a_lookup_of_networks_replaces_the_groups() -> None:
    grouped = Reservations(9, 9, 1, group=lambda address: "AS64496")
    grouped.put(held("a"))
    assert grouped.refused(b"b", "2001:db8::1", 0.0) is not None


def test_a_full_relay_still_refreshes() -> None:
    full = table(held("a"), in_all=1, per_ip=1, per_group=1)
    assert full.refused(b"a", "192.0.2.1", 0.0) is None


def test_moving_to_a_full_address_is_refused() -> None:
    moved = table(held("a"), held("b", address="203.0.113.1"), per_ip=1)
    assert moved.refused(b"b", "192.0.2.1", 0.0) is not None


@pytest.mark.parametrize(("until", "retry_after"), [(0.5, 1), (20.0, 20), (20.1, 21), (9000.0, 60)])
def test_a_refusal_says_when_the_next_slot_may_be_free(until: float, retry_after: int) -> None:
    refusal = table(held("a", until=until), in_all=1).refused(b"b", "192.0.2.9", 0.0)
    assert refusal is not None and refusal.retry_after == retry_after


def test_a_refreshed_reservation_does_not_promise_its_first_expiry() -> None:
    refusal = table(held("a", until=5.0), held("a", until=50.0), in_all=1).refused(b"b", "192.0.2.9", 0.0)
    assert refusal is not None and refusal.retry_after == 50


def test_it_runs_out_when_it_was_said_to() -> None:
    one = table(held("a", until=10.0))
    assert one.find(b"a", 9.9) is not None and one.find(b"a", 10.0) is None
    one.expire(10.0)
    assert len(one) == 0 and one.next_expiry() is None


def test_a_refreshed_one_outlives_its_first_expiry() -> None:
    one = table(held("a", until=10.0), held("a", until=20.0))
    assert one.next_expiry() == 20.0
    one.expire(10.0)
    assert one.find(b"a", 10.0) == held("a", until=20.0) and len(one) == 1


def test_the_connection_used_last_is_where_a_peer_is_reached() -> None:
    one = table(held("a", connection=1, until=10.0), held("a", connection=2, until=20.0))
    assert one.find(b"a", 0.0) == held("a", connection=2, until=20.0) and len(one) == 1


def test_an_older_connection_takes_over_when_the_newest_ends() -> None:
    one = table(held("a", connection=1, until=10.0), held("a", connection=2, until=20.0), per_ip=1)
    one.end(b"a", "forwarder/0", 2)
    assert one.find(b"a", 0.0) == held("a", connection=1, until=10.0)
    one.end(b"a", "forwarder/0", 1)
    assert len(one) == 0 and one.refused(b"b", "192.0.2.1", 0.0) is None


def test_moving_away_and_back_takes_no_more_of_an_address_than_it_has() -> None:
    one = table(held("a", connection=1, until=10.0), per_ip=1)
    one.put(held("a", connection=2, address="203.0.113.1", until=20.0))
    assert one.refused(b"b", "192.0.2.1", 0.0) is not None and one.refused(b"b", "203.0.113.1", 0.0) is not None
    one.end(b"a", "forwarder/0", 1)
    assert one.refused(b"b", "192.0.2.1", 0.0) is None


def test_the_end_of_an_older_connection_changes_nothing() -> None:
    one = table(held("a", connection=1, until=10.0), held("a", connection=2, until=20.0))
    one.end(b"a", "forwarder/0", 1)
    assert one.find(b"a", 0.0) == held("a", connection=2, until=20.0)


def test_which_connection_is_newest_does_not_depend_on_who_reports_first() -> None:
    newer, older = held("a", connection=2, until=20.0), held("a", connection=1, until=10.0)
    assert table(newer, older).find(b"a", 0.0) == newer == table(older, newer).find(b"a", 0.0)


def test_ending_what_is_not_held_changes_nothing() -> None:
    one = table(held("a"))
    one.end(b"b", "forwarder/0", 1)
    one.end(b"a", "forwarder/1", 1)
    assert len(one) == 1


def test_a_lost_forwarder_takes_its_own_with_it() -> None:
    one = table(held("a", until=20.0), held("b"))
    one.put(Reservation(b"a", "forwarder/1", 1, "192.0.2.1", 30.0))
    one.put(Reservation(b"c", "forwarder/1", 2, "192.0.2.1", 30.0))
    one.end_forwarder("forwarder/1")
    assert len(one) == 2 and one.find(b"a", 0.0) == held("a", until=20.0) and one.find(b"c", 0.0) is None


def test_refreshing_for_ever_holds_no_memory() -> None:
    one = table()
    for turn in range(10_000):
        one.put(held("a", until=1e6 + turn))
        one.put(held("b", connection=turn, until=1e6 + turn))
        one.end(b"b", "forwarder/0", turn)
    assert one.expiries_remembered < 200
