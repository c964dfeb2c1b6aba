"""A real Jaeger receives the traces of a node, and its query API gives them back: one of each circuit, whole."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.relay_hop import RequestRefused, ReservationGranted
from tests.support.peers import MemoryPeer
from tests.support.process import NodeProcess, SocketPeer

from .jaeger import server
from .jaeger.server import Jaeger

CIRCUIT = ["circuit", "hop.connect", "relay.admit", "splice", "stop.connect"]
BRIDGED = sorted([*CIRCUIT, "bridge.connect", "splice"])


@pytest.fixture(scope="module")
def jaeger(cache: Path, logs: Callable[[str], Path]) -> Iterator[Jaeger]:
    if why := server.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    running = Jaeger(server.build(cache), logs("jaeger.log"))
    yield running
    running.stop()


@pytest.fixture
def start(jaeger: Jaeger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NodeProcess]]:
    nodes: list[NodeProcess] = []

    def run(protocol: str, service: str, *flags: str) -> NodeProcess:
        for name, value in jaeger.environment(protocol).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_SERVICE_NAME", service)
        nodes.append(NodeProcess(tmp_path / "node", "--rate-limits", "off", *flags))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def use(alice: SocketPeer, bob: SocketPeer, between: Callable[[], None] = lambda: None) -> None:
    finish = begin(alice, bob)
    between()
    finish()


def begin(alice: SocketPeer, bob: SocketPeer) -> Callable[[], None]:
    """A circuit over which a byte has passed one way; what makes one pass the other way, and ends it."""
    here, there = alice.circuit(bob)
    here.send(b"x" * 1000)
    alice.pass_on(bob, lambda: len(there.received) == 1000)

    def finish() -> None:
        there.send(b"y")
        here.finish()
        there.finish()
        alice.pass_on(bob, lambda: here.finished and there.finished)

    return finish


def splice_events(trace: dict[str, Any]) -> list[list[str]]:
    """Of each splice of it, what happened."""
    splices = [span for span in trace["spans"] if span["operationName"] == "splice"]
    return [
        [field["value"] for log in one["logs"] for field in log["fields"] if field["key"] == "event"] for one in splices
    ]


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def whole(trace: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """It has these spans, and all are children of the root; the root."""
    assert sorted(span["operationName"] for span in trace["spans"]) == names
    (root,) = [span for span in trace["spans"] if not span["references"]]
    assert root["operationName"] == "circuit"
    for span in trace["spans"]:
        # The end of a bridge is heard a few milliseconds later at its other end, which Jaeger takes for a wrong clock.
        assert all(warning.startswith("clock skew") for warning in span.get("warnings") or ()), span["warnings"]
        if span is not root:
            (parent,) = span["references"]
            assert (parent["refType"], parent["spanID"]) == ("CHILD_OF", root["spanID"])
    return root


def collected(jaeger: Jaeger, service: str, expected: int, *whole: list[str]) -> list[dict[str, Any]]:
    """Its circuits, when there are so many and each has all spans of one of ``whole``."""

    def complete() -> list[dict[str, Any]] | None:
        found = jaeger.traces(service, "circuit")
        names = [sorted(span["operationName"] for span in trace["spans"]) for trace in found]
        return found if len(found) == expected and all(one in whole for one in names) else None

    return list(jaeger.until(complete, f"the traces of {service} do not arrive whole"))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_circuit_is_one_trace(start: Callable[..., NodeProcess], jaeger: Jaeger, protocol: str) -> None:
    service = f"relay by {protocol}"
    node = start(protocol, service)
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    assert isinstance(bob.reserve(), ReservationGranted)
    use(alice, bob)
    (trace,) = collected(jaeger, service, 1, CIRCUIT)
    root = whole(jaeger.trace(trace["traceID"]), CIRCUIT)
    about = tags(root)
    assert (about["descord.bytes_to_target"], about["descord.close_reason"]) == (1000, "finished")
    assert str(alice.peer_id) not in str(trace) and "127.0.0.1" not in str(trace)
    alice.sock.close()
    bob.sock.close()


def test_a_refused_circuit_is_an_error(start: Callable[..., NodeProcess], jaeger: Jaeger) -> None:
    node = start("grpc", "refused", "--trace-sampling", "0")
    alice = SocketPeer(node, "alice")
    _, refused = alice.connect(MemoryPeer("nobody"))
    assert isinstance(refused, RequestRefused)
    names = ["circuit", "hop.connect", "relay.admit"]
    (trace,) = collected(jaeger, "refused", 1, names)
    whole(trace, names)
    assert all(tags(span)["error"] is True for span in trace["spans"])
    alice.sock.close()


def test_a_circuit_that_outlives_its_process_is_one_trace(start: Callable[..., NodeProcess], jaeger: Jaeger) -> None:
    node = start("grpc", "upgraded")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    assert isinstance(bob.reserve(), ReservationGranted)

    def upgrade() -> None:
        node.process.send_signal(signal.SIGUSR2)
        while node.event()["event"] != "upgraded":
            pass

    use(alice, bob, upgrade)
    (trace,) = collected(jaeger, "upgraded", 1, CIRCUIT)
    whole(trace, CIRCUIT)
    assert len(trace["processes"]) == 2
    assert splice_events(trace) == [["first byte", "hand-off", "first byte"]]
    alice.sock.close()
    bob.sock.close()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
def test_circuits_over_two_forwarders_are_whole(start: Callable[..., NodeProcess], jaeger: Jaeger) -> None:
    node = start("grpc", "two forwarders", "--forwarders", "2")
    peers = [SocketPeer(node, f"peer {number}") for number in range(8)]
    for peer in peers:
        assert isinstance(peer.reserve(), ReservationGranted)
    pairs = [(dialler, target) for dialler in peers for target in peers if dialler is not target]
    for dialler, target in pairs:
        use(dialler, target)
    traces = collected(jaeger, "two forwarders", len(pairs), CIRCUIT, BRIDGED)
    bridged = 0
    for trace in traces:
        is_bridged = len(trace["spans"]) == len(BRIDGED)
        bridged += is_bridged
        whole(trace, BRIDGED if is_bridged else CIRCUIT)
        assert len(trace["processes"]) == (3 if is_bridged else 2)
    assert bridged
    for peer in peers:
        peer.sock.close()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
def test_bridged_and_handed_off_a_circuit_is_one_trace(start: Callable[..., NodeProcess], jaeger: Jaeger) -> None:
    """Both forwarders are replaced while circuits of every kind stand: half of each is in either, and in four
    processes of forwarders in all."""
    node = start("grpc", "restarted", "--forwarders", "2")
    peers = [SocketPeer(node, f"peer {number}") for number in range(8)]
    for peer in peers:
        assert isinstance(peer.reserve(), ReservationGranted)
    pairs = [(dialler, target) for dialler in peers for target in peers if dialler is not target]
    circuits = [begin(dialler, target) for dialler, target in pairs]
    node.process.send_signal(signal.SIGHUP)
    while (event := node.event())["event"] != "restarted":
        assert event["event"] != "restart_failed", event
    for finish in circuits:
        finish()
    traces = collected(jaeger, "restarted", len(pairs), CIRCUIT, BRIDGED)
    bridged = [trace for trace in traces if len(trace["spans"]) == len(BRIDGED)]
    assert bridged
    for trace in traces:
        whole(trace, BRIDGED if trace in bridged else CIRCUIT)
        events = splice_events(trace)
        assert all(one.count("hand-off") == 1 and one.count("first byte") == 2 for one in events), events
    for trace in bridged:
        # RelayServer; either forwarder before and after.
        assert len(trace["processes"]) == 5
    for peer in peers:
        peer.sock.close()
