"""People's machines on the hosts of a lab: folders in which commands are typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.netlab import NetLab
from tests.support.process import PATIENCE, REPOSITORY, readable


class Machine:
    """A folder on a host of the lab, in which the package is installed already, and a home of its own."""

    def __init__(self, lab: NetLab, name: str, folder: Path) -> None:
        self._lab, self._name, self.folder = lab, name, folder
        (folder / ".venv").mkdir(parents=True)
        (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
        self._environment = {**kept, "HOME": str(folder), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": "",
                             "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}  # fmt: skip

    def start(self, commands: str) -> subprocess.Popen[bytes]:
        *before, last = commands.strip().splitlines()
        return self._lab.popen(
            self._name,
            ["sh", "-c", "\n".join([*before, f"exec {last}"])],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )

    def run(self, commands: str) -> str:
        done = self._lab.run(
            self._name, ["sh", "-c", commands], cwd=self.folder, env=self._environment, timeout=PATIENCE * 2
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)


def said(process: subprocess.Popen[bytes], pattern: str) -> str:
    """What it prints that matches."""
    heard = b""
    assert process.stdout is not None
    while not (found := re.search(pattern, heard.decode())):
        assert readable(PATIENCE, process.stdout), heard
        part = os.read(process.stdout.fileno(), 65536)
        assert part, heard
        heard += part
    return found[1]
