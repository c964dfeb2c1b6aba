"""Peers about a key that others have crowded out: what is done when somebody sits where the honest ones should be.

An id costs nothing, so whoever wants can have the twenty nearest to a key that all know, and answer for it as he likes.
But he cannot take away those whom he displaced: they lie where the twenty nearest would be without him.  How far that
is follows from how many peers the network has; and that from look-ups elsewhere, where he is not.

    look-ups into random places  ->  how many peers there are (the median of what each suggests)
    a look-up of the key that ends four times as near as it should  ->  look into each quarter of the region where
        twenty are to be expected, and take those who are found there too

A record is then put there beside the nearest, and asked for there.  It costs four look-ups, and only under attack: of
honest networks with ids by chance, one look-up in a hundred thousand ends so near.

Source: Sridhar, Ascigil, Keizer, Genon, Pierre, Psaras, Riviere, Krol, "Content Censorship in the InterPlanetary File
System" (NDSS 2024), 6: region-based queries.  Our own: the four quarters.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from statistics import median
from typing import Final

from actors.kad_lookup import Candidate
from actors.kad_walks import Walk, Walks
from protocol.kad import KadMessage, MessageType
from protocol.kad_keys import BITS, keyspace

#: Look-ups elsewhere whose word counts, the latest, and of which there must be some.  One is off by a quarter on
#: average, the median of nine by a tenth.
SAMPLES: Final = 15
LEAST_SAMPLES: Final = 3

#: How much nearer than expected is too near.
CROWDED: Final = 4.0

#: Bits after the region's, for each of whose values there is a look-up: four quarters.
QUARTER_BITS: Final = 2

#: Bits of the region at most: keys into its quarters are found by trying, 2**(bits + 2) times 0.5 us for each.  A
#: network of 300,000 peers has as many.
MAX_REGION_BITS: Final = 14


class NetworkSize:
    """How many peers the network has, by how near the nearest of random places are."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def note(self, walk: Walk) -> None:
        """A look-up into a random place is over."""
        if (size := suggested(walk)) is not None:
            self._samples.append(size)

    def __call__(self) -> float | None:
        """Peers; None: too little was seen, or the network is so small that look-ups see all of it."""
        return median(self._samples) if len(self._samples) >= LEAST_SAMPLES else None


def suggested(walk: Walk) -> float | None:
    """Peers of the network, if this look-up's place is like any other; None: it did not find as many as it wanted."""
    near = walk.closest()
    if len(near) < walk.lookup.wanted or len(near) < 2:
        return None
    return (len(near) - 1) * float(1 << BITS) / max(near[-1].distance, 1)


class Region:
    """``randomness(n)``: n random bytes.  ``counts``: look-ups that were crowded."""

    def __init__(
        self, walks: Walks, size: NetworkSize, randomness: Callable[[int], bytes], counts: Counter[str]
    ) -> None:
        self._walks = walks
        self._size = size
        self._randomness = randomness
        self._counts = counts

    def around(self, walk: Walk, now: float, done: Callable[[list[Candidate], float], None]) -> None:
        """Who is nearest to what ``walk`` looked for; when it was crowded, those too who should have been.

        ``done(them, now)``: once, at once if there is nothing to look into; the nearest first."""
        near = walk.closest()
        size = self._size()
        if size is None or (suggested(walk) or 0.0) < CROWDED * size:
            done(near, now)
            return
        self._counts["crowded look-up"] += 1
        everybody = {one.peer: one for one in near}
        left = 1 << QUARTER_BITS

        def looked(quarter: Walk, now: float) -> None:
            nonlocal left
            left -= 1
            for one in quarter.closest():
                everybody.setdefault(one.peer, one)
            if not left:
                target = walk.lookup.target
                done(sorted(everybody.values(), key=lambda one: keyspace(one.peer) ^ target), now)

        bits = region_bits(size, walk.lookup.wanted)
        for key in [quarter_key(walk.lookup.target, bits, number, self._randomness) for number in range(left)]:
            self._walks.start(KadMessage(MessageType.FIND_NODE, key), now, looked)


def region_bits(size: float, wanted: int) -> int:
    """Leading bits that a region shares in which at least ``wanted`` of ``size`` peers are to be expected."""
    return min(max(int(size / wanted).bit_length() - 1, 0), MAX_REGION_BITS)


def quarter_key(target: int, bits: int, number: int, randomness: Callable[[int], bytes]) -> bytes:
    """A key, in the form of a peer id, whose place is in that quarter of the region about ``target``."""
    shift = BITS - bits - QUARTER_BITS
    wanted = (target >> (shift + QUARTER_BITS) << QUARTER_BITS) | number
    seed = randomness(24)
    tries = 0
    while True:
        key = b"\x12\x20" + seed + tries.to_bytes(8, "big")
        if int.from_bytes(hashlib.sha256(key).digest(), "big") >> shift == wanted:
            return key
        tries += 1
