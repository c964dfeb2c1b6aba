"""The folder of one run: private, on a short path, and gone when the run is over, however it ends.

A janitor (actors/runtime/janitor.py) is started with it.  It holds a pipe to this process, ends what was started for
the run when the pipe does, and removes the folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from actors.runtime import janitor

log = logging.getLogger(__name__)

#: Names of unix sockets have at most 107 bytes, and Ray's have 64 of their own below this folder.
LONGEST: Final = 36


class RunFolder:
    """See the module."""

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        if len(place) + len("/relay-12345678/ray") > LONGEST:
            place = "/tmp"
        self.path: Final = Path(tempfile.mkdtemp(prefix="relay-", dir=place)).resolve()
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
        self._janitor.wait(janitor.PATIENCE + 10)
