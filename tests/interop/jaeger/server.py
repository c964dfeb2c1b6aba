"""Jaeger's all-in-one on loopback: takes OTLP, answers its query API (https://www.jaegertracing.io/docs/1.76/apis/)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
VERSION: Final = "v1.76.0"
BUILD_TIMEOUT: Final = 1800
PATIENCE: Final = 30.0

_PORTS: Final = (
    "admin.http",
    "collector.grpc-server",
    "collector.http-server",
    "collector.otlp.grpc",
    "collector.otlp.http",
    "query.grpc-server",
    "query.http-server",
)


def missing() -> str | None:
    """What to install, None when it can be built or was."""
    return None if shutil.which("go") else "no go here: install Go 1.26"


def build(cache: Path) -> Path:
    """The program.  RuntimeError with the tools' output."""
    built = subprocess.run(
        ["sh", str(HERE / "build.sh"), str(cache)], capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False
    )
    if built.returncode:
        raise RuntimeError(f"Jaeger was not built:\n{built.stdout[-2000:]}{built.stderr[-4000:]}")
    return cache / "jaeger" / f"all-in-one-{VERSION}"


class Jaeger:
    """One that runs until :meth:`stop`."""

    def __init__(self, program: Path, log: Path) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
        self._ports = {name: sock.getsockname()[1] for name, sock in zip(_PORTS, sockets, strict=True)}
        for sock in sockets:
            sock.close()
        flags = [f"--{name}.host-port=127.0.0.1:{port}" for name, port in self._ports.items()]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(program), *flags, "--collector.otlp.enabled=true"],
                stdout=output,
                stderr=output,
                env={**os.environ, "SPAN_STORAGE_TYPE": "memory"},
            )
        self.until(lambda: self._get("/api/services"), "Jaeger does not start")

    def environment(self, protocol: str) -> dict[str, str]:
        """What makes a node export to it."""
        port = self._ports["collector.otlp.grpc" if protocol == "grpc" else "collector.otlp.http"]
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def traces(self, service: str, operation: str) -> list[dict[str, Any]]:
        """Those with a span of this name, from nodes of this service name, whether whole or not."""
        query = urllib.parse.urlencode({"service": service, "operation": operation, "limit": 10_000, "lookback": "1h"})
        traces: list[dict[str, Any]] = self._get(f"/api/traces?{query}")["data"]
        return traces

    def trace(self, trace_id: str) -> dict[str, Any]:
        data: list[dict[str, Any]] = self._get(f"/api/traces/{trace_id}")["data"]
        assert len(data) == 1
        return data[0]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['query.http-server']}{path}", timeout=10) as answer:
            return json.load(answer)

    def until(self, true: Callable[[], Any], message: str) -> Any:
        """Wait for it; what it gave."""
        end = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, f"Jaeger ended with {self.process.returncode}"
            try:
                if found := true():
                    return found
            except (OSError, urllib.error.URLError):
                pass  # it is starting
            assert time.monotonic() < end, message
            time.sleep(0.1)
