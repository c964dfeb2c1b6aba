"""Reading the recordings tests/vectors/js_*.json, and cutting bytes in the ways that matter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def vectors(name: str) -> dict[str, Any]:
    """The recording tests/vectors/js_<name>.json."""
    text = Path(__file__).with_name(f"js_{name}.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


cuts = pytest.mark.parametrize("cut", [whole, bytewise])
