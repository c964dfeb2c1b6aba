"""Whoever takes the twenty places nearest to the relays' key does not hide the relays."""

from __future__ import annotations

from tests.simulation.eclipse import Eclipse


def test_relays_are_found_behind_those_who_crowd_about_their_key() -> None:
    attacked = Eclipse(seed=3, nodes=80, attackers=24, networks=24)
    nearest = attacked.nearest(20)
    assert all(host in attacked.attackers for host in nearest), "they have all places"
    outcome = attacked.look(10)
    assert outcome.found == outcome.looks == 10
    assert outcome.relays >= 0.8
