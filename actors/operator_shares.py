"""Circuits of operators, shared among them by their standing (actors/vouching.py).

What a relay keeps for operators is theirs together.  One that wants more than its part

    fair(p) = slots * standing(p) / sum of the standings of those who wanted any of late

gets the rest as one of the public.  A part is seldom a whole number: the last circuit of it is given as often as makes
what the operator held on average its part; one whose part is a tenth of a circuit has one for a tenth of the time.

So N identities that one person made hold no more than their standings are of all: at most twice what our own probes of
N newcomers are worth, for standing is at most that.
"""

from __future__ import annotations

from math import ceil
from typing import Final

#: Seconds after which one that asked for nothing and holds nothing no longer has a part: circuits come in bursts.
ACTIVE: Final = 600.0

#: Seconds in which what was held at a time counts half in the average.
HALF_LIFE: Final = 600.0

#: Circuits by which sums of many standings may be wrong.
_ROUNDING: Final = 1e-6


class _Part:
    """``mean``: of what was held, as of ``at``."""

    __slots__ = ("asked", "at", "held", "mean", "standing")

    def __init__(self, now: float) -> None:
        self.held = 0
        self.mean = 0.0
        self.at = now
        self.standing = 0.0
        self.asked = now

    def advance(self, now: float) -> None:
        if now > self.at:
            self.mean = self.held + (self.mean - self.held) * 0.5 ** ((now - self.at) / HALF_LIFE)
            self.at = now


class OperatorShares:
    """``slots``: all that operators may hold as such.  About 3 us a request."""

    __slots__ = ("_parts", "_sum", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._parts: dict[bytes, _Part] = {}  # in the order in which they asked
        self._sum = 0.0

    def asked(self, peer: bytes, standing: float, now: float) -> bool:
        """It wants one more: whether that is within its part."""
        part = self._parts.pop(peer, None) or _Part(now)
        self._parts[peer] = part
        self._sum += standing - part.standing
        part.standing, part.asked = standing, now
        self._tidy(now)
        if not standing:
            return False
        part.advance(now)
        fair = self.slots * standing / self._sum
        return part.held + 1 <= fair + _ROUNDING or (part.held < ceil(fair - _ROUNDING) and part.mean < fair)

    def held(self, peer: bytes) -> int:
        part = self._parts.get(peer)
        return 0 if part is None else part.held

    def came(self, peer: bytes, now: float) -> None:
        """It has one more, of those it asked for."""
        part = self._parts[peer]
        part.advance(now)
        part.held += 1

    def left(self, peer: bytes, now: float) -> None:
        part = self._parts[peer]
        part.advance(now)
        part.held -= 1

    def _tidy(self, now: float) -> None:
        """Forget those that asked longest ago; who holds something keeps its part, and is looked at again later."""
        while True:
            peer, part = next(iter(self._parts.items()))
            if part.asked + ACTIVE > now:
                break
            del self._parts[peer]
            if part.held:
                part.asked = now
                self._parts[peer] = part
            else:
                self._sum -= part.standing
        if len(self._parts) == 1:  # what rounding has left
            self._sum = part.standing
