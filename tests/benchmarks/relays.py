"""The relays that are compared, each a process that prints one ready line. All have their limits lifted.

A relay's CPU and memory are those of all its processes: the one that was started and what its ready line names as
actors.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.benchmarks import procfs

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
READY_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
#: A first build downloads and compiles some hundred crates.
BUILD_TIMEOUT = 1800.0

#: More of everything than a workload asks for.
OPEN_LIMITS = {
    "circuit-data": "0",
    "circuit-duration": "0",
    "max-connections": "30000",
    "max-connections-per-ip": "30000",
    "max-reservations": "30000",
    "max-reservations-per-ip": "30000",
    "max-reservations-per-group": "30000",
    "max-circuits": "30000",
    "max-circuits-per-peer": "30000",
    "max-circuits-per-ip": "30000",
    "max-circuits-per-pair": "30000",
    "rate-limits": "off",
}


class BuildError(Exception):
    """Something to be measured, or its load, cannot be built here. The text says what to do."""


def cache_dir() -> Path:
    """Where builds go: shared with the interoperability tests."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "descord-relay-interop"


@dataclass(frozen=True, slots=True)
class Implementation:
    """One relay. `command` takes the build cache and a folder of its own; `folder` has its build.sh, if any."""

    name: str
    title: str
    command: Callable[[Path, Path], list[str]]
    folder: Path | None = None
    needs: tuple[str, ...] = ()
    install: str = ""


def _ours(_cache: Path, state: Path) -> list[str]:
    command = [sys.executable, "-m", "actors.node", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"]
    command += ["--data-dir", str(state / "identity")]
    for name, value in OPEN_LIMITS.items():
        command += [f"--{name}", value]
    return command


def _go(cache: Path, _state: Path) -> list[str]:
    return [str(cache / "bench-go/relay")]


def _rust(cache: Path, _state: Path) -> list[str]:
    return [str(cache / "bench-rust-target/release/descord-benchmark-relay")]


def _js(cache: Path, _state: Path) -> list[str]:
    # The sources are links into the tree and their packages stand beside the links, not beside the sources.
    return ["node", "--preserve-symlinks", "--preserve-symlinks-main", str(cache / "bench-js/relay.mjs")]


IMPLEMENTATIONS = {
    one.name: one
    for one in (
        Implementation("ours", "this relay", _ours),
        Implementation("go", "go-libp2p 0.51.0", _go, HERE / "relays/go", ("go",), "Go 1.26 or newer"),
        Implementation(
            "rust", "rust-libp2p 0.57.1", _rust, HERE / "relays/rust", ("cargo", "cc"), "Rust 1.88 or newer"
        ),
        Implementation("js", "js-libp2p 3.3.11", _js, HERE / "relays/js", ("node", "npm"), "Node.js 20 or newer"),
    )
}


def build(folder: Path, needs: tuple[str, ...], install: str, cache: Path) -> None:
    """Run a folder's build.sh. BuildError says what is missing or what the tools said."""
    absent = [command for command in needs if shutil.which(command) is None]
    if absent:
        raise BuildError(f"no {' or '.join(absent)} here: install {install}")
    built = subprocess.run(
        ["sh", str(folder / "build.sh"), str(cache)], capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    if built.returncode != 0:
        raise BuildError(f"{folder.name} does not build:\n{built.stdout}{built.stderr}")


class Relay:
    """A running relay: its full multiaddr, all its processes, and the seconds from its start to its ready line."""

    def __init__(self, implementation: Implementation, cache: Path, state: Path, on: frozenset[int]) -> None:
        self.implementation = implementation
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = state / "relay.log"
        began = time.monotonic()
        with self.log.open("ab") as stderr, procfs.pinned(on):
            self._process = subprocess.Popen(
                implementation.command(cache, state),
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        # readline() has no time limit of its own: kill the process that prints nothing, and it returns.
        timer = threading.Timer(READY_TIMEOUT, self._process.kill)
        timer.start()
        line = self._stdout.readline()
        timer.cancel()
        self.ready_after = time.monotonic() - began
        ready = json.loads(line) if line.strip() else {}
        if ready.get("event") != "ready":
            self.stop()
            raise RuntimeError(f"the {implementation.name} relay is not ready: {line!r}\n{self.tail()}")
        self.address: str = next(one for one in ready["addresses"] if one.startswith("/ip4/127.0.0.1/"))
        self.actors: dict[str, int] = ready.get("actors", {})
        self.pids: tuple[int, ...] = tuple({self._process.pid, *self.actors.values()})
        # What else it prints must not fill the pipe and stop it.
        threading.Thread(target=self._discard, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        return procfs.cpu_seconds(self.pids)

    def resident_bytes(self) -> int:
        return procfs.resident_bytes(self.pids)

    def rest(self) -> None:
        """Wait until it has done what there was to do."""
        procfs.rest(self.pids)

    def tail(self, size: int = 2000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-size:]

    def stop(self) -> None:
        """SIGTERM; SIGKILL if that does not help."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None, "made with a pipe"
        return self._process.stdout

    def _discard(self) -> None:
        with self._stdout as stdout:
            for _ in stdout:
                pass
