"""Relays are found soon after they begin, under churn, and when a network that was cut in two is one again."""

from __future__ import annotations

from tests.simulation.found import Found, new_relays, partition


def test_a_new_relay_is_found_within_seconds() -> None:
    assert max(new_relays(1, nodes=60, relays=3)) < 15.0


def test_look_ups_under_churn_find_a_living_relay() -> None:
    experiment = Found(80, 1, relays=0.1, churn=0.2, hours=0.5, looks=8)
    experiment.run()
    trips = sorted(one for one in experiment.trips if one is not None)
    assert len(trips) == len(experiment.trips) >= 8
    assert trips[len(trips) // 2] <= 4.0


def test_a_network_that_was_cut_in_two_becomes_one_again() -> None:
    sides = partition(1, 48)
    apart = [one for one in sides if one.minute < 60]
    after = [one for one in sides if one.minute > 85]
    assert all(one.here == 1.0 and one.beyond == 0.0 for one in apart) and len(apart) >= 4
    assert all(one.here == one.beyond == 1.0 for one in after) and len(after) >= 3
