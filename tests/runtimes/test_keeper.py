"""The keeper of an upgraded node, by itself."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys

from actors import keeper
from tests.support.process import REPOSITORY

PATIENCE = 10.0

CHILD = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
print("ready", flush=True)
sys.exit(7 if signal.sigwait({signal.SIGHUP}) == signal.SIGHUP else 1)
"""


def test_a_terminal_that_was_gone_before_it_began_is_told() -> None:
    """The signal that said so came to the process that it was, and nobody passed it on."""
    master, terminal = pty.openpty()
    ours, its = socket.socketpair()
    program = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print('started', flush=True)\n"
        "os.read(int(sys.argv[1]), 1)\n"
        "os.execv(sys.executable, [sys.executable, '-I', '-S', sys.argv[2], sys.argv[1], str(child.pid)])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(its.fileno()), keeper.__file__],
        stdin=terminal,
        stdout=subprocess.PIPE,
        pass_fds=[its.fileno()],
    )
    os.close(terminal)
    its.close()
    assert process.stdout is not None and process.stdout.readline() == b"started\n"
    os.close(master)  # it is nobody's controlling terminal: no signal comes of that
    ours.sendall(b"!")
    assert process.wait(PATIENCE) == 7
    process.stdout.close()
    ours.close()


def test_a_process_without_a_terminal_is_not_told() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from actors import keeper; print(keeper.hung_up())"],
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "False\n"
