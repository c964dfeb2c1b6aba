"""What a node of several processes consists of: its processes, sockets and files, as the system shows them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from actors.runtime.janitor import marked

LISTEN = "0A"


def until(true: Callable[[], object], patience: float, what: str) -> float:
    """Wait until ``true()``; how long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < patience, what
        time.sleep(0.01)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    """Whether the process runs: one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def processes(folder: str) -> dict[int, str]:
    """Those of a run folder, with their titles."""
    found = {}
    for pid in marked(folder):
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def children(parent: int, word: str) -> list[int]:
    """Child processes with ``word`` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or word.encode() not in (entry / "cmdline").read_bytes():
                continue
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def run_folders_of(pid: int, seconds: float) -> set[str]:
    """The run folders that a node made within its first ``seconds``."""
    found = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for child in children(pid, "janitor.py"):
            try:
                found.add(Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2].decode())
            except OSError:
                continue
        time.sleep(0.02)
    return found


def listening(pids: set[int]) -> dict[str, set[int]]:
    """The addresses that these processes listen on at TCP ports, and at which ports, read from /proc."""
    sockets = _sockets(pids)
    found: dict[str, set[int]] = {}
    for fields in _tcp():
        if fields[3] == LISTEN and fields[9] in sockets:
            address, port = fields[1].split(":")
            found.setdefault(_readable(address), set()).add(int(port, 16))
    return found


def has_connection(pid: int, port: int, remote: int) -> bool:
    """Whether the process has the TCP connection from its ``port`` to the port ``remote``."""
    sockets = _sockets({pid})
    ends = [f"{port:04X}", f"{remote:04X}"]
    return any([end.split(":")[1] for end in fields[1:3]] == ends and fields[9] in sockets for fields in _tcp())


def _tcp() -> Iterator[list[str]]:
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            yield line.split()


def _sockets(pids: set[int]) -> set[str]:
    """The inodes of their sockets."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}"))
                    if match:
                        found.add(match[1])
    return found


def _readable(address: str) -> str:
    """An address of /proc/net/tcp: words of the machine's byte order."""
    if len(address) == 8:
        return ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, 32, 8)]
    whole = b"".join(words)
    if whole[:12] == bytes(10) + b"\xff\xff":
        return ".".join(map(str, whole[12:]))
    return whole.hex()
