"""The relay under test: `python -m actors.node` as a process, as a person runs it.

Its first line on stdout says where it listens; SIGTERM ends it. With DESCORD_INTEROP_RELAY set to another
command that takes the same flags and prints the same first line, the suite runs against that relay instead:
the way to tell a peer's fault from this node's.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).parents[2]
READY_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
# One address makes all the connections here, so what is counted per address stays out of the way.
OPEN_LIMITS = {
    "circuit-data": "0",
    "circuit-duration": "0",
    "max-connections-per-ip": "20000",
    "max-reservations": "20000",
    "max-reservations-per-ip": "20000",
    "max-circuits": "20000",
    "max-circuits-per-peer": "20000",
    "max-circuits-per-ip": "20000",
    "rate-limits": "off",
}

#: Events of an upgrade or a restart.
CHANGES = ("upgraded", "upgrade_failed", "restarted", "restart_failed")


class Node:
    """A running relay. `peer_id` and `addresses` (full multiaddrs) are what its ready line told. `within`: what to
    put before its command, so that it runs elsewhere (tests/support/lan.py)."""

    def __init__(
        self, data_dir: Path, *, listen: str = LOOPBACK, within: Sequence[str] = (), **settings: str | int | list[str]
    ) -> None:
        flags: dict[str, str | int | list[str]] = {"listen": listen, "data-dir": str(data_dir), **OPEN_LIMITS}
        flags.update({name.replace("_", "-"): value for name, value in settings.items()})
        other = os.environ.get("DESCORD_INTEROP_RELAY")
        command = shlex.split(other) if other else [sys.executable, "-m", "actors.node"]
        command = [*within, *command, "--json"]
        for name, value in flags.items():
            for one in value if isinstance(value, list) else [value]:
                command += [f"--{name}", str(one)]
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = data_dir.with_suffix(".log")
        with self.log.open("ab") as stderr:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr, text=True)
        ready = self._read_ready()
        self.peer_id: str = ready["peer_id"]
        self.addresses: list[str] = ready["addresses"]
        # What else it prints must not fill the pipe and stop it.
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._drain = threading.Thread(target=self._listen, daemon=True)
        self._drain.start()

    def resident_bytes(self) -> int:
        """Memory it holds now, from /proc."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def address(self) -> str:
        """The full multiaddr that peers here use."""
        return next(one for one in self.addresses if one.startswith("/ip4/127.0.0.1/"))

    @property
    def transport_address(self) -> str:
        """The same without the peer id: what to listen on to be found again after a restart."""
        return self.address.split("/p2p/")[0]

    def circuit_to(self, peer_id: str) -> str:
        """The address of a peer through this relay."""
        return f"{self.address}/p2p-circuit/p2p/{peer_id}"

    def signal(self, number: signal.Signals) -> None:
        """SIGUSR2: upgrade; SIGHUP: restart the forwarders.  `changed` tells what became of it."""
        self._process.send_signal(number)

    def changed(self, patience: float) -> dict[str, Any] | None:
        """What the node told of an upgrade or restart, within `patience` seconds."""
        try:
            return self._events.get(timeout=patience) if patience else self._events.get_nowait()
        except queue.Empty:
            return None

    def stop(self) -> int:
        """SIGTERM, then the exit code; one that does not end is killed, and raises TimeoutExpired."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no goodbye to anyone."""
        self._end(signal.SIGKILL)

    def _end(self, with_signal: signal.Signals) -> int:
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._drain.join(STOP_TIMEOUT)
            self._stdout.close()

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None, "made with a pipe"
        return self._process.stdout

    def _read_ready(self) -> dict[str, Any]:
        # readline() has no time limit of its own: kill the process that prints nothing, and it returns.
        timer = threading.Timer(READY_TIMEOUT, self._process.kill)
        timer.start()
        line = self._stdout.readline()
        timer.cancel()
        ready: dict[str, Any] = json.loads(line) if line.strip() else {}
        if ready.get("event") != "ready":
            self._process.kill()
            self._process.wait()
            log = self.log.read_text(errors="replace")[-4000:]
            raise RuntimeError(
                f"the node was not ready within {READY_TIMEOUT:.0f} s; it said {line!r} and logged:\n{log}"
            )
        return ready

    def _listen(self) -> None:
        for line in self._stdout:
            event = json.loads(line)
            if event["event"] in CHANGES:
                self._events.put(event)
