"""What this node relayed for others, by months in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.codec import decode_untrusted
from protocol.reputation_messages import MonthContribution

#: Months that are kept: the current one, and the year before it beside the one before that.
MAX_MONTHS: Final = 24

#: Bytes of a month on disk: four numbers.
MAX_ROW: Final = 64


class _Row(msgspec.Struct, frozen=True, array_like=True):
    carried: Annotated[int, Meta(ge=0)]
    circuits: Annotated[int, Meta(ge=0)]
    confirmed: Annotated[int, Meta(ge=0)] = 0
    used: Annotated[int, Meta(ge=0)] = 0


def month_of(now: float) -> str:
    """2026-07, in UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


class ContributionMonths:
    """By the name of the month.  Names are in the order of time."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def take(self, month: str, row: bytes) -> None:
        """What was on disk.  CodecError."""
        self._rows[month] = decode_untrusted(row, _Row, MAX_ROW)

    def add(
        self, now: float, *, carried: int = 0, circuits: int = 0, confirmed: int = 0, used: int = 0
    ) -> dict[str, bytes | None]:
        """Count it, as MonthContribution has it; what is to be written: rows by month, None: no longer kept."""
        month = month_of(now)
        before = self._rows.get(month, _Row(0, 0))
        row = self._rows[month] = _Row(
            before.carried + max(carried, 0),
            before.circuits + max(circuits, 0),
            before.confirmed + max(confirmed, 0),
            before.used + max(used, 0),
        )
        changed: dict[str, bytes | None] = {month: msgspec.msgpack.encode(row)}
        while len(self._rows) > MAX_MONTHS:
            # By number, not by age: a clock that is wrong for an hour must not cost all that was ever done.
            oldest = min(name for name in self._rows if name != month)
            del self._rows[oldest]
            changed[oldest] = None
        return changed

    def at(self, now: float) -> MonthContribution:
        """The month of ``now``."""
        month = month_of(now)
        return _told(month, self._rows.get(month, _Row(0, 0)))

    @property
    def balance(self) -> int:
        """Bytes relayed for others less bytes used of others, over all months that are kept."""
        return sum(row.carried - row.used for row in self._rows.values())

    def before(self, now: float) -> tuple[MonthContribution, ...]:
        """The months before it, the latest first."""
        earlier = sorted((month for month in self._rows if month < month_of(now)), reverse=True)
        return tuple(_told(month, self._rows[month]) for month in earlier)


def _told(month: str, row: _Row) -> MonthContribution:
    return MonthContribution(month, row.carried, row.circuits, row.confirmed, row.used)
