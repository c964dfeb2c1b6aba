"""`descord-relay contribution`, as it is printed."""

from __future__ import annotations

import pytest

from actors.contribution import to_json, to_text
from protocol.reputation_messages import Contribution, MonthContribution


def test_as_json() -> None:
    told = Contribution(1, "2026-07", 12_345_678_901, 56, 81.26, (MonthContribution("2026-06", 7, 1),))
    assert to_json(told) == {
        "month": "2026-07",
        "bytes": 12_345_678_901,
        "circuits": 56,
        "score": 81.3,
        "stars": "★★★★☆",
        "months": [
            {"month": "2026-07", "bytes": 12_345_678_901, "circuits": 56},
            {"month": "2026-06", "bytes": 7, "circuits": 1},
        ],
    }


def test_for_a_person() -> None:
    told = to_json(Contribution(1, "2026-07", 1_234_567_890_123, 1234, 81.2))
    assert to_text(told).splitlines() == [
        "Relayed this month  1,234.57 GB",
        "Circuits helped     1,234",
        "Reputation          ★★★★☆ 81 of 100",
    ]


@pytest.mark.parametrize(
    ("carried", "text"),
    [(0, "0.00 GB"), (1, "less than 0.01 GB"), (4_999_999, "less than 0.01 GB"), (5_000_000, "0.01 GB")],
)
def test_a_little_is_not_nothing(carried: int, text: str) -> None:
    lines = to_text(to_json(Contribution(1, "2026-07", carried, 0, None))).splitlines()
    assert lines[0].endswith(f"  {text}") and lines[2] == "Reputation          not rated yet"
