"""The folder of one run: private, on a short path, and gone when the run is over, however it ends.

A janitor (actors/runtime/janitor.py) is started with it.  It holds a pipe to this process, ends what was started for
the run when the pipe does, and removes the folder.

When both are killed in the same instant, the next node that this user starts does it.  It knows such a folder by a lock
that nobody holds: this process and the janitor share one (flock, which belongs to the open file that the janitor
inherits), and the kernel lets go of it when the last of them is gone, so no number of a process can be mistaken.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.runtime import janitor

log = logging.getLogger(__name__)

#: Names of unix sockets have at most 107 bytes, and Ray's have 64 of their own below this folder.
LONGEST: Final = 36

PREFIX: Final = "relay-"


class RunFolder:
    """See the module.  To make one sweeps what is left of others."""

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        if len(place) + len("/relay-12345678/ray") > LONGEST:
            place = "/tmp"
        sweep_stale(Path(place).resolve())
        self.path: Final = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place)).resolve()
        self._lock: Final = _make_lock(self.path)
        self._watched = -1
        self._start()

    @property
    def janitor(self) -> int:
        """The pid of the janitor."""
        return self._janitor.pid

    def _start(self) -> None:
        theirs, self._pipe = os.pipe()
        try:
            self._janitor = subprocess.Popen(
                [sys.executable, "-I", "-S", janitor.__file__, str(self.path)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        finally:
            os.close(theirs)

    def watch(self) -> None:
        """From now on, start another janitor when this one ends."""
        self._watched = os.pidfd_open(self._janitor.pid)
        asyncio.get_running_loop().add_reader(self._watched, self._ended)

    def unwatch(self) -> None:
        if self._watched >= 0:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = -1

    def _ended(self) -> None:
        self.unwatch()
        self._janitor.wait()
        os.close(self._pipe)
        log.warning("the janitor of this node ended; another is started")
        self._start()
        self.watch()

    def close(self) -> None:
        """Have the janitor end all that is left, and wait for it."""
        os.close(self._pipe)
        try:
            self._janitor.wait(janitor.PATIENCE + 10)
        finally:
            os.close(self._lock)


def sweep_stale(place: Path) -> None:
    """End what is left of this user's nodes in ``place`` that nobody sees to any more, and remove their run folders.
    One without a lock is left alone: it is just being made, or is of a version that had none."""
    for folder in sorted(place.glob(f"{PREFIX}*")):
        with suppress(OSError):  # its owner is there; or it is somebody else's, or gone by now
            lock = _take_lock(folder)
            try:
                ended = janitor.sweep(str(folder))
                what = f"{ended} process{'es' if ended != 1 else ''} of it"
                log.warning("a node was killed, and its janitor with it: %s ended, %s removed", what, folder)
            finally:
                os.close(lock)


def _make_lock(folder: Path) -> int:
    """Lock a new folder.  The file has its name only when it is locked, so that no other node that starts now finds it
    free; its descriptor, which only the janitor inherits."""
    name = str(folder / janitor.LOCK)
    lock = os.open(f"{name}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(f"{name}.new", name)
    return lock


def _take_lock(folder: Path) -> int:
    """The descriptor of the folder's lock, which is ours now.  OSError: it is held, or not there, or no run folder of
    this user's."""
    about = os.lstat(folder)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not ours")
    lock = os.open(folder / janitor.LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), os.stat(folder / janitor.LOCK)):
            raise FileNotFoundError(f"{folder} was swept by somebody else, and made again")
    except OSError:
        os.close(lock)
        raise
    return lock
