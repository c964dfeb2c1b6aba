"""When traces are exported and to whom; and that nobody waits for a receiver."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from tests.support.otlp import OtlpReceiver
from tests.support.traces import Collector
from tracing.otlp import SHORTEST, ExportError, ExportPlan, ExportThread, SpanBuilder, export_plan, exporter_from
from tracing.tracer import Span

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])


def spans(count: int) -> list[Span]:
    collector = Collector()
    root = collector.tracer("test").begin("circuit", 1.5)
    for number in range(count):
        child = root.child(f"child {number}", 2.0)
        child.event("first byte", 2.25, to="target", number=number, share=0.5, yes=True)
        child.set("text", "x")
        child.end(3.0)
    return collector.spans


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {**HERE, "OTEL_SDK_DISABLED": "True"},
        {**HERE, "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_exported_unless_an_endpoint_is_set(environ: dict[str, str]) -> None:
    assert export_plan(environ) is None


def test_the_standard_variables_and_their_order() -> None:
    assert export_plan(HERE) == ExportPlan("http://127.0.0.1:4318", "http/protobuf")
    both = {
        **HERE,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_BSP_MAX_QUEUE_SIZE": "7",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3",
        "OTEL_BSP_SCHEDULE_DELAY": "250",
    }
    assert export_plan(both) == ExportPlan("http://127.0.0.1:4317", "grpc", 7, 3, 0.25)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_BSP_SCHEDULE_DELAY", "\N{SUPERSCRIPT TWO}"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str) -> None:
    with pytest.raises(ExportError, match=f"{variable} = {value}: allowed is"):
        export_plan({**HERE, variable: value})


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as if there were none
    with pytest.raises(ExportError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT asks .* pip install 'descord-relay\[otel\]'"):
        exporter_from(ExportPlan("http://127.0.0.1:4318", "http/protobuf"), "1", "x")


@PROTOCOLS
def test_spans_arrive_as_they_were(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver(protocol) as receiver:
        more = {
            "OTEL_SERVICE_NAME": "my relay",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret",
        }
        for name, value in {**receiver.environment, **more}.items():
            monkeypatch.setenv(name, value)
        plan = export_plan({**receiver.environment, **more})
        assert plan is not None
        thread = exporter_from(plan, "0.1.0", "one")
        thread.start()
        sent = spans(3)
        for span in sent:
            thread.put(span)
        received = receiver.until(lambda spans: len(spans) == 3)
        thread.stop(5)
        assert (thread.exported, thread.dropped, thread.failed) == (3, 0, 0)
    assert receiver.headers[0]["x-key"] == "secret"
    for ours, theirs in zip(sent, received, strict=True):
        assert (theirs.trace_id, theirs.span_id, theirs.parent_id) == (ours.trace_id, ours.span_id, ours.parent_id)
        assert (theirs.name, theirs.start, theirs.end) == (ours.name, 2_000_000_000, 3_000_000_000)
        assert theirs.attributes == {"text": "x"}
        number = int(ours.name.split()[1])
        event = ("first byte", 2_250_000_000, {"to": "target", "number": number, "share": 0.5, "yes": True})
        assert theirs.events == [event]
        assert theirs.resource["service.name"] == "my relay"
        assert theirs.resource["service.version"] == "0.1.0"
        assert theirs.resource["service.instance.id"] == "one"
        assert theirs.resource["deployment.environment"] == "test"


def test_a_decision_that_took_no_time_has_a_length() -> None:
    collector = Collector()
    span = collector.tracer("test").begin("relay.admit", 1_800_000_000.25)
    span.end(1_800_000_000.25)
    built = SpanBuilder(None, "1")(span)
    assert built.end_time - built.start_time == SHORTEST


class Slow:
    """A receiver that takes a batch when it is let."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.began = threading.Event()
        self.may = threading.Event()
        self.shut = False

    def send(self, batch: list[Span]) -> bool:
        self.began.set()
        assert self.may.wait(10) or self.shut
        self.sizes.append(len(batch))
        return True

    def close(self) -> None:
        self.shut = True
        self.may.set()


def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits() -> None:
    slow, (span,) = Slow(), spans(1)
    thread = ExportThread(ExportPlan("", "grpc", queue=10, batch=4, delay=0.001), slow.send, slow.close)
    thread.start()
    thread.put(span)
    assert slow.began.wait(10)
    for _ in range(15):
        thread.put(span)
    assert thread.dropped == 5
    slow.may.set()
    thread.stop(10)
    assert slow.sizes == [1, 4, 4, 2] and (thread.exported, thread.dropped) == (11, 5)


def test_a_full_batch_is_not_waited_for() -> None:
    slow, (span,) = Slow(), spans(1)
    slow.may.set()
    thread = ExportThread(ExportPlan("", "grpc", batch=4, delay=600.0), slow.send, slow.close)
    thread.start()
    for _ in range(4):
        thread.put(span)
    assert slow.began.wait(10)
    thread.put(span)  # and the rest is not waited for at the end
    thread.stop(10)
    assert sum(slow.sizes) == 5 == thread.exported


def test_the_end_does_not_wait_for_a_receiver_that_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    slow, (span,) = Slow(), spans(1)
    thread = ExportThread(ExportPlan("", "grpc", batch=1, delay=0.001), slow.send, slow.close)
    thread.start()
    for _ in range(3):
        thread.put(span)
    assert slow.began.wait(10)
    with caplog.at_level(logging.WARNING):
        thread.stop(0.05)
    assert thread.dropped == 2 and slow.shut
    assert "does not answer" in caplog.text
    thread.put(span)
    assert thread.dropped == 3


def test_failures_are_counted_and_logged_as_they_double(caplog: pytest.LogCaptureFixture) -> None:
    def fail(batch: list[Span]) -> bool:
        raise ConnectionRefusedError("127.0.0.1:4318")

    (span,) = spans(1)
    thread = ExportThread(ExportPlan("", "grpc", batch=1, delay=0.001), fail)
    thread.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(9):
            thread.put(span)
        thread.stop(10)
    assert thread.failed == 9
    assert [record.getMessage().split()[0] for record in caplog.records] == ["1", "2", "4", "8"]
    assert "ConnectionRefusedError" in caplog.text and "127.0.0.1" not in caplog.text
