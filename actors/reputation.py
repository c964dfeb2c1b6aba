"""What this node saw of one relay, and the score that comes of it (DESIGN section 5).

    score = uptime * 40 + reliability * 30 + speed * 30
    reliability = succeeded / (succeeded + failed)      speed = min(1000 / latency_ms, 1)

Time is in windows of an hour.  What is seen within one counts the same in whatever order it came, and all probes of one
are one look: who tries a relay a hundred times in an hour knows no more than that it was there in that hour.  What is
old counts less, by a half-life.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.discovery_messages import Rating

#: Seconds of a window: a relay that fell is back, or is not, within that time, and a computer that is shut down for
#: the night is missed in many of them.
WINDOW: Final = 3600

#: Windows after which what was seen counts half: two weeks.  Home relays come and go with the week, so less would
#: forget between two weekends; and a relay that got better is not held to what it was a season ago.
HALF_LIFE: Final = 14 * 24

#: What counts less than this is forgotten, of a look or of all circuits: a single one does after six half-lives, a
#: season.  So a relay that is no longer used is unrated in the end.
LEAST: Final = 1 / 64

#: Windows with probes that are kept of a relay, the latest: a week in which it was looked at each hour, or the half-
#: lives that count when it is looked at once a day.
MAX_WINDOWS: Final = 168

#: Points of each part of the score, and milliseconds of a latency up to which a relay is as fast as any.
UPTIME_POINTS: Final = 40.0
RELIABILITY_POINTS: Final = 30.0
SPEED_POINTS: Final = 30.0
FULL_SPEED: Final = 1000.0

_Count = Annotated[float, Meta(ge=0, le=1e18)]


class ProbeWindow(msgspec.Struct, array_like=True, gc=False):
    """``number``: Unix time in windows.  ``latency``: seconds, of the ``measured`` together, which are among those that
    ``reached`` it.  ``worked``: probes to which it answered as a relay."""

    number: int
    reached: Annotated[int, Meta(ge=0)] = 0
    missed: Annotated[int, Meta(ge=0)] = 0
    measured: Annotated[int, Meta(ge=0)] = 0
    latency: _Count = 0.0
    worked: Annotated[int, Meta(ge=0)] = 0


class RelayReputation(msgspec.Struct, array_like=True):
    """What was seen of a relay.  ``succeeded``, ``failed`` (circuits) and ``carried`` (bytes, both ways) are as they
    count in window ``number``, the last in which something was seen.  ``last_seen``: Unix time at which it was last
    reached, ``worked_at``: at which it last answered as a relay, 0: never.  As msgpack it is a row of the disk."""

    number: int = 0
    succeeded: _Count = 0.0
    failed: _Count = 0.0
    carried: _Count = 0.0
    last_seen: _Count = 0.0
    windows: Annotated[list[ProbeWindow], Meta(max_length=MAX_WINDOWS)] = []
    worked_at: _Count = 0.0

    # What is seen.  ``now``: Unix time.

    def reached(self, latency: float, now: float, *, works: bool = False) -> None:
        """``latency``: seconds of a round trip, 0: not measured.  ``works``: it answered as a relay."""
        window = self._window(now)
        window.reached += 1
        if works:
            window.worked += 1
            self.worked_at = now
        if math.isfinite(latency) and latency > 0:
            window.measured += 1
            window.latency += latency
        self.last_seen = now

    def missed(self, now: float) -> None:
        self._window(now).missed += 1

    def circuit(self, carried: int, now: float, count: int = 1) -> None:
        """One that worked, or ``count`` of them, and their bytes both ways."""
        self._age(now)
        self.succeeded += count
        self.carried += max(carried, 0)
        self.last_seen = now

    def circuit_failed(self, now: float, count: int = 1) -> None:
        self._age(now)
        self.failed += count

    # What comes of it.

    def rating(self, peer: bytes, now: float) -> Rating:
        """As it is at ``now``.  Circuits are those that count, rounded up."""
        succeeded, failed, carried = self._counts(now)
        uptime, latency = self.uptime(now), self.latency(now)
        return Rating(
            peer=peer,
            score=score(uptime, latency, succeeded, failed),
            uptime=uptime,
            latency=latency,
            succeeded=math.ceil(succeeded),
            failed=math.ceil(failed),
            carried=round(carried),
        )

    def uptime(self, now: float) -> float | None:
        """0 to 1: of the windows in which it was looked for, the part in which it was there.  None: in none."""
        there = looked = 0.0
        for weight, one in self._weighed(now):
            if looks := one.reached + one.missed:
                there += weight * one.reached / looks
                looked += weight
        return min(there / looked, 1.0) if looked else None

    def latency(self, now: float) -> float | None:
        """Seconds, on average over the windows in which it was measured.  None: in none."""
        total = measured = 0.0
        for weight, one in self._weighed(now):
            if one.measured:
                total += weight * one.latency / one.measured
                measured += weight
        return total / measured if measured else None

    def hours_worked(self, now: float) -> float:
        """Windows in which it was seen to relay, as they count: the part of the looks at it in which it did."""
        return sum(weight * one.worked / (one.reached + one.missed) for weight, one in self._weighed(now) if one.worked)

    def evidence(self, now: float) -> float:
        """How much is known of it, for or against it: what is lost when it is forgotten."""
        return (self.succeeded + self.failed + len(self.windows)) * _weight(self.number, now)

    # Time.

    def _window(self, now: float) -> ProbeWindow:
        self._age(now)
        if not self.windows or self.windows[-1].number != self.number:
            if len(self.windows) >= MAX_WINDOWS:
                del self.windows[0]
            self.windows.append(ProbeWindow(self.number))
        return self.windows[-1]

    def _age(self, now: float) -> None:
        """Counts are as they count at ``now``."""
        self.succeeded, self.failed, self.carried = self._counts(now)
        self.number = int(now // WINDOW)
        if self.windows and _weight(self.windows[0].number, now) < LEAST:
            self.windows = [one for _, one in self._weighed(now)]

    def _counts(self, now: float) -> tuple[float, float, float]:
        """Circuits that succeeded, that failed, and bytes, as they count at ``now``."""
        weight = _weight(self.number, now)
        if (self.succeeded + self.failed) * weight < LEAST:
            return 0.0, 0.0, 0.0
        return self.succeeded * weight, self.failed * weight, self.carried * weight

    def _weighed(self, now: float) -> Iterator[tuple[float, ProbeWindow]]:
        """The windows that are not forgotten, and how much each counts."""
        for one in self.windows:
            if (weight := _weight(one.number, now)) >= LEAST:
                yield weight, one


def _weight(number: int, now: float) -> float:
    """Of what was seen in window ``number``: 1 when it is new.  A clock that was ahead, and was set right, makes
    nothing count more than that."""
    weight: float = 0.5 ** (max(int(now // WINDOW) - number, 0) / HALF_LIFE)
    return weight


def score(uptime: float | None, latency: float | None, succeeded: float, failed: float) -> float | None:
    """0 to 100; None, unrated: there were no circuits yet, or no latency is known.  ``latency``: seconds."""
    circuits = succeeded + failed
    if uptime is None or latency is None or not circuits:
        return None
    return uptime * UPTIME_POINTS + succeeded / circuits * RELIABILITY_POINTS + _speed(latency) * SPEED_POINTS


def expected_score(uptime: float | None, latency: float | None, succeeded: float, failed: float) -> float:
    """0 to 100: the score that one of whom this is known will turn out to have, for choosing among relays.

    What is not known of it counts half, and its next circuit succeeds as Laplace's rule of succession says: of one
    that nobody has tried, half of them.  The score itself would put a relay that drops every circuit but is always
    there (70) above one that was never tried, and keep to it for ever."""
    reliability = (succeeded + 1) / (succeeded + failed + 2)
    speed = 0.5 if latency is None else _speed(latency)
    there = 0.5 if uptime is None else uptime
    return there * UPTIME_POINTS + reliability * RELIABILITY_POINTS + speed * SPEED_POINTS


def _speed(latency: float) -> float:
    return min(FULL_SPEED / (latency * 1000), 1.0) if latency > 0 else 1.0
