"""Token buckets that are told the time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class TokenBucket:
    """``rate`` tokens a second, at most ``burst`` saved up; full at first."""

    __slots__ = ("_tokens", "_updated", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._updated = now

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take ``tokens`` if they are there."""
        self._refill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def spend(self, now: float, tokens: float) -> float:
        """Take ``tokens``, there or not; seconds until none are owed."""
        self._refill(now)
        self._tokens -= tokens
        return max(-self._tokens / self.rate, 0.0)

    def wait(self, now: float, tokens: float = 1.0) -> float:
        """Seconds until ``tokens`` are there (infinite for a rate of 0)."""
        self._refill(now)
        missing = tokens - self._tokens
        if missing <= 0:
            return 0.0
        return missing / self.rate if self.rate > 0 else float("inf")

    def _refill(self, now: float) -> None:
        if now > self._updated:
            self._tokens = min(self.burst, self._tokens + (now - self._updated) * self.rate)
            self._updated = now


class KeyedBuckets:
    """A bucket for each of at most ``max_keys`` keys, the one longest unused forgotten first.

    Forgetting fills a bucket up, so ``max_keys`` must exceed the keys that an attacker can use within
    ``burst / rate`` seconds for the limit to hold for each.
    """

    __slots__ = ("_buckets", "burst", "max_keys", "rate")

    def __init__(self, rate: float, burst: float, max_keys: int) -> None:
        self.rate = rate
        self.burst = burst
        self.max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, tokens: float = 1.0) -> bool:
        """Take ``tokens`` of ``key``'s if they are there."""
        return self._bucket(key, now).take(now, tokens)

    def spend(self, key: Hashable, now: float, tokens: float) -> float:
        """Take ``tokens`` of ``key``'s, there or not; seconds until it owes none."""
        return self._bucket(key, now).spend(now, tokens)

    def wait(self, key: Hashable, now: float, tokens: float = 1.0) -> float:
        """Seconds until ``key`` has ``tokens``."""
        return self._bucket(key, now).wait(now, tokens)

    def _bucket(self, key: Hashable, now: float) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self.rate, self.burst, now)
            if len(self._buckets) > self.max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
