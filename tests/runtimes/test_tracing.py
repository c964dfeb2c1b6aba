"""A real node, real peers and a real receiver of OTLP: which traces arrive, and what is never in them."""

from __future__ import annotations

import base64
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.relay_hop import ConnectAccepted, RequestRefused, ReservationGranted
from tests.support.otlp import OtlpReceiver, Received
from tests.support.peers import MemoryPeer
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer
from tracing.otlp import SHORTEST

CIRCUIT = ["circuit", "hop.connect", "relay.admit", "splice", "stop.connect"]
RESERVATION = ["hop.reserve", "relay.reserve", "reservation"]
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])

Start = Callable[..., NodeProcess]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a node that exports to ``receiver``, with more variables and flags; its log is in ``node.log``."""
    nodes: list[NodeProcess] = []
    files = []

    def run(receiver: OtlpReceiver | None, *flags: str, **variables: str) -> NodeProcess:
        for name, value in {**(receiver.environment if receiver else {}), **variables}.items():
            monkeypatch.setenv(name, value)
        files.append((tmp_path / "node.log").open("ab"))
        nodes.append(NodeProcess(tmp_path / "node", *flags, stderr=files[-1].fileno()))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()
    for file in files:
        file.close()


def pair(node: NodeProcess, **more: str) -> tuple[SocketPeer, SocketPeer]:
    alice, bob = SocketPeer(node, "alice", **more), SocketPeer(node, "bob", **more)  # type: ignore[arg-type]
    assert isinstance(bob.reserve(), ReservationGranted)
    return alice, bob


def use(alice: SocketPeer, bob: SocketPeer) -> None:
    """One circuit from its CONNECT to its end."""
    here, there = alice.circuit(bob)
    here.send(b"x" * 1000)
    alice.pass_on(bob, lambda: len(there.received) == 1000)
    there.send(b"y")
    here.finish()
    there.finish()
    alice.pass_on(bob, lambda: here.finished and there.finished)


def complete(spans: list[Received], names: list[str], root: str, *, within: bool = True) -> None:
    """``within``: its spans lie within the root; between processes the end of one may come a little later."""
    assert sorted(span.name for span in spans) == names
    (top,) = [span for span in spans if span.name == root]
    assert top.parent_id == b""
    for span in spans:
        assert span is top or span.parent_id == top.span_id
        assert top.start <= span.start <= span.end
        assert span.end <= top.end + SHORTEST or not within


@PROTOCOLS
def test_every_circuit_is_one_complete_trace(start: Start, protocol: str) -> None:
    with OtlpReceiver(protocol) as receiver:
        node = start(receiver)
        alice, bob = pair(node)
        circuits = 20
        for _ in range(circuits):
            use(alice, bob)
        receiver.until(lambda spans: len(spans) == 3 + 5 * circuits)
        traces = list(receiver.traces().values())
    assert len(traces) == circuits + 1
    for spans in traces:
        if any(span.name == "reservation" for span in spans):
            complete(spans, RESERVATION, "reservation")
            continue
        complete(spans, CIRCUIT, "circuit")
        (splice,) = [span for span in spans if span.name == "splice"]
        assert [(name, what) for name, _, what in splice.events] == [
            ("first byte", {"to": "target"}),
            ("first byte", {"to": "source"}),
        ]
        assert splice.attributes["descord.bytes_to_target"] == 1000
        assert splice.attributes["descord.close_reason"] == "finished"
        assert splice.resource["service.name"] == "descord-relay"


@pytest.mark.parametrize("how", [{"OTEL_TRACES_SAMPLER": "always_off"}, {}], ids=["by variable", "by setting"])
def test_a_refused_circuit_is_kept_when_nothing_else_is(start: Start, how: dict[str, str]) -> None:
    with OtlpReceiver("http/protobuf") as receiver:
        node = start(receiver, "--trace-sampling", "0", **how)
        alice, bob = pair(node)
        use(alice, bob)
        _, refused = alice.connect(SocketPeer(node, "carol"))
        assert isinstance(refused, RequestRefused)
        use(alice, bob)
        assert node.stop() == 0  # what there is leaves before it ends
        complete(receiver.spans, ["circuit", "hop.connect", "relay.admit"], "circuit")
        assert {span.status for span in receiver.spans} == {2}
        (admit,) = [span for span in receiver.spans if span.name == "relay.admit"]
        assert admit.attributes["descord.refused_by"] == admit.message == "no_reservation"


def test_what_is_open_when_the_node_stops_is_told(start: Start) -> None:
    with OtlpReceiver("grpc") as receiver:
        node = start(receiver)
        alice, bob = pair(node)
        alice.circuit(bob)
        node.process.send_signal(signal.SIGTERM)
        for peer in (alice, bob):
            peer.until_gone()
            peer.sock.close()
        assert node.process.wait(PATIENCE) == 0
        complete([span for span in receiver.spans if span.name in CIRCUIT], CIRCUIT, "circuit")


@PROTOCOLS
def test_a_receiver_that_is_silent_holds_up_nobody(start: Start, protocol: str) -> None:
    with OtlpReceiver(protocol) as receiver:
        receiver.answers.clear()
        node = start(receiver)
        alice, bob = pair(node)
        for _ in range(5):
            use(alice, bob)
        began = time.monotonic()
        alice.sock.close()
        bob.sock.close()
        assert node.stop() == 0
        assert time.monotonic() - began < 2.2


def test_no_receiver_at_all_is_logged_and_not_more(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    node = start(None, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_BSP_SCHEDULE_DELAY="1")
    alice, bob = pair(node)
    use(alice, bob)
    assert node.stop() == 0
    assert (tmp_path / "node.log").read_text().count("level=") <= 3


def test_a_circuit_that_outlives_its_process_is_one_trace(start: Start) -> None:
    with OtlpReceiver("http/protobuf") as receiver:
        node = start(receiver)
        alice, bob = pair(node)
        here, there = alice.circuit(bob)
        here.send(b"x")
        alice.pass_on(bob, lambda: there.received)
        node.process.send_signal(signal.SIGUSR2)
        while (event := node.event())["event"] != "upgraded":
            assert event["event"] == "status"
        there.send(b"y")
        here.finish()
        there.finish()
        alice.pass_on(bob, lambda: here.finished and there.finished)
        receiver.until(lambda spans: any(span.name == "circuit" for span in spans))
        (spans,) = [spans for spans in receiver.traces().values() if spans[0].name in CIRCUIT]
        complete(spans, CIRCUIT, "circuit")
        by_name = {span.name: span for span in spans}
        processes = {span.resource["service.instance.id"] for span in spans}
        assert len(processes) == 2
        assert by_name["splice"].resource["service.instance.id"] == by_name["circuit"].resource["service.instance.id"]
        assert [name for name, _, _ in by_name["splice"].events] == ["first byte", "hand-off", "first byte"]
        for peer in (alice, bob):
            peer.sock.close()


def forms(peer: SocketPeer, address: str) -> dict[str, bytes]:
    """All that a peer and its address may look like."""
    identity = peer.peer_id.bytes
    key = identity[-32:]
    packed = socket.inet_aton(address)
    return {
        "base58": str(peer.peer_id).encode(),
        "bytes": identity,
        "hex": identity.hex().encode(),
        "key": key,
        "key in hex": key.hex().encode(),
        "key in base64": base64.b64encode(key)[:40],
        "shown": repr(key)[2:-1].encode(),
        "address": address.encode(),
        "multiaddr": b"\x04" + packed + b"\x06",
        "address in hex": packed.hex().encode(),
    }


@pytest.mark.parametrize("clear", [False, True], ids=["hidden", "--trace-identities"])
def test_nobody_is_named_in_anything_that_leaves(start: Start, tmp_path: Path, clear: bool) -> None:
    with OtlpReceiver("http/protobuf") as receiver:
        node = start(receiver, "--rate-limits", "off", *(["--trace-identities"] if clear else []))
        known = []
        peers = []
        for number in range(12):
            address = f"127.7.{number}.{201 + number}"
            peer = SocketPeer(node, f"peer {number}", source=address)
            peers.append(peer)
            known.append(forms(peer, address))
        for target in peers[::2]:
            target.reserve()
        for dialler in peers:
            for target in peers:
                if target is dialler:
                    continue
                if target in peers[::2]:
                    use(dialler, target)
                else:
                    _, refused = dialler.connect(target)
                    assert not isinstance(refused, ConnectAccepted)
        for number, peer in enumerate(peers):
            if number % 3 == 0:
                peer.sock.sendall(b"\x00\x20" + bytes(32))  # breaks the protocol: what is logged of that is read too
                peer.until_gone()
            peer.sock.close()
        assert node.stop() == 0
        exported = b"".join(receiver.raw) + (tmp_path / "node.log").read_bytes()
        spans = list(receiver.spans)
    assert len(spans) >= 12 * 6
    found = {form for forms_of in known for form, text in forms_of.items() if text in exported}
    if clear:
        assert found == {"base58", "address"}
        return
    assert not found
    # And yet they can be told apart.
    sources = {span.attributes["descord.source"] for span in spans if span.name == "circuit"}
    addresses = {span.attributes["network.peer.address"] for span in spans if span.name == "circuit"}
    assert len(sources) == len(addresses) == 12


def test_nothing_is_imported_and_no_thread_runs_without_an_endpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "actors.node", "--listen", "/ip4/127.0.0.1/tcp/0"]
    command += ["--discovery", "off"]  # what it stores has threads of its own
    with (tmp_path / "imports").open("wb") as imports:
        process = subprocess.Popen(
            [*command, "--data-dir", str(tmp_path / "node")], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=imports
        )
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        process.stdout.close()
    modules = {line.rpartition("|")[2].strip() for line in (tmp_path / "imports").read_text().splitlines()}
    assert "actors.node" not in modules and "tracing.otlp" in modules
    assert not {name for name in modules if name.split(".")[0] in ("opentelemetry", "grpc", "prometheus_client")}
    assert threads == 1


def test_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "sometimes")
    command = [sys.executable, "-m", "actors.node", "--data-dir", str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 2 and "OTEL_TRACES_SAMPLER = sometimes" in ended.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
@pytest.mark.parametrize(
    ("protocol", "rounds"),
    [("grpc", 1), *(pytest.param(*one, marks=pytest.mark.trial) for one in (("grpc", 17), ("http/protobuf", 1)))],
)
def test_a_circuit_over_several_processes_is_one_trace(start: Start, protocol: str, rounds: int) -> None:
    """RelayServer and two forwarders, each in a process of its own: a thousand circuits, of which about half are
    bridged, and some that begin on one forwarder and move to the other with their dialler."""
    with OtlpReceiver(protocol) as receiver:
        node = start(receiver, "--forwarders", "2", "--rate-limits", "off")
        peers = [SocketPeer(node, f"peer {number}") for number in range(8)]
        for peer in peers:
            assert isinstance(peer.reserve(), ReservationGranted)
        # These hold reservations, which bind them to their forwarders; visitors hold none.
        pairs = [(dialler, target) for dialler in peers for target in peers if target is not dialler] * rounds
        visitors = [SocketPeer(node, f"visitor {number}") for number in range(48)]
        pairs += [(visitor, peers[number % len(peers)]) for number, visitor in enumerate(visitors)]
        assert rounds == 1 or len(pairs) == 1000
        for dialler, target in pairs:
            use(dialler, target)
        _, refused = peers[0].connect(MemoryPeer("nobody"))
        assert isinstance(refused, RequestRefused)

        def all_there(spans: list[Received]) -> bool:
            roots = sum(span.name == "circuit" for span in spans)
            splices = sum(span.name == "splice" for span in spans)
            bridges = sum(span.name == "bridge.connect" for span in spans)
            return roots == len(pairs) + 1 and splices == len(pairs) + bridges

        receiver.until(all_there)
        for peer in [*peers, *visitors]:
            peer.sock.close()
        assert node.stop() == 0
        traces = receiver.traces()
    bridged = 0
    for spans in traces.values():
        names = sorted(span.name for span in spans)
        processes = {span.resource["service.instance.id"] for span in spans}
        if "reservation" in names:
            complete(spans, RESERVATION, "reservation")
        elif "splice" not in names:
            complete(spans, ["circuit", "hop.connect", "relay.admit"], "circuit")
        elif "bridge.connect" in names:
            bridged += 1
            assert len(processes) == 3
            complete(spans, sorted([*CIRCUIT, "bridge.connect", "splice"]), "circuit", within=False)
        else:
            assert len(processes) == 2
            complete(spans, CIRCUIT, "circuit", within=False)
    assert bridged > 5 * rounds and len(traces) == len(peers) + len(pairs) + 1
