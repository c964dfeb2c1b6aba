"""Every target for a second under atheris; longer runs are started by hand (tests/fuzz/atheris_targets.py)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="coverage-guided fuzzing is NOT run: pip install 'atheris>=3.0' (part of descord-relay[dev])",
)
def test_a_second_of_coverage_guided_bytes_for_each_target() -> None:
    command = [sys.executable, "-m", "tests.fuzz.atheris_targets", "--each", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=300, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output[-6000:]
    assert "failed: none" in output
