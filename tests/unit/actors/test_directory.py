"""Whoever hears of a fall first, by news or by a successor's words, tells it once and before anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.directory import Directory, News, State
from protocol.messages import ActorDown, ActorUp

NAME = "relay_server"
DOWN, UP = ActorDown(NAME), ActorUp(NAME)


def news(incarnation: int, state: State, where: str | None = None) -> News:
    return News(NAME, incarnation, state, where)


def test_an_actor_that_starts_with_the_node_is_no_news() -> None:
    directory = Directory([news(1, State.EXPECTED)])
    assert directory.learn(news(1, State.UP, "there")) == []
    assert directory.find(NAME) == news(1, State.UP, "there")


def test_an_actor_that_comes_later_is() -> None:
    assert Directory().learn(news(1, State.UP, "there")) == [UP]


def test_it_falls_and_is_back() -> None:
    directory = Directory([news(1, State.UP, "there")])
    assert directory.learn(news(1, State.FALLEN)) == [DOWN]
    assert directory.learn(news(1, State.FALLEN)) == []
    assert directory.learn(news(2, State.UP, "elsewhere")) == [UP]


def test_words_of_a_successor_tell_of_the_fall() -> None:
    directory = Directory([news(1, State.UP, "there")])
    assert directory.heard(NAME, 2) == (True, [DOWN, UP])
    found = directory.find(NAME)
    assert found is not None and found.where is None, "where it is, is not known yet"
    assert directory.learn(news(1, State.FALLEN)) == []
    assert directory.learn(news(2, State.UP, "elsewhere")) == []
    assert directory.find(NAME) == news(2, State.UP, "elsewhere")


@pytest.mark.parametrize("state", [State.FALLEN, State.GONE])
def test_words_of_one_that_fell_do_not_count(state: State) -> None:
    directory = Directory([news(3, State.UP, "there")])
    assert directory.heard(NAME, 3) == (True, [])
    assert directory.heard(NAME, 2) == (False, [])
    directory.learn(news(3, state))
    assert directory.heard(NAME, 3) == (False, [])
    assert directory.learn(news(3, State.UP, "there")) == [], "old news"
    assert directory.heard(NAME, 3) == (False, [])


def test_words_of_nobody_and_of_one_that_nobody_told_of_count() -> None:
    directory = Directory()
    assert directory.heard("supervisor", 0) == (True, [])
    assert directory.heard(NAME, 1) == (True, [UP])
    assert directory.heard(NAME, 1) == (True, [])
    assert directory.names() == (NAME,)
    directory.learn(news(1, State.GONE))
    assert directory.names() == ()


heard = st.tuples(st.just("heard"), st.integers(1, 4))
learnt = st.tuples(st.sampled_from([State.UP, State.FALLEN]), st.integers(1, 4))


@given(st.lists(heard | learnt, max_size=20))
def test_whatever_comes_in_whatever_order_falls_and_returns_take_turns(steps: list[tuple[object, int]]) -> None:
    directory = Directory([news(1, State.UP)])
    told = []
    for what, incarnation in steps:
        if isinstance(what, State):
            told += directory.learn(news(incarnation, what))
        else:
            told += directory.heard(NAME, incarnation)[1]
    assert all(notice == (DOWN, UP)[index % 2] for index, notice in enumerate(told))
