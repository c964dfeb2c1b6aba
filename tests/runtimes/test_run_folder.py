"""Which run folders are swept: those whose owner is surely gone, and no others."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.runtime import janitor
from actors.runtime.run_folder import RunFolder, sweep_stale
from tests.support.process import PATIENCE


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where run folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("actors.runtime.run_folder.LONGEST", 1000)
    return tmp_path


def left(place: Path, *, lock: bool = True) -> Path:
    """A run folder that nobody has."""
    folder = Path(tempfile.mkdtemp(prefix="relay-", dir=place))
    (folder / "ray").mkdir()
    (folder / "ray" / "log").touch()
    (folder / "token").touch()
    if lock:
        (folder / janitor.LOCK).touch()
    return folder


def test_what_is_left_is_ended_and_removed(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, other = left(place), left(place)
    marked = {**os.environ, janitor.MARK: str(folder)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=marked) as process:
        sweep_stale(place)
        assert process.wait(PATIENCE) < 0
    assert not folder.exists() and not other.exists()
    said = sorted(record.getMessage() for record in caplog.records)
    assert len(said) == 2 and all(any(str(one) in line for line in said) for one in (folder, other))
    assert any(str(folder) in line and "1 process" in line for line in said)


def test_a_folder_without_a_lock_is_left_alone(place: Path) -> None:
    folder = left(place, lock=False)
    sweep_stale(place)
    assert (folder / "token").exists()


def test_the_lock_is_held_until_both_the_node_and_its_janitor_are_gone(place: Path) -> None:
    folder = RunFolder()
    sweep_stale(place)
    assert folder.path.exists(), "both are there"
    os.close(folder._lock)  # what the end of the node does
    sweep_stale(place)
    assert folder.path.exists(), "the janitor is there"
    folder._janitor.kill()
    folder._janitor.wait()
    os.close(folder._pipe)
    sweep_stale(place)
    assert not folder.path.exists()


def test_a_node_that_starts_sweeps_and_one_that_ends_removes_its_own(place: Path) -> None:
    stale = left(place)
    folder = RunFolder()
    assert not stale.exists() and folder.path.exists()
    folder.close()
    assert not list(place.iterdir())


def test_a_folder_that_is_being_made_is_never_taken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node sweeps before and after each step."""
    steps: list[str] = []

    def watched(module: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(module, name)

        def step(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(module, name, real)
            sweep_stale(place)
            result = real(*arguments, **options)
            sweep_stale(place)
            steps.append(name)
            return result

        monkeypatch.setattr(module, name, step)

    for module, name in ((tempfile, "mkdtemp"), (os, "rename"), (subprocess, "Popen")):
        watched(module, name)
    real_lock = fcntl.flock
    holders: list[int] = []

    def lock(descriptor: int, operation: int) -> None:
        if not holders:  # the first is the maker's: the others are of those who sweep
            holders.append(descriptor)
            sweep_stale(place)
        real_lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    folder = RunFolder()
    assert steps == ["mkdtemp", "rename", "Popen"] and holders
    assert (folder.path / janitor.LOCK).exists()
    folder.close()


def test_a_link_is_not_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = left(tmp_path_factory.mktemp("elsewhere"))
    (place / "relay-12345678").symlink_to(elsewhere)
    sweep_stale(place)
    assert (elsewhere / "token").exists()


def test_a_sweep_that_is_cut_short_is_taken_up_by_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left(place)

    def cut(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", cut)
        sweep_stale(place)
    assert folder.exists()
    sweep_stale(place)
    assert not folder.exists()
