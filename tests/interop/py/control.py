"""The control protocol that every interoperability peer speaks, in whatever language: one JSON object a line.

Commands come in on stdin as ``{"id": n, "cmd": name, ...}`` and run concurrently; each is answered once on
stdout with ``{"id": n, "ok": true, ...}`` or ``{"id": n, "ok": false, "error": text}``. Everything else on
stdout is ``{"event": name, ...}``. The process ends when stdin does. Logs go to stderr.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

Command = Callable[..., Awaitable[dict[str, Any]]]


def _print_line(fields: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def emit(event: str, **fields: Any) -> None:
    """Print one event line."""
    _print_line({"event": event, **fields})


def describe(error: BaseException) -> str:
    """An error's name, text and causes in one line."""
    text = f"{type(error).__name__}: {error}"
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else (error.__cause__,)
    return "; ".join([text, *(describe(cause) for cause in inner if cause is not None)])


async def _answer(commands: Mapping[str, Command], line: bytes) -> None:
    request_id = None
    try:
        request = json.loads(line)
        request_id = request.pop("id", None)
        name = request.pop("cmd", None)
        command = commands.get(name)
        if command is None:
            raise ValueError(f"unknown command {name!r}")
        known = inspect.signature(command).parameters
        result = await command(**{key: value for key, value in request.items() if key in known})
        _print_line({"id": request_id, "ok": True, **result})
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        _print_line({"id": request_id, "ok": False, "error": describe(error)})


async def serve_commands(commands: Mapping[str, Command]) -> None:
    """Run commands until stdin ends; those still running then are cancelled."""
    buffer = bytearray()
    async with trio.open_nursery() as running:
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
            async for piece in stdin:
                buffer += piece
                *lines, rest = buffer.split(b"\n")
                buffer = rest
                for line in lines:
                    if line.strip():
                        running.start_soon(_answer, commands, bytes(line))
        running.cancel_scope.cancel()
