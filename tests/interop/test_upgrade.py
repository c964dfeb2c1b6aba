"""The node is replaced, whole or forwarder by forwarder, again and again while hundreds of circuits are busy: nobody
notices.

Circuits of go peers with each other are small groups, which move one by one; a js peer with all its circuits is one
large group, and moves at once.  With two forwarders half of the circuits are between them.
"""

from __future__ import annotations

import heapq
import importlib.util
import queue
import signal
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from .conftest import StartNode, StartPeer
from .peer import Peer

TIMES = 20
#: Bytes of one transfer: transfers go on all the time, and the peers, which are on this machine too, leave the relay
#: its share of it.
SIZE = 64 * 1024
PATIENCE = 120.0
#: "a pause is under 50 ms at p99"
LONGEST_PAUSE_MS = 50.0


@dataclass(eq=False)
class Busy:
    """A circuit that is never idle for long.  `done`: transfers whose hashes agreed; `began`: the last one."""

    dialler: Peer
    number: int
    target: str
    finished: queue.SimpleQueue[tuple[Busy, Future[dict[str, Any]]]]
    done: int = 0
    began: float = 0.0

    def go_on(self) -> None:
        self.began = time.monotonic()
        command = "fetch" if self.done % 2 else "send"
        more = {} if self.dialler.implementation == "js" else {"as_": self.number}
        transfer = self.dialler.start(command, peer=self.target, bytes=SIZE, **more)
        transfer.add_done_callback(lambda answer: self.finished.put((self, answer)))

    def check(self, answer: Future[dict[str, Any]]) -> None:
        hashes = answer.result()
        assert hashes["sha256_local"] == hashes["sha256_remote"], f"{self.dialler!r} to {self.target}"
        self.done += 1


@dataclass(frozen=True)
class Change:
    """`go`, `js`: circuits between go peers; to, and again from, a js peer.  `rhythm`: seconds between the beginnings
    of two transfers on one circuit."""

    number: signal.Signals
    event: str
    forwarders: int
    go: int
    js: int
    rhythm: float


CHANGES = [
    Change(signal.SIGUSR2, "upgraded", forwarders=1, go=180, js=30, rhythm=0.5),
    Change(signal.SIGHUP, "restarted", forwarders=2, go=440, js=30, rhythm=1.0),
]


@pytest.mark.parametrize("change", CHANGES, ids=[change.event for change in CHANGES])
def test_twenty_in_a_row_cost_no_circuit(start_node: StartNode, start_peer: StartPeer, change: Change) -> None:
    """Every hash agrees, every circuit is the one that it was, and the pauses are short."""
    if change.forwarders > 1 and importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`")
    go, js = change.go, change.js
    node = start_node(max_reservations_per_group=20_000, forwarders=change.forwarders)
    diallers, targets = start_peer("go", go + js), start_peer("go", go + js)
    js_dialler, js_target = start_peer("js"), start_peer("js")

    reserved = [targets.start("reserve", relay=node.address, as_=n) for n in range(len(targets.peer_ids))]
    reserved.append(js_target.start("reserve", relay=node.address))
    for one in reserved:
        one.result(PATIENCE)

    finished: queue.SimpleQueue[tuple[Busy, Future[dict[str, Any]]]] = queue.SimpleQueue()
    circuits = [Busy(diallers, n, targets.peer_ids[n], finished) for n in range(go)]
    circuits += [Busy(diallers, go + n, js_target.peer_id, finished) for n in range(js)]
    circuits += [Busy(js_dialler, 0, targets.peer_ids[go + n], finished) for n in range(js)]
    connected = []
    for circuit in circuits:
        more = {} if circuit.dialler is js_dialler else {"as_": circuit.number}
        connected.append(circuit.dialler.start("connect", addr=node.circuit_to(circuit.target), **more))
    for one in connected:
        assert one.result(PATIENCE)["relayed"] is True

    for peer in (diallers, targets, js_dialler, js_target):
        peer.forget_events()
    for circuit in circuits:
        circuit.go_on()
    reports = []
    began = time.monotonic()
    waiting: list[tuple[float, int, Busy]] = []
    node.signal(change.number)
    while len(reports) < TIMES:
        now = time.monotonic()
        assert now < began + 30 * TIMES
        while waiting and waiting[0][0] <= now:
            heapq.heappop(waiting)[2].go_on()
        with suppress(queue.Empty):
            circuit, answer = finished.get(timeout=max(waiting[0][0] - now, 0) if waiting else PATIENCE)
            circuit.check(answer)
            heapq.heappush(waiting, (circuit.began + change.rhythm, id(circuit), circuit))
        report = node.changed(0)
        if report is not None:
            assert report["event"] == change.event, report
            # One between two forwarders has a half on either.
            assert report["circuits"] >= len(circuits), report
            reports.append(report)
            if len(reports) < TIMES:
                node.signal(change.number)
    seconds = time.monotonic() - began
    for _ in range(len(circuits) - len(waiting)):
        circuit, answer = finished.get(timeout=PATIENCE)
        circuit.check(answer)

    moved = sum(circuit.done for circuit in circuits) * SIZE
    pauses = sorted(pause for report in reports for pause in report["pauses_ms"])
    p50, p99 = pauses[len(pauses) // 2], pauses[int(len(pauses) * 0.99)]
    between = [report["circuits"] - len(circuits) for report in reports]
    print(
        f"\n{change.event} {TIMES} times in {seconds:.0f} s with {len(circuits)} busy circuits, {moved / 1e6:.0f} MB, "
        f"all hashes equal; {len(pauses)} groups paused for {p50:.1f} ms (p50), {p99:.1f} ms (p99), "
        f"{pauses[-1]:.1f} ms (worst); transfers of a circuit: {min(c.done for c in circuits)} at least; "
        f"circuits between two forwarders: {min(between)} at least"
    )
    # None was replaced by another: a peer whose circuit breaks hears of it.
    for peer in (diallers, targets, js_dialler, js_target):
        assert not [event for event in peer.events() if event["event"] == "disconnection"]
    assert min(circuit.done for circuit in circuits) > 0
    assert p99 < LONGEST_PAUSE_MS
