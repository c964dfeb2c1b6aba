"""The connections of all forwarders of a host, counted in memory that they share.

Each forwarder writes a region of its own and reads all: so there is no lock, no message, and one that is killed leaves
nothing but its region, which the supervisor clears.  A region counts by hashed address, in two tables with hashes of
their own, and the lesser count is taken: it is too high only where strangers share the bucket in both.  The hash is
keyed, so that nobody can arrange that.

Two forwarders that accept in the same microseconds may exceed a limit by one.  A connection costs 11 us with two
forwarders, 15 with eight.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BUCKETS: Final = 16_384
HEADER: Final = 64
TABLES: Final = 2
REGION: Final = HEADER + TABLES * BUCKETS * (2 + 8)

#: Seconds over which arrivals are counted: a quarter of a minute's worth may come at once.
WINDOW: Final = 15.0

_MOST: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class CrowdFile:
    """Where the memory is.  ``regions``: forwarders that may be there at a time.  ``key``: of the hash."""

    path: str
    regions: int
    key: bytes = field(repr=False)

    @classmethod
    def create(cls, path: Path, regions: int) -> CrowdFile:
        """An empty one."""
        with open(path, "xb") as file:
            file.truncate(regions * REGION)
        return cls(str(path), regions, os.urandom(16))

    def grown(self, regions: int) -> CrowdFile:
        """The same memory, with room for more forwarders: those that have it open see the others' once they have
        opened this."""
        regions = max(regions, self.regions)
        with open(self.path, "r+b") as file:
            file.truncate(regions * REGION)
        return CrowdFile(self.path, regions, self.key)

    def clear(self, region: int) -> None:
        """Whoever counted there is gone."""
        with open(self.path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[region * REGION : (region + 1) * REGION] = bytes(REGION)


class SharedCrowd:
    """:class:`actors.crowd.Counted` over all forwarders of a host.  ``per_minute``: the rate of one address."""

    shared = True

    def __init__(self, file: CrowdFile, region: int, per_minute: float) -> None:
        file.clear(region)
        with open(file.path, "r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 0)
        self._key = file.key
        self._burst = max(per_minute / 4, 1.0)
        whole = memoryview(self._memory)
        self._totals = []
        self._counts: list[list[memoryview]] = [[] for _ in range(TABLES)]
        self._arrivals: list[list[memoryview]] = [[] for _ in range(TABLES)]
        for index in range(file.regions):
            start = index * REGION
            self._totals.append(whole[start : start + HEADER].cast("I"))
            start += HEADER
            for table in range(TABLES):
                self._arrivals[table].append(whole[start : start + BUCKETS * 8].cast("Q"))
                start += BUCKETS * 8
            for table in range(TABLES):
                self._counts[table].append(whole[start : start + BUCKETS * 2].cast("H"))
                start += BUCKETS * 2
        self._region = region

    def count(self) -> int:
        return sum(total[0] for total in self._totals)

    def of(self, address: str) -> int:
        return min(
            sum(region[bucket] for region in regions)
            for regions, bucket in zip(self._counts, self._buckets(address), strict=True)
        )

    def may_come(self, address: str, now: float) -> bool:
        """A window that slides: what came in the window before counts for the part of it that is not past yet."""
        window, past = divmod(now, WINDOW)
        this, left = int(window) & 0xFFFFFFFF, 1.0 - past / WINDOW
        buckets = self._buckets(address)
        came = min(
            sum(_arrived(region[bucket], this, left) for region in regions)
            for regions, bucket in zip(self._arrivals, buckets, strict=True)
        )
        if came + 1 > self._burst:
            return False
        for regions, bucket in zip(self._arrivals, buckets, strict=True):
            own = regions[self._region]
            own[bucket] = _one_more(own[bucket], this)
        return True

    def came(self, address: str) -> None:
        self._add(address, 1)

    def left(self, address: str) -> None:
        self._add(address, -1)

    def _add(self, address: str, change: int) -> None:
        self._totals[self._region][0] += change
        for regions, bucket in zip(self._counts, self._buckets(address), strict=True):
            own = regions[self._region]
            own[bucket] = max(0, min(own[bucket] + change, _MOST))

    def _buckets(self, address: str) -> tuple[int, int]:
        digest = hashlib.blake2b(address.encode(), digest_size=4, key=self._key).digest()
        return int.from_bytes(digest[:2], "big") % BUCKETS, int.from_bytes(digest[2:], "big") % BUCKETS


# Arrivals are one word, so that whoever reads it never sees half of it: the number of the window, those in it, those in
# the one before.


def _arrived(word: int, this: int, left: float) -> float:
    window, here, before = word >> 32, word >> 16 & _MOST, word & _MOST
    if window == this:
        return here + before * left
    return here * left if window == this - 1 else 0.0


def _one_more(word: int, this: int) -> int:
    window, here, before = word >> 32, word >> 16 & _MOST, word & _MOST
    if window != this:
        here, before = 0, here if window == this - 1 else 0
    return this << 32 | min(here + 1, _MOST) << 16 | before
