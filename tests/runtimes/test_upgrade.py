"""SIGUSR2: a new process takes over from the node, and peers notice nothing."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.ports.storage import load_or_create_identity
from protocol import ping
from protocol.relay_hop import ConnectAccepted, ReservationGranted
from tests.support import tree
from tests.support.process import PATIENCE, NodeProcess, SocketPeer, readable

Start = Callable[..., NodeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(*flags: str, data_dir: Path | None = None, **options: Any) -> NodeProcess:
        nodes.append(NodeProcess(data_dir or tmp_path / "node", *flags, **options))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def upgrade(node: NodeProcess) -> dict[str, Any]:
    node.process.send_signal(signal.SIGUSR2)
    while (event := node.event())["event"] == "status":
        pass
    return event


def upgraded(node: NodeProcess) -> dict[str, Any]:
    event = upgrade(node)
    assert event["event"] == "upgraded", event
    return event


def gone(pid: int, patience: float = PATIENCE) -> None:
    """Wait until process ``pid`` is no more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert readable(patience, _File(descriptor)), f"process {pid} goes on"
    finally:
        os.close(descriptor)


def children(parent: int) -> list[int]:
    """The processes whose parent is ``parent``."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(folder.name))
    return found


class _File:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


def test_the_number_stays_and_the_node_goes_on(start: Start) -> None:
    node = start("--status-interval", "0")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    assert isinstance(bob.reserve(), ReservationGranted)
    here, there = alice.circuit(bob)
    pids = {node.process.pid}
    for number in range(4):
        event = upgraded(node)
        assert event["peer_id"] == node.ready["peer_id"] and event["addresses"] == node.ready["addresses"]
        assert (event["connections"], event["circuits"]) == (2, 1)
        assert event["pid"] not in pids
        pids.add(event["pid"])
        assert node.process.poll() is None
        here.send(b"%d" % number)
        alice.pass_on(bob, lambda: there.received)
        assert there.take() == b"%d" % number
        there.send(b"back")
        alice.pass_on(bob, lambda: here.received)
        assert here.take() == b"back"
    carol = SocketPeer(node, "carol")
    assert isinstance(carol.connect(bob)[1], ConnectAccepted)
    # The last but one has said good-bye and may still be on its way out.
    tree.until(lambda: children(node.process.pid) == [event["pid"]], PATIENCE, "an old process stayed")
    assert node.stop() == 0
    for peer in (alice, bob, carol):
        peer.until_gone()
        assert peer.connection.session.remote_going_away
    for pid in pids:
        gone(pid)


def test_no_byte_is_lost_while_circuits_are_busy(start: Start) -> None:
    node = start("--rate-limits", "off", "--status-interval", "0")
    pairs = [(SocketPeer(node, f"dialler {n}"), SocketPeer(node, f"target {n}")) for n in range(12)]
    ends = []
    for dialler, target in pairs:
        assert isinstance(target.reserve(), ReservationGranted)
        ends.append(dialler.circuit(target))
    sent = [[hashlib.sha256(), hashlib.sha256()] for _ in pairs]
    got = [[hashlib.sha256(), hashlib.sha256()] for _ in pairs]
    bytes_sent, bytes_got = [0] * len(pairs), [0] * len(pairs)
    chance = random.Random(7)
    rounds = 0

    def carry(patience: float) -> None:
        by_descriptor = {peer.sock.fileno(): peer for pair in pairs for peer in pair}
        for peer in by_descriptor.values():
            peer.flush()
        for descriptor in readable(patience, *(peer.sock for peer in by_descriptor.values())):
            by_descriptor[descriptor].poll(0)
            assert not by_descriptor[descriptor].gone, by_descriptor[descriptor].error
        for number, views in enumerate(ends):
            for side, view in enumerate(views):
                data = view.take()
                got[number][side].update(data)
                bytes_got[number] += len(data)

    pauses = []
    for _ in range(6):
        node.process.send_signal(signal.SIGUSR2)
        while not readable(0, node.process.stdout):  # type: ignore[arg-type]
            rounds += 1
            for number, views in enumerate(ends):
                for side, view in enumerate(views):
                    if not view.stream.held:
                        data = chance.randbytes(chance.choice((1, 700, 1200, 30_000, 100_000)))
                        view.send(data)
                        sent[number][1 - side].update(data)
                        bytes_sent[number] += len(data)
            carry(0.001)
        event = node.event()
        assert event["event"] == "upgraded", event
        assert (event["connections"], event["circuits"]) == (24, 12)
        pauses.append(event["pause_ms"])
    end = time.monotonic() + PATIENCE
    while bytes_got != bytes_sent:
        assert time.monotonic() < end
        carry(0.1)
    for number in range(len(pairs)):
        assert [one.digest() for one in sent[number]] == [one.digest() for one in got[number]]
    print(f"{sum(bytes_sent)} bytes over {rounds} rounds; pauses in ms (p50, p99, worst): {pauses}")


def test_streams_that_end_at_the_node_and_handshakes_go_on(start: Start) -> None:
    node = start("--status-interval", "0")
    alice = SocketPeer(node, "alice")
    view = alice.open(ping.PROTOCOL, b"x" * 40)
    alice.until(lambda: len(view.received) == 32)
    half = Slow(node, "slow")
    half.say(30)
    upgraded(node)
    half.say(60)
    upgraded(node)
    half.rest()
    view.send(b"y" * 24)
    alice.until(lambda: len(view.received) == 64)
    assert view.take()[32:] == b"x" * 8 + b"y" * 24
    assert isinstance(half.reserve(), ReservationGranted)


class Slow(SocketPeer):
    """Its handshake stops where it is told to."""

    def __init__(self, node: NodeProcess, name: str) -> None:
        self.waiting = bytearray()
        self.allowed = 0
        super().__init__(node, name)

    def flush(self) -> None:
        self.waiting += self.output()
        if self.allowed is not None:
            data, self.waiting = self.waiting[: self.allowed], self.waiting[self.allowed :]
            self.allowed -= len(data)
            self.sock.sendall(data)

    def until(self, true: Callable[[], object], patience: float = PATIENCE) -> None:
        if self.allowed == 0 and not self.ready:
            return  # the constructor waits for the handshake
        super().until(true, patience)

    def say(self, size: int) -> None:
        self.allowed += size
        while self.allowed and (self.waiting or self.poll(0.2)):
            self.flush()

    def rest(self) -> None:
        self.allowed = 1 << 30
        self.until(lambda: self.ready)


def serving(node: NodeProcess, alice: SocketPeer, bob: SocketPeer) -> None:
    here, there = alice.circuit(bob)
    here.send(b"as before")
    alice.pass_on(bob, lambda: there.received == b"as before")


def test_a_process_that_cannot_start_is_refused(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("max_circuits = 100\n")
    node = start("--config", str(config), "--status-interval", "0")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    bob.reserve()
    config.write_text("max_circuits = 'many'\n")
    event = upgrade(node)
    assert event["event"] == "upgrade_failed" and "ended with 2" in event["reason"]
    serving(node, alice, bob)
    tree.until(lambda: not children(node.process.pid), PATIENCE, "a process stayed")
    config.write_text("max_circuits = 200\n")
    upgraded(node)
    serving(node, alice, bob)


def test_a_process_with_another_identity_is_refused(start: Start, tmp_path: Path) -> None:
    node = start("--status-interval", "0")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    bob.reserve()
    key = tmp_path / "node" / "identity.key"
    kept = key.rename(tmp_path / "kept")
    load_or_create_identity(tmp_path / "other")
    (tmp_path / "other" / "identity.key").rename(key)
    event = upgrade(node)
    assert event["event"] == "upgrade_failed" and "another identity" in event["reason"]
    serving(node, alice, bob)
    kept.rename(key)
    upgraded(node)
    serving(node, alice, bob)


def test_an_upgrade_that_hangs_is_given_up(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    node = start("--config", str(config), "--status-interval", "0", "--handover-timeout", "1")
    alice, bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
    bob.reserve()
    config.unlink()
    os.mkfifo(config)  # its reader waits for a writer
    event = upgrade(node)
    assert event["event"] == "upgrade_failed" and "within 1 s" in event["reason"]
    serving(node, alice, bob)
    tree.until(lambda: not children(node.process.pid), PATIENCE, "a process stayed")


def test_settings_that_changed_hold_from_then_on(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("max_reservations = 100\n")
    node = start("--config", str(config), "--status-interval", "0")
    bob = SocketPeer(node, "bob")
    bob.reserve()
    config.write_text("max_reservations = 1\n")
    upgraded(node)
    refused = SocketPeer(node, "carol").reserve()
    assert "max_reservations" in refused.reason  # type: ignore[attr-defined]


def test_when_the_keeper_is_killed_the_node_ends(start: Start) -> None:
    node = start("--status-interval", "0")
    alice = SocketPeer(node, "alice")
    pid = upgraded(node)["pid"]
    node.process.kill()
    alice.until_gone()
    alice.sock.close()
    gone(pid)


def test_the_exit_code_is_the_nodes(start: Start) -> None:
    node = start("--status-interval", "0")
    pid = upgraded(node)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert node.process.wait(PATIENCE) == 128 + signal.SIGKILL


def test_one_signal_to_the_whole_group_is_one_signal(start: Start) -> None:
    """systemd and a container's runtime tell every process; the keeper passes its own on."""
    node = start("--status-interval", "0")
    alice = SocketPeer(node, "alice")
    pid = upgraded(node)["pid"]
    for process in (pid, node.process.pid):
        os.kill(process, signal.SIGTERM)
    alice.until_gone()
    assert alice.connection.session.remote_going_away
    alice.sock.close()
    assert node.process.wait(PATIENCE) == 0


def test_stopping_amid_an_upgrade_stops_both(start: Start) -> None:
    node = start("--status-interval", "0")
    node.process.send_signal(signal.SIGUSR2)
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(PATIENCE) == 0
    tree.until(lambda: not children(node.process.pid), PATIENCE, "a process stayed")
