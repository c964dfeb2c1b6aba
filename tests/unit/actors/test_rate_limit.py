"""Token buckets: what may come at once, what may come in all, and that keys are forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.rate_limit import KeyedBuckets, TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(0.0) == 0.5
    assert not bucket.take(0.25) and bucket.take(0.5)


def test_no_more_is_saved_up_than_the_burst() -> None:
    bucket = TokenBucket(rate=1.0, burst=2.0, now=0.0)
    assert [bucket.take(1e9) for _ in range(3)] == [True, True, False]


def test_a_rate_of_nothing_is_waited_for_in_vain() -> None:
    bucket = TokenBucket(rate=0.0, burst=1.0, now=0.0)
    assert bucket.take(0.0) and bucket.wait(9.0) == float("inf")


def test_time_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate=1.0, burst=1.0, now=10.0)
    assert bucket.take(10.0) and not bucket.take(5.0) and not bucket.take(10.0)


@given(
    rate=st.floats(0.1, 100),
    burst=st.floats(1, 50),
    steps=st.lists(st.floats(0, 10), max_size=60),
)
def test_never_more_than_the_burst_and_the_rate_in_all(rate: float, burst: float, steps: list[float]) -> None:
    bucket = TokenBucket(rate, burst, now=0.0)
    now = taken = 0.0
    for step in steps:
        now += step
        while taken < 10_000 and bucket.take(now):
            taken += 1
        assert taken <= burst + rate * now + 1e-6
        wait = bucket.wait(now)
        assert bucket.take(now + wait + 1e-9) or wait > 0
        now += wait + 1e-9
        taken += 1


def test_each_key_has_its_own() -> None:
    buckets = KeyedBuckets(rate=1.0, burst=1.0, max_keys=10)
    assert buckets.take("a", 0.0) and not buckets.take("a", 0.0) and buckets.take("b", 0.0)
    assert buckets.wait("a", 0.0) == 1.0 and buckets.wait("c", 0.0) == 0.0


def test_keys_are_bounded_and_the_longest_unused_is_forgotten() -> None:
    buckets = KeyedBuckets(rate=0.001, burst=1.0, max_keys=2)
    for key in ("a", "b", "a", "c"):
        buckets.take(key, 0.0)
    assert len(buckets) == 2
    assert not buckets.take("a", 0.0)  # remembered
    assert buckets.take("b", 0.0)  # forgotten, so full again
