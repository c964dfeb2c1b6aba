"""What a real node did for others, and what it saw of them: counted while it runs, shown, and kept through a kill."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol import receipts
from protocol.identity import PeerId
from protocol.relay_hop import ReservationGranted
from protocol.wire import FrameReader, frame
from tests.support.peers import MemoryStream
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer
from tests.support.ray_node import RayNode

SIZE = 1_000_000

Start = Callable[..., NodeProcess]


#: In one process, and in several.
KINDS = pytest.mark.parametrize(
    "kind", [pytest.param(NodeProcess, id="local"), pytest.param(RayNode, id="ray", marks=pytest.mark.trial)]
)


@pytest.fixture
def start() -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(folder: Path, *flags: str, kind: type[NodeProcess] = NodeProcess) -> NodeProcess:
        nodes.append(kind(folder, "--status-interval", "0", "--mdns", "off", *flags))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def command(node: NodeProcess, *words: str) -> str:
    line = [sys.executable, "-m", "actors.cli", *words, "--data-dir", str(node.data_dir)]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contribution(node: NodeProcess, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """`descord-relay contribution --json`: forwarders tell of their bytes about once a second."""
    end = time.monotonic() + PATIENCE
    while not until(told := json.loads(command(node, "contribution", "--json"))):
        assert time.monotonic() < end, told
    return dict(told)


def rows(node: NodeProcess) -> dict[bytes, bytes]:
    with closing(sqlite3.connect(f"file:{node.data_dir / 'reputation.sqlite'}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT key, value FROM records"))


def until_written(node: NodeProcess, prefix: bytes, row: bytes | None = None) -> dict[bytes, bytes]:
    """The rows of that kind, once there is one, or once it is ``row``."""
    end = time.monotonic() + PATIENCE
    while True:
        found = {key: value for key, value in rows(node).items() if key.startswith(prefix)}
        if found and row in (None, *found.values()):
            return found
        assert time.monotonic() < end, found


def relay_bytes(node: NodeProcess, name: str) -> tuple[SocketPeer, SocketPeer, MemoryStream, MemoryStream]:
    alice, bob = SocketPeer(node, f"alice {name}"), SocketPeer(node, f"bob {name}")
    assert isinstance(bob.reserve(), ReservationGranted)
    here, there = alice.circuit(bob)
    here.send(bytes(SIZE))
    alice.pass_on(bob, lambda: len(there.received) == SIZE)
    return alice, bob, here, there


def ask(peer: SocketPeer, message: receipts.ReceiptMessage) -> tuple[MemoryStream, receipts.ReceiptMessage]:
    """A stream on which ``message`` was said, and the node's answer."""
    view = peer.open(receipts.PROTOCOL, frame(receipts.encode(message)))
    reader = FrameReader(receipts.MAX_MESSAGE)
    found: list[bytes] = []

    def read() -> bool:
        reader.receive_data(view.take())
        if (payload := reader.next_frame()) is not None:
            found.append(payload)
        return bool(found)

    peer.until(read)
    return view, receipts.decode(found[0])


@KINDS
def test_what_a_circuit_carried_is_shown(start: Start, tmp_path: Path, kind: type[NodeProcess]) -> None:
    node = start(tmp_path / "node", kind=kind)
    none = contribution(node, lambda told: True)
    assert (none["bytes"], none["circuits"], none["score"], none["stars"]) == (0, 0, None, "")
    relay_bytes(node, "1")
    told = contribution(node, lambda told: told["bytes"] >= SIZE and told["circuits"] == 1)
    assert told["bytes"] < 1.1 * SIZE
    assert told["months"] == [
        {"month": told["month"], "bytes": told["bytes"], "circuits": 1, "confirmed": 0, "used": 0}
    ]
    assert command(node, "contribution").splitlines() == [
        "Relayed this month  less than 0.01 GB",
        "Circuits helped     1",
        "Credits             less than 0.01 GB earned, 0.00 GB spent",
        "Reputation          not rated yet",
    ]


