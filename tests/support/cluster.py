"""A cluster of several Ray nodes on this machine, each started by the command that deploy/cluster/ has for it."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from actors.runtime.janitor import sweep
from tests.support.process import REPOSITORY

DEPLOY = REPOSITORY / "deploy" / "cluster"

#: Seconds for one of them to start, on a machine that is busy.
START = 60.0


def command_of(unit: str) -> str:
    """What a systemd unit runs."""
    found = re.search(r"^ExecStart=(\S.*)$", (DEPLOY / unit).read_text(), re.MULTILINE)
    assert found, f"{unit} runs nothing"
    return found[1]


def variables_of(file: str) -> dict[str, str]:
    lines = [line for line in (DEPLOY / file).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def expand(command: str, variables: Mapping[str, str]) -> list[str]:
    """As systemd does: ${NAME} is a word, or a part of one."""
    return [re.sub(r"\$\{(\w+)\}", lambda name: variables[name[1]], word) for word in shlex.split(command)]


class Cluster:
    """Ray on "hosts" a, b, ... of this machine."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.variables = variables_of("ray.env") | {
            "ADDRESS": "127.0.0.1",
            "HEAD": self.address,
            "HEAD_PORT": str(port),
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        self.hosts: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self) -> dict[str, str]:
        """For whoever joins."""
        names = [name for name in self.variables if name.startswith("RAY_")]
        return {name: self.variables[name] for name in names} | {"PYTHONPATH": str(REPOSITORY)}

    def start(self, name: str) -> None:
        """Ray on one more host; the first is the head."""
        unit = "descord-relay-ray.service" if self.hosts else "descord-relay-ray-head.service"
        variables = self.variables | {"RESOURCES": f'{{"relay-host-{name}": 1}}'}
        words = expand(command_of(unit), variables)
        words[0] = str(Path(sys.executable).parent / "ray")
        words = [word.replace("/run/descord-relay-ray", str(self.folder / "ray")) for word in words]
        with open(self.folder / f"{name}.log", "wb") as log:
            self.hosts[name] = subprocess.Popen(
                words,
                cwd=self.folder,
                env=os.environ | self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START
        while b"runtime started" not in (self.folder / f"{name}.log").read_bytes():
            assert self.hosts[name].poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < end, "Ray did not start"
            time.sleep(0.05)

    def pids(self, name: str) -> set[int]:
        """Everything that runs on a host."""
        return descendants(self.hosts[name].pid)

    def lose(self, name: str) -> None:
        """A host is gone, with all that runs on it, without a word."""
        for pid in self.pids(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.hosts[name].wait()

    def stop(self) -> None:
        for name, process in self.hosts.items():
            if process.poll() is None:
                self.lose(name)
        sweep(str(self.folder))


def descendants(pid: int) -> set[int]:
    """A process, its children, and theirs."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
