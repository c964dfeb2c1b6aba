"""How the machine is: on battery or not, and what other programs use of its processors (psutil).

A look costs about a millisecond; there is one in half a minute, and none unless ``run_when`` asks for it
(actors/node_mode.py).
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

import psutil

from actors.relay_mode import MachineState

#: Seconds after a look in which another one would say little about how busy the machine is.
LEAST: Final = 1.0


class MachineWatch:
    """Looks at this machine.  What this process and those that it started use is not other programs' use."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._last: tuple[float, float, float] | None = None

    def look(self) -> MachineState:
        """How it is since the last look."""
        return MachineState(charging=charging(), busy=self._busy())

    def _busy(self) -> float | None:
        times = psutil.cpu_times()
        # guest is part of user already
        used = sum(times) - times.idle - sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
        at, own = time.monotonic(), self._own()
        last, self._last = self._last, (at, used, own)
        if last is None or at - last[0] < LEAST:
            return None
        # A process that ended took its time along.
        return float(max((used - last[1]) - max(own - last[2], 0.0), 0.0) / (at - last[0]))

    def _own(self) -> float:
        total = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has ended
                total += sum(process.cpu_times()[:2])
        return total


def charging() -> bool:
    """Whether the machine charges, or has no battery that it could run out of."""
    try:
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    except (OSError, RuntimeError, ValueError):
        return True  # what cannot be read is no battery to be careful of
    # power_plugged is None when that is not known
    return battery is None or battery.power_plugged is not False
