"""What a host does about addresses that keep it busy with frames that cost more than their bytes.

A frame of a circuit is passed on for the price of its bytes.  Others (window updates, pings, data of streams that end
here) cost up to 8 us each, and a receive of 64 KiB may hold 5,000 of them.  They are counted (Session.dear), and an
address that sends more than its rate of them is read more slowly: its senders wait, and nothing of it is lost.  A
connection that fills a turn with them is read in small pieces, so that others wait for a few milliseconds at most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from actors.rate_limit import KeyedBuckets
from actors.reservations import household

if TYPE_CHECKING:
    from actors.ports.endpoint import Endpoint
    from actors.ports.host import Host

#: Such frames in one receive after which the next one is small.
MANY: Final = 256

#: Bytes of a small receive: at most 340 such frames, under 3 ms.
SMALL_RECEIVE: Final = 4096

#: A small receive doubles while there are few such frames, and from here on is as large as any.
MAX_SMALL: Final = 32 * 1024

#: Addresses whose rate is remembered.
MAX_KEYS: Final = 16_384


class Fairness:
    """``rate``: such frames a second of one address; a second's worth may come at once."""

    __slots__ = ("_buckets", "_host", "_loop")

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        self._host = host
        self._loop = loop
        self._buckets = KeyedBuckets(rate, rate, MAX_KEYS)

    def spent(self, endpoint: Endpoint, frames: int, now: float) -> None:
        """``endpoint`` had so many in one receive."""
        if frames > MANY:
            endpoint.receive_size = SMALL_RECEIVE
        elif endpoint.receive_size:
            endpoint.receive_size = 2 * endpoint.receive_size if endpoint.receive_size < MAX_SMALL else 0
        wait = self._buckets.spend(household(endpoint.link.address), now, frames)
        if wait and not endpoint.paused:
            endpoint.paused = True
            self._loop.remove_reader(endpoint.descriptor)
            self._loop.call_later(wait, self._resume, endpoint)

    def _resume(self, endpoint: Endpoint) -> None:
        endpoint.paused = False
        if self._host.has(endpoint):
            self._loop.add_reader(endpoint.descriptor, self._host._readable, endpoint)
