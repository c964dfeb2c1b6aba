"""Slots shared among classes: guarantees hold, follow what is wanted, and starve nobody."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.shares import CEILING, CLASSES, FLOOR, OPERATOR, PUBLIC, TRUSTED, Shares, best

HOUR = 3600.0


def fill(shares: Shares, name: str, now: float = 0.0, most: int = 10_000) -> int:
    """How many came before one was refused."""
    for count in range(most):
        if not shares.admits(name, now):
            return count
        shares.came(name)
    return most


def test_the_best_class_counts() -> None:
    assert best(PUBLIC, OPERATOR, TRUSTED) == OPERATOR
    assert best(PUBLIC) == PUBLIC


def test_a_relay_without_operators_is_nearly_all_the_publics() -> None:
    shares = Shares(1000)
    assert fill(shares, PUBLIC) == 1000 - 50 - 20
    assert fill(shares, OPERATOR) == 50, "what was kept for them"
    assert fill(shares, TRUSTED) == 20
    assert shares.total == 1000 and not shares.admits(PUBLIC, 0.0)


def test_operators_cannot_starve_the_public() -> None:
    shares = Shares(1000)
    assert fill(shares, OPERATOR) == 1000 - 150 - 20
    assert fill(shares, PUBLIC) == 150


def test_slots_that_get_free_go_to_those_who_were_refused() -> None:
    shares = Shares(1000)
    fill(shares, PUBLIC)
    now = 0.0
    for _ in range(3000):  # one of the public leaves, and both want its slot
        now += 1.0
        shares.left(PUBLIC)
        for name in (PUBLIC, OPERATOR):
            if shares.admits(name, now):
                shares.came(name)
    assert shares.used(OPERATOR) >= 1000 * CEILING[OPERATOR] - 1
    assert shares.used(PUBLIC) >= 1000 * FLOOR[PUBLIC]


def test_what_was_wanted_is_forgotten() -> None:
    shares = Shares(1000)
    fill(shares, OPERATOR)
    assert shares.guarantee(OPERATOR, 0.0) == 600
    for _ in range(shares.used(OPERATOR)):
        shares.left(OPERATOR)
    assert shares.guarantee(OPERATOR, 0.5 * HOUR) == 600
    assert 150 < shares.guarantee(OPERATOR, 2.5 * HOUR) < 200
    assert shares.guarantee(OPERATOR, 48 * HOUR) == 50


def test_a_small_relay_serves_all_classes() -> None:
    shares = Shares(1)
    assert fill(shares, PUBLIC) == 1
    shares = Shares(0)
    assert not shares.admits(OPERATOR, 0.0)


@given(
    limit=st.integers(0, 50),
    steps=st.lists(st.tuples(st.sampled_from(CLASSES), st.booleans(), st.floats(0, HOUR)), max_size=300),
)
def test_never_more_than_there_are_and_never_less_than_was_promised(
    limit: int, steps: list[tuple[str, bool, float]]
) -> None:
    shares, now = Shares(limit), 0.0
    for name, comes, pause in steps:
        now += pause
        if comes:
            promised = shares.used(name) < int(FLOOR[name] * limit) and shares.total < limit
            admitted = shares.admits(name, now)
            assert admitted or not promised
            if admitted:
                shares.came(name)
        elif shares.used(name):
            shares.left(name)
        assert 0 <= shares.total <= limit


@pytest.mark.parametrize("seed", range(3))
def test_helpers_are_served_first_when_it_is_full(seed: int) -> None:
    """Both want twice what there is, in lasting circuits: three times the share, a tenth of the refusals."""
    rng = random.Random(seed)
    shares, now = Shares(500), 0.0
    ends: list[tuple[float, str]] = []
    asked, refused, held = Counter[str](), Counter[str](), Counter[str]()
    for step in range(60_000):
        now += rng.expovariate(4.0)
        for end in [one for one in ends if one[0] <= now]:
            ends.remove(end)
            shares.left(end[1])
        # Operators want half of the slots, the public twice as many as there are.
        name = OPERATOR if rng.random() < 0.2 else PUBLIC
        admitted = shares.admits(name, now)
        if step > 20_000:
            asked[name] += 1
            refused[name] += not admitted
            held.update({one: shares.used(one) for one in CLASSES})
        if admitted:
            shares.came(name)
            ends.append((now + rng.expovariate(1 / 300), name))
    per_wish = {name: held[name] / asked[name] for name in (OPERATOR, PUBLIC)}
    assert per_wish[OPERATOR] >= 1.5 * per_wish[PUBLIC]
    assert refused[OPERATOR] / asked[OPERATOR] <= refused[PUBLIC] / asked[PUBLIC] / 10
    assert held[PUBLIC] / sum(held.values()) >= FLOOR[PUBLIC]
