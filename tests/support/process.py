"""A real node as a process, and a peer on a blocking socket that talks to it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.support.peers import MemoryPeer, MemoryStream

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 20.0


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def readable(patience: float, *files: HasFileno) -> set[int]:
    """The descriptors of ``files`` that can be read within ``patience`` seconds.  Unlike select, any number of them."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(max(patience, 0) * 1000)}


def limited_files(number: int, command: list[str]) -> list[str]:
    """``command`` as a process that may have so many files open, and no more."""
    return ["sh", "-c", f'ulimit -n {number}; exec "$@"', "sh", *command]


class NodeProcess:
    """``python -m actors.node --json`` on a port of its own; the first line it printed is ``ready``.

    ``files``: that it may have open, 0: as many as we."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        stderr: int | None = subprocess.DEVNULL,
        module: str = "actors.node",
        variables: Mapping[str, str] | None = None,
        files: int = 0,
    ) -> None:
        self.data_dir = data_dir
        command = [sys.executable, "-m", module, "--json", "--data-dir", str(data_dir)]
        if "--listen" not in flags:
            command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
        environment["XDG_CONFIG_HOME"] = str(data_dir / "no-config")
        environment.update(variables or {})
        command += flags
        self.process = subprocess.Popen(
            limited_files(files, command) if files else command,
            bufsize=0,  # a line that was read with another is not seen by poll
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
        self.ready: dict[str, Any] = self.event()

    def event(self, patience: float = PATIENCE) -> dict[str, Any]:
        """The next line of its stdout."""
        assert self.process.stdout is not None
        assert readable(patience, self.process.stdout), "the node said nothing"
        line = self.process.stdout.readline()
        assert line, f"the node ended with {self.process.wait()}"
        return dict(json.loads(line))

    @property
    def port(self) -> int:
        return int(self.ready["addresses"][0].split("/")[4])

    @property
    def rss(self) -> int:
        """Bytes of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()


class SocketPeer(MemoryPeer):
    """A peer of our own machines on a TCP connection to a node."""

    def __init__(self, node: NodeProcess, name: str, *, window: int = 256 * 1024, source: str = "127.0.0.1") -> None:
        super().__init__(name, window=window)
        self.sock = socket.create_connection(("127.0.0.1", node.port), PATIENCE, source_address=(source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.gone = False
        self.flush()
        self.until(lambda: self.ready)

    def flush(self) -> None:
        data = self.output()
        if data and not self.gone:
            self.sock.sendall(data)

    def poll(self, patience: float) -> bool:
        """Take what comes within ``patience`` seconds, once; False: nothing came."""
        self.flush()
        if not readable(patience, self.sock):
            return False
        try:
            data = self.sock.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self.gone = True
            return False
        self.receive(data, 0.0)
        self.flush()
        return True

    def until(self, true: Callable[[], object], patience: float = PATIENCE) -> None:
        """Carry bytes until ``true()``; fails when the connection or the patience ends first."""
        end = time.monotonic() + patience
        while not true():
            left = end - time.monotonic()
            assert left > 0, "it did not happen in time"
            self.poll(left)
            assert not self.gone or true(), f"the node closed the connection ({self.error})"

    def until_gone(self, patience: float = PATIENCE) -> None:
        """Until the node closed the connection."""
        end = time.monotonic() + patience
        while not self.gone:
            left = end - time.monotonic()
            assert left > 0, "the node did not close the connection in time"
            self.poll(left)

    def reserve(self) -> object:
        view, client = self.hop()
        client.reserve()
        view.send(client.data_to_send())
        return self._answer(view, client)

    def connect(self, target: MemoryPeer) -> tuple[MemoryStream, object]:
        view, client = self.hop()
        client.connect(target.peer_id)
        view.send(client.data_to_send())
        if isinstance(target, SocketPeer) and target is not self:
            self.flush()
            before = len(target.accepted)
            self._both(target, lambda: view.received or view.reset or len(target.accepted) > before)
        return view, self._answer(view, client)

    def circuit(self, target: SocketPeer) -> tuple[MemoryStream, MemoryStream]:
        """Both ends of a new circuit to ``target``, which has a reservation."""
        view, event = self.connect(target)
        assert type(event).__name__ == "ConnectAccepted", event
        return view, target.accepted[-1]

    def pass_on(self, target: SocketPeer, true: Callable[[], object], patience: float = PATIENCE) -> None:
        """Carry bytes of both ends until ``true()``."""
        self._both(target, true, patience)

    def _both(self, other: SocketPeer, true: Callable[[], object], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not true():
            assert time.monotonic() < end, "it did not happen in time"
            self.flush()
            other.flush()
            ready = readable(1.0, self.sock, other.sock)
            for peer in (self, other):
                if peer.sock.fileno() in ready:
                    peer.poll(0)
                    assert not peer.gone, f"the node closed a connection ({peer.error})"

    def _answer(self, view: MemoryStream, client: Any) -> object:
        answer: list[object] = []

        def answered() -> bool:
            client.receive_data(view.take())
            event = client.next_event()
            if event is not None:
                answer.append(event)
            return bool(answer) or view.reset

        self.until(answered)
        view.received += client.trailing_data()
        return answer[0] if answer else None
