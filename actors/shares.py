"""Slots of a full relay, shared among classes of peers: those who help are served first, and nobody is starved.

Each class has a *guarantee*: slots that others may not take while it does not use them.  A slot is given to a class
when, after that, the unused guarantees of the others still fit into what is free.  The public's guarantee is fixed.
Those of the others follow what they ask for, up to a bound: a relay that no operator uses keeps few slots idle for
them, and one whose operators come in numbers gives them, as circuits end, what they were promised.

    guarantee(public)   = FLOOR[public] of all slots
    guarantee(operator) = at least FLOOR[operator], at most CEILING[operator], else HEADROOM times what operators held
                          or were refused of late (a peak that halves each HALF_LIFE)

So while all classes want more than there is, operators hold at least CEILING[operator] of the slots and the public at
least FLOOR[public], whoever came first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OPERATOR: Final = "operator"
TRUSTED: Final = "trusted"
PUBLIC: Final = "public"

#: Best first.
CLASSES: Final = (OPERATOR, TRUSTED, PUBLIC)

#: Share of all slots that a class is guaranteed whatever it asked for: a twentieth lets the first operators in at once.
FLOOR: Final = {OPERATOR: 0.05, TRUSTED: 0.02, PUBLIC: 0.15}

#: Share that it is guaranteed at most.  With 0.6 and 0.15, and the rest to whoever comes first, operators hold at least
#: three times what the public holds when both want all.
CEILING: Final = {OPERATOR: 0.60, TRUSTED: 0.15, PUBLIC: 0.15}

#: What a circuit counts beside others when bandwidth is scarce.  No more than four times the public's: nobody starves.
WEIGHT: Final = {OPERATOR: 4, TRUSTED: 2, PUBLIC: 1}

#: Slots that are guaranteed for each that was in use: room to grow into before a refusal shows the need.
HEADROOM: Final = 1.25

#: Seconds in which what a class held at most counts half: peers come back within the hour that reservations last.
HALF_LIFE: Final = 3600.0


def best(*classes: str) -> str:
    """The one that is served first."""
    return min(classes, key=CLASSES.index)


class Shares:
    """``limit``: slots in all.  ``expected``: the classes that there is anybody of.  About 3 us a request, whatever
    their number."""

    __slots__ = ("_expected", "_peaks", "_used", "limit")

    def __init__(self, limit: int, expected: Iterable[str] = CLASSES) -> None:
        self.limit = limit
        self._expected = set(expected)
        self._used = dict.fromkeys(CLASSES, 0)
        #: Of each class that adapts: what it wanted at most, and when that was.
        self._peaks = dict.fromkeys(CLASSES, (0.0, 0.0))

    def expect(self, name: str) -> None:
        """There is somebody of that class."""
        self._expected.add(name)

    def used(self, name: str) -> int:
        return self._used[name]

    @property
    def total(self) -> int:
        return sum(self._used.values())

    def guarantee(self, name: str, now: float) -> int:
        """Slots that the others leave to it."""
        if name not in self._expected:
            return 0
        wanted = HEADROOM * self._peak(name, now)
        least, most = (share[name] * self.limit for share in (FLOOR, CEILING))
        return int(min(max(wanted, least), most))

    def admits(self, name: str, now: float) -> bool:
        """Whether one more of ``name`` may come; what is wanted is remembered either way."""
        self._want(name, now)
        free, own = self.limit - self.total, self._used[name]
        others = [other for other in CLASSES if other != name]
        if own < self.guarantee(name, now):
            # One of the slots that the others left free is its own; what is promised to them come what may is not.
            floors = {other: int(FLOOR[other] * self.limit) for other in others if other in self._expected}
            return free > sum(max(floor - self._used[other], 0) for other, floor in floors.items())
        return free > sum(max(self.guarantee(other, now) - self._used[other], 0) for other in others)

    def came(self, name: str) -> None:
        self._used[name] += 1

    def left(self, name: str) -> None:
        self._used[name] -= 1

    def _peak(self, name: str, now: float) -> float:
        peak, at = self._peaks[name]
        decayed = peak * 0.5 ** (max(now - at, 0.0) / HALF_LIFE) if peak else 0.0
        return max(decayed, float(self._used[name]))

    def _want(self, name: str, now: float) -> None:
        self._peaks[name] = (max(self._peak(name, now), self._used[name] + 1.0), now)
