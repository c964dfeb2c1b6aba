"""The relays that are measured: this one, and small programs around the go, rust and js libraries' own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import CACHE

HERE = Path(__file__).parent / "relays"
REPOSITORY = HERE.parents[2]

_LIFTED = {
    "circuit-data": 0,
    "circuit-duration": 0,
    "max-connections": 30000,
    "max-connections-per-ip": 20000,
    "max-reservations": 20000,
    "max-reservations-per-ip": 20000,
    "max-reservations-per-group": 20000,
    "max-circuits": 20000,
    "max-circuits-per-peer": 20000,
    "rate-limits": "off",
}


@dataclass(frozen=True, slots=True)
class Relay:
    """How a relay is built and run. `tool` is what its build needs; `{folder}` in the command is a folder of its own."""

    name: str
    tool: str | None
    build: Path | None
    command: tuple[str, ...]
    version: str

    @property
    def buildable(self) -> bool:
        return self.tool is None or shutil.which(self.tool) is not None

    def prepare(self) -> None:
        if self.build is not None:
            subprocess.run([str(self.build)], check=True)


def _pinned_version(file: str, pattern: str) -> str:
    found = re.search(pattern, (HERE / file).read_text())
    return found[1] if found else "unknown"


def known() -> dict[str, Relay]:
    """Every relay by its name on the command line."""
    flags = [text for name, value in _LIFTED.items() for text in (f"--{name}", str(value))]
    listen = ["--json", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", "{folder}/data"]
    js = str(CACHE / "bench-js" / "relay.mjs")
    python = sys.version.split()[0]
    relays = [
        Relay("ours", None, None, (sys.executable, "-m", "actors.node", *listen, *flags), f"Python {python}"),
        Relay(
            "go",
            "go",
            HERE / "go" / "build.sh",
            (str(CACHE / "bench-go" / "relay"),),
            "go-libp2p " + _pinned_version("go/go.mod", r"go-libp2p v(\S+)"),
        ),
        Relay(
            "rust",
            "cargo",
            HERE / "rust" / "build.sh",
            (str(CACHE / "bench-rust-target" / "release" / "descord-benchmark-relay"),),
            "rust-libp2p " + _pinned_version("rust/Cargo.toml", r'libp2p = \{ version = "=?([\d.]+)'),
        ),
        Relay(
            "js",
            "npm",
            HERE / "js" / "build.sh",
            ("node", "--preserve-symlinks", "--preserve-symlinks-main", js),
            "js-libp2p " + _pinned_version("js/package.json", r'"libp2p": "([\d.]+)"'),
        ),
    ]
    return {relay.name: relay for relay in relays}
