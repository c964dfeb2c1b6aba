"""The node upgrades itself (SIGUSR2): a new process takes over its sockets and their state, and it keeps its number.

    node ──starts──► new node             the same command, a socket between them (actors/ports/handover.py)
    node ──sockets, state──► new node     the old one serves whatever has not moved yet
    node ──exec──► keeper                 the number that whoever started the node knows stays (actors/keeper.py)

The next upgrade goes from that child to a child of its own, and it just ends: the keeper adopts the grandchild.  A node
whose keeper is gone ends too, so that nothing is left behind that nobody knows of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final, NoReturn

from actors import keeper
from actors.circuit_forwarder import CircuitForwarder
from actors.ports.channel import Channel
from actors.ports.handover import Arrival, Departure, HandoverBroken, HandoverRefused, Moved
from actors.ports.handover_frames import Begin
from actors.ports.host import Host
from protocol.identity import Identity

log = logging.getLogger(__name__)

#: The descriptor of the socket to the process that hands over, in the environment of its successor.
DESCRIPTOR: Final = "DESCORD_HANDOVER_FD"

#: Seconds that a successor which is not wanted has to end by itself.
END_GRACE: Final = 0.5

_PR_SET_CHILD_SUBREAPER: Final = 36


#: Seconds that the keeper has to answer.
KEEPER_PATIENCE: Final = 1.0


class UpgradeFailed(Exception):
    """The node goes on with all that it has; midway, without what the new process had taken already."""


class KnownAs:
    """The process that whoever started the node knows it by: ``pid``.  ``socket``: leads to it (actors/keeper.py)."""

    def __init__(self, pid: int, sock: socket.socket, keepers: socket.socket | None = None) -> None:
        self.pid = pid
        self.socket = sock
        self._keepers = keepers

    @classmethod
    def ourselves(cls) -> KnownAs:
        """It is this process, which becomes the keeper.  OSError: this system has no subreapers."""
        import ctypes  # only here: where no memory may become code it is not had, and nothing else needs it

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "this system has no subreapers: the process number could not be kept")
        keepers, nodes = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(os.getpid(), nodes, keepers)

    def end(self, successor: int) -> NoReturn:
        """The node runs in process ``successor``: become the keeper, or tell it and end.  Signals are blocked."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._keepers is not None:
            self._keepers.set_inheritable(True)
            number = str(self._keepers.fileno())
            os.execv(sys.executable, [sys.executable, "-I", "-S", keeper.__file__, number, str(successor)])
        with contextlib.suppress(OSError):
            self.socket.settimeout(KEEPER_PATIENCE)
            self.socket.sendall(successor.to_bytes(keeper.NUMBER, "big"))
            os.kill(self.pid, signal.SIGCHLD)
            self.socket.recv(1)
        for number in signal.sigpending() & set(keeper.PASSED_ON):
            with contextlib.suppress(ProcessLookupError):
                os.kill(successor, number)
        os._exit(0)


class Upgrade:
    """A process that is to take over: the command that started this one, anew.

    In a process group of its own: what a terminal sends to the group comes through the keeper, once.  OSError when it
    cannot be started.  ``done``: it has taken over."""

    def __init__(self, known_as: KnownAs) -> None:
        self.known_as = known_as
        self.done = False
        self._again = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            environment = {**os.environ, DESCRIPTOR: str(theirs.fileno())}
            command = [sys.executable, *sys.orig_argv[1:]]
            try:
                self._process = subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(),), process_group=0)
            except OSError:
                ours.close()
                raise
        self.channel = Channel(ours)

    async def run(
        self, departure: Departure, listening: Sequence[tuple[str, socket.socket]], addresses: Sequence[bytes]
    ) -> tuple[float, ...]:
        """Hand over; the pauses, in seconds.  UpgradeFailed: the new process is gone.  When it is done signals wait for
        the keeper."""
        try:
            await departure.agree(listening, addresses, self.known_as.pid, self.known_as.socket)
            pauses = await departure.hand_over()
        except HandoverRefused as error:
            # How it ended says more than that it did.
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, END_GRACE)
            code = self._process.poll()
            self._end()
            raise UpgradeFailed(f"{error}{'' if code is None else f'; the new process ended with {code}'}") from error
        except HandoverBroken as error:
            self._end()
            raise UpgradeFailed(f"the new process failed midway, what it had taken is lost: {error}") from error
        keeper.block()
        self.done = True
        self.channel.close()
        if self._again:
            self._process.send_signal(signal.SIGUSR2)
        return pauses

    @property
    def successor(self) -> int:
        """The new process."""
        return self._process.pid

    def repeat(self) -> None:
        """Somebody wants another upgrade: the new process has one when it has taken over."""
        self._again = True
        if self.done:
            self._process.send_signal(signal.SIGUSR2)

    def end(self) -> NoReturn:
        """This process is not needed any more, but maybe as the keeper."""
        self.known_as.end(self._process.pid)

    def give_up(self) -> None:
        """The node is to stop, and so is what would take over."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def _end(self) -> None:
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


class Former:
    """The process that this one takes over from."""

    def __init__(self, sock: socket.socket, identity: Identity, agent: str) -> None:
        self._channel = Channel(sock)
        self._arrival = Arrival(self._channel, identity, agent)
        self.known_as: KnownAs | None = None
        self.addresses: tuple[bytes, ...] = ()

    async def greet(self) -> Begin:
        """HandoverRefused."""
        begin = await self._arrival.greet()
        self.addresses = begin.addresses
        if self._arrival.keeper is not None:
            self.known_as = KnownAs(begin.keeper, self._arrival.keeper)
        return begin

    async def refuse(self, reason: str) -> None:
        await self._arrival.refuse(reason)

    def listener(self, wanted: str) -> socket.socket | None:
        """The socket that listens there already."""
        return self._arrival.listener(wanted)

    async def take_over(
        self, host: Host, forwarder: CircuitForwarder, now: Callable[[], float], flush: Callable[[], None]
    ) -> Moved:
        """All that it has.  HandoverRefused: it keeps it."""
        moved = await self._arrival.take_over(host, forwarder, now, flush=flush)
        self._channel.close()
        if moved.broken:
            log.error("the former process ended before all was handed over: %s", moved.broken)
        return moved

    def watch_keeper(self, gone: Callable[[], None]) -> None:
        """Call ``gone`` when the keeper ends: nobody who started the node knows of it then."""
        if self.known_as is None:
            return
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(self.known_as.pid)
        except ProcessLookupError:
            loop.call_soon(gone)
            return
        except OSError:  # an old kernel, or a filter of system calls
            self._look_for_keeper(gone)
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            gone()

        loop.add_reader(descriptor, ended)

    def _look_for_keeper(self, gone: Callable[[], None]) -> None:
        assert self.known_as is not None
        try:
            os.kill(self.known_as.pid, 0)
        except ProcessLookupError:
            gone()
        else:
            asyncio.get_running_loop().call_later(KEEPER_PATIENCE, self._look_for_keeper, gone)


def former_process(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The socket to the process that this one is to take over from; None: it starts by itself."""
    number = environ.pop(DESCRIPTOR, None)
    if number is None:
        return None
    sock = socket.socket(fileno=int(number))
    sock.set_inheritable(False)
    return sock
