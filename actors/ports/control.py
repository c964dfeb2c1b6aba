"""The control socket: what somebody on this machine asks of a node that runs.

A unix socket in the node's data folder, which only its user enters; root may too.  One question a connection, a line of
JSON each way:

    {"command": "restart-forwarders"}
    {"event": "done", ...}                           or {"event": "failed", "reason": "..."}

A node gives its commands by name (:class:`ControlServer`); `descord-relay` asks (:func:`ask`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

SOCKET: Final = "control.sock"

#: Bytes of a line: a question names a command and a few words beside it.
MAX_LINE: Final = 64 * 1024

#: Questions at a time.  A person asks one, a script a few; each costs a file descriptor.
MAX_CLIENTS: Final = 16

#: Seconds that whoever connects has to ask, and to take the answer: it is a program on this machine.
PATIENCE: Final = 10.0

#: Seconds that answers have to leave when the node ends.
LAST_WORDS: Final = 1.0

_CREDENTIALS: Final = struct.Struct("3i")

#: Takes the question, gives what is told beside "done".  CommandFailed.
Command = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class CommandFailed(Exception):
    """What was asked cannot be done; the message says why."""


class NoNode(Exception):
    """No node answers there; the message says so."""


class ControlServer:
    """See the module.  ``folder``: the node's data folder."""

    def __init__(self, folder: Path, commands: Mapping[str, Command]) -> None:
        self._folder = folder
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._socket_file: tuple[int, int] | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, *, successor: bool = False) -> None:
        """Listen.  ``successor``: in place of the node that this one took over from.  Where another node answers, or
        no socket can be had, that is logged: the node does without."""
        try:
            if not successor and _answers(self._folder):
                log.warning("another node runs with %s: commands go to that one (--data-dir)", self._folder)
                return
            sock = self._bind()
        except OSError as error:
            log.warning("no control socket in %s: %s", self._folder, error.strerror or error)
            return
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=MAX_LINE)

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            with _within(self._folder) as folder:
                # Bound beside it and renamed: at no moment is there none, or one that nobody listens at.
                temporary = f".{SOCKET}.{os.getpid()}"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{temporary}")
                sock.bind(f"{folder}/{temporary}")
                sock.listen(MAX_CLIENTS)
                os.rename(f"{folder}/{temporary}", f"{folder}/{SOCKET}")
                status = os.stat(f"{folder}/{SOCKET}")
        except OSError:
            sock.close()
            raise
        finally:
            os.umask(mask)
        self._socket_file = status.st_dev, status.st_ino
        return sock

    async def close(self) -> None:
        """Answer what was asked, and nothing more."""
        if self._server is None:
            return
        self._server.close()
        if self._clients:
            await asyncio.wait(self._clients, timeout=LAST_WORDS)
        for client in list(self._clients):
            client.cancel()
        path = self._folder / SOCKET
        with contextlib.suppress(OSError):
            status = path.lstat()
            if (status.st_dev, status.st_ino) == self._socket_file:  # else it is a successor's
                path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        try:
            answer = await self._answer(reader, writer.get_extra_info("socket"))
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
        except (TimeoutError, OSError) as error:
            log.debug("who asked at the control socket is gone: %s", error)
        except asyncio.CancelledError:
            writer.write(b'{"event": "failed", "reason": "the node has ended"}\n')
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, sock: Any) -> Mapping[str, Any]:
        try:
            _check(sock)
            question = await _question(reader)
            name = question.get("command")
            command = self._commands.get(name) if isinstance(name, str) else None
            if command is None:
                raise CommandFailed(
                    f"there is no command {name!r:.100}; there are: {', '.join(sorted(self._commands))}"
                )
            return {**await command(question), "event": "done"}
        except CommandFailed as error:
            return {"event": "failed", "reason": str(error)}
        except Exception as error:
            log.exception("a command failed")
            return {"event": "failed", "reason": f"a fault of the node's: {type(error).__name__}: {error}"}


async def _question(reader: asyncio.StreamReader) -> Mapping[str, Any]:
    try:
        async with asyncio.timeout(PATIENCE):
            line = await reader.readline()
        question = json.loads(line)
    except TimeoutError:
        raise CommandFailed(f"nothing was asked within {PATIENCE:g} s") from None
    except (ValueError, RecursionError):  # longer than MAX_LINE, not UTF-8, or not JSON
        question = None
    if not isinstance(question, dict):
        raise CommandFailed(f"a question is a line of at most {MAX_LINE} bytes: a JSON object with a command")
    return question


def _check(sock: Any) -> None:
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (os.geteuid(), 0):
        raise CommandFailed(f"user {uid} is neither the node's nor root")


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[str]:
    """A short name for ``folder``, as long as it is open: paths of unix sockets have at most 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _connect(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _within(folder) as short:
            sock.connect(f"{short}/{SOCKET}")
    except OSError:
        sock.close()
        raise
    return sock


def _answers(folder: Path) -> bool:
    try:
        _connect(folder).close()
    except OSError:
        return False
    return True


def ask(folder: Path, question: Mapping[str, Any], within: float | None = None) -> dict[str, Any]:
    """Ask the node whose data folder this is, and wait for its answer; ``within``: so many seconds at most.  NoNode,
    CommandFailed."""
    try:
        sock = _connect(folder)
    except PermissionError as error:
        raise NoNode(f"the node of {folder} is another user's") from error
    except OSError as error:
        raise NoNode(f"no node runs with the data folder {folder} (--data-dir)") from error
    with sock:
        sock.settimeout(within)
        try:
            with contextlib.suppress(OSError):  # it may have been refused already, and then says why
                sock.sendall(json.dumps(dict(question)).encode() + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
        except OSError as error:
            raise NoNode(f"the node of {folder} ended before it answered: {error.strerror}") from error
    if not line:
        raise NoNode(f"the node of {folder} ended, or was asked too much at once, before it answered")
    answer: dict[str, Any] = json.loads(line)
    if answer.get("event") != "done":
        raise CommandFailed(str(answer.get("reason")))
    return answer
