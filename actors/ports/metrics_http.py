"""GET /metrics: a responder for Prometheus and nobody else.  Small, bounded, and in nobody's way.

It takes :data:`MAX_CLIENTS` connections at a time, a request head of :data:`MAX_HEAD` bytes and :data:`PATIENCE`
seconds for each, answers once and closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

MAX_CLIENTS: Final = 16
MAX_HEAD: Final = 8 * 1024
PATIENCE: Final = 5.0

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class MetricsServer:
    """``page``: the metrics, as text of ``content_type``."""

    def __init__(self, page: Callable[[], Awaitable[bytes]], content_type: str) -> None:
        self._page = page
        self._content_type = content_type
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self, address: str, port: int) -> int:
        """Listen; the port that was bound.  OSError when it cannot be had."""
        self._server = await asyncio.start_server(self._serve, address, port, limit=MAX_HEAD, backlog=MAX_CLIENTS)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(PATIENCE):
                if self._clients > MAX_CLIENTS:
                    await self._answer(writer, 503, b"too many clients\n")
                    return
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    await self._answer(writer, 400, b"that is no request\n")
                    return
                await self._answer(writer, *await self._respond(head))
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    async def _respond(self, head: bytes) -> tuple[int, bytes]:
        line = head.split(b"\r\n", 1)[0].split(b" ")
        if len(line) != 3 or not line[2].startswith(b"HTTP/1."):
            return 400, b"that is no request\n"
        method, path = line[0], line[1].partition(b"?")[0]
        if path != b"/metrics":
            return 404, b"only /metrics is here\n"
        if method != b"GET":
            return 405, b"GET alone\n"
        return 200, await self._page()

    async def _answer(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        kind = self._content_type if status == 200 else "text/plain; charset=utf-8"
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
