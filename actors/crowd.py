"""How many connections there are, in all and of one address: what the limits of connections are held against.

:class:`Crowd` counts those of one process.  Forwarders that share a port count together (actors/ports/shared_crowd.py):
the kernel spreads an address's connections over them by chance, so that a share of the limit for each would refuse too
early.  An address is whatever stands for one here: Links gives a household (actors/reservations.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from actors.rate_limit import KeyedBuckets

#: Addresses whose rate of new connections is remembered.
MAX_RATE_KEYS: Final = 16_384


class Counted(Protocol):
    """What a forwarder asks before it lets a connection in, and tells when it has.  ``shared``: others count too."""

    @property
    def shared(self) -> bool: ...

    def count(self) -> int:
        """Connections in all."""
        ...

    def of(self, address: str) -> int:
        """Connections of ``address``."""
        ...

    def may_come(self, address: str, now: float) -> bool:
        """Whether ``address`` keeps to its rate if it comes now, which is remembered."""
        ...

    def came(self, address: str) -> None: ...

    def left(self, address: str) -> None: ...


class Crowd:
    """See the module.  ``per_minute``: the rate of one address; a quarter of it may come at once."""

    __slots__ = ("_arrivals", "_count", "_per_address")

    shared = False

    def __init__(self, per_minute: float) -> None:
        self._count = 0
        self._per_address: Counter[str] = Counter()
        self._arrivals = KeyedBuckets(per_minute / 60, max(per_minute / 4, 1), MAX_RATE_KEYS)

    def count(self) -> int:
        return self._count

    def of(self, address: str) -> int:
        return self._per_address[address]

    def may_come(self, address: str, now: float) -> bool:
        return self._arrivals.take(address, now)

    def came(self, address: str) -> None:
        self._count += 1
        self._per_address[address] += 1

    def left(self, address: str) -> None:
        self._count -= 1
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
