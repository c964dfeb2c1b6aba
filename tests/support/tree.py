"""What a node of several processes consists of: its processes, sockets and files, as the system shows them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
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


def listening(pids: set[int]) -> dict[str, set[int]]:
    """The addresses that these processes listen on at TCP ports, and at which ports, read from /proc."""
    sockets = set()
    for pid in pids:
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}"))
            except OSError:
                continue
            if match:
                sockets.add(match[1])
    found: dict[str, set[int]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in sockets:
                address, port = fields[1].split(":")
                found.setdefault(_readable(address), set()).add(int(port, 16))
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
