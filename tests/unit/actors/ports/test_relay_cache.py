"""Relays on disk: what was saved comes back, and damage costs only that."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest

from actors.ports.relay_cache import FILE, MAX_FILE, RelayCacheFile
from actors.relay_directory import SAVED, CachedRelay

RELAYS = [CachedRelay(b"peer%d" % n, (b"address",), b"envelope" * n, n / 10 or None, 1.8e9) for n in range(3)]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    cache = RelayCacheFile(tmp_path)
    assert cache.load() == ()
    cache.save(RELAYS[:1])
    cache.save(RELAYS)
    cache.close()
    assert RelayCacheFile(tmp_path).load() == RELAYS
    assert os.listdir(tmp_path) == [FILE] and (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_so_many(tmp_path: Path) -> None:
    cache = RelayCacheFile(tmp_path)
    cache.save(RELAYS * SAVED)
    cache.close()
    assert len(RelayCacheFile(tmp_path).load()) == SAVED


@pytest.mark.parametrize(
    "data", [b"", b"junk", bytes(MAX_FILE + 1), msgspec.msgpack.encode([2, []]), msgspec.msgpack.encode([1, [[1]]])]
)
def test_what_is_damaged_is_put_aside(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert RelayCacheFile(tmp_path).load() == ()
    assert "relays.damaged" in caplog.text
    assert os.listdir(tmp_path) == ["relays.damaged"] and (tmp_path / "relays.damaged").read_bytes() == data
    cache = RelayCacheFile(tmp_path)
    cache.save(RELAYS)
    cache.close()
    assert RelayCacheFile(tmp_path).load() == RELAYS


def test_a_folder_that_is_gone_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = RelayCacheFile(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        cache.save(RELAYS)
        cache.save(RELAYS)
        cache.close()
    assert caplog.text.count("cannot be written") == 1
