"""Who makes room when a table is full: whoever takes the most of it.

Items lie in a tree, by the parts of a path such as (IP group, household, peer).  The one to go is the oldest of the
largest branch of the largest branch.  So a flood from one place displaces itself, and who holds little keeps it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

Path = tuple[Hashable, ...]


class FairShare(Generic[T]):
    """Items, each on a path of the same length.  A few us to add, remove or find the victim, whatever their number."""

    __slots__ = ("_paths", "_root")

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()
        self._paths: dict[T, Path] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[T]:
        return iter(self._paths)

    def add(self, item: T, path: Path) -> None:
        """Put ``item`` in, as the youngest; one that is there already moves."""
        self.remove(item)
        self._paths[item] = path
        self._root.add(item, path)

    def remove(self, item: T) -> None:
        path = self._paths.pop(item, None)
        if path is not None:
            self._root.remove(item, path)

    def under(self, path: Path) -> int:
        """How many lie on paths that begin with ``path``."""
        branch: _Branch[T] | None = self._root
        for part in path:
            branch = branch.branches.get(part) if branch is not None else None
        return 0 if branch is None else branch.count

    def oldest(self, path: Path = ()) -> T | None:
        """Which is to go, of those whose paths begin with ``path``."""
        branch = self._root
        for part in path:
            found = branch.branches.get(part)
            if found is None:
                return None
            branch = found
        return branch.victim() if branch.count else None


class _Branch(Generic[T]):
    __slots__ = ("_by_count", "_most", "branches", "count", "items")

    def __init__(self) -> None:
        self.count = 0
        self.items: OrderedDict[T, None] = OrderedDict()  # its first is found at once, a dict's is not
        self.branches: dict[Hashable, _Branch[T]] = {}
        # Branches by how much they hold, and the most that one holds.
        self._by_count: dict[int, OrderedDict[Hashable, None]] = {}
        self._most = 0

    def add(self, item: T, path: Path) -> None:
        self.count += 1
        if not path:
            self.items[item] = None
            return
        first, *rest = path
        branch = self.branches.get(first)
        if branch is None:
            branch = self.branches[first] = _Branch()
        branch.add(item, tuple(rest))
        self._recount(first, branch.count - 1, branch.count)

    def remove(self, item: T, path: Path) -> None:
        self.count -= 1
        if not path:
            del self.items[item]
            return
        first, *rest = path
        branch = self.branches[first]
        branch.remove(item, tuple(rest))
        self._recount(first, branch.count + 1, branch.count)
        if not branch.count:
            del self.branches[first]

    def victim(self) -> T:
        if not self.branches:
            return next(iter(self.items))
        largest = next(iter(self._by_count[self._most]))
        return self.branches[largest].victim()

    def _recount(self, branch: Hashable, before: int, now: int) -> None:
        if before:
            same = self._by_count[before]
            del same[branch]
            if not same:
                del self._by_count[before]
        if now:
            self._by_count.setdefault(now, OrderedDict())[branch] = None
        if now > self._most or self._most not in self._by_count:
            self._most = now
