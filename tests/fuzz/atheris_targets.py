"""The targets under atheris, which looks for inputs that reach new code.

    python -m tests.fuzz.atheris_targets "hop server" -max_total_time=60
    python -m tests.fuzz.atheris_targets --each 2

What follows a target's name is libFuzzer's.  ``--each``: so many seconds for every target, two at a time; the exit code
is the number of those that failed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["protocol", "actors"]):
    from tests.fuzz.targets import SEEDS, TARGETS

AT_A_TIME = 2


def fuzz(name: str, options: Sequence[str]) -> None:
    """Fuzz ``name``; libFuzzer ends the process."""
    corpus = Path(tempfile.mkdtemp(prefix="descord-fuzz-"))
    for number, seed in enumerate(SEEDS.get(name, ())):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def each(seconds: str) -> int:
    """Every target in a process of its own, forked so that instrumenting is paid once; how many failed."""
    options = (f"-max_total_time={seconds}", "-max_len=500", "-rss_limit_mb=512", "-timeout=10", "-verbosity=0")
    running: dict[int, str] = {}
    failed: list[str] = []

    def wait() -> None:
        pid, status = os.wait()
        name = running.pop(pid)
        if status:
            failed.append(name)

    for name in TARGETS:
        if len(running) == AT_A_TIME:
            wait()
        pid = os.fork()
        if not pid:
            fuzz(name, (*options, f"-artifact_prefix={tempfile.gettempdir()}/fuzz-{name.replace(' ', '-')}-"))
            os._exit(1)
        running[pid] = name
    while running:
        wait()
    print("failed:", ", ".join(failed) or "none")
    return len(failed)


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--each":
        sys.exit(each(sys.argv[2]))
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit("targets: " + ", ".join(TARGETS))
    fuzz(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
