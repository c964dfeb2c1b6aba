"""Where records are kept when the node stops: what a core is given, and one that forgets.

A store is told of changes and asked at the start.  It may be behind by a moment: what it lost is learnt again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class RecordStore(Protocol):
    """Values by key, both of a few kB at most.  None of it waits for a disk, but ``load``, at the start."""

    def load(self) -> Iterable[tuple[bytes, bytes]]:
        """All of it."""
        ...

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """Also one that is not there."""
        ...


class MemoryStore:
    """A store that lasts as long as its process; for tests, and for nodes that keep nothing."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def load(self) -> Iterable[tuple[bytes, bytes]]:
        return list(self.values.items())

    def put(self, key: bytes, value: bytes) -> None:
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        self.values.pop(key, None)