@KINDS
def test_a_peer_signs_for_what_was_carried_and_what_it_signed_is_kept(
    start: Start, tmp_path: Path, kind: type[NodeProcess]
) -> None:
    node = start(tmp_path / "node", kind=kind)
    alice, bob, here, there = relay_bytes(node, "1")
    here.finish()
    there.finish()
    alice.pass_on(bob, lambda: here.finished and there.finished)
    # That the circuit has ended is told to RelayServer and to us at once, by different ways.
    end = time.monotonic() + PATIENCE
    answer: receipts.ReceiptMessage = receipts.NothingToSign()
    while isinstance(answer, receipts.NothingToSign):
        assert time.monotonic() < end
        view, answer = ask(alice, receipts.ReceiptAsked())
    assert isinstance(answer, receipts.ReceiptOffered)
    receipt = receipts.open_receipt(answer.envelope, receipts.OFFER)
    assert PeerId(receipt.relay) == PeerId.parse(node.ready["peer_id"])
    assert (receipt.worked, receipt.failed, receipt.sent, receipt.received) == (1, 0, receipts.step(SIZE), 0)
    signed = receipts.sign(receipt, alice.identity, receipts.SHOWN)
    view.send(frame(receipts.encode(receipts.ReceiptSigned(signed))))
    alice.flush()
    told = contribution(node, lambda told: told["receipts"] == 1)
    assert told["credits"]["confirmed"] == SIZE // 2**19 * 2**19
    assert "of it signed by 1 peers" in command(node, "contribution")
    ((key, row),) = until_written(node, b"r").items()
    assert key == b"r" + receipt.client and signed in row
    # Shown to the node itself, it is worth nothing: alice does not relay.
    mine = receipts.sign(
        msgspec.structs.replace(receipt, relay=bob.identity.peer_id.bytes), alice.identity, receipts.SHOWN
    )
    _, standing = ask(bob, receipts.ReceiptsShown((mine,)))
    assert standing == receipts.StandingTold(0.0, 0)


def test_it_is_kept_through_an_upgrade_and_a_kill(start: Start, tmp_path: Path) -> None:
    node = start(tmp_path / "node")
    relay_bytes(node, "1")
    before = contribution(node, lambda told: told["bytes"] >= SIZE)
    node.process.send_signal(signal.SIGUSR2)
    upgraded = node.event()
    assert upgraded["event"] == "upgraded"
    relay_bytes(node, "2")
    after = contribution(node, lambda told: told["bytes"] >= 2 * SIZE and told["circuits"] == 2)
    assert after["bytes"] < before["bytes"] + 1.1 * SIZE, "what moved is not counted twice"
    until_written(node, b"m", msgspec.msgpack.encode([after["bytes"], after["circuits"], 0, 0]))
    # What is on disk is there after any end; the new process is one that we did not start.
    os.kill(upgraded["pid"], signal.SIGKILL)
    node.process.wait(PATIENCE)
    node = start(tmp_path / "node")
    assert contribution(node, lambda told: True) == after


def test_what_is_seen_of_a_relay_is_remembered_and_without_circuits_it_is_unrated(start: Start, tmp_path: Path) -> None:
    relay = start(tmp_path / "relay")
    (address,) = relay.ready["addresses"]
    other = start(tmp_path / "other", "--public-relays", address, "--private-network", "on")
    best = json.loads(command(other, "relays", "--json", "--timeout", "5"))
    (one,) = best["relays"]
    assert (one["peer_id"], one["answer"], one["score"]) == (relay.ready["peer_id"], "reserves", None)
    assert set(until_written(other, b"p")) == {b"p" + PeerId.parse(relay.ready["peer_id"]).bytes}


def test_without_discovery_nothing_is_counted_and_that_is_said(start: Start, tmp_path: Path) -> None:
    node = start(tmp_path / "node", "--discovery", "off")
    line = [sys.executable, "-m", "actors.cli", "contribution", "--data-dir", str(node.data_dir)]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1 and "discovery is off" in done.stderr
