"""Operators share what is kept for them by their standing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.operator_shares import ACTIVE, OperatorShares

NOW = 1_800_000_000.0


def fill(shares: OperatorShares, wants: dict[bytes, float], rounds: int, now: float = NOW) -> dict[bytes, int]:
    """Each wants one more, in turn; what each has in the end."""
    for _ in range(rounds):
        for peer, standing in wants.items():
            if shares.asked(peer, standing, now):
                shares.came(peer, now)
    return {peer: shares.held(peer) for peer in wants}


def empty(shares: OperatorShares, peer: bytes, now: float = NOW) -> None:
    for _ in range(shares.held(peer)):
        shares.left(peer, now)


def test_one_alone_has_all_of_it() -> None:
    assert fill(OperatorShares(60), {b"a": 1 / 12}, 100) == {b"a": 60}


def test_each_has_its_part_whoever_came_first() -> None:
    shares = OperatorShares(60)
    assert fill(shares, {b"a": 1.0}, 60) == {b"a": 60}
    empty(shares, b"a")
    assert fill(shares, {b"a": 1.0, b"b": 2.0}, 60) == {b"a": 20, b"b": 40}
    assert shares.held(b"stranger") == 0 and not shares.asked(b"nobody", 0.0, NOW)


def test_who_is_gone_leaves_its_part() -> None:
    shares = OperatorShares(60)
    fill(shares, {b"a": 1.0, b"b": 1.0}, 60)
    empty(shares, b"b")
    assert fill(shares, {b"a": 1.0}, 60) == {b"a": 30}, "it was here a moment ago"
    assert fill(shares, {b"a": 1.0}, 60, NOW + ACTIVE) == {b"a": 60}


def test_who_holds_something_keeps_its_part() -> None:
    shares = OperatorShares(60)
    fill(shares, {b"a": 1.0, b"b": 1.0}, 1)
    assert fill(shares, {b"a": 1.0}, 60, NOW + ACTIVE) == {b"a": 30}
    assert fill(shares, {b"a": 1.0}, 60, NOW + 5 * ACTIVE) == {b"a": 30}


def test_what_is_no_whole_number_is_given_for_a_part_of_the_time() -> None:
    """Ten of the same standing, and slots for four: each asks each ten seconds, and keeps what it has for a minute."""
    shares, held = OperatorShares(4), Counter[bytes]()
    until: dict[bytes, float] = {}
    peers = [b"%d" % number for number in range(10)]
    for second in range(0, 36_000, 10):
        now = NOW + second
        for peer in peers:
            if until.get(peer, now) < now:
                shares.left(peer, now)
                del until[peer]
            if shares.asked(peer, 0.5, now):
                assert peer not in until, "never two at a time"
                shares.came(peer, now)
                until[peer] = now + 55
            held[peer] += peer in until
    for peer in peers:
        assert 0.3 < held[peer] / 3600 < 0.5


wish = st.tuples(st.integers(0, 9), st.floats(0.01, 2), st.booleans(), st.floats(0, ACTIVE / 4))


@given(st.lists(wish, max_size=60))
def test_nobody_holds_more_than_its_part_rounded_up(wishes: list[tuple[int, float, bool, float]]) -> None:
    shares, now = OperatorShares(20), NOW
    standings: dict[bytes, float] = {}
    asked: dict[bytes, float] = {}
    for number, standing, leaves, pause in wishes:
        now += pause
        peer = b"%d" % number
        if leaves:
            if shares.held(peer):
                shares.left(peer, now)
            continue
        standings[peer], asked[peer] = standing, now
        active = [one for one in standings if asked[one] + ACTIVE > now or shares.held(one)]
        part = 20 * standing / sum(standings[one] for one in active)
        if shares.asked(peer, standing, now):
            # One that held something when it was last looked at counts on for a while, so a part may be smaller.
            assert shares.held(peer) < part + 1
            shares.came(peer, now)
