"""Deadlines do not move when the system's clock is set; what peers are told does."""

from __future__ import annotations

import time

import pytest

from actors.ports.clock import ahead, anchor, steady_clock, told_by, uptime


class FakeTime:
    """``wall``: what the system's clock shows; ``up``: seconds since boot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.up = 1_800_000_000.0, 500.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.up)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


def test_it_starts_as_the_systems_clock_and_goes_on_by_itself(fake: FakeTime) -> None:
    clock = steady_clock()
    assert clock() == fake.wall
    fake.up += 10
    assert clock() == fake.wall + 10


def test_a_clock_that_is_set_moves_what_peers_are_told_and_no_deadline(fake: FakeTime) -> None:
    """A machine without a battery starts in 1970, and hears of the time a minute later."""
    fake.wall = 3600.0
    clock = steady_clock()
    told = told_by(clock)
    assert told(clock() + 60) == fake.wall + 60
    before = clock()
    fake.wall += 1_800_000_000.0
    assert clock() == before and ahead(clock) == 1_800_000_000.0
    assert told(clock() + 60) == fake.wall + 60
    fake.wall -= 7200.0
    assert told(clock() + 60) == fake.wall + 60


def test_processes_of_a_machine_have_one_clock(fake: FakeTime) -> None:
    first, since = steady_clock(), anchor()
    fake.wall += 1000
    assert steady_clock(since)() == first()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
def test_time_passes_while_the_machine_is_suspended() -> None:
    assert uptime() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1.0)
