"""Battery and processors, as psutil tells of them."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest

from actors.ports import machine_state
from actors.ports.machine_state import MachineWatch, charging

Times = namedtuple("Times", "user system idle iowait guest")


@pytest.mark.parametrize(
    ("battery", "expected"),
    [
        (None, True),
        (SimpleNamespace(power_plugged=True), True),
        (SimpleNamespace(power_plugged=False), False),
        (SimpleNamespace(power_plugged=None), True),
    ],
)
def test_no_battery_counts_as_charging(battery: object, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert charging() is expected


def test_a_battery_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise FileNotFoundError("/sys/class/power_supply")

    monkeypatch.setattr(psutil, "sensors_battery", fails, raising=False)
    assert charging()
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert charging()


def test_what_others_use_is_all_but_what_the_node_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    at, own = 0.0, 0.0
    total = Times(0.0, 0.0, 0.0, 0.0, 0.0)
    monkeypatch.setattr(machine_state.time, "monotonic", lambda: at)
    monkeypatch.setattr(psutil, "cpu_times", lambda: total)
    monkeypatch.setattr(MachineWatch, "_own", lambda self: own)
    watch = MachineWatch()
    assert watch.look().busy is None  # nothing to compare with
    at, own, total = 10.0, 8.0, Times(12.0, 3.0, 20.0, 5.0, 0.0)
    assert watch.look().busy == pytest.approx(0.7)
    at, total = 20.0, Times(12.0 + 4.0, 3.0, 36.0, 5.0, 4.0)  # what a guest uses is in user time too
    assert watch.look().busy == pytest.approx(0.4)
    at, own = 30.0, 2.0  # a process of ours has ended, and its time with it
    assert watch.look().busy == 0.0
    at = 30.1
    assert watch.look().busy is None


def test_this_machine_can_be_looked_at() -> None:
    watch = MachineWatch()
    first = watch.look()
    assert first.busy is None and isinstance(first.charging, bool)
    assert watch._own() > 0
