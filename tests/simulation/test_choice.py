"""Which relays clients choose: they spread, nobody gains much by a lie, and one that drops circuits is left."""

from __future__ import annotations

import pytest

from tests.simulation.choice import dropper, liar, spread

#: What a relay that says that it is idle gets, beside one that tells the truth (actors/relay_directory.py).
LIAR_BOUND = 2.0


def test_clients_spread_over_relays_and_all_are_served() -> None:
    """Relays have room for twice what is wanted; some are four times as large as others, which nobody believes them."""
    result = spread(1, relays=40, clients=200)
    assert result.without == 0
    assert max(result.fill) <= 1.0
    assert result.jain > 0.8


@pytest.mark.parametrize("liars", [1, 5])
def test_a_lie_about_its_load_gains_a_relay_no_more_than_the_bound(liars: int) -> None:
    gains = [liar(seed, relays=25, clients=150, liars=liars) for seed in range(3)]
    assert sum(gains) / len(gains) <= LIAR_BOUND


@pytest.mark.parametrize("drops", [1.0, 0.5])
def test_relays_that_drop_circuits_are_left(drops: float) -> None:
    """A fifth of the relays does; who chose blindly would lose a fifth of all circuits to them, for ever."""
    hours = dropper(1, drops, relays=25, clients=20, hours=6)
    assert hours[0][0] < 0.2
    assert sum(lost for _, lost in hours[2:]) / len(hours[2:]) < 0.02
