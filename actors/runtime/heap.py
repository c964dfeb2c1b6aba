"""The heap of a process that carries circuits."""

from __future__ import annotations

import gc
from typing import Final

#: Allocations between two collections of the youngest objects.
GC_THRESHOLD: Final = 20_000


def settle_heap() -> None:
    """What was made so far stays, and need not be looked through; what a forwarder makes lives for hours, so a full
    collection costs tens of milliseconds and finds nothing: let it be rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
