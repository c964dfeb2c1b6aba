"""The node as a person or a program starts it: what it prints, how it ends, what it keeps."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.node import Node
from actors.ports.addresses import announced
from actors.settings import load_settings
from protocol.identity import Identity
from protocol.relay_hop import ReservationGranted
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer, limited_files

Start = Callable[..., NodeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(*flags: str, data_dir: Path | None = None, **arguments: Any) -> NodeProcess:
        nodes.append(NodeProcess(data_dir or tmp_path / "node", *flags, **arguments))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def node_output(*flags: str, data_dir: Path, files: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actors.node", "--data-dir", str(data_dir), *flags]
    if files:
        command = limited_files(files, command)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_ready_is_printed_when_a_client_can_connect(start: Start) -> None:
    node = start()
    assert node.ready["event"] == "ready"
    assert node.ready["pid"] == node.process.pid
    assert set(node.ready["actors"]) == {
        "relay_server",
        "forwarder/0",
        "node",
        "dht",
        "directory",
        "issuer",
        "mdns",
        "extension",
        "port_mapper",
        "privacy",
        "reachability",
        "reputation",
        "whereabouts",
    }
    assert all(address.endswith(f"/p2p/{node.ready['peer_id']}") for address in node.ready["addresses"])
    alice = SocketPeer(node, "alice")
    assert str(alice.connection.peer) == node.ready["peer_id"]


def test_bytes_pass_and_the_status_line_counts_them(start: Start) -> None:
    node = start("--status-interval", "0.2")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    assert isinstance(bob.reserve(), ReservationGranted)
    here, there = alice.circuit(bob)
    here.send(b"x" * 1_000_000)
    alice.pass_on(bob, lambda: len(there.received) == 1_000_000)
    while (status := node.event())["bytes"] < 1_000_000:
        assert status["event"] == "status"
    assert (status["circuits"], status["reservations"], status["connections"]) == (1, 1, 2)


def test_the_status_says_which_limit_was_hit(start: Start) -> None:
    node = start("--status-interval", "0.2", "--max-reservations-per-ip", "1", "--max-connections-per-ip", "2")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    assert isinstance(alice.reserve(), ReservationGranted)
    assert not isinstance(bob.reserve(), ReservationGranted)
    with socket.create_connection(("127.0.0.1", node.port)) as third, pytest.raises(ConnectionResetError):
        third.recv(1)
    while (status := node.event())["refusals"] != {"max_connections_per_ip": 1, "max_reservations_per_ip": 1}:
        assert sum(status["refusals"].values()) < 2


def documented(event: str) -> set[str]:
    """The fields of ``event`` in README's table."""
    text = (REPOSITORY / "README.md").read_text()
    (row,) = re.findall(rf"^\| `{event}` \|[^|]*\|(.*)\|$", text, re.M)
    return {"event", *re.findall(r"`(\w+)`", row)}


def test_what_a_program_is_told_is_documented(start: Start) -> None:
    node = start("--status-interval", "0.1")
    assert set(node.ready) == documented("ready") - {"warning", "processes", "run_folder"}
    assert set(node.event()) == documented("status") - {"restarted"}


def test_sigterm_says_good_bye_and_ends_in_time(start: Start) -> None:
    node = start()
    alice = SocketPeer(node, "alice")
    began = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    alice.until_gone()
    assert alice.connection.session.remote_going_away
    alice.sock.close()
    assert node.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < 2.0


def test_a_peer_that_does_not_hang_up_is_not_waited_for(start: Start) -> None:
    node = start()
    alice = SocketPeer(node, "alice")
    began = time.monotonic()
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < 2.0
    alice.sock.close()


def test_a_second_signal_ends_at_once(start: Start) -> None:
    node = start("--shutdown-grace", "1.9")
    alice = SocketPeer(node, "alice")
    node.process.send_signal(signal.SIGTERM)
    alice.until_gone()  # it is stopping, and waits for us to hang up
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(PATIENCE) == 130
    alice.sock.close()


