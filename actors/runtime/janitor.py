"""Ends what a node left behind: `python -I -S janitor.py RUN_FOLDER`, with a pipe to the node as standard input.

It waits until the pipe ends, which is when the node's process does, however it does; then it kills every process of
this user that works in the run folder or was started with its name in the environment, and removes the folder.  It
imports nothing of the project, and no signal that ends a group of processes ends it.  If it is killed together with the
node, the next node does its work (actors/runtime/run_folder.py): until its own end it holds the folder's lock, which it
inherited.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

MARK = "DESCORD_RUN_FOLDER"

#: The file in the run folder that is locked as long as somebody sees to the folder.
LOCK = "lock"

#: Seconds in which everything is to be gone: a process that does not go at a kill waits for a disk.
PATIENCE = 20.0


def marked(folder: str) -> list[int]:
    """The processes of this user that belong to the run folder."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{entry}").st_uid != os.geteuid():
                continue
            # Some processes write their title over their environment, none changes its folder.
            place = os.readlink(f"/proc/{entry}/cwd").removesuffix(" (deleted)")
            if place == folder or place.startswith(folder + "/"):
                found.append(int(entry))
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue  # it ended, or does not let itself be looked at
    return found


def sweep(folder: str) -> int:
    """Kill them until none is left: a process may be started by one that is about to be killed.  How many there were.
    Takes at most ``PATIENCE`` seconds, usually less than 0.1."""
    end = time.monotonic() + PATIENCE
    killed = set()
    while (found := marked(folder)) and time.monotonic() < end:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            except OSError:
                continue
        time.sleep(0.02)
    remove(folder)
    return len(killed)


def remove(folder: str) -> None:
    """The folder, and its lock last: without one it would not be swept again if we are killed meanwhile."""
    names = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
    for path in [os.path.join(folder, name) for name in names if name != LOCK]:
        shutil.rmtree(path, ignore_errors=True)  # which leaves files and links alone
        with contextlib.suppress(OSError):
            os.unlink(path)
    with contextlib.suppress(OSError):
        if set(os.listdir(folder)) <= {LOCK}:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    sweep(sys.argv[1])


if __name__ == "__main__":
    main()
