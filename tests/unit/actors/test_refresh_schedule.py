"""Reservations are refreshed in time, and a relay that comes back is not met by all its clients at once."""

from __future__ import annotations

from actors.refresh_schedule import RefreshPolicy, RefreshSchedule

NOW = 1_800_000_000.0


def test_the_first_is_asked_for_at_once() -> None:
    assert RefreshSchedule().due == 0


def test_refreshed_at_three_quarters_of_its_life() -> None:
    schedule = RefreshSchedule()
    schedule.granted(NOW + 3600, NOW)
    assert schedule.due == NOW + 2700


def test_a_relay_whose_clock_is_behind_is_not_asked_without_pause() -> None:
    schedule = RefreshSchedule()
    schedule.granted(NOW - 7200, NOW)
    assert schedule.due == NOW + 22.5


def test_failures_wait_longer_up_to_a_bound() -> None:
    schedule = RefreshSchedule(RefreshPolicy(first_delay=1, most_delay=60))
    waits = []
    for _ in range(8):
        schedule.failed(NOW, 1.0)
        waits.append(schedule.due - NOW)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    for _ in range(10_000):
        schedule.failed(NOW, 1.0)
    assert schedule.due - NOW == 60


def test_a_grant_forgets_the_failures() -> None:
    schedule = RefreshSchedule()
    for _ in range(8):
        schedule.failed(NOW, 1.0)
    schedule.granted(NOW + 3600, NOW)
    schedule.failed(NOW, 1.0)
    assert schedule.due == NOW + 1


def test_jitter_spreads_over_half_of_the_wait() -> None:
    schedules = [RefreshSchedule() for _ in range(3)]
    for schedule, jitter in zip(schedules, (0.0, 0.5, 1.0), strict=True):
        schedule.failed(NOW, jitter)
    assert [schedule.due - NOW for schedule in schedules] == [0.5, 0.75, 1.0]


def test_no_sooner_than_the_relay_said() -> None:
    schedule = RefreshSchedule()
    schedule.failed(NOW, 0.0, retry_after=60)
    assert schedule.due == NOW + 60.5
