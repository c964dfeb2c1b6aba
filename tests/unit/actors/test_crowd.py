"""Forwarders that share a port count as one; what one of them leaves behind is cleared."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.crowd import Counted, Crowd
from actors.ports.shared_crowd import WINDOW, CrowdFile, SharedCrowd

NOW = 1_800_000_000.0
HOME = "192.0.2.7"


@pytest.fixture(params=["own", "shared"])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Counted:
    if request.param == "own":
        return Crowd(240)
    return SharedCrowd(CrowdFile.create(tmp_path / "crowd", 3), 1, 240)


def test_connections_are_counted_in_all_and_of_each_address(crowd: Counted) -> None:
    for address in (HOME, HOME, "2001:db8::1"):
        crowd.came(address)
    assert (crowd.count(), crowd.of(HOME), crowd.of("2001:db8::1"), crowd.of("192.0.2.8")) == (3, 2, 1, 0)
    crowd.left(HOME)
    assert (crowd.count(), crowd.of(HOME)) == (2, 1)


def test_a_quarter_of_a_minutes_rate_may_come_at_once_and_then_as_much_as_the_rate(crowd: Counted) -> None:
    assert sum(crowd.may_come(HOME, NOW) for _ in range(100)) == 60
    assert not crowd.may_come(HOME, NOW)
    assert crowd.may_come("192.0.2.8", NOW), "it is a rate of one address"
    came = sum(crowd.may_come(HOME, NOW + step / 20) for step in range(1, 20 * 60))
    # A bucket fills up again at once; the window that slides counts what came at once as a part of the minute.
    assert came == pytest.approx(240 if isinstance(crowd, Crowd) else 180, abs=3)
    assert crowd.may_come(HOME, NOW + 1000)


def test_forwarders_count_together(tmp_path: Path) -> None:
    file = CrowdFile.create(tmp_path / "crowd", 2)
    one, two = SharedCrowd(file, 0, 240), SharedCrowd(file, 1, 240)
    for crowd in (one, two, two):
        crowd.came(HOME)
    assert one.of(HOME) == two.of(HOME) == one.count() == 3
    assert sum(crowd.may_come(HOME, NOW) for _ in range(60) for crowd in (one, two)) == 60


def test_what_a_killed_one_counted_is_cleared_and_no_more(tmp_path: Path) -> None:
    file = CrowdFile.create(tmp_path / "crowd", 2)
    one, two = SharedCrowd(file, 0, 240), SharedCrowd(file, 1, 240)
    one.came(HOME)
    two.came(HOME)
    file.clear(0)
    assert two.of(HOME) == two.count() == 1
    SharedCrowd(file, 1, 240)
    assert one.count() == 0, "one that starts has nothing"


def test_its_key_is_not_printed(tmp_path: Path) -> None:
    file = CrowdFile.create(tmp_path / "crowd", 2)
    assert repr(file.key) not in repr(file)


steps = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.booleans()), max_size=200)


@given(steps)
def test_it_never_counts_too_few(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]]) -> None:
    file = CrowdFile.create(tmp_path_factory.mktemp("crowd") / "crowd", 2)
    crowds = [SharedCrowd(file, 0, 240), SharedCrowd(file, 1, 240)]
    there: list[tuple[int, str]] = []
    for index, host, comes in steps:
        entry = (index, f"198.51.100.{host}")
        if comes:
            crowds[index].came(entry[1])
            there.append(entry)
        elif entry in there:
            crowds[index].left(entry[1])
            there.remove(entry)
    addresses = [address for _, address in there]
    assert crowds[0].count() == len(there)
    assert all(crowds[1].of(address) >= addresses.count(address) for address in set(addresses))


def test_arrivals_are_forgotten_after_two_windows(tmp_path: Path) -> None:
    crowd = SharedCrowd(CrowdFile.create(tmp_path / "crowd", 1), 0, 240)
    start = NOW - NOW % WINDOW
    assert sum(crowd.may_come(HOME, start) for _ in range(60)) == 60
    assert not crowd.may_come(HOME, start + WINDOW), "just past, it all counts yet"
    assert sum(crowd.may_come(HOME, start + 2 * WINDOW) for _ in range(61)) == 60
