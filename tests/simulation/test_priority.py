"""A full relay serves those first that help, and nobody gains by being many."""

from __future__ import annotations

import pytest

from actors.shares import FLOOR, PUBLIC
from tests.simulation.priority import KINDS, SLOTS, helpers, sybils

#: What N identities may hold of what N honest newcomers hold of whom we saw as much (actors/vouching.py).
BOUND = 2.0


@pytest.mark.parametrize("seed", [1, 2])
def test_operators_are_served_first_and_the_public_is_not_starved(seed: int) -> None:
    operators, public = helpers(seed, hours=0.5)
    slots = {one.name: one.held / (0.5 * 3600) for one in (operators, public)}
    wished = {one.name: len(one.peers) * one.wants for one in (operators, public)}
    assert slots["operators"] / wished["operators"] >= 3 * slots["public"] / wished["public"]
    assert operators.refusals * 10 <= public.refusals
    assert slots["public"] >= FLOOR[PUBLIC] * SLOTS


@pytest.mark.parametrize("count", [3, 50])
def test_many_who_vouch_for_each_other_gain_no_more_than_the_bound(count: int) -> None:
    shares = {kind: sybils(7, count, kind, hours=0.5)["newcomers"] for kind in KINDS}
    honest = shares.pop("honest")
    assert honest > 0
    for kind, share in shares.items():
        assert share <= BOUND * honest, (kind, share / honest)