def test_a_restarted_node_is_the_same_peer_on_the_same_port(start: Start, tmp_path: Path) -> None:
    first = start(data_dir=tmp_path / "kept")
    SocketPeer(first, "alice").reserve()
    first.process.kill()
    first.process.wait()
    again = start("--listen", f"/ip4/127.0.0.1/tcp/{first.port}", data_dir=tmp_path / "kept")
    assert again.ready["peer_id"] == first.ready["peer_id"]
    assert isinstance(SocketPeer(again, "alice").reserve(), ReservationGranted)


def test_announced_addresses_are_what_peers_are_told(start: Start) -> None:
    node = start("--announce", "/dns4/relay.example/tcp/4001", "--announce", "/ip4/203.0.113.9/tcp/4001")
    peer_id = node.ready["peer_id"]
    assert node.ready["addresses"] == [
        f"/dns4/relay.example/tcp/4001/p2p/{peer_id}",
        f"/ip4/203.0.113.9/tcp/4001/p2p/{peer_id}",
    ]


async def test_addresses_that_change_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interfaces are not ours to change in a test: what is found on them is."""
    settings = load_settings(["--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", str(tmp_path)], {"HOME": str(tmp_path)})
    told: list[dict[str, Any]] = []
    node = Node(settings, Identity.from_seed(bytes(32)), told.append)
    await node.start()
    node.look_at_addresses()
    assert told == []
    moved = announced(["/ip4/1.2.3.4/tcp/4001"])
    monkeypatch.setattr("actors.node_base.reachable", lambda bound: moved)
    node.look_at_addresses()
    peer_id = node.identity.peer_id
    assert told == [{"event": "addresses", "addresses": [f"/ip4/1.2.3.4/tcp/4001/p2p/{peer_id}"]}]
    node.stopping.set()
    assert await node.run() == 0


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        ended = node_output("--listen", address, data_dir=tmp_path)
    assert ended.returncode == 69
    assert address in ended.stderr and "--listen" in ended.stderr


def test_a_wrong_setting_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    ended = node_output("--max-circuits", "many", data_dir=tmp_path)
    assert ended.returncode == 2
    assert "max_circuits" in ended.stderr and "'many'" in ended.stderr and "from 1 to 1000000" in ended.stderr


def test_too_few_open_files_to_relay_are_told_at_once(tmp_path: Path) -> None:
    ended = node_output(data_dir=tmp_path, files=64)
    assert ended.returncode == 2
    assert all(part in ended.stderr for part in ("64 files", "keeps 64", "max_open_files_reserve", "LimitNOFILE"))


def test_fewer_open_files_than_connections_are_told_and_refusals_for_it_counted(start: Start, tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    with open(errors, "w") as file:
        node = start("--status-interval", "0.2", stderr=file.fileno(), files=66)
    assert all(part in errors.read_text() for part in ("66 files", "keeps 64", "2 connections and not 4096"))
    first, second = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    with socket.create_connection(("127.0.0.1", node.port)) as third, pytest.raises(ConnectionResetError):
        third.recv(1)
    while "open_files" not in (status := node.event())["refusals"]:
        pass
    assert status["refusals"] == {"open_files": 1} and not first.gone and not second.gone


def test_limits_that_cannot_be_reached_are_told(start: Start, tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    with open(errors, "w") as file:
        start("--max-connections", "100", stderr=file.fileno())
    assert "max_reservations = 1024 cannot be reached with max_connections = 100" in errors.read_text()


def test_settings_are_shown_with_value_unit_and_origin(tmp_path: Path) -> None:
    ended = node_output("--print-settings", "--circuit-data", "1000", data_dir=tmp_path)
    assert ended.returncode == 0
    line = next(line for line in ended.stdout.splitlines() if line.startswith("circuit_data"))
    assert line.split() == ["circuit_data", "1000", "bytes", "each", "way", "(flag)"]


def test_a_person_is_shown_addresses_to_paste(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "actors.node",
        "--data-dir",
        str(tmp_path),
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is ready" in process.stdout.readline()
        assert process.stdout.readline().strip().startswith("/ip4/127.0.0.1/tcp/")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
