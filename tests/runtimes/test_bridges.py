"""Two forwarders with real sockets between them: in one process, but strangers to each other.

"moves": the dialler's connection itself goes to the target's forwarder, where that is possible."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocol.relay_hop import ReservationGranted
from tests.support.peers import MemoryStream
from tests.support.process import PATIENCE, REPOSITORY, SocketPeer, readable

SIZE = 8 * 1024 * 1024


@dataclass
class Forwarder:
    """What a SocketPeer needs to know of a node."""

    port: int


@pytest.fixture(params=["unix", "tcp", "moves"])
def forwarders(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Forwarder, Forwarder]]:
    command = [sys.executable, "-m", "tests.support.two_forwarders", str(tmp_path), request.param]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert readable(PATIENCE, process.stdout), "the forwarders said nothing"
        ready = json.loads(process.stdout.readline())
        first, second = (Forwarder(int(address.split("/")[4])) for address in ready["addresses"])
        yield first, second
        process.stdin.close()
        assert readable(PATIENCE, process.stdout)
        moved = json.loads(process.stdout.readline())["moved"]
        assert (moved[0] > 0) == (request.param == "moves") and not moved[1]
        assert process.wait(PATIENCE) == 0
    assert not list(tmp_path.iterdir()), "a socket file was left behind"


def pair(forwarders: tuple[Forwarder, Forwarder]) -> tuple[SocketPeer, SocketPeer]:
    """A dialler on the first, a target with a reservation on the second."""
    alice = SocketPeer(forwarders[0], "bridge alice")  # type: ignore[arg-type]
    bob = SocketPeer(forwarders[1], "bridge bob")  # type: ignore[arg-type]
    assert isinstance(bob.reserve(), ReservationGranted)
    return alice, bob


def carry(alice: SocketPeer, bob: SocketPeer, sender: MemoryStream, receiver: MemoryStream, size: int = SIZE) -> None:
    data = hashlib.shake_128(b"bridge").digest(size)
    sender.send(data)
    alice.pass_on(bob, lambda: len(receiver.received) >= size)
    assert receiver.take() == data


def test_bytes_both_ways_then_half_close(forwarders: tuple[Forwarder, Forwarder]) -> None:
    alice, bob = pair(forwarders)
    here, there = alice.circuit(bob)
    carry(alice, bob, here, there)
    carry(alice, bob, there, here)
    here.finish()
    alice.pass_on(bob, lambda: there.finished)
    carry(alice, bob, there, here, 100_000)
    there.finish()
    alice.pass_on(bob, lambda: here.finished)


def test_many_circuits_and_one_that_is_not_read(forwarders: tuple[Forwarder, Forwarder]) -> None:
    alice, bob = pair(forwarders)
    circuits = [alice.circuit(bob) for _ in range(20)]
    stalled_here, stalled_there = circuits[0]
    stalled_there.reading = False
    stalled_here.send(bytes(4 * 1024 * 1024))
    for here, there in circuits[1:]:
        carry(alice, bob, here, there, 200_000)
        carry(alice, bob, there, here, 200_000)
    assert len(stalled_there.received) <= 256 * 1024
    here, there = circuits[1]
    here.stream.session.reset(here.stream)
    alice.pass_on(bob, lambda: there.reset)
    carry(alice, bob, circuits[2][0], circuits[2][1], 200_000)


def test_a_peer_that_goes_takes_only_its_own(forwarders: tuple[Forwarder, Forwarder]) -> None:
    alice, bob = pair(forwarders)
    _, there = alice.circuit(bob)
    carol = SocketPeer(forwarders[0], "bridge carol")  # type: ignore[arg-type]
    here2, there2 = carol.circuit(bob)
    alice.sock.close()
    bob.until(lambda: there.reset)
    carry(carol, bob, here2, there2, 200_000)
