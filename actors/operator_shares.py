"""Circuits of operators, shared among them by their standing (actors/vouching.py).

What a relay keeps for operators is theirs together.  One that wants more than its part

    fair(p) = at least 1, else slots * standing(p) / sum of the standings of those who wanted any of late

gets the rest as one of the public.  So N identities that one person made hold no more than their standings are of all:
at most twice what our own probes of N newcomers are worth, for standing is at most that.
"""

from __future__ import annotations

from typing import Final

#: Seconds after which one that asked for nothing and holds nothing no longer has a part: circuits come in bursts.
ACTIVE: Final = 600.0


class OperatorShares:
    """``slots``: all that operators may hold as such.  About 2 us a request."""

    __slots__ = ("_asked", "_held", "_sum", "_weights", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._held: dict[bytes, int] = {}
        self._asked: dict[bytes, float] = {}  # in the order of time
        self._weights: dict[bytes, float] = {}  # of those in ``_asked``
        self._sum = 0.0

    def asked(self, peer: bytes, standing: float, now: float) -> bool:
        """It wants one more: whether that is within its part."""
        self._asked.pop(peer, None)
        self._asked[peer] = now
        self._weigh(peer, standing)
        self._tidy(now)
        return self._held.get(peer, 0) < max(1, int(self.slots * standing / self._sum)) if self._sum else False

    def held(self, peer: bytes) -> int:
        return self._held.get(peer, 0)

    def came(self, peer: bytes) -> None:
        self._held[peer] = self._held.get(peer, 0) + 1

    def left(self, peer: bytes) -> None:
        if self._held.get(peer, 0) > 1:
            self._held[peer] -= 1
        else:
            self._held.pop(peer, None)

    def _weigh(self, peer: bytes, standing: float) -> None:
        self._sum += standing - self._weights.get(peer, 0.0)
        self._weights[peer] = standing

    def _tidy(self, now: float) -> None:
        while True:
            peer = next(iter(self._asked))
            if self._asked[peer] + ACTIVE > now:
                break
            del self._asked[peer]
            if peer in self._held:  # it keeps its part, and is looked at again later
                self._asked[peer] = now
            else:
                self._sum -= self._weights.pop(peer)
        if len(self._weights) == 1:  # what rounding has left
            self._sum = next(iter(self._weights.values()))
