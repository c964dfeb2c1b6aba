"""A real node's metrics: what a scrape finds, and that dashboard and alerts ask for nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from protocol.relay_hop import RequestRefused, ReservationGranted
from tests.support.peers import MemoryPeer
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer

DEPLOY = REPOSITORY / "deploy"
PREFIX = "descord_relay_"

Start = Callable[..., "MeasuredNode"]
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class MeasuredNode(NodeProcess):
    """A node with a metrics port."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.metrics_port = free_port()
        super().__init__(data_dir, "--metrics-port", str(self.metrics_port), *flags)

    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def samples(self) -> Samples:
        found: Samples = {}
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float:
        return self.samples().get(PREFIX + name, {}).get(tuple(sorted(labels.items())), 0.0)

    def until(self, name: str, expected: float | None, **labels: str) -> None:
        """Until a figure is what it must be (None: more than 0): they are told once in a second or two."""
        end = time.monotonic() + PATIENCE
        while (value := self.value(name, **labels)) != expected and (expected is not None or not value):
            assert time.monotonic() < end, f"{name} is {value}, not {expected}"
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[MeasuredNode] = []

    def run(*flags: str) -> MeasuredNode:
        nodes.append(MeasuredNode(tmp_path / f"node {len(nodes)}", *flags))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def live(node: MeasuredNode) -> None:
    """Something of everything: a circuit that stands, one that is over, refusals, failures, junk."""
    alice, bob, carol = (SocketPeer(node, name) for name in ("alice", "bob", "carol"))
    for peer in (bob, carol):
        assert isinstance(peer.reserve(), ReservationGranted)
    here, there = alice.circuit(bob)
    here.send(b"x" * 100_000)
    alice.pass_on(bob, lambda: len(there.received) == 100_000)
    here.finish()
    there.finish()
    alice.pass_on(bob, lambda: here.finished and there.finished)
    alice.circuit(bob)
    _, refused = alice.connect(MemoryPeer("nobody"))
    assert isinstance(refused, RequestRefused)
    carol.accepts = False
    _, failed = alice.connect(carol)
    assert isinstance(failed, RequestRefused)
    with socket.create_connection(("127.0.0.1", node.port)) as junk:
        junk.sendall(b"GET / HTTP/1.1\r\n" * 10)
        while junk.recv(1024):
            pass
    node.peers = (alice, bob, carol)  # type: ignore[attr-defined]  # they stay connected


def test_a_scrape_says_what_happened(start: Start) -> None:
    node = start("--circuit-data", "1000000")
    live(node)
    node.until("circuits_total", 2, forwarder="0")
    node.until("relayed_bytes_total", 100_000, forwarder="0", **{"class": "public"})
    for actor, what in (("dht", "contacts"), ("reachability", "servers"), ("reputation", "relays")):
        assert node.value("network_size", actor=actor, what=what) == 0
    node.until("relayed_last_hour_bytes", 100_000)
    for name, expected, labels in (
        ("open_circuits", 1, {"forwarder": "0"}),
        ("open_connections", 3, {"forwarder": "0"}),
        ("reservations", 2, {}),
        ("reservations_granted_total", 2, {}),
        ("circuit_failures_total", 1, {"reason": "target_refused"}),
        ("circuit_ends_total", 1, {"reason": "finished"}),
        ("refusals_total", 1, {"reason": "no_reservation"}),
        ("refused_answers_total", 1, {"status": "no_reservation"}),
        ("refused_answers_total", 1, {"status": "connection_failed"}),
        ("circuit_setup_seconds_count", 2, {"stage": "total"}),
        ("limit", 2048, {"setting": "max_circuits"}),
        ("relay_server_answers", 1, {}),
        ("mailbox_messages", 0, {"actor": "forwarder/0"}),
        ("info", 1, {"version": "0.1.0"}),
    ):
        node.until(name, expected, **labels)
    assert sum(node.samples()[PREFIX + "handshake_failures_total"].values()) == 1
    assert node.value("forwarder_cpu_seconds_total", forwarder="0") > 0
    assert 10e6 < node.value("process_resident_bytes", process="node") < 100e6
    node.until("event_loop_lag_seconds_count", None, process="node")
    assert {"relay_server", "forwarder/0", "metrics"} < set(node.ready["actors"])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
def test_a_node_of_several_processes_has_one_page(start: Start) -> None:
    node = start("--forwarders", "2", "--rate-limits", "off")
    peers = [SocketPeer(node, f"peer {number}") for number in range(6)]
    for peer in peers:
        assert isinstance(peer.reserve(), ReservationGranted)
    for dialler in peers:
        for target in peers:
            if dialler is not target:
                dialler.circuit(target)

    def opened() -> float:
        return sum(node.samples().get(PREFIX + "circuits_total", {}).values())

    end = time.monotonic() + PATIENCE
    while opened() != 30:
        assert time.monotonic() < end, f"{opened()} circuits"
        time.sleep(0.05)
    samples = node.samples()
    assert set(samples[PREFIX + "process_cpu_seconds_total"]) == {
        (("process", name),) for name in ("node", "relay_server", "forwarder/0", "forwarder/1")
    }
    assert set(samples[PREFIX + "forwarder_cpu_seconds_total"]) == {(("forwarder", "0"),), (("forwarder", "1"),)}
    os.kill(node.ready["actors"]["forwarder/1"], signal.SIGKILL)
    node.until("actor_restarts_total", 1, actor="forwarder/1")
    assert opened() == 30  # no counter goes back
    for peer in peers:
        peer.sock.close()


