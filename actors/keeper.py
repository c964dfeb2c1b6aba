"""The process that a node is known by, once the node has been upgraded and runs in another one.

systemd, a container or a shell has started a process and holds on to its number.  When that process hands the node to a
successor it becomes this program (exec keeps the number): it passes signals on, collects what ends, and ends as the
last one ended.  A successor's successor becomes its child too, because it is their subreaper (prctl(2)).

    python -I -S keeper.py SOCKET PID

PID is the node.  A node that hands over writes its successor's number into the other end of SOCKET, wakes the keeper
with SIGCHLD, and ends when that has answered: from then on no signal is meant for it, and what it had been sent it has
passed on.  Nothing is imported that is not needed: the keeper stays for as long as the node.  Signals wait, blocked,
from before the exec until they are asked for.
"""

import errno
import os
import signal
import sys

PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
AWAITED = (*PASSED_ON, signal.SIGCHLD)

#: What is written into the socket: a number in so many bytes; the answer is one byte.
NUMBER = 8


def block() -> None:
    """Let signals wait until somebody asks for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)


def announced(descriptor: int, node: int) -> int:
    """The node, after what has been written about it, which is answered."""
    while True:
        try:
            number = os.read(descriptor, NUMBER)
        except OSError:
            return node
        if len(number) < NUMBER:
            return node
        node = int.from_bytes(number, "big")
        try:
            os.write(descriptor, b"!")
        except OSError:
            pass


def hung_up() -> bool:
    """Whether the terminal that this ran in is gone: another answer than that there was none."""
    try:
        os.tcgetpgrp(0)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def main(descriptor: int, node: int) -> int:
    """Until no child is left; the exit code of the last."""
    block()
    os.set_blocking(descriptor, False)
    code = 0
    if hung_up():
        # A thread of the process that this was may have taken that signal, and nobody would hear of it.
        try:
            os.kill(node, signal.SIGHUP)
        except ProcessLookupError:
            pass
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                break
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended
        number = signal.sigwait(AWAITED)
        node = announced(descriptor, node)
        if number != signal.SIGCHLD:
            try:
                os.kill(node, number)
            except ProcessLookupError:
                pass


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
