"""`descord-relay contribution`, as it is printed."""

from __future__ import annotations

import pytest

from actors.contribution import to_json, to_text
from protocol.reputation_messages import Contribution, MonthContribution


def test_as_json() -> None:
    july, june = MonthContribution("2026-07", 12_345_678_901, 56, 1000, 44), MonthContribution("2026-06", 7, 1)
    assert to_json(Contribution(1, july, 81.26, (june,), 3)) == {
        "month": "2026-07",
        "bytes": 12_345_678_901,
        "circuits": 56,
        "score": 81.3,
        "stars": "★★★★☆",
        "credits": {"earned": 12_345_678_908, "confirmed": 1000, "spent": 44},
        "receipts": 3,
        "months": [
            {"month": "2026-07", "bytes": 12_345_678_901, "circuits": 56, "confirmed": 1000, "used": 44},
            {"month": "2026-06", "bytes": 7, "circuits": 1, "confirmed": 0, "used": 0},
        ],
    }


def test_for_a_person() -> None:
    month = MonthContribution("2026-07", 1_234_567_890_123, 1234, 10**12, 5 * 10**9)
    assert to_text(to_json(Contribution(1, month, 81.2, (), 1500))).splitlines() == [
        "Relayed this month  1,234.57 GB",
        "Circuits helped     1,234",
        "Credits             1,234.57 GB earned, 1,000.00 GB of it signed by 1,500 peers, 5.00 GB spent",
        "Reputation          ★★★★☆ 81 of 100",
    ]


@pytest.mark.parametrize(
    ("carried", "text"),
    [(0, "0.00 GB"), (1, "less than 0.01 GB"), (4_999_999, "less than 0.01 GB"), (5_000_000, "0.01 GB")],
)
def test_a_little_is_not_nothing(carried: int, text: str) -> None:
    lines = to_text(to_json(Contribution(1, MonthContribution("2026-07", carried, 0), None))).splitlines()
    assert lines[0].endswith(f"  {text}") and lines[3] == "Reputation          not rated yet"
