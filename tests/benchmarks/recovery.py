"""How soon a node of several processes serves again, and what was lost: `python -m tests.benchmarks.recovery`.

A real node with two forwarders carries bytes of circuits, local and bridged, while its actors are killed, stopped and
made to raise, one after the other, in an order that the seed gives.  Printed are the times from the fault until

- RelayServer: a peer that asks for a reservation is answered;
- a forwarder: another is up in its place, and a peer that connects to it has a reservation;

and what was lost that should not have been: circuits and reservations of forwarders that were left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from protocol.relay_hop import ReservationGranted
from tests.support.faulty_node import FAULTS
from tests.support.peers import MemoryStream
from tests.support.process import SocketPeer
from tests.support.ray_node import RayNode, forwarder_of

FAULT_KINDS = ("kill", "stop", "raise")
CHUNK = 16 * 1024


@dataclass
class Pair:
    """A circuit, and the forwarders that it goes over."""

    dialler: SocketPeer
    target: SocketPeer
    here: MemoryStream
    there: MemoryStream
    over: set[int]

    @property
    def broken(self) -> bool:
        return self.dialler.gone or self.target.gone or self.here.reset or self.there.reset

    def close(self) -> None:
        self.dialler.sock.close()
        self.target.sock.close()


class Load(threading.Thread):
    """Keeps bytes flowing on every circuit, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lock = threading.Lock()
        self.pairs: list[Pair] = []
        self.bytes = 0
        self.over = False

    def run(self) -> None:
        while not self.over:
            with self.lock:
                moved = self._turn()
            if not moved:
                time.sleep(0.001)  # nobody's turn: the node is catching up

    def _turn(self) -> bool:
        poll = select.poll()
        by_descriptor: dict[int, SocketPeer] = {}
        for pair in self.pairs:
            if pair.broken:
                continue
            self.bytes += len(pair.there.take())
            session = pair.here.stream.session
            if not session.connection.waiting and len(pair.here.received) == 0:
                with contextlib.suppress(Exception):
                    pair.here.send(bytes(CHUNK))
            for peer in (pair.dialler, pair.target):
                with contextlib.suppress(OSError):
                    peer.flush()
                    by_descriptor[peer.sock.fileno()] = peer
                    poll.register(peer.sock, select.POLLIN)
        ready = poll.poll(0) if by_descriptor else []
        for descriptor, _ in ready:
            with contextlib.suppress(OSError):
                by_descriptor[descriptor].poll(0)
        return bool(ready)


