"""What traces and metrics cost this relay: `python -m tests.benchmarks.tracing_cost`.

The relay with nothing exported, beside itself with 1% and with all of its circuits sampled and with a metrics port that
is read once a second, on the same workloads, in turn.  Spans go by OTLP over HTTP to a receiver on the clients' cores
that reads and forgets them.  Figures are CPU seconds of the relay: all its threads, the exporter's too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from actors.admission_spans import AdmissionSpans
from actors.circuit_steps import Asker, CircuitSteps, Steps
from actors.ports.telemetry import RandomPool
from protocol import messages
from protocol.switching import Circuit
from tests.benchmarks import generator, procfs, relays
from tests.benchmarks.relays import IMPLEMENTATIONS, Implementation, Relay
from tests.benchmarks.workloads import FULL, QUICK, Figures, Scale, Seat, Workload, _bulk, _bulk_load, _churn
from tracing.otlp import export_plan, exporter_from
from tracing.redaction import RedactionKey, Redactor
from tracing.sampling import Sampler
from tracing.tracer import AnyTracer, NullTracer, Span, Tracer

#: Circuits of one measurement: /proc counts CPU time in hundredths of a second.
CIRCUITS = 4000


class Sink(BaseHTTPRequestHandler):
    """Takes whatever comes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None: ...


