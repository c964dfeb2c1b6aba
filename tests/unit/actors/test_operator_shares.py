"""Operators share what is kept for them by their standing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.operator_shares import ACTIVE, OperatorShares

NOW = 1_800_000_000.0


def fill(shares: OperatorShares, wants: dict[bytes, float], rounds: int, now: float = NOW) -> Counter[bytes]:
    """Each wants one more, in turn; what each has in the end."""
    for _ in range(rounds):
        for peer, standing in wants.items():
            if shares.asked(peer, standing, now):
                shares.came(peer)
    return Counter({peer: shares.held(peer) for peer in wants})


def test_one_alone_has_all_of_it() -> None:
    assert fill(OperatorShares(60), {b"a": 1 / 12}, 100) == {b"a": 60}


def test_each_has_its_part_whoever_came_first() -> None:
    shares = OperatorShares(60)
    assert fill(shares, {b"a": 1.0}, 60) == {b"a": 60}
    for _ in range(60):
        shares.left(b"a")
    assert fill(shares, {b"a": 1.0, b"b": 2.0}, 60) == {b"a": 20, b"b": 40}
    assert shares.held(b"stranger") == 0


def test_everybody_has_one() -> None:
    wants = {b"%d" % number: 0.01 for number in range(100)}
    held = fill(OperatorShares(10), wants | {b"big": 2.0}, 20)
    assert held.pop(b"big") == 6 and set(held.values()) == {1}


def test_who_is_gone_leaves_its_part() -> None:
    shares = OperatorShares(60)
    fill(shares, {b"a": 1.0, b"b": 1.0}, 60)
    for _ in range(30):
        shares.left(b"b")
    assert fill(shares, {b"a": 1.0}, 60) == {b"a": 30}, "it was here a moment ago"
    assert fill(shares, {b"a": 1.0}, 60, NOW + ACTIVE) == {b"a": 60}


def test_who_holds_something_keeps_its_part() -> None:
    shares = OperatorShares(60)
    fill(shares, {b"a": 1.0, b"b": 1.0}, 1)
    assert fill(shares, {b"a": 1.0}, 60, NOW + ACTIVE) == {b"a": 30}
    assert fill(shares, {b"a": 1.0}, 60, NOW + 5 * ACTIVE) == {b"a": 30}


wish = st.tuples(st.integers(0, 9), st.floats(0, 2), st.booleans(), st.floats(0, ACTIVE))


@given(st.lists(wish, max_size=60))
def test_its_sum_is_of_those_that_count(wishes: list[tuple[int, float, bool, float]]) -> None:
    shares, now = OperatorShares(20), NOW
    standings: dict[bytes, float] = {}
    asked: dict[bytes, float] = {}
    for number, standing, leaves, pause in wishes:
        now += pause
        peer = b"%d" % number
        if leaves:
            shares.left(peer)
            continue
        standings[peer], asked[peer] = standing, now
        active = [one for one in standings if asked[one] + ACTIVE > now or shares.held(one)]
        fair = max(1, int(20 * standing / total)) if (total := sum(standings[one] for one in active)) else 0
        may = shares.asked(peer, standing, now)
        # What was held when it was last looked at counts on for a while: a part may be smaller for it, never larger.
        assert not may or shares.held(peer) <= fair
        if may:
            shares.came(peer)
