"""The load generator as a process: one workload, phase by phase (load/main.go)."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.benchmarks import procfs, relays

FOLDER = Path(__file__).parent / "load"
STOP_TIMEOUT = 10.0


class LoadError(Exception):
    """The clients could not do what the workload asks: the relay refused, ended or did not answer in time."""


def build(cache: Path) -> None:
    """BuildError when it does not build here."""
    relays.build(FOLDER, ("go",), "Go 1.26 or newer", cache)


class Load:
    """A workload that runs. `timeout` seconds are for all its phases together."""

    def __init__(self, workload: Mapping[str, Any], cache: Path, on: frozenset[int], timeout: float) -> None:
        with procfs.pinned(on):
            self._process = subprocess.Popen(
                [str(cache / "bench-load/load")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._timed_out = False
        self._timer = threading.Timer(timeout, self._give_up)
        self._timer.start()
        self._say(json.dumps(workload))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        for pipe in (self._stdin, self._stdout, self._process.stderr):
            assert pipe is not None, "made with a pipe"
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # it ended before it heard the last word
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> float:
        return procfs.cpu_seconds((self._process.pid,))

    def phase(self, name: str) -> dict[str, Any]:
        """Wait for the phase of that name and give what it found. LoadError when there is none."""
        line = self._stdout.readline()
        found: dict[str, Any] = json.loads(line) if line.strip() else {}
        if found.get("phase") == name:
            return found
        if self._timed_out:
            raise LoadError(f"not {name} in time")
        if "error" in found:
            raise LoadError(found["error"])
        assert self._process.stderr is not None, "made with a pipe"
        raise LoadError(f"ended before {name}: {line}{self._process.stderr.read()[-2000:]}")

    def go_on(self) -> None:
        """Let it go on to its next phase."""
        self._say("")

    def _say(self, line: str) -> None:
        try:
            self._stdin.write(line + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading its next phase says why

    def _give_up(self) -> None:
        self._timed_out = True
        self._process.kill()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None, "made with a pipe"
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None, "made with a pipe"
        return self._process.stdout
