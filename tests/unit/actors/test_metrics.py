"""Sums over forwarders and processes, over what ends too; labels of our own words alone."""

from __future__ import annotations

from actors.metrics import Metrics
from protocol import messages as m
from tracing.metrics import LAG_BOUNDS, MAX_LABELS, OTHER, SETUP_BOUNDS, Histogram, add_counts

TIMES = m.Times(tuple(range(len(SETUP_BOUNDS) + 1)), 2.5)


def forwarder(name: str, opened: int = 1, **more: object) -> m.ForwarderMetrics:
    known: dict[str, object] = {
        "connections": 2,
        "circuits": 1,
        "bridged_in": 0,
        "hand_offs": 0,
        "bytes_by_class": {"public": 100},
        "failed": {"stop_timeout": 1},
        "ended": {"finished": opened},
        "refusals": {},
        "handshake_failures": {"closed": 2},
        "setup": {"total": TIMES},
    }
    return m.ForwarderMetrics(forwarder=name, opened=opened, **{**known, **more})  # type: ignore[arg-type]


def process(name: str, cpu: float, *actors: str) -> m.ProcessMetrics:
    lag = m.Times((0,) * (len(LAG_BOUNDS) + 1), 0.0)
    return m.ProcessMetrics(name, cpu, 1000, 10, lag, dict.fromkeys(actors, 3), 0, 0, {"exported": 1})


def told(*messages: m.MetricsMessage) -> Metrics:
    metrics = Metrics()
    for message in messages:
        assert metrics.handle(message, 0.0) == []
    return metrics


def test_a_later_word_replaces_an_earlier_one() -> None:
    snapshot = told(forwarder("forwarder/0", 1), forwarder("forwarder/0", 5), forwarder("forwarder/1", 2)).snapshot()
    assert {name: sums.opened for name, sums in snapshot.forwarders.items()} == {"forwarder/0": 5, "forwarder/1": 2}
    assert snapshot.connections == {"forwarder/0": 2, "forwarder/1": 2}


def test_no_counter_goes_back_when_a_forwarder_is_replaced() -> None:
    metrics = told(forwarder("forwarder/0", 5), process("forwarder/0", 9.0, "forwarder/0"))
    metrics.handle(m.ActorDown("forwarder/0"), 0.0)
    gone = metrics.snapshot()
    assert gone.forwarders["forwarder/0"].opened == 5
    assert gone.connections == gone.circuits == {"forwarder/0": 0}
    assert gone.forwarder_cpu == {"forwarder/0": 9.0} and gone.restarts == {"forwarder/0": 1}
    metrics.handle(m.ActorUp("forwarder/0.1"), 0.0)
    metrics.handle(forwarder("forwarder/0.1", 2), 0.0)
    metrics.handle(process("forwarder/0.1", 1.0, "forwarder/0.1"), 0.0)
    snapshot = metrics.snapshot()
    sums = snapshot.forwarders["forwarder/0"]
    assert (sums.opened, sums.ended, sums.bytes_by_class) == (7, {"finished": 7}, {"public": 200})
    assert sums.setup["total"] == m.Times(tuple(2 * n for n in TIMES.counts), 5.0)
    assert snapshot.connections == {"forwarder/0": 2} and snapshot.forwarder_cpu == {"forwarder/0": 10.0}


def test_refusals_outlive_relay_server() -> None:
    metrics = told(m.StatusAnswer(1, 3, 0, 0, 0, {}, {"max_circuits": 4}, 6))
    metrics.handle(m.ActorDown("relay_server"), 0.0)
    assert metrics.snapshot().status is None
    metrics.handle(m.StatusAnswer(2, 3, 0, 0, 0, {}, {"max_circuits": 1}, 1), 0.0)
    assert (metrics.snapshot().refused, metrics.snapshot().granted) == ({"max_circuits": 5}, 7)
    assert metrics.answered == {1, 2}


def test_limits_answers_and_errors_are_told_apart() -> None:
    refusals = {
        "NO_RESERVATION": 1,
        "max_connections": 2,
        "protocol error: oversized": 3,
        "stream error: negotiation": 4,
        "whatever else": 5,
    }
    snapshot = told(forwarder("forwarder/0", refusals=refusals)).snapshot()
    assert snapshot.answers == {"no_reservation": 1}
    assert snapshot.refused == {"max_connections": 2, OTHER: 5}
    assert snapshot.errors == {("connection", "oversized"): 3, ("stream", "negotiation"): 4}


def test_the_one_process_of_a_node_is_its_forwarders() -> None:
    snapshot = told(process("node", 4.0, "relay_server", "forwarder/0", "metrics")).snapshot()
    assert snapshot.forwarder_cpu == {"forwarder/0": 4.0}


def test_there_are_only_so_many_labels() -> None:
    counts: dict[str, float] = {}
    for number in range(2 * MAX_LABELS):
        add_counts(counts, {f"reason {number}": 1})
    assert len(counts) == MAX_LABELS + 1 and counts[OTHER] == MAX_LABELS
    add_counts(counts, {"reason 0": 1})
    assert counts["reason 0"] == 2


def test_a_histogram_counts_by_inclusive_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.message() == m.Times((2, 2, 1), 7.5)
