"""A receiver of OTLP, over HTTP and gRPC, that keeps what it is sent: the real protobuf, parsed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PATIENCE = 15.0


@dataclass(frozen=True)
class Received:
    """A span as it came."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    start: int
    end: int
    status: int
    message: str
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]
    resource: dict[str, Any] = field(repr=False)


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class OtlpReceiver:
    """``protocol``: "grpc" or "http/protobuf".  ``raw``: all bytes that came, as they came.

    ``answers``: while False, requests are left without an answer.
    """

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.spans: list[Received] = []
        self.answers = threading.Event()
        self.answers.set()
        self._changed = threading.Condition()
        if protocol == "grpc":
            self._grpc = grpc.server(ThreadPoolExecutor(4))
            trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(self), self._grpc)
            self.port = self._grpc.add_insecure_port("127.0.0.1:0")
            self._grpc.start()
        else:
            self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            self.port = self._http.server_address[1]
            self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
            self._thread.start()

    def __enter__(self) -> OtlpReceiver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.answers.set()
        if self.protocol == "grpc":
            self._grpc.stop(0).wait()
        else:
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a node export to here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def take(self, request: Any, raw: bytes, headers: dict[str, str]) -> None:
        self.answers.wait()
        with self._changed:
            self.raw.append(raw)
            self.headers.append(headers)
            for resource in request.resource_spans:
                about = _values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.spans.append(
                            Received(
                                span.trace_id,
                                span.span_id,
                                span.parent_span_id,
                                span.name,
                                span.start_time_unix_nano,
                                span.end_time_unix_nano,
                                span.status.code,
                                span.status.message,
                                _values(span.attributes),
                                [(e.name, e.time_unix_nano, _values(e.attributes)) for e in span.events],
                                about,
                            )
                        )
            self._changed.notify_all()

    def until(self, true: Callable[[list[Received]], object], patience: float = PATIENCE) -> list[Received]:
        """Wait until ``true(spans)``; the spans."""
        with self._changed:
            end = time.monotonic() + patience
            while not true(self.spans):
                left = end - time.monotonic()
                assert left > 0 and self._changed.wait(left), f"received only {sorted(s.name for s in self.spans)}"
            return list(self.spans)

    def traces(self) -> dict[bytes, list[Received]]:
        found: dict[bytes, list[Received]] = {}
        for span in self.spans:
            found.setdefault(span.trace_id, []).append(span)
        return found


class _Service(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        self._receiver.take(request, request.SerializeToString(), headers)
        return trace_service_pb2.ExportTraceServiceResponse()


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            request = trace_service_pb2.ExportTraceServiceRequest()
            request.ParseFromString(body)
            receiver.take(request, body, {key.lower(): value for key, value in self.headers.items()})
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    return Handler
