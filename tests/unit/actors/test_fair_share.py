"""Who makes room: whoever takes the most of it, and of that the oldest."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.fair_share import FairShare


def test_the_largest_branch_loses_its_oldest() -> None:
    share: FairShare[str] = FairShare()
    for item, path in (("a", (1, 1)), ("b", (2, 1)), ("c", (2, 2)), ("d", (2, 2))):
        share.add(item, path)
    assert share.oldest() == "c"
    share.remove("c")
    share.add("b", (2, 1))  # again: it is the youngest now
    assert share.under((2,)) == 2 and share.under(()) == 3 and share.under((3, 1)) == 0
    assert share.oldest((1,)) == "a" and share.oldest((3,)) is None
    share.remove("never there")
    assert sorted(share) == ["a", "b", "d"]


def test_nothing_has_no_oldest() -> None:
    assert FairShare[str]().oldest() is None


paths = st.tuples(st.integers(0, 3), st.integers(0, 2))


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | paths), max_size=80))
def test_it_agrees_with_counting(steps: list[tuple[int, tuple[int, int] | None]]) -> None:
    share: FairShare[int] = FairShare()
    held: dict[int, tuple[int, int]] = {}
    for item, path in steps:
        held.pop(item, None)
        if path is None:
            share.remove(item)
        else:
            share.add(item, path)
            held[item] = path
        assert len(share) == len(held)
        firsts = Counter(first for first, _ in held.values())
        for first in range(4):
            assert share.under((first,)) == firsts[first]
        victim = share.oldest()
        if not held:
            assert victim is None
            continue
        assert victim is not None
        first = held[victim][0]
        assert firsts[first] == max(firsts.values())
        seconds = Counter(second for of, second in held.values() if of == first)
        assert seconds[held[victim][1]] == max(seconds.values())
        assert victim == next(item for item, path in held.items() if path == held[victim])


def test_a_flood_displaces_itself() -> None:
    share: FairShare[str] = FairShare()
    for number in range(10):
        share.add(f"honest {number}", (f"group {number}", 0))
    for number in range(1000):
        share.add(f"flood {number}", ("flood", number % 7))
        if len(share) > 50:
            victim = share.oldest()
            assert victim is not None and victim.startswith("flood")
            share.remove(victim)