@contextlib.contextmanager
def receiver(on: frozenset[int]) -> Iterator[int]:
    """The port of a receiver of OTLP in a process of its own."""
    with procfs.pinned(on):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.tracing_cost", "--receiver"],
            cwd=relays.REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def traced(port: int, ratio: str) -> Callable[[Path, Path], list[str]]:
    def command(cache: Path, state: Path) -> list[str]:
        variables = [f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY=1000"]
        return ["env", *variables, *IMPLEMENTATIONS["ours"].command(cache, state), "--trace-sampling", ratio]

    return command


def measured(port: int) -> Callable[[Path, Path], list[str]]:
    def command(cache: Path, state: Path) -> list[str]:
        return [*IMPLEMENTATIONS["ours"].command(cache, state), "--metrics-port", str(port)]

    return command


@contextlib.contextmanager
def scraped(port: int) -> Iterator[None]:
    """Read the metrics once a second."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(1.0):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1.0).read()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def loads(scale: Scale) -> list[Workload]:
    count = CIRCUITS if scale is FULL else scale.churn
    circuits = {"workload": "circuits", "count": count, "concurrency": 4}
    return [
        Workload("circuits", _churn(circuits)),
        Workload("push 16x16384", _bulk(_bulk_load(scale, "push", 16, 16384))),
        Workload("push 16x1200", _bulk(_bulk_load(scale, "push", 16, 1200))),
    ]


def cost(figures: Figures) -> float:
    """CPU for a circuit in ms, or for a GiB in s."""
    return figures.get("relay_cpu_ms_each", figures.get("relay_cpu_s_per_gib", 0.0))


def compare(scale: Scale, repeats: int, only: str) -> dict[str, dict[str, list[float]]]:
    cache = relays.cache_dir()
    generator.build(cache)
    relay_cores, client_cores = procfs.cores()
    procfs.open_many_files()
    found: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="descord-tracing-")))
        port = stack.enter_context(receiver(client_cores))
        with socket.create_server(("127.0.0.1", 0)) as free:
            metrics_port = free.getsockname()[1]
        kinds = {
            "off": IMPLEMENTATIONS["ours"],
            "1%": Implementation("1%", "1% sampled", traced(port, "0.01")),
            "100%": Implementation("100%", "all sampled", traced(port, "1")),
            "metrics": Implementation("metrics", "metrics read", measured(metrics_port)),
        }
        running: dict[str, Relay] = {}
        for name, kind in kinds.items():
            running[name] = Relay(kind, cache, scratch / name.strip("%"), relay_cores)
            stack.callback(running[name].stop)
        stack.enter_context(scraped(metrics_port))
        for repeat in range(repeats):
            for workload in [one for one in loads(scale) if one.name.startswith(only)]:
                names = list(kinds)
                turn = repeat % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    figures = workload.measure(Seat(running[name], cache, client_cores, scale.timeout))
                    found.setdefault(workload.name, {}).setdefault(name, []).append(cost(figures))
                    print(f"  {workload.name:14} {name:8} {cost(figures):.4f}", file=sys.stderr, flush=True)
    return found


class _Connection:
    error = None
    last_received = 1.0


class _Session:
    connection = _Connection()


class _Stream:
    session = _Session()


class _Circuit:
    """All that is asked of a circuit when it begins and ends."""

    id, reason, bytes_to_target, bytes_to_source = 7, "finished", 5, 5
    source = target = _Stream()


class _Hop:
    stream = _Stream()
    steps: Steps | None = None


def in_the_loop(tracer: AnyTracer) -> float:
    """Microseconds of all that is told of one circuit, by forwarder and RelayServer, the least of nine rounds."""
    steps, spans = CircuitSteps("forwarder/0", tracer), AdmissionSpans(tracer)
    peer, circuit = os.urandom(38), cast(Circuit, _Circuit())
    asked = messages.ConnectAsked(1, "forwarder/0", 5, peer, peer, "192.0.2.1")

    def one() -> None:
        hop = cast(Asker, _Hop())
        steps.now = spans.now = 1.0
        steps.asked(hop, peer, peer, "192.0.2.1")
        tracer.current = steps.context(hop)
        spans.asked(asked)
        spans.admitted(asked, 7)
        steps.admitted(hop, 7)
        steps.stopping(hop)
        steps.joined(hop, circuit)
        spans.settled(7, failed=False)
        steps.ended(circuit)

    return min(timeit.repeat(one, number=5000, repeat=9)) / 5000 * 1e6


def in_the_thread(port: int, batch: int) -> float:
    """Microseconds of the exporter for the five spans of a circuit, in batches of so many spans."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    os.environ.update(environ)
    plan = export_plan(environ)
    assert plan is not None
    thread = exporter_from(plan, "0", "0")
    spans: list[Span] = []
    tracer = Tracer(Sampler(1.0), _redactor(), os.urandom, spans.append)
    while len(spans) < batch:
        root = tracer.begin("circuit", 1.0)
        for name in ("hop.connect", "relay.admit", "stop.connect", "splice"):
            span = root.child(name, 1.0)
            span.set("descord.forwarder", "forwarder/0")
            span.set("descord.status", "OK")
            span.event("first byte", 1.0, to="target")
            span.end(2.0)
        root.end(2.0)
    rounds = []
    for _ in range(20):
        began = time.thread_time()
        thread._send_batch(spans[:batch])
        rounds.append((time.thread_time() - began) / batch * 5e6)
    assert not thread.failed
    return statistics.median(rounds)


def _redactor() -> Redactor:
    return Redactor(RedactionKey(bytes(32), 0.0), 1e9)


def steps_table() -> str:
    """What is told of a circuit, without a relay around it: it shows what a busy machine hides."""

    def forget(span: Span) -> None: ...

    rows: list[tuple[str, AnyTracer]] = [("nothing exported (what is counted for metrics)", NullTracer())]
    rows += [
        (name, Tracer(Sampler(ratio), _redactor(), RandomPool().take, forget))
        for name, ratio in (("not sampled", 0.0), ("sampled", 1.0))
    ]
    lines = [f"{name}: {in_the_loop(tracer):.1f} us in the loop" for name, tracer in rows]
    with receiver(procfs.cores()[1]) as port:
        for batch in (512, 50, 5):
            lines.append(f"sampled: {in_the_thread(port, batch):.0f} us in the exporter, {batch} spans a batch")
    return "\n".join(lines)


def table(found: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| relay CPU | nothing | 1% sampled | all sampled | metrics, read each second |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for workload, by_kind in found.items():
        unit = "ms a circuit" if workload == "circuits" else "s/GiB"
        off = statistics.median(by_kind["off"])
        cells = [f"{off:.3f}"]
        for kind in ("1%", "100%", "metrics"):
            value = statistics.median(by_kind[kind])
            cells.append(f"{value:.3f} ({100 * (value / off - 1):+.1f}%)")
        lines.append(f"| {workload}, {unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tracing_cost")
    parser.add_argument("--quick", action="store_true", help="shows that it works, measures nothing")
    parser.add_argument("--repeats", type=int, default=0, help="default: 5")
    parser.add_argument("--only", metavar="WORKLOAD", default="", help="those whose name begins so: circuits, push")
    parser.add_argument("--steps", action="store_true", help="the cost of what is told of a circuit, by itself")
    parser.add_argument("--receiver", action="store_true", help=argparse.SUPPRESS)
    asked: Any = parser.parse_args()
    if asked.receiver:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
        print(server.server_address[1], flush=True)
        server.serve_forever()
    if asked.steps:
        print(steps_table())
        return 0
    scale = QUICK if asked.quick else FULL
    print(table(compare(scale, asked.repeats or (1 if asked.quick else 5), asked.only)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
