"""A relay's score: the formula, what is old, and what is seen often."""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.reputation import HALF_LIFE, LEAST, MAX_WINDOWS, WINDOW, RelayReputation, score
from actors.reputation_tracker import MAX_ROW
from protocol.codec import decode_untrusted

NOW = 1_800_000_000.0 - 1_800_000_000.0 % WINDOW
AGE = HALF_LIFE * WINDOW
PEER = b"relay"

#: What can be seen: seconds of latency, None: it was not there; or bytes of a circuit, None: it failed.
probes = st.tuples(st.just("probe"), st.none() | st.floats(0, 100))
circuits = st.tuples(st.just("circuit"), st.none() | st.integers(0, 10**12))
seen = st.lists(probes | circuits, max_size=40)


def see(relay: RelayReputation, what: tuple[str, float | int | None], now: float) -> None:
    match what:
        case ("probe", None):
            relay.missed(now)
        case ("probe", float(latency)):
            relay.reached(latency, now)
        case ("circuit", None):
            relay.circuit_failed(now)
        case ("circuit", int(carried)):
            relay.circuit(carried, now)


def rated(relay: RelayReputation, now: float) -> tuple[float | None, ...]:
    one = relay.rating(PEER, now)
    return one.score, one.uptime, one.latency, one.succeeded, one.failed, one.carried


@pytest.mark.parametrize(
    ("uptime", "latency", "succeeded", "failed", "expected"),
    [
        (1.0, 0.1, 10, 0, 100.0),  # 40 + 30 + 30
        (0.5, 2.0, 3, 1, 57.5),  # 20 + 22.5 + 15
        (1.0, 1.0, 0, 1, 70.0),  # 40 + 0 + 30: up to a second all are as fast
        (0.0, 4.0, 0, 5, 7.5),
        (1.0, 0.0, 1, 0, 100.0),
        (1.0, 0.1, 0, 0, None),
        (1.0, None, 5, 0, None),
        (None, None, 5, 0, None),
    ],
)
def test_the_formula(
    uptime: float | None, latency: float | None, succeeded: int, failed: int, expected: float | None
) -> None:
    assert score(uptime, latency, succeeded, failed) == expected


@given(st.lists(st.tuples(seen, st.floats(0, 3 * AGE)), max_size=8), st.floats(0, 20 * AGE))
def test_a_score_is_from_0_to_100_or_there_is_none(
    times: list[tuple[list[tuple[str, float | int | None]], float]], later: float
) -> None:
    relay, now = RelayReputation(), NOW
    for some, pause in times:
        now += pause
        for what in some:
            see(relay, what, now)
    for at in (now, now + later, now - later):
        value, uptime, latency, *counts = rated(relay, at)
        assert value is None or 0 <= value <= 100
        assert uptime is None or 0 <= uptime <= 1
        assert latency is None or 0 <= latency <= 100.001  # half of the least float is 0
        assert all(count is not None and count >= 0 for count in counts)


@given(seen.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))), st.floats(0, 5 * AGE))
def test_within_a_window_the_order_does_not_matter(
    both: tuple[list[tuple[str, float | int | None]], list[tuple[str, float | int | None]]], later: float
) -> None:
    relays = RelayReputation(), RelayReputation()
    for relay, some in zip(relays, both, strict=True):
        relay.circuit(1000, NOW - AGE / 3)
        for number, what in enumerate(some):
            see(relay, what, NOW + number)
    one, other = (rated(relay, NOW + later) for relay in relays)
    assert one == pytest.approx(other)


@given(seen, st.lists(st.floats(0, AGE), max_size=8))
def test_what_was_seen_counts_ever_less_and_time_alone_changes_no_rating(
    some: list[tuple[str, float | int | None]], pauses: list[float]
) -> None:
    relay = RelayReputation()
    for what in some:
        see(relay, what, NOW)
    at, before, first = NOW, rated(relay, NOW), relay.rating(PEER, NOW)
    evidence = relay.evidence(NOW)
    for pause in pauses:
        at += pause
        after = rated(relay, at)
        assert all(new <= old for new, old in zip(after[3:], before[3:], strict=True) if new is not None and old)
        assert relay.evidence(at) <= evidence
        if after[0] is not None:
            assert after[0] == pytest.approx(first.score)
        before, evidence = after, relay.evidence(at)


