"""The clock that deadlines go by, and how far the system's is from it by now.

Time since the machine booted only moves forward; the system's clock is set by people and by NTP, by years on a machine
without a battery.  So deadlines go by the first, and what a peer is told goes by the second (:func:`ahead`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Linux's CLOCK_BOOTTIME goes on while the machine is suspended: to peers that time has passed.  Others have no such
#: clock for all that is theirs.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Seconds since about the machine's boot, the same for all its processes."""
    return time.clock_gettime(_CLOCK)


def anchor() -> float:
    """Unix time of that boot, as the system's clock has it now."""
    return time.time() - uptime()


def steady_clock(since: float | None = None) -> Callable[[], float]:
    """Unix time that never goes back and leaps nowhere: the system's clock read once, :func:`uptime` from there.

    ``since``: another process' :func:`anchor`, to have the same clock as that one.
    """
    begun = anchor() if since is None else since
    clock, read = _CLOCK, time.clock_gettime
    return lambda: begun + read(clock)


def ahead(clock: Callable[[], float]) -> float:
    """Seconds by which the system's clock is ahead of ``clock``: it has been set since that began."""
    return time.time() - clock()


def told_by(clock: Callable[[], float]) -> Callable[[float], float]:
    """From a time of ``clock`` to what the system's clock will show then: what peers go by."""
    return lambda when: when + ahead(clock)
