"""The responder for Prometheus: one page, and nothing that anybody can hold on to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.ports import metrics_http
from actors.ports.metrics_http import MAX_CLIENTS, MAX_HEAD, MetricsServer


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def page() -> bytes:
        return b"descord_relay_info 1\n"

    server = MetricsServer(page, "text/plain; version=0.0.4")
    yield await server.start("127.0.0.1", 0)
    await server.close()


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_the_page(port: int) -> None:
    head, _, body = (await ask(port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and body == b"descord_relay_info 1\n"
    assert b"Content-Type: text/plain; version=0.0.4" in head and b"Content-Length: 21" in head


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET /metrics", b"400"),
        (b"\x16\x03\x01 is TLS", b"400"),
        (b"x" * 2 * MAX_HEAD, b"400"),
    ],
)
async def test_anything_else_is_refused(port: int, request_line: bytes, status: bytes) -> None:
    assert (await ask(port, request_line + b"\r\n\r\n")).startswith(b"HTTP/1.1 " + status)


async def test_a_client_that_says_nothing_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "PATIENCE", 0.05)
    assert await ask(port, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_so_many_clients_and_no_more(port: int) -> None:
    waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CLIENTS)]
    refused = await ask(port, b"")
    assert refused.startswith(b"HTTP/1.1 503")
    for _, writer in waiting:
        writer.close()
        await writer.wait_closed()
    while not (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200"):
        pass  # the others are being forgotten