def test_the_metrics_of_an_upgraded_node(start: Start) -> None:
    node = start()
    live(node)
    node.until("circuits_total", 2, forwarder="0")
    node.process.send_signal(signal.SIGUSR2)
    while (event := node.event())["event"] != "upgraded":
        assert event["event"] == "status"
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if node.value("hand_offs_total", forwarder="0") == 1 and node.value("reservations") == 2:
                break
        except (OSError, urllib.error.URLError):
            pass  # the former process has left, and this one has not come yet
        assert time.monotonic() < end
        time.sleep(0.05)
    assert node.value("relayed_bytes_total", forwarder="0", **{"class": "public"}) == 0  # the former process' affair


def test_nobody_is_named_and_no_peer_makes_a_label(start: Start) -> None:
    node = start("--rate-limits", "off")
    live(node)
    node.until("open_connections", 3, forwarder="0")
    before = sum(map(len, node.samples().values()))
    peers = [SocketPeer(node, f"peer {number}", source=f"127.7.7.{number + 1}") for number in range(20)]
    for peer in peers:
        peer.reserve()
    node.until("reservations", 22)
    text = node.text()
    assert not any(str(peer.peer_id) in text for peer in peers) and "127.7.7." not in text
    assert sum(map(len, node.samples().values())) == before


def test_without_a_port_there_is_nothing(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node")
    listening = Path(f"/proc/{node.process.pid}/net/tcp").read_text()
    assert f"0100007F:{9090:04X}" not in listening
    assert "metrics" not in node.ready["actors"]
    assert node.stop() == 0


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "actors.node", "--metrics-port", port, "--listen", "/ip4/127.0.0.1/tcp/0"]
        ended = subprocess.run(
            [*command, "--data-dir", str(tmp_path / "node")],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 69 and f"metrics_port = {port}" in ended.stderr


def expressions() -> list[str]:
    """All that dashboard and alerts ask for."""
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + [
        rule["expr"] for group in rules["groups"] for rule in group["rules"]
    ]


def test_dashboard_and_alerts_ask_for_what_there_is(start: Start) -> None:
    node = start("--circuit-data", "1000000")
    live(node)
    node.until("circuits_total", 2, forwarder="0")
    samples = node.samples()
    text = node.text()
    asked = {name for expression in expressions() for name in re.findall(rf"\b{PREFIX}\w+", expression)}
    announced = set(re.findall(r"^# TYPE (\w+) ", text, re.M))
    families = announced | {f"{name}_bucket" for name in announced}
    assert asked <= families
    shown = {name.removesuffix("_bucket") for name in asked}
    assert {name for name in announced if not name.endswith("_created")} == shown, "all that is measured is shown"
    for expression in expressions():
        for name, matchers in re.findall(rf"\b({PREFIX}\w+)\{{([^}}]*)\}}", expression):
            labels = {match.group(1) for match in re.finditer(r"(\w+)\s*=~?", matchers)} - {"instance", "job"}
            known = {label for sample in samples.get(name, {}) for label, _ in sample}
            assert labels <= known, (name, labels, known)


def test_dashboard_and_rules_are_well_formed() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    rules = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="NOT CHECKED BY PROMTOOL: install Debian's package prometheus"
)
def test_promtool_accepts_rules_and_metrics(start: Start) -> None:
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        checked = subprocess.run(["promtool", *command], cwd=DEPLOY, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    node = start()
    live(node)
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=node.text(), capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_a_dedicated_relay_serves_metrics_at_9090_or_says_why_not_and_relays(tmp_path: Path) -> None:
    flags = ("--mode", "dedicated", "--mdns", "off", "--private-network", "on")
    try:
        blocker = socket.create_server(("127.0.0.1", 9090))
    except OSError as error:
        pytest.fail(f"this host's port 9090 is needed, for it is the default that is tested: {error}")
    with blocker:
        node = NodeProcess(tmp_path / "relay", *flags)
    try:
        end = time.monotonic() + PATIENCE
        while True:  # it is free now, and tried for again
            try:
                with urllib.request.urlopen("http://127.0.0.1:9090/metrics", timeout=10) as answer:
                    assert b"descord_relay_" in answer.read()
                break
            except urllib.error.URLError:
                assert time.monotonic() < end
                time.sleep(0.1)
    finally:
        node.stop()
