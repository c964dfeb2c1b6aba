"""How much each forwarder carries now, and whether another dialler should join one."""

from __future__ import annotations

from typing import Final

#: Bytes a second at which a forwarder has about half a core's work (tests/benchmarks, 16 and 64 KiB): above it, what
#: a bridge costs is paid by whoever has time.
BUSY: Final = 256 * 1024 * 1024

#: Seconds after which a forwarder that says nothing carries nothing: it reports about once a second what changes.
STALE: Final = 3.0


class Loads:
    """Rates, from the totals that forwarders report."""

    __slots__ = ("_rates", "_totals")

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, float]] = {}
        self._rates: dict[str, float] = {}

    def reported(self, forwarder: str, total: int, now: float) -> None:
        """``total``: bytes that it has passed on so far."""
        before, then = self._totals.get(forwarder, (total, now))
        if now > then:
            # A total that shrank is of one that began anew.
            self._rates[forwarder] = max(total - before, 0) / (now - then)
        self._totals[forwarder] = (total, now)

    def forget(self, forwarder: str) -> None:
        self._totals.pop(forwarder, None)
        self._rates.pop(forwarder, None)

    def rate(self, forwarder: str, now: float) -> float:
        """Bytes a second."""
        _, then = self._totals.get(forwarder, (0, 0.0))
        return self._rates.get(forwarder, 0.0) if now - then < STALE else 0.0

    def welcomes(self, there: str, here: str, now: float) -> bool:
        """Whether a dialler of ``here`` may move ``there``: not to one that is busy, and busier than its own."""
        rate = self.rate(there, now)
        return rate <= BUSY or rate <= self.rate(here, now)
