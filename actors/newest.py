"""Dicts that hold the newest of what came, and no more than so many."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def keep_newest(kept: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """``key`` is the newest of ``kept``; beyond ``most``, those that came longest ago are forgotten."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
