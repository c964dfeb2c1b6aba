"""A peer process: one program of another libp2p implementation, spoken to over its stdin and stdout.

`Toolchain` knows what an implementation needs to be built and whether it is here. `Peer` runs what was built:
`call` asks and waits for the answer, `start` asks and gives a future, `wait_for` waits for an event. One
thread a process reads its stdout; nothing here polls.

The control protocol is one JSON object a line: {"id": n, "cmd": name, ...} in, {"id": n, "ok": bool, ...} or
{"event": name, ...} out. README.md lists the commands.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
READY_TIMEOUT = 60.0
CALL_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
# A first build downloads and compiles some hundred crates on two cores.
BUILD_TIMEOUT = 1800.0

Fields = dict[str, Any]


class PeerError(Exception):
    """A peer answered "ok": false; the text is its library's own error."""


class PeerEnded(Exception):
    """A peer's process ended, with questions open or events awaited."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What it takes to build and run one implementation's peer (a folder of that name beside this file)."""

    name: str
    commands: tuple[str, ...]
    install: str

    def missing(self) -> str | None:
        """What to install, or None when every command is here."""
        absent = [command for command in self.commands if shutil.which(command) is None]
        return f"no {' or '.join(absent)} here: install {self.install}" if absent else None

    def build(self, cache: Path) -> None:
        """Build into `cache`, where the unchanged is kept. Raises RuntimeError with the tools' output."""
        built = subprocess.run(
            ["sh", str(HERE / self.name / "build.sh"), str(cache)],
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT,
            check=False,
        )
        if built.returncode != 0:
            raise RuntimeError(f"the {self.name} peer does not build:\n{built.stdout}{built.stderr}")


TOOLCHAINS = {
    one.name: one
    for one in (
        Toolchain("go", ("go",), "Go 1.26 or newer"),
        Toolchain("rust", ("cargo", "rustc", "cc"), "Rust 1.88 or newer and a C compiler"),
        Toolchain("js", ("node", "npm"), "Node.js 20 or newer with npm"),
        Toolchain("py", ("python3",), "Python 3.11 or newer"),
    )
}


@dataclass(slots=True)
class _Inbox:
    """What came out of the process and was not asked for yet."""

    answers: dict[int, Future[Fields]] = field(default_factory=dict)
    events: deque[Fields] = field(default_factory=deque)
    ended: bool = False


