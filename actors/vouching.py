"""How much a relay counts here, and what others' word adds to it.

    own(p)      = min(hours in which we saw p relay / 12, 1), an hour counts half after two weeks
    vouched(r)  = min(own(r), sum over distinct witnesses w of own(w) / 2, half of it after each week)
    standing(r) = own(r) + vouched(r)                                                            0 to 2

A witness is a peer that has signed that ``r`` carried something for it, and that relays itself, as far as *we* saw.  So
a word is worth no more than who says it, and whatever N identities say of each other, it at most doubles what our own
probes of them found: the bound that tests/simulation shows.  A stranger's word is worth nothing; nobody is vouched for
whom we have not seen relay ourselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Hours in which a relay was seen to relay after which more of them do not count: half a day, so that a home relay
#: that is on in the evenings counts in full within days.
FULL: Final = 12.0

#: What a witness's word is worth of what he is: his word counts less than what we see.
WORD: Final = 0.5

#: Seconds after which a word counts half, and after which it is forgotten.
WORD_HALF_LIFE: Final = 7 * 86_400.0
WORD_LIFE: Final = 30 * 86_400.0

#: Relays that are vouched for, and are remembered.  Each costs up to 2 kB.
MAX_VOUCHED: Final = 1024


def own(hours: float) -> float:
    """0 to 1, of ``hours`` in which it was seen to relay, as they count now."""
    return min(hours / FULL, 1.0)


class Vouchers:
    """``own(peer, now)``: as above."""

    def __init__(self, own: Callable[[bytes, float], float], max_vouched: int = MAX_VOUCHED) -> None:
        self._own = own
        self._max = max_vouched
        self._words: dict[bytes, dict[bytes, float]] = {}

    def __len__(self) -> int:
        return len(self._words)

    def vouch(self, relay: bytes, witnesses: dict[bytes, float]) -> None:
        """All that ``relay`` has to show: by witness, when it was.  It replaces what it showed before."""
        self._words.pop(relay, None)
        if witnesses:
            self._words[relay] = witnesses
            while len(self._words) > self._max:
                del self._words[next(iter(self._words))]

    def standing(self, relay: bytes, now: float) -> float:
        """0: it was never seen to relay."""
        mine = self._own(relay, now)
        words = self._words.get(relay)
        if not mine or words is None:
            return mine
        said: float = sum(
            WORD * self._own(witness, now) * 0.5 ** (max(now - at, 0.0) / WORD_HALF_LIFE)
            for witness, at in words.items()
            if now - at <= WORD_LIFE
        )
        return mine + min(mine, said)
