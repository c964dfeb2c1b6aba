"""What a relay costs, read from /proc: CPU time and memory of a process with all its children.

Also what runs beside it: the relay as a process on one core, the clients as a process on another, and the floor, which is
what the same bytes cost a program that does nothing but open, seal and copy them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELAY_CORE, CLIENT_CORE = (0, 1) if (os.cpu_count() or 1) > 1 else (0, 0)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "descord-relay-interop"
CLIENTS = CACHE / "bench-go" / "clients"
TICK = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30
READY_TIMEOUT = 60.0
WORKLOAD_TIMEOUT = 900.0
# Enough for what a relay does on its own after connections came or went: its identify, its clearing up.
SETTLE = 0.3


class WorkloadError(RuntimeError):
    """The clients failed; says what they said."""


def process_tree(root: int) -> list[int]:
    """`root` and every process under it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    tree, waiting = [], [root]
    while waiting:
        one = waiting.pop()
        tree.append(one)
        waiting += parents.get(one, [])
    return tree


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU time until now: `ticks` in seconds from stat (10 ms steps), `exact` by thread from schedstat (seconds)."""

    ticks: float
    exact: Mapping[tuple[int, int], float]

    @classmethod
    def of(cls, root: int) -> CpuReading:
        ticks, exact = 0.0, {}
        for process in process_tree(root):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                ticks += (int(fields[11]) + int(fields[12])) / TICK
                for task in Path(f"/proc/{process}/task").iterdir():
                    exact[process, int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        return cls(ticks, exact)

    def since(self, before: CpuReading) -> float:
        """Seconds of CPU, user and system. Exact where no thread ended in between, else to the tick."""
        if self.exact and before.exact.keys() <= self.exact.keys():
            return sum(self.exact.values()) - sum(before.exact.values())
        return self.ticks - before.ticks


def resident_bytes(root: int) -> int:
    """Memory that the process and its children hold, bytes. Pages they share count for each."""
    total = 0
    for process in process_tree(root):
        with contextlib.suppress(OSError):
            match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
            total += int(match[1]) * 1024 if match else 0
    return total


def _pinned(core: int) -> Any:
    return lambda: os.sched_setaffinity(0, {core})


def read_line(process: subprocess.Popen[str], timeout: float) -> str:
    """The next line that `process` prints; one that prints none in time is killed."""
    assert process.stdout is not None, "made with a pipe"
    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and SIGKILL if it does not end."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class RunningRelay:
    """A relay process, ready. `address` is the full multiaddr that clients use, `started_in` the seconds until then."""

    def __init__(self, name: str, command: Sequence[str], cwd: Path) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix=f"relay-{name}-")
        self.log = Path(self._folder.name) / "stderr.log"
        command = [one.replace("{folder}", self._folder.name) for one in command]
        begun = time.monotonic()
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=cwd, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=_pinned(RELAY_CORE)
            )
        line = read_line(self.process, READY_TIMEOUT)
        self.started_in = time.monotonic() - begun
        if not line.startswith("{"):
            self.stop()
            raise RuntimeError(f"the {name} relay did not start; it printed {line!r}")
        self.address: str = next(one for one in json.loads(line)["addresses"] if one.startswith("/ip4/127.0.0.1/tcp/"))
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        # What else it prints must not fill the pipe and stop it.
        assert self.process.stdout is not None, "made with a pipe"
        with contextlib.suppress(ValueError):
            for _ in self.process.stdout:
                pass

    def cpu(self) -> CpuReading:
        return CpuReading.of(self.process.pid)

    def resident(self) -> int:
        return resident_bytes(self.process.pid)

    def stop(self) -> None:
        end(self.process)
        self._folder.cleanup()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one workload found: the clients' own figures, and the relay's CPU seconds and memory around it."""

    found: Mapping[str, Any]
    relay_cpu: float
    resident_before: int
    resident_after: int

    @property
    def client_share(self) -> float:
        """How much of their core the clients used: near 1, they were the slower side."""
        return float(self.found["client_cpu_seconds"]) / max(float(self.found["seconds"]), 1e-9)


def run_clients(relay: RunningRelay | None, workload: str, *arguments: object) -> Outcome:
    """Runs one workload of the clients against `relay` (None: a workload without one). Raises WorkloadError."""
    command = [str(CLIENTS), workload, "--wait", *map(str, arguments)]
    if relay is not None:
        command += ["--relay", relay.address]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_pinned(CLIENT_CORE),
    ) as process:
        assert process.stdin is not None and process.stderr is not None, "made with pipes"
        resident_before = relay.resident() if relay else 0
        try:
            if not read_line(process, WORKLOAD_TIMEOUT):
                raise WorkloadError(process.stderr.read())
            time.sleep(SETTLE)
            before = relay.cpu() if relay else None
            process.stdin.write("\n")
            process.stdin.flush()
            line = read_line(process, WORKLOAD_TIMEOUT)
            if not line:
                raise WorkloadError(process.stderr.read())
            spent = relay.cpu().since(before) if relay and before else 0.0
            resident_after = relay.resident() if relay else 0
            process.stdin.close()
            process.wait(60)
            return Outcome(json.loads(line), spent, resident_before, resident_after)
        finally:
            if process.poll() is None:
                process.kill()


def aead_seconds_per_gib(size: int) -> float:
    """CPU seconds for one GiB in messages of `size` through ChaCha20-Poly1305 once, as OpenSSL does it."""
    command = ["openssl", "speed", "-mr", "-evp", "chacha20-poly1305", "-bytes", str(size), "-seconds", "1"]
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True, preexec_fn=_pinned(RELAY_CORE)
    ).stdout
    match = re.search(r"^\+F:\d+:[^:]+:([\d.]+)", printed, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"openssl speed printed no rate: {printed!r}")
    return GIB / float(match[1])


@contextlib.contextmanager
def _listening() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0), backlog=4) as server:
        yield server, server.getsockname()[1]


def socat_seconds_per_gib(size: int, total: int) -> float | None:
    """CPU seconds of socat for one GiB that it copies from one TCP connection to another; None without socat."""
    if shutil.which("socat") is None:
        return None
    with _listening() as (server, port):
        with _listening() as (_, free):
            pass
        command = ["socat", "-b", "65536", f"TCP-LISTEN:{free},bind=127.0.0.1,reuseaddr", f"TCP:127.0.0.1:{port}"]
        process = subprocess.Popen(command, text=True, preexec_fn=_pinned(RELAY_CORE))
        mine = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {CLIENT_CORE})
            source = _dial(free)
            sink, _ = server.accept()
            with source, sink:
                before = CpuReading.of(process.pid)
                sending = threading.Thread(target=_send, args=(source, size, total))
                sending.start()
                left, room = total, bytearray(1 << 18)
                while left > 0 and (got := sink.recv_into(room)):
                    left -= got
                spent = CpuReading.of(process.pid).since(before)
                sending.join()
            return spent * GIB / total
        finally:
            os.sched_setaffinity(0, mine)
            end(process)


def _dial(port: int) -> socket.socket:
    deadline = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # socat does not say when it listens


def _send(to: socket.socket, size: int, total: int) -> None:
    piece = memoryview(bytes(size))
    while total > 0:
        to.sendall(piece[: min(size, total)])
        total -= min(size, total)
