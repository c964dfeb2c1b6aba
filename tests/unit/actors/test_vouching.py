"""What others' word adds: at most as much as we saw ourselves, and no more than who says it is worth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.vouching import WORD_HALF_LIFE, WORD_LIFE, Vouchers, own

NOW = 1_800_000_000.0
SEEN = {b"new": 1 / 12, b"old": 1.0, b"friend": 0.5}


def vouchers(**more: int) -> Vouchers:
    return Vouchers(lambda peer, now: SEEN.get(peer, 0.0), **more)


def test_half_a_day_counts_in_full() -> None:
    assert [own(hours) for hours in (0, 1, 6, 12, 100)] == [0, 1 / 12, 0.5, 1, 1]


def test_a_word_is_worth_half_of_who_says_it() -> None:
    known = vouchers()
    assert known.standing(b"old", NOW) == 1
    known.vouch(b"old", {b"friend": NOW})
    assert known.standing(b"old", NOW) == 1.25
    assert known.standing(b"old", NOW + WORD_HALF_LIFE) == 1.125
    assert known.standing(b"old", NOW + WORD_LIFE + 1) == 1
    known.vouch(b"old", {})
    assert known.standing(b"old", NOW) == 1 and not len(known)


def test_nobody_is_more_than_doubled_and_strangers_are_nothing() -> None:
    known = vouchers()
    known.vouch(b"new", {b"old": NOW, b"friend": NOW})
    assert known.standing(b"new", NOW) == 2 / 12
    known.vouch(b"stranger", {b"old": NOW})
    assert known.standing(b"stranger", NOW) == 0
    known.vouch(b"old", {b"s%d" % n: NOW for n in range(1000)})
    assert known.standing(b"old", NOW) == 1


def test_few_are_remembered() -> None:
    known = vouchers(max_vouched=2)
    for relay in (b"a", b"new", b"old"):
        known.vouch(relay, {b"old": NOW})
    assert len(known) == 2 and known.standing(b"new", NOW) == 2 / 12


peers = st.sampled_from([b"%d" % number for number in range(8)])


@given(
    st.dictionaries(peers, st.floats(0, 1)),
    st.lists(st.tuples(peers, st.dictionaries(peers, st.floats(NOW - 2 * WORD_LIFE, NOW + WORD_LIFE)))),
    st.floats(0, 2 * WORD_LIFE),
)
def test_whatever_they_say_of_each_other_it_at_most_doubles(
    seen: dict[bytes, float], words: list[tuple[bytes, dict[bytes, float]]], later: float
) -> None:
    known = Vouchers(lambda peer, now: seen.get(peer, 0.0))
    for relay, said in words:
        known.vouch(relay, said)
    for relay, mine in seen.items():
        assert mine <= known.standing(relay, NOW + later) <= 2 * mine
