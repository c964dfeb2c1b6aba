"""Each target for two seconds under atheris; longer runs are started by hand (tests/fuzz/atheris_targets.py)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="coverage-guided fuzzing is NOT run: pip install 'atheris>=3.0' (part of descord-relay[dev])",
)


@pytest.mark.parametrize("name", TARGETS)
def test_two_seconds_of_coverage_guided_bytes(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.atheris_targets", name, "-max_total_time=2", "-max_len=500"]
    # 2 GiB is libFuzzer's own bound of memory; ours is far below it.
    command += ["-rss_limit_mb=512", "-timeout=10", f"-artifact_prefix={tmp_path}/", "-print_final_stats=1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output[-4000:]
    assert "Done" in output
