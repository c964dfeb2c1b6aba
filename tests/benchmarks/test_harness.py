"""The harness, run for real against this relay on tiny sizes. What it measures then means nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.benchmarks import run, table
from tests.benchmarks.workloads import QUICK, all_workloads

pytestmark = pytest.mark.benchmark


@pytest.mark.skipif(shutil.which("go") is None, reason="the clients are a Go program: install Go 1.26 or newer")
def test_every_workload_gives_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--quick", "--relays", "ours", "--out", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["median"]) == {one.name for one in all_workloads(QUICK)}
    assert figures["errors"] == []
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out


def test_the_table_takes_its_place() -> None:
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    once = table.between_markers(text, "new")
    assert once == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"
    assert table.between_markers(once, "new") == once


def test_a_place_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="README"):
        table.between_markers("no markers", "new")