class Peer:
    """A running peer. `peer_id`, `implementation` and `version` are what its ready line told.

    `count`: how many peers the process is (go alone); `peer_ids` are theirs, and a command's `as_` says whose it is.
    `within`: what to put before its command, so that it runs elsewhere (tests/support/lan.py).
    """

    def __init__(
        self,
        implementation: str,
        cache: Path,
        log: Path,
        *,
        seed: bytes | None = None,
        count: int = 1,
        within: Sequence[str] = (),
    ) -> None:
        self.log = log
        self._inbox = _Inbox()
        self._changed = threading.Condition()
        self._next_id = 1
        environment = dict(os.environ)
        if seed is not None:
            environment["DESCORD_PEER_SEED"] = seed.hex()
        if count != 1:
            environment["DESCORD_PEER_COUNT"] = str(count)
        self._process = _spawn([*within, "sh", str(HERE / implementation / "run.sh"), str(cache)], environment, log)
        self._reader = threading.Thread(target=self._read, name=f"{implementation} peer", daemon=True)
        self._reader.start()
        try:
            ready = self.wait_for("ready", timeout=READY_TIMEOUT)
        except BaseException:
            self.stop()
            raise
        self.peer_id: str = ready["peer_id"]
        self.peer_ids: list[str] = ready.get("peer_ids", [self.peer_id])
        self.implementation: str = ready["implementation"]
        self.version: str = ready["version"]

    def __repr__(self) -> str:
        return f"<{self.implementation}-libp2p {self.version} {self.peer_id[-6:]}>"

    @property
    def pid(self) -> int:
        """Of the peer's process."""
        return self._process.pid

    def start(self, cmd: str, **arguments: Any) -> Future[Fields]:
        """Ask; the future gives the answer's fields, or raises PeerError or PeerEnded."""
        answer: Future[Fields] = Future()
        named = {name.rstrip("_"): value for name, value in arguments.items()}
        with self._changed:
            if self._inbox.ended:
                raise PeerEnded(f"{self!r} has ended; its log is {self.log}")
            number = self._next_id
            self._next_id += 1
            self._inbox.answers[number] = answer
            stdin = _pipe(self._process.stdin)
            try:
                stdin.write(json.dumps({"id": number, "cmd": cmd, **named}) + "\n")
                stdin.flush()
            except OSError as error:
                raise PeerEnded(f"{self!r} has ended; its log is {self.log}") from error
        return answer

    def call(self, cmd: str, *, timeout: float = CALL_TIMEOUT, **arguments: Any) -> Fields:
        """Ask and wait at most `timeout` seconds. Raises PeerError, PeerEnded or TimeoutError."""
        try:
            return self.start(cmd, **arguments).result(timeout)
        except TimeoutError:
            raise TimeoutError(f"{self!r} did not answer {cmd} within {timeout:.0f} s; its log is {self.log}") from None

    def wait_for(
        self, event: str, matches: Callable[[Fields], bool] = lambda _: True, *, timeout: float = CALL_TIMEOUT
    ) -> Fields:
        """Take out the first event of that name that matches, waiting for it if need be."""
        found: list[Fields] = []

        def take() -> bool:
            for one in self._inbox.events:
                if one["event"] == event and matches(one):
                    self._inbox.events.remove(one)
                    found.append(one)
                    return True
            return self._inbox.ended

        with self._changed:
            if not self._changed.wait_for(take, timeout):
                raise TimeoutError(f"no {event!r} within {timeout:.0f} s; the log is {self.log}")
        if not found:
            raise PeerEnded(f"the peer ended before {event!r}:\n{_tail(self.log)}")
        return found[0]

    def events(self) -> list[Fields]:
        """What was told and nobody took."""
        with self._changed:
            return list(self._inbox.events)

    def forget_events(self) -> None:
        """Drop the events so far: what is awaited next happens from now on."""
        with self._changed:
            self._inbox.events.clear()

    def stop(self) -> None:
        """End it as its protocol says, by closing its stdin; kill it if that does not help."""
        stdin = _pipe(self._process.stdin)
        with suppress(OSError):  # it may be gone already
            stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_TIMEOUT)
        _pipe(self._process.stdout).close()

    def _read(self) -> None:
        for line in _pipe(self._process.stdout):
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library that prints on its own
            with self._changed:
                if "event" in message:
                    self._inbox.events.append(message)
                elif (answer := self._inbox.answers.pop(message["id"], None)) is not None:
                    _resolve(answer, message)
                self._changed.notify_all()
        with self._changed:
            self._inbox.ended = True
            for answer in self._inbox.answers.values():
                answer.set_exception(PeerEnded(f"the peer ended:\n{_tail(self.log)}"))
            self._inbox.answers.clear()
            self._changed.notify_all()


@contextmanager
def running(implementation: str, cache: Path, log: Path, count: int = 1, within: Sequence[str] = ()) -> Iterator[Peer]:
    """A peer, or `count` in one process, for the length of a with block."""
    peer = Peer(implementation, cache, log, count=count, within=within)
    try:
        yield peer
    finally:
        peer.stop()


def _resolve(answer: Future[Fields], message: Fields) -> None:
    if message.pop("ok"):
        answer.set_result(message)
    else:
        answer.set_exception(PeerError(message["error"]))


def _spawn(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[str]:
    with log.open("wb") as stderr:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "made with a pipe"
    return pipe


def _tail(log: Path, size: int = 4000) -> str:
    return log.read_text(errors="replace")[-size:] if log.exists() else ""
