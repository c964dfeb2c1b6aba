"""Deadlines: due once, in order, and forgotten when called off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.deadlines import Deadlines


def test_what_is_due_runs_once_in_the_order_of_its_times() -> None:
    deadlines, ran = Deadlines(), []
    for when in (3.0, 1.0, 2.0):
        deadlines.set(when, when, lambda now, when=when: ran.append((when, now)))
    deadlines.run(2.5)
    assert ran == [(1.0, 2.5), (2.0, 2.5)]
    assert deadlines.next() == 3.0
    deadlines.run(10.0)
    deadlines.run(10.0)
    assert ran[2:] == [(3.0, 10.0)]
    assert deadlines.next() is None and len(deadlines) == 0


def test_setting_again_replaces_and_cancelling_forgets() -> None:
    deadlines, ran = Deadlines(), []
    deadlines.set("a", 1.0, lambda now: ran.append("early"))
    deadlines.set("a", 5.0, lambda now: ran.append("late"))
    deadlines.set("b", 2.0, lambda now: ran.append("never"))
    deadlines.cancel("b")
    deadlines.cancel("unknown")
    assert deadlines.next() == 5.0
    deadlines.run(4.0)
    assert ran == []
    deadlines.run(5.0)
    assert ran == ["late"]


def test_an_action_may_set_and_cancel_others() -> None:
    deadlines, ran = Deadlines(), []

    def first(now: float) -> None:
        ran.append("first")
        deadlines.cancel("second")
        deadlines.set("third", now, lambda _: ran.append("third"))

    deadlines.set("first", 1.0, first)
    deadlines.set("second", 1.0, lambda _: ran.append("second"))
    deadlines.run(1.0)
    assert ran == ["first", "third"]


def test_memory_follows_what_is_wanted_and_not_what_ever_was() -> None:
    deadlines = Deadlines()
    for number in range(100_000):
        deadlines.set(number, 1e9 + number, lambda _: None)
        if number >= 10:
            deadlines.cancel(number)
    assert len(deadlines) == 10
    assert len(deadlines._heap) < 200


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "run"]), st.integers(0, 5), st.integers(0, 20))))
def test_it_is_a_table_of_times(steps: list[tuple[str, int, int]]) -> None:
    deadlines, model, ran, expected = Deadlines(), {}, [], []
    for what, key, time in steps:
        if what == "set":
            deadlines.set(key, float(time), lambda _, key=key: ran.append(key))
            model[key] = time
        elif what == "cancel":
            deadlines.cancel(key)
            model.pop(key, None)
        else:
            deadlines.run(float(time))
            expected += [key for key, when in model.items() if when <= time]
            model = {key: when for key, when in model.items() if when > time}
        assert sorted(ran) == sorted(expected)
        assert deadlines.next() == (min(model.values()) if model else None)
