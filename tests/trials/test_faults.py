"""Faults on every actor of a real node, under load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.benchmarks import recovery

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")


def test_faults_on_every_actor_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is killed, stopped and made to raise; many times is what tests/benchmarks/recovery.py is for."""
    results = recovery.run(rounds=1, seed=3, pairs=4, folder=tmp_path)
    with capsys.disabled():
        print("\n" + "\n".join(results.lines()))
    assert not results.lost and results.rounds == 6
