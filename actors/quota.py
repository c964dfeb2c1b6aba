"""A forwarder's part in the node's bandwidth cap: when it asks for quota, and what it gives back (actors/bandwidth.py).

It has one question open at a time.  It asks when bytes wait, and when half of what it had ahead is used; what it has
not touched for a second it gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from actors.deadlines import Deadlines
from protocol import messages
from protocol.quota_messages import QuotaGranted, QuotaReturned, QuotaWanted
from protocol.switching import Circuit, Switch

#: Seconds in which quota that is not touched stays.
IDLE: Final = 1.0

_KEY: Final = "quota"


class Quota:
    """The quota of the forwarder ``name``: asks RelayServer, and has ``switch`` pass what is paid for.

    ``circuits``: all that the forwarder has.  ``rate``: the node's cap in bytes a second, 0: none.
    """

    __slots__ = ("_asked", "_circuits", "_deadlines", "_last", "_name", "_switch", "_tell", "rate")

    def __init__(
        self,
        name: str,
        switch: Switch,
        circuits: Mapping[int, Circuit],
        deadlines: Deadlines,
        tell: Callable[[messages.RelayServerMessage], None],
        rate: float,
    ) -> None:
        self._name = name
        self._switch = switch
        self._circuits = circuits
        self._deadlines = deadlines
        self._tell = tell
        self._asked: int | None = None
        self._last = 0
        self.rate = 0.0
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """The cap is another.  Quota of before is forgotten when there was none, or is none any more."""
        if not rate or not self.rate:
            self._asked = None
        self.rate = rate
        self._switch.set_rate(rate, list(self._circuits.values()))

    def granted(self, message: QuotaGranted, now: float) -> None:
        meter = self._switch.meter
        self._asked = None
        if not meter.on:
            return  # it was on its way when the cap went
        self._switch.receive_quota(message.amount)
        meter.low = max(meter.tokens, 0) // 2
        meter.hungry = bool(meter.waiting) or meter.tokens < 0
        self._last = -1
        if meter.tokens > 0 and not self._deadlines.when(_KEY):
            self._last = meter.tokens
            self._deadlines.set(_KEY, now + IDLE, self._look)

    def settle(self) -> None:
        """A turn ends, in which more quota was needed than there was."""
        meter = self._switch.meter
        meter.hungry = False
        if not meter.on:
            self._switch.receive_quota(0)
            return
        owed = meter.owed + max(-meter.tokens, 0)
        if self._asked is not None and (self._asked or not owed):
            return
        if meter.collect() > 0 and meter.waiting:
            self._switch.receive_quota(0)
            owed = meter.owed
        self._asked = owed
        self._tell(QuotaWanted(self._name, owed, meter.weight(), max(meter.tokens, 0)))

    def begin_anew(self) -> None:
        """Another RelayServer gives quota, and knows nothing of this."""
        self._asked = None
        self._switch.meter.forfeit()

    def _look(self, now: float) -> None:
        """Give back what was not touched."""
        meter = self._switch.meter
        left = meter.collect() if meter.on else 0
        if left <= 0:
            return
        if left == self._last and not meter.waiting and self._asked is None:
            meter.tokens = meter.low = 0
            self._tell(QuotaReturned(self._name, left))
        else:
            self._last = left
            self._deadlines.set(_KEY, now + IDLE, self._look)
