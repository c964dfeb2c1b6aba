"""What is exported of which trace, and how the parts of one find each other."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.peers import seeded
from tracing.context import decode_traceparent
from tracing.redaction import RedactionKey, Redactor
from tracing.sampling import Sampler
from tracing.spans import MAX_EVENTS, MAX_TEXT, SpanState, Status, address, peer
from tracing.tracer import NULL_SPAN, NullTracer, Span, Tracer

ALICE = bytes.fromhex("0024080112") + seeded("alice")[:33]


class Process:
    """A tracer, and what it exported."""

    def __init__(self, ratio: float, name: str = "one", *, clear: bool = False) -> None:
        self.name = name
        self.drawn = 0
        self.exported: list[Span] = []
        redactor = Redactor(RedactionKey(seeded("key"), 0.0), 3600.0, clear=clear)
        self.tracer = Tracer(Sampler(ratio), redactor, self.randomness, self.exported.append)

    def randomness(self, size: int) -> bytes:
        self.drawn += 1
        return seeded(f"{self.name} {self.drawn}")[:size]

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.exported]


def test_a_recorded_trace_is_exported_span_by_span() -> None:
    one = Process(1.0)
    root = one.tracer.begin("circuit", 10.0)
    child = root.child("hop.connect", 10.0)
    child.event("answered", 10.25, status="OK")
    child.end(10.5)
    assert one.names == ["hop.connect"]
    root.set("bytes", 5)
    root.end(12.0)
    hop, circuit = one.exported
    assert (circuit.parent_id, circuit.start, circuit.end_time, circuit.attributes) == (b"", 10.0, 12.0, {"bytes": 5})
    assert (hop.parent_id, hop.trace_id) == (circuit.span_id, circuit.trace_id)
    assert [(event.name, event.time, event.attributes) for event in hop.events] == [
        ("answered", 10.25, {"status": "OK"})
    ]
    assert len({hop.span_id, circuit.span_id}) == 2 and len(hop.span_id) == 8 and len(hop.trace_id) == 16


def test_what_is_not_recorded_and_did_not_fail_is_forgotten() -> None:
    one = Process(0.0)
    root = one.tracer.begin("circuit", 10.0)
    root.child("hop.connect", 10.0).end(10.5)
    assert one.tracer.open_traces == 1
    root.end(12.0)
    assert (one.exported, one.tracer.open_traces) == ([], 0)


def test_what_failed_is_kept_with_what_came_before_and_after_it() -> None:
    one = Process(0.0)
    root = one.tracer.begin("circuit", 10.0)
    root.child("hop.connect", 10.0).end(10.5)
    stop = root.child("stop.connect", 10.5)
    stop.fail("stop_timeout")
    assert one.names == ["hop.connect"]
    stop.end(11.0)
    root.end(11.0)
    assert one.names == ["hop.connect", "stop.connect", "circuit"]
    assert (stop.status, stop.description, root.status) == (Status.ERROR, "stop_timeout", Status.UNSET)
    assert one.tracer.open_traces == 0


def test_context_joins_processes() -> None:
    one, two = Process(1.0), Process(0.0, "two")
    root = one.tracer.begin("circuit", 1.0)
    two.tracer.current = root.traceparent
    two.tracer.join("relay.admit", 1.1).end(1.2)
    (admit,) = two.exported  # recorded there, so here too
    assert (admit.trace_id, admit.parent_id) == (root.trace_id, root.span_id)
    assert admit.span_id != root.span_id


def test_a_process_keeps_what_failed_in_it_of_a_trace_that_is_not_recorded() -> None:
    one, two = Process(0.0), Process(0.0, "two")
    root = one.tracer.begin("circuit", 1.0)
    context = decode_traceparent(root.traceparent)
    assert context is not None and not context.sampled
    admit = two.tracer.join("relay.admit", 1.1, root.traceparent)
    admit.fail("max_circuits")
    admit.end(1.2)
    root.fail("refused")
    root.end(1.3)
    assert (one.names, two.names) == (["circuit"], ["relay.admit"])
    assert two.exported[0].parent_id == one.exported[0].span_id
    assert two.exported[0].trace_id == one.exported[0].trace_id


def test_parts_in_one_process_are_kept_or_forgotten_together() -> None:
    one = Process(0.0)
    root = one.tracer.begin("circuit", 1.0)
    one.tracer.join("relay.admit", 1.1, root.traceparent).end(1.2)
    assert one.exported == []
    root.fail("target_refused")
    root.end(2.0)
    assert one.names == ["relay.admit", "circuit"]


def test_without_context_a_step_is_a_root() -> None:
    one = Process(1.0)
    for traceparent in ("", "00-junk"):
        one.tracer.join("relay.admit", 1.0, traceparent).end(1.0)
    assert [span.parent_id for span in one.exported] == [b"", b""]


def test_a_span_that_left_goes_on_elsewhere() -> None:
    one, two = Process(1.0), Process(0.0, "two")
    root = one.tracer.begin("circuit", 1.0)
    splice = root.child("splice", 1.5)
    splice.event("first byte", 1.6, to="target")
    splice.set("class", "public")
    packed = [msgspec.msgpack.encode(span.state()) for span in (root, splice)]
    for span in (root, splice):
        span.drop()
        span.end(9.0)
    assert one.exported == []
    root2, splice2 = (two.tracer.resume(msgspec.msgpack.decode(state, type=SpanState)) for state in packed)
    splice2.event("hand-off", 2.0)
    splice2.end(3.0)
    root2.end(3.0)
    assert one.exported == []
    assert [span.name for span in two.exported] == ["splice", "circuit"]
    assert two.exported[0].parent_id == root.span_id == two.exported[1].span_id
    assert two.exported[0].start == 1.5
    assert [event.name for event in two.exported[0].events] == ["first byte", "hand-off"]
    assert two.exported[0].attributes == {"class": "public"}


def test_a_span_that_left_is_still_kept_when_it_fails_elsewhere() -> None:
    one, two = Process(0.0), Process(0.0, "two")
    root = one.tracer.begin("circuit", 1.0)
    root.set("source", peer(ALICE))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(root.state()), type=SpanState)
    root.drop()
    assert one.tracer.open_traces == 0
    again = two.tracer.resume(state)
    again.fail("lost")
    again.end(2.0)
    (circuit,) = two.exported
    assert str(circuit.attributes["source"]).startswith("peer-")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nobody_is_named_in_what_is_exported(ratio: float) -> None:
    one = Process(ratio)
    root = one.tracer.begin("circuit", 1.0)
    root.set("source", peer(ALICE))
    root.set("address", address("203.0.113.42"))
    root.event("moved", 1.0, to=address("203.0.113.43"))
    root.fail("refused")
    root.end(1.0)
    (circuit,) = one.exported
    shown = [*circuit.attributes.values(), *(value for event in circuit.events for value in event.attributes.values())]
    assert [str(value).split("-")[0] for value in shown] == ["peer", "address", "address"]
    assert "203.0.113" not in repr(shown) and ALICE.hex() not in repr(shown)
    assert len(set(shown)) == 3


def test_a_secret_prints_as_scrubbed() -> None:
    assert f"{peer(ALICE)} {address('203.0.113.42')!r}" == "<peer scrubbed> <address scrubbed>"


def test_a_second_end_and_too_many_events_change_nothing() -> None:
    one = Process(1.0)
    root = one.tracer.begin("circuit", 5.0)
    for _ in range(100):
        root.event("again", 5.0)
    root.set("text", "x" * 1000)
    root.end(4.0)
    root.end(9.0)
    assert [span.end_time for span in one.exported] == [5.0]
    assert len(root.events) == MAX_EVENTS and root.attributes["text"] == "x" * MAX_TEXT


def test_spans_of_an_actor_that_fell_are_not_remembered() -> None:
    one = Process(0.0)
    root = one.tracer.begin("circuit", 5.0)
    root.child("hop.connect", 5.0).end(6.0)
    one.tracer.current = root.traceparent
    one.tracer.fell()
    assert (one.tracer.open_traces, one.tracer.current) == (0, "")
    # What others had open goes on.
    root.fail("lost")
    root.end(7.0)
    assert one.names == ["hop.connect", "circuit"]


def test_what_is_told_later_is_told_when_it_is_needed() -> None:
    told: list[str] = []
    for ratio, fails, expected in ((1.0, False, 1), (0.0, True, 1), (0.0, False, 0)):
        one = Process(ratio)
        root = one.tracer.begin("circuit", 1.0)
        root.describe(lambda span: (told.append(span.name), span.set("source", peer(ALICE)))[0])
        if fails:
            root.fail("lost")
        root.end(2.0)
        assert len(told) == expected == len(one.exported)
        assert all(str(span.attributes["source"]).startswith("peer-") for span in one.exported)
        told.clear()
    one = Process(0.0)
    root = one.tracer.begin("circuit", 1.0)
    root.describe(lambda span: span.set("source", peer(ALICE)))
    state = root.state()
    assert state is not None and state.attributes == {"source": peer(ALICE)}


def test_the_null_tracer_takes_everything() -> None:
    tracer = NullTracer()
    span = tracer.begin("circuit", 1.0)
    assert span is NULL_SPAN is span.child("hop.connect", 1.0) is tracer.join("relay.admit", 1.0)
    span.set("source", peer(ALICE))
    span.event("first byte", 1.0)
    span.fail("refused")
    span.end(1.0)
    assert (span.traceparent, span.recording, tracer.enabled) == ("", False, False)
