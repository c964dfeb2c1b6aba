"""When a reservation is asked for again: well before it ends, and after a failure neither at once nor together.

A relay that restarts loses all its clients in one moment.  Each waits a random part of a growing time, so that they
come back spread out, and no sooner than the relay told them to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """``refresh_at``: part of a reservation's life after which it is refreshed; what is left is for retries.
    ``least_life``: seconds; a relay whose clock is behind ours seems to grant less than nothing.
    ``first_delay``, ``most_delay``: seconds between attempts, doubling."""

    refresh_at: float = 0.75
    least_life: float = 30.0
    first_delay: float = 1.0
    most_delay: float = 120.0


class RefreshSchedule:
    """``due``: when to ask next, by the clock that ``now`` is of; 0 at first: at once."""

    __slots__ = ("_failures", "_policy", "due")

    def __init__(self, policy: RefreshPolicy | None = None) -> None:
        self._policy = policy or RefreshPolicy()
        self._failures = 0
        self.due = 0.0

    def granted(self, expires_at: float, now: float) -> None:
        """The relay granted a reservation until ``expires_at``, by our clock."""
        self._failures = 0
        self.due = now + max(expires_at - now, self._policy.least_life) * self._policy.refresh_at

    def failed(self, now: float, jitter: float, retry_after: float = 0.0) -> None:
        """The attempt failed, or the connection was lost.  ``jitter``: from 0 to 1, random.  ``retry_after``: what the
        relay asked for, seconds."""
        policy = self._policy
        delay = min(policy.first_delay * 2.0 ** min(self._failures, 32), policy.most_delay)
        self._failures += 1
        self.due = now + retry_after + delay * (0.5 + jitter / 2)
