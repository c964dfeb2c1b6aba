"""What the kernel tells of a process: the CPU time it took, the memory it holds, the cores it may use.

CPU is user and system time of all threads (`/proc/PID/stat`, utime + stime), to the clock tick: 10 ms on most kernels.
What is measured should take a second of it, or say that it took less.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Between two looks at a process that should come to rest.
_REST_LOOK = 0.1


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of all `pids` together since they started. ProcessLookupError when one is gone."""
    total = 0
    for pid in pids:
        # The name stands in parentheses and may hold anything; the fields after it are numbered from 3 (proc(5)).
        fields = _read(pid, "stat").rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory that `pids` hold, pages they share counted for each."""
    return sum(int(_read(pid, "statm").split()[1]) * _PAGE for pid in pids)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} has ended") from None


def rest(pids: Iterable[int], most: float = 3.0) -> None:
    """Wait until `pids` take no CPU for a moment, at most `most` seconds. Nobody tells when a relay has tidied up."""
    pids = tuple(pids)
    deadline = time.monotonic() + most
    before = cpu_seconds(pids)
    while time.monotonic() < deadline:
        time.sleep(_REST_LOOK)
        now = cpu_seconds(pids)
        if now - before < TICK / 2:
            return
        before = now


def cores() -> tuple[frozenset[int], frozenset[int]]:
    """The core for relays and those for clients. The same for both where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return frozenset(allowed[:1]), frozenset(allowed[1:] or allowed)


@contextmanager
def pinned(on: frozenset[int]) -> Iterator[None]:
    """What is started in the block runs on these cores: a child has the cores of the thread that made it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def open_many_files() -> None:
    """Let this process, and so those it starts, open as many files as its user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": str(os.cpu_count()), "kernel": f"{os.uname().sysname} {os.uname().release}"}
