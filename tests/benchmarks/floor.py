"""The floor: what opening and sealing every byte once and moving it through two sockets costs, and nothing else.

The ciphers are measured with `openssl speed`, the sockets with socat between two sockets of ours. A relay that seals
many small messages as one, or moves them with one system call, may lie below a floor that is taken message by message.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass

from tests.benchmarks import procfs

GIB = 1 << 30
SOCAT_TIMEOUT = 60.0
_LISTENING = re.compile(r"listening on .*:(\d+)$")
_SPEED = ("openssl", "speed", "-mr", "-aead", "-evp", "chacha20-poly1305", "-seconds", "1")
_SINK_READ = 1 << 18


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU seconds for a GiB: two passes of the cipher over messages of `size`, and two socket copies.

    `sockets`: through a buffer of 64 KiB; `sockets_each`: one read and one write for each message. None: the tool to
    measure it with is missing, and `missing` says how to get it.
    """

    size: int
    ciphers: float | None
    sockets: float | None
    sockets_each: float | None

    @property
    def total(self) -> float | None:
        if self.ciphers is None or self.sockets is None:
            return None
        return self.ciphers + self.sockets


def missing() -> list[str]:
    """What to install for the floor, one line each."""
    hints = []
    if shutil.which("openssl") is None:
        hints.append("openssl is not here: the ciphers' part of the floor is left out. apt-get install openssl")
    if shutil.which("socat") is None:
        hints.append("socat is not here: the sockets' part of the floor is left out. apt-get install socat")
    return hints


def measure(size: int, volume: int, relay_cores: frozenset[int], client_cores: frozenset[int]) -> Floor:
    """The floor for application writes of `size` bytes; `volume` bytes go through socat."""
    ciphers = sockets = each = None
    if shutil.which("openssl"):
        ciphers = GIB / _cipher_rate(size, relay_cores, "-decrypt") + GIB / _cipher_rate(size, relay_cores)
    if shutil.which("socat"):
        sockets = _socat(size, 65536, volume, relay_cores, client_cores)
        each = sockets if size == 65536 else _socat(size, size, volume, relay_cores, client_cores)
    return Floor(size, ciphers, sockets, each)


def _cipher_rate(size: int, on: frozenset[int], *more: str) -> float:
    """Bytes a second of one pass of ChaCha20-Poly1305 over messages of `size` bytes, each with its tag."""
    with procfs.pinned(on):
        told = subprocess.run(
            [*_SPEED, "-bytes", str(size), *more],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    for line in told.splitlines():
        if line.startswith("+F:"):
            return float(line.rsplit(":", 1)[1])
    raise RuntimeError(f"openssl speed did not tell its rate: {told!r}")


def _socat(size: int, buffer: int, volume: int, relay_cores: frozenset[int], client_cores: frozenset[int]) -> float:
    """CPU seconds that socat takes to pass on a GiB that is written `size` bytes at a time."""
    with socket.create_server(("127.0.0.1", 0)) as sink:
        port = sink.getsockname()[1]
        with procfs.pinned(relay_cores):
            process = subprocess.Popen(
                # Told twice to be wordy, it says where it listens.
                [
                    "socat",
                    "-d",
                    "-d",
                    "-b",
                    str(buffer),
                    "-u",
                    "TCP4-LISTEN:0,bind=127.0.0.1",
                    f"TCP4:127.0.0.1:{port}",
                ],
                stderr=subprocess.PIPE,
                text=True,
            )
        timer = threading.Timer(SOCAT_TIMEOUT, process.kill)
        timer.start()
        try:
            assert process.stderr is not None, "made with a pipe"
            listening = next(filter(None, map(_LISTENING.search, map(str.strip, process.stderr))), None)
            if listening is None:
                raise RuntimeError("socat ended before it listened")
            with socket.create_connection(("127.0.0.1", int(listening[1]))) as source, procfs.pinned(client_cores):
                taken, _ = sink.accept()
                with taken:
                    sender = threading.Thread(target=_send, args=(source, size, volume), daemon=True)
                    before = procfs.cpu_seconds((process.pid,))
                    sender.start()
                    _receive(taken, volume)
                    after = procfs.cpu_seconds((process.pid,))
                    sender.join()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
    return (after - before) * GIB / volume


def _send(to: socket.socket, size: int, volume: int) -> None:
    message = bytes(size)
    for _ in range(volume // size):
        to.sendall(message)
    to.sendall(bytes(volume % size))


def _receive(source: socket.socket, volume: int) -> None:
    buffer = bytearray(_SINK_READ)
    while volume > 0:
        got = source.recv_into(buffer)
        if got == 0:
            raise RuntimeError("socat ended early")
        volume -= got
