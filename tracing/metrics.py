"""What is counted: histograms, and labels that stay few however many peers there are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.messages import Times

#: Seconds.  Set-up of a circuit: a round trip or two to the target, and whatever it thinks about.
SETUP_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)

#: Seconds by which the event loop was late: a busy turn is a millisecond, a pause that peers feel 50.
LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

#: Values that one label may take.  They come from our own code; this is for the day when one does not.
MAX_LABELS: Final = 64
OTHER: Final = "other"


class Histogram:
    """Counts by upper bound, inclusive, the last above all bounds; about 0.3 us an observation."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def message(self) -> Times:
        """As it is told to others."""
        return Times(tuple(self.counts), self.total)


def add_counts(into: dict[str, float], more: Mapping[str, float]) -> None:
    """Add what was counted by label; a label too many is counted as "other"."""
    for label, count in more.items():
        counted_as = label if label in into or len(into) < MAX_LABELS else OTHER
        into[counted_as] = into.get(counted_as, 0) + count
