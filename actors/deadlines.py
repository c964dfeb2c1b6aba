"""Many deadlines, of which most are called off.

A heap of times with a table of what is still wanted.  Calling off leaves a stale entry behind; when stale entries
outnumber live ones the heap is rebuilt, so memory follows what is live and not what ever was.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush

Action = Callable[[float], None]

#: Below this many entries a rebuild saves nothing.
_SMALL = 64


class Deadlines:
    """Actions by key, each due once.  About 1 us to set or call off, whatever their number."""

    __slots__ = ("_heap", "_sequence", "_wanted")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._wanted: dict[Hashable, tuple[int, float, Action]] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def set(self, key: Hashable, when: float, action: Action) -> None:
        """Run ``action(now)`` once ``when`` has come, in place of what ``key`` stood for before."""
        self._sequence += 1
        self._wanted[key] = (self._sequence, when, action)
        heappush(self._heap, (when, self._sequence, key))
        self._rebuild()

    def cancel(self, key: Hashable) -> None:
        if self._wanted.pop(key, None) is not None:
            self._rebuild()  # a stale entry keeps its key alive

    def _rebuild(self) -> None:
        if len(self._heap) > 2 * len(self._wanted) + _SMALL:
            self._heap = [entry for entry in self._heap if self._live(entry)]
            heapify(self._heap)

    def when(self, key: Hashable) -> float:
        """When what ``key`` stands for is due, 0: never."""
        wanted = self._wanted.get(key)
        return 0.0 if wanted is None else wanted[1]

    def next(self) -> float | None:
        """The earliest time at which something is due."""
        heap = self._heap
        while heap and not self._live(heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def run(self, now: float) -> None:
        """Run what is due, in the order of its times.  Actions may set and cancel."""
        while (when := self.next()) is not None and when <= now:
            _, _, key = heappop(self._heap)
            _, _, action = self._wanted.pop(key)
            action(now)

    def _live(self, entry: tuple[float, int, Hashable]) -> bool:
        wanted = self._wanted.get(entry[2])
        return wanted is not None and wanted[0] == entry[1]