@given(seen, st.floats(0, 3 * AGE), st.lists(st.floats(0, AGE), min_size=1, max_size=5))
def test_to_look_at_the_counts_between_changes_nothing(
    some: list[tuple[str, float | int | None]], whole: float, parts: list[float]
) -> None:
    """Ageing in steps is ageing at once."""
    relay = RelayReputation()
    for what in some:
        see(relay, what, NOW)
    stepped, at = copy.deepcopy(relay), NOW
    for part in parts:
        at += part
        stepped._age(at)
    end = at + whole
    if (relay.succeeded + relay.failed) * 0.5 ** ((end - NOW) / AGE + 1) > LEAST:
        stepped._age(end)
        relay._age(end)
        assert (stepped.succeeded, stepped.failed) == pytest.approx((relay.succeeded, relay.failed))


def test_counts_halve_in_a_half_life_and_new_ones_weigh_more() -> None:
    relay = RelayReputation()
    relay.reached(0.1, NOW)
    for _ in range(8):
        relay.circuit_failed(NOW)
    assert relay.rating(PEER, NOW + AGE).failed == 4
    for _ in range(4):
        relay.circuit(500, NOW + AGE)
    told = relay.rating(PEER, NOW + AGE)
    assert (told.succeeded, told.failed, told.carried) == (4, 4, 2000)
    assert told.score == pytest.approx(40 + 15 + 30)


def test_after_a_season_it_is_unrated() -> None:
    relay = RelayReputation()
    relay.reached(0.1, NOW)
    relay.circuit(1, NOW)
    assert rated(relay, NOW + 6 * AGE)[0] == 100
    assert rated(relay, NOW + 6 * AGE + WINDOW) == (None, None, None, 0, 0, 0)
    # Also when it is still tried, though never used.
    for week in range(1, 14):
        relay.reached(0.1, NOW + week * AGE / 2)
    assert rated(relay, NOW + 6.5 * AGE)[:3] == (None, 1.0, pytest.approx(0.1))


def test_an_hour_is_one_look_however_often_it_is_tried() -> None:
    relay = RelayReputation()
    for hour in range(9):
        relay.missed(NOW + hour * WINDOW)
    for second in range(1000):
        relay.reached(0.1, NOW + 9 * WINDOW + second)
    uptime = relay.uptime(NOW + 9 * WINDOW)
    assert uptime == pytest.approx(0.1, rel=0.05)
    assert len(relay.windows) == 10


def test_a_slow_hour_with_many_probes_is_one_hour() -> None:
    relay = RelayReputation()
    for _ in range(100):
        relay.reached(3.0, NOW)
    relay.reached(1.0, NOW)  # in the same hour: a mean of all of it
    relay.reached(1.0, NOW + WINDOW)
    relay.reached(0.0, NOW + WINDOW)  # reached, and not measured
    assert relay.latency(NOW + WINDOW) == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("latency", (float("nan"), float("inf"), -1.0))
def test_a_latency_that_is_none_is_not_counted(latency: float) -> None:
    relay = RelayReputation()
    relay.reached(latency, NOW)
    assert (relay.uptime(NOW), relay.latency(NOW)) == (1.0, None)


def test_a_row_is_bounded_and_reads_as_it_was_written() -> None:
    relay = RelayReputation()
    for hour in range(2 * MAX_WINDOWS):
        for _ in range(70_000 if hour > 2 * MAX_WINDOWS - 3 else 1):
            relay.reached(0.123456789, NOW + hour * WINDOW)
    relay.circuit(10**15, NOW + 2 * MAX_WINDOWS * WINDOW)
    assert len(relay.windows) == MAX_WINDOWS
    row = msgspec.msgpack.encode(relay)
    assert len(row) < MAX_ROW
    assert decode_untrusted(row, RelayReputation, MAX_ROW) == relay


@pytest.mark.parametrize("wrong", (AGE * 1000, -AGE * 1000))
def test_a_clock_that_was_wrong_is_survived(wrong: float) -> None:
    relay = RelayReputation()
    steps: list[Callable[[float], None]] = [lambda now: relay.reached(0.2, now), lambda now: relay.circuit(1, now)]
    for at in (NOW, NOW + wrong, NOW):
        for step in steps:
            step(at)
    told = relay.rating(PEER, NOW)
    assert told.score == 100 and 1 <= told.succeeded <= 3