@dataclass
class Results:
    """Seconds by actor and fault; what was lost beside what fell."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    lost: list[str] = field(default_factory=list)
    owned: int = 0
    rounds: int = 0
    bytes: int = 0

    def lines(self) -> list[str]:
        shown = [f"{'actor':<14}{'fault':<8}{'times':>6}{'p50':>9}{'p99':>9}{'worst':>9}   (s)"]
        for (actor, fault), seconds in sorted(self.seconds.items()):
            ordered = sorted(seconds)
            p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
            shown.append(
                f"{actor:<14}{fault:<8}{len(ordered):>6}{statistics.median(ordered):>9.3f}{p99:>9.3f}{ordered[-1]:>9.3f}"
            )
        shown.append(
            f"{self.rounds} faults under {self.bytes / 1e6:.0f} MB: {self.owned} circuits ended with their forwarder; "
            f"lost beside that: {len(self.lost)}"
        )
        return shown + self.lost


class Trial:
    """A node under load, and faults."""

    def __init__(self, folder: Path, pairs: int, seed: int, log: Path | None = None) -> None:
        self.faults = folder / "faults"
        self.faults.mkdir()
        self.random = random.Random(seed)
        self.results = Results()
        self.count = pairs
        self.number = 0
        self.node = RayNode(
            folder / "node",
            "--max-restarts", "1000", "--restart-window", "1", "--max-reservations-per-ip", "4000",
            "--max-reservations-per-group", "4000",
            stderr=log,
            module="tests.support.faulty_node",
            variables={FAULTS: str(self.faults)},
        )  # fmt: skip
        self.load = Load()
        self.load.start()

    def close(self) -> None:
        self.load.over = True
        self.load.join()
        for pair in self.load.pairs:
            pair.close()
        self.node.stop()

    def peer(self) -> SocketPeer:
        self.number += 1
        return SocketPeer(self.node, f"recovery {os.getpid()} {self.number}")

    def fill(self) -> None:
        """As many circuits as there are to be."""
        while len(self.load.pairs) < self.count:
            dialler, target = self.peer(), self.peer()
            assert isinstance(target.reserve(), ReservationGranted)
            here, there = dialler.circuit(target)
            over = {forwarder_of(self.node, dialler), forwarder_of(self.node, target)}
            with self.load.lock:
                self.load.pairs.append(Pair(dialler, target, here, there, over))

    def fault(self, victim: str, kind: str) -> None:
        """One fault, what came of it, and all circuits again."""
        node, results = self.node, self.results
        self.fill()
        tree_settled(node)
        pid = node.pid(victim)
        probe = self.peer() if victim == "relay_server" else None
        began = time.monotonic()
        if kind == "raise":
            trigger = self.faults / victim.replace("/", "-")
            trigger.touch()
            # It raises when it is next asked for anything.
            while trigger.exists():
                with contextlib.suppress(OSError, AssertionError):  # maybe it is this peer's forwarder
                    self.peer().sock.close()
            began = time.monotonic()
        else:
            os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        if probe is not None:
            assert isinstance(probe.reserve(), ReservationGranted)
            results.seconds["relay_server", kind].append(time.monotonic() - began)
            node.replaced(victim)
            probe.sock.close()
        else:
            name = node.replaced(victim)
            self.reserve_on(node.pid(name))
            results.seconds["forwarder", kind].append(time.monotonic() - began)
        results.rounds += 1
        self.look(pid if victim != "relay_server" else -1, f"{victim} {kind}")

    def reserve_on(self, pid: int) -> None:
        """Connect until a connection is one of that process, and reserve there."""
        while True:
            with contextlib.suppress(OSError, AssertionError):
                peer = self.peer()
                if forwarder_of(self.node, peer) == pid:
                    assert isinstance(peer.reserve(), ReservationGranted)
                    peer.sock.close()
                    return
                peer.sock.close()

    def look(self, fallen: int, what: str) -> None:
        """Count what was lost, and forget it."""
        with self.load.lock:
            hit = [pair for pair in self.load.pairs if fallen in pair.over]
            rest = [pair for pair in self.load.pairs if fallen not in pair.over]
            self.load.pairs = rest
        self.results.owned += len(hit)
        for pair in hit:
            pair.close()
        for pair in rest:
            before = self.load.bytes
            if pair.broken:
                self.results.lost.append(f"{what}: a circuit that it did not own")
                continue
            with self.load.lock:
                try:
                    # Its reservation is known, and leads to where it is.
                    here, there = pair.dialler.circuit(pair.target)
                    here.send(b"still here")
                    pair.dialler.pass_on(pair.target, lambda there=there: len(there.received) == 10)
                    here.stream.session.reset(here.stream)
                    # And the circuit carries on.
                    pair.there.take()
                    pair.here.send(b"on")
                    pair.dialler.pass_on(pair.target, lambda pair=pair: len(pair.there.received) > 0)
                except (AssertionError, OSError) as error:
                    self.results.lost.append(f"{what}: a reservation or circuit: {error}")
            assert self.load.bytes >= before
        with self.load.lock:
            self.load.pairs = [pair for pair in self.load.pairs if not pair.broken]
        self.results.bytes = self.load.bytes


def tree_settled(node: RayNode) -> None:
    """A spare is ready: a fault comes seldom, and not while the last is being dealt with."""
    end = time.monotonic() + 20
    while not node.spares() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.7)  # it is there, and has to import what it needs


def run(rounds: int, seed: int, pairs: int, folder: Path, log: Path | None = None) -> Results:
    """Each actor, each fault, ``rounds`` times, in an order of chance."""
    sys.setswitchinterval(0.0005)  # the load must not hold up who measures
    trial = Trial(folder, pairs, seed, log)
    try:
        plan = [(actor, kind) for actor in ("relay_server", "forwarder") for kind in FAULT_KINDS] * rounds
        trial.random.shuffle(plan)
        with contextlib.suppress(KeyboardInterrupt):  # then it says what it has seen so far
            for actor, kind in plan:
                names = sorted(name for name in trial.node.now["actors"] if name.startswith(actor))
                trial.fault(trial.random.choice(names), kind)
        return trial.results
    finally:
        trial.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each fault on each kind of actor")
    parser.add_argument("--pairs", type=int, default=20, help="circuits at a time")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        outcome = run(given.rounds, given.seed, given.pairs, Path(place))
    print("\n".join(outcome.lines()))
    sys.exit(bool(outcome.lost))
