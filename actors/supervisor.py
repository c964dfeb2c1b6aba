"""When a failed actor is started again, and when that is given up: a policy that is told the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """``max_restarts`` within ``window`` seconds are borne.  The first restart is at once, the second after
    ``first_delay`` seconds, and each further one after twice as long, up to ``max_delay``."""

    max_restarts: int = 10
    window: float = 60.0
    first_delay: float = 0.05
    max_delay: float = 5.0


class Supervision:
    """The failures of one actor."""

    __slots__ = ("_failures", "_policy")

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[float] = deque()

    def failed(self, now: float) -> float | None:
        """Seconds until the actor is to be started again; None: it failed too often."""
        policy, failures = self._policy, self._failures
        while failures and failures[0] <= now - policy.window:
            failures.popleft()
        failures.append(now)
        earlier = len(failures) - 1
        if earlier >= policy.max_restarts:
            return None
        # More doublings than a float can hold are as good as these.
        doublings = min(earlier - 1, 64)
        return 0.0 if not earlier else min(policy.first_delay * 2.0**doublings, policy.max_delay)

    @property
    def recent(self) -> int:
        """Failures within the window."""
        return len(self._failures)
