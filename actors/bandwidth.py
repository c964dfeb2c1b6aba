"""The node's bandwidth cap: one token bucket, from which each forwarder is given quota.

A promise to the owner: in ``t`` seconds no more than ``rate * t`` bytes of circuits pass, and one second's worth
beside.  The bucket holds at most one second's worth, and what forwarders have and have not spent is part of that.  It
is empty at first, so that a restart never gives more; and quota that is lost with a forwarder, or with the RelayServer
that gave it, counts as spent.

Who asks gets what it asks for, and a little ahead, while there is enough.  When there is not, what comes in a tenth of
a second is shared out by then, by what the circuits weigh that wait at each forwarder (actors/shares.py), and what one
does not need goes to the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from actors.actor import Send
from protocol.messages import ForwarderCounters, ForwarderReport
from protocol.quota_messages import QuotaGranted, QuotaReturned, QuotaWanted

#: Seconds of the rate that may be saved up, in the bucket and with the forwarders together: the promise.
BURST: Final = 1.0

#: Seconds between two rounds in which scarce quota is shared out: what a question and its answer cost is then nothing,
#: and who waits notices no steps.
ROUND: Final = 0.1

#: Bytes that a round is worth at least, unless that is half a second's: less would be all headers.
LEAST: Final = 1024

#: Seconds of the rate that a forwarder is given ahead at most: what passes while it asks for more.
AHEAD: Final = 0.1

#: Of what may be saved up, how much forwarders may have ahead together.  The rest is for those that have bytes waiting.
AHEAD_SHARE: Final = 0.5

#: Seconds that what waits may take at the cap; above that the cap counts as spent, and no circuit is begun.
PATIENCE: Final = 1.0

#: Most seconds after which who is refused is told to come back.  What waits may be much, and may go away.
MAX_RETRY: Final = 3600

MINUTE: Final = 60.0
MINUTES: Final = 60


@dataclass(slots=True)
class _Account:
    """``unspent``: of what it was given, as it last said.  ``owed``: bytes that wait there, in directions of
    circuits that weigh ``weight`` together.  ``asks``: it waits for an answer."""

    unspent: int = 0
    owed: int = 0
    weight: int = 0
    asks: bool = False


class Bandwidth:
    """See the module.  ``rate``: bytes a second, 0: no cap.  Times never go back."""

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self._level = 0.0
        self._at: float | None = None
        self._accounts: dict[str, _Account] = {}
        self._last_round = 0.0
        self._next_round: float | None = None

    @property
    def depth(self) -> float:
        """Bytes that may be saved up in all."""
        return self.rate * BURST

    def begin(self, now: float) -> list[Send]:
        """Quota accrues from now on, if it did not yet: nobody else gives any."""
        if self._at is None:
            self._at = now
        return self._share_out(now)

    def set_rate(self, rate: float, now: float) -> list[Send]:
        """The cap is another."""
        self._accrue(now)
        if not rate or not self.rate:
            self._accounts.clear()
            self._level = 0.0
        self.rate = rate
        self._next_round = None
        return self._share_out(now)

    def wanted(self, message: QuotaWanted, now: float) -> list[Send]:
        self._accrue(now)  # with what it had until now
        account = self._accounts.setdefault(message.forwarder, _Account())
        account.unspent = max(message.unspent, 0)
        account.owed, account.weight, account.asks = message.owed, max(message.weight, 1), True
        return self._share_out(now)

    def returned(self, message: QuotaReturned, now: float) -> list[Send]:
        self._accrue(now)
        self._accounts.pop(message.forwarder, None)
        self._level = min(self._level + message.amount, self._room())
        return self._share_out(now)

    def lost(self, forwarder: str) -> None:
        """It is gone, or begins anew: what it had counts as spent."""
        self._accounts.pop(forwarder, None)

    def wait(self, now: float) -> float:
        """Seconds that what waits takes at the cap; 0: nothing waits."""
        if not self.rate:
            return 0.0
        self._accrue(now)
        return max((sum(account.owed for account in self._accounts.values()) - self._level) / self.rate, 0.0)

    def retry_after(self, now: float) -> int:
        """Seconds after which a circuit that is refused now may come again; 0: it is not refused."""
        wait = self.wait(now)
        return min(math.ceil(wait), MAX_RETRY) if wait > PATIENCE else 0

    def next_deadline(self) -> float | None:
        return self._next_round

    def handle_deadline(self, now: float) -> list[Send]:
        return self._share_out(now)

    def _unspent(self) -> int:
        return sum(account.unspent for account in self._accounts.values())

    def _room(self) -> float:
        return max(self.depth - self._unspent(), 0.0)

    def _accrue(self, now: float) -> None:
        if self._at is None:
            return
        if now > self._at:
            self._level += (now - self._at) * self.rate
            self._at = now
        self._level = min(self._level, self._room())

    def _share_out(self, now: float) -> list[Send]:
        asking = {name: account for name, account in self._accounts.items() if account.asks}
        self._accrue(now)
        if self._at is None or not self.rate or not asking:
            self._next_round = None
            return []
        spare = self._level - sum(account.owed for account in asking.values())
        if spare >= 0:
            most = min(self.depth * AHEAD, spare / 2, self.depth * AHEAD_SHARE - self._unspent())
            ahead = int(max(most, 0) / len(asking))
            return self._give({name: account.owed + ahead for name, account in asking.items()}, now)
        if self._next_round is not None and self._next_round <= now:
            return self._give(self._shares(asking), now)
        if self._next_round is None:
            worth = min(max(self.rate * ROUND, LEAST), self.depth / 2)
            self._next_round = max(now + (worth - self._level) / self.rate, self._last_round + ROUND)
        return []

    def _shares(self, asking: Mapping[str, _Account]) -> dict[str, int]:
        """What is there, by what those weigh that wait."""
        left, weight = int(self._level), sum(account.weight for account in asking.values())
        shares: dict[str, int] = {}
        for name, account in sorted(asking.items(), key=lambda entry: entry[1].owed / entry[1].weight):
            shares[name] = min(account.owed, left * account.weight // weight)
            left -= shares[name]
            weight -= account.weight
        return shares

    def _give(self, amounts: Mapping[str, int], now: float) -> list[Send]:
        self._last_round, self._next_round = now, None
        for name, amount in amounts.items():
            account = self._accounts[name]
            paid = min(amount, account.owed)
            account.owed -= paid
            account.unspent += amount - paid
            account.asks = False
            self._level -= amount
        return [Send(name, QuotaGranted(amount)) for name, amount in amounts.items()]


class LastHour:
    """Bytes that were relayed in the last hour, in whole minutes, from what forwarders count."""

    def __init__(self) -> None:
        self._counted: dict[str, int] = {}
        self._minutes: deque[tuple[int, int]] = deque()

    def reported(self, report: ForwarderReport) -> None:
        """What it had relayed before is not counted here, unless it was already."""
        replaced = self._counted.pop(report.replaces, None)
        self._counted.setdefault(report.forwarder, report.bytes_forwarded if replaced is None else replaced)

    def count(self, counters: ForwarderCounters, now: float) -> int:
        """Bytes since the forwarder last said."""
        before = self._counted.get(counters.forwarder, counters.bytes_forwarded)
        self._counted[counters.forwarder] = counters.bytes_forwarded
        minute, size = int(now // MINUTE), max(counters.bytes_forwarded - before, 0)
        since = size
        if self._minutes and self._minutes[-1][0] == minute:
            size += self._minutes.pop()[1]
        self._minutes.append((minute, size))
        self._expire(now)
        return since

    def lost(self, forwarder: str) -> None:
        """It is gone; one of its name counts from nothing."""
        self._counted.pop(forwarder, None)

    def total(self, now: float) -> int:
        self._expire(now)
        return sum(size for _, size in self._minutes)

    def _expire(self, now: float) -> None:
        while self._minutes and self._minutes[0][0] <= int(now // MINUTE) - MINUTES:
            self._minutes.popleft()
