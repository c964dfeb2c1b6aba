"""How many circuits a peer, an address and a pair of peers have, and whether another is too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, Final

#: The name of each limit and of what it counts.
LIMITS: Final = {
    "max_circuits_per_peer": "peer",
    "max_circuits_per_ip": "dialler's address",
    "max_circuits_per_pair": "pair of peers",
}


class CircuitCounts:
    """``limits``: the most that each may have, by the name of the setting.

    A circuit counts for its dialler and for its target, for the household of the dialler's address, and for the two
    peers in that order: else one peer could take all of another's, and one address all that there are.
    """

    __slots__ = ("_counts", "_limits")

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits
        self._counts: dict[str, Counter[Any]] = {setting: Counter() for setting in LIMITS}

    def refused(self, source: bytes, target: bytes, household: str) -> tuple[str, str] | None:
        """The setting that forbids another one, and a reason for a person; None when it may be."""
        for setting, key in self._keys(source, target, household):
            limit = self._limits[setting]
            if self._counts[setting][key] >= limit:
                return setting, f"all {limit} circuits of one {LIMITS[setting]} are in use"
        return None

    def held(self, setting: str) -> Counter[Any]:
        """How many each of those has that ``setting`` limits."""
        return self._counts[setting]

    def add(self, source: bytes, target: bytes, household: str) -> None:
        for setting, key in self._keys(source, target, household):
            self._counts[setting][key] += 1

    def remove(self, source: bytes, target: bytes, household: str) -> None:
        for setting, key in self._keys(source, target, household):
            counts = self._counts[setting]
            counts[key] -= 1
            if counts[key] <= 0:
                del counts[key]

    @staticmethod
    def _keys(source: bytes, target: bytes, household: str) -> tuple[tuple[str, Hashable], ...]:
        return (
            ("max_circuits_per_peer", source),
            ("max_circuits_per_peer", target),
            ("max_circuits_per_ip", household),
            ("max_circuits_per_pair", (source, target)),
        )
