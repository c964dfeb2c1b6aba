"""Metrics: adds up what forwarders and processes say of themselves, for whoever looks (actors/ports/exposition.py).

Sums are kept over what ends: a forwarder's last figures stay in those of its slot, so that no counter goes back while
the node runs.  Slots, actors and the words of our own code are all the labels there are; no peer makes one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from actors.actor import Send
from actors.refusals import tell_apart
from protocol import messages
from protocol.messages import Times
from tracing.metrics import OTHER, add_counts

FORWARDERS: Final = "forwarder/"
RELAY_SERVER: Final = "relay_server"


def slot(actor: str) -> str:
    """``forwarder/0`` of ``forwarder/0.3``, its third successor."""
    return actor.partition(".")[0]


@dataclass(slots=True)
class Sums:
    """What one forwarder, or all that had its slot, did."""

    opened: int = 0
    bridged_in: int = 0
    hand_offs: int = 0
    bytes_by_class: dict[str, float] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, float] = field(default_factory=dict)
    handshake_failures: dict[str, float] = field(default_factory=dict)
    setup: dict[str, Times] = field(default_factory=dict)

    def add(self, one: messages.ForwarderMetrics) -> None:
        self.opened += one.opened
        self.bridged_in += one.bridged_in
        self.hand_offs += one.hand_offs
        add_counts(self.bytes_by_class, one.bytes_by_class)
        add_counts(self.failed, one.failed)
        add_counts(self.ended, one.ended)
        add_counts(self.refusals, one.refusals)
        add_counts(self.handshake_failures, one.handshake_failures)
        for stage, times in one.setup.items():
            self.setup[stage] = add_times(self.setup.get(stage), times)


def add_times(one: Times | None, other: Times) -> Times:
    if one is None:
        return other
    return Times(tuple(a + b for a, b in zip(one.counts, other.counts, strict=True)), one.total + other.total)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it, by slot, process or actor.  ``status``: RelayServer's last word, None: it has said none.

    ``refused``: requests by the limit that was hit; ``answers``: by the status that the peer was told; ``lost``:
    connections that were given up; ``errors``: of peers, by layer ("connection", "stream") and code.  ``events``,
    ``sizes``: of the actors of the network of relays, by actor and name.
    """

    forwarders: dict[str, Sums]
    connections: dict[str, int]
    circuits: dict[str, int]
    status: messages.StatusAnswer | None
    refused: dict[str, float]
    answers: dict[str, float]
    lost: dict[str, float]
    errors: dict[tuple[str, str], float]
    granted: int
    processes: dict[str, messages.ProcessMetrics]
    forwarder_cpu: dict[str, float]
    restarts: dict[str, int]
    events: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)


class Metrics:
    """See the module.  ``answered``: request ids of the status questions that were answered; ``unanswered``: of those
    that will not be."""

    def __init__(self) -> None:
        self.answered: set[int] = set()
        self.unanswered: set[int] = set()
        self._forwarders: dict[str, messages.ForwarderMetrics] = {}
        self._processes: dict[str, messages.ProcessMetrics] = {}
        self._before: dict[str, Sums] = {}
        self._cpu_before: dict[str, float] = {}
        self._status: messages.StatusAnswer | None = None
        self._refused_before: dict[str, float] = {}
        self._granted_before = 0
        self._restarts: Counter[str] = Counter()
        self._told: dict[str, messages.CountsTold] = {}
        self._told_before: dict[str, dict[str, float]] = {}

    # The actor.

    def handle(self, message: messages.MetricsMessage, now: float) -> list[Send]:
        match message:
            case messages.ForwarderMetrics(forwarder=forwarder):
                self._forwarders[forwarder] = message
            case messages.ProcessMetrics(process=process):
                self._processes[process] = message
            case messages.StatusAnswer(request_id=request_id):
                self._status = message
                self.answered.add(request_id)
            case messages.CountsTold(request_id=request_id, actor=actor):
                self._told[actor] = message
                self.answered.add(request_id)
            case messages.Undeliverable(request_id=request_id):
                self.unanswered.add(request_id)
            case messages.ActorDown(actor=actor):
                self._retire(actor)
            case messages.ActorUp():
                pass  # it will say what it does
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []

    def _retire(self, actor: str) -> None:
        self._restarts[slot(actor)] += 1
        forwarder = self._forwarders.pop(actor, None)
        if forwarder is not None:
            self._before.setdefault(slot(actor), Sums()).add(forwarder)
        process = self._processes.pop(actor, None)
        if process is not None:
            add_counts(self._cpu_before, {slot(actor): process.cpu_seconds})
        if (told := self._told.pop(actor, None)) is not None:
            add_counts(self._told_before.setdefault(actor, {}), told.counts)
        if actor == RELAY_SERVER and self._status is not None:
            add_counts(self._refused_before, self._status.refused_here or {})
            self._granted_before += self._status.granted
            self._status = None

    # What is shown.

    def snapshot(self) -> Snapshot:
        forwarders: dict[str, Sums] = {}
        refusals: dict[str, float] = {}
        for name in sorted({*self._before, *map(slot, self._forwarders)}):
            sums = forwarders[name] = Sums()
            if (before := self._before.get(name)) is not None:
                _merge(sums, before)
        for name, one in self._forwarders.items():
            forwarders[slot(name)].add(one)
        for sums in forwarders.values():
            add_counts(refusals, sums.refusals)
        reasons = tell_apart(refusals)
        events = {actor: dict(counts) for actor, counts in self._told_before.items()}
        for actor, told in self._told.items():
            add_counts(events.setdefault(actor, {}), told.counts)
        refused: dict[str, float] = {}
        for name, count in reasons.limits.items():
            add_counts(refused, {name if name.isidentifier() else OTHER: count})
        add_counts(refused, self._refused_before)
        if self._status is not None:
            add_counts(refused, self._status.refused_here or {})
        return Snapshot(
            forwarders=forwarders,
            connections=self._gauge({name: one.connections for name, one in self._forwarders.items()}, forwarders),
            circuits=self._gauge({name: one.circuits for name, one in self._forwarders.items()}, forwarders),
            status=self._status,
            refused=refused,
            answers=reasons.answers,
            lost=reasons.lost,
            errors=reasons.errors,
            granted=self._granted_before + (self._status.granted if self._status is not None else 0),
            processes={slot(name): one for name, one in self._processes.items()},
            forwarder_cpu=self._forwarder_cpu(),
            restarts=dict(self._restarts),
            events=events,
            sizes={actor: told.sizes for actor, told in self._told.items()},
        )

    @staticmethod
    def _gauge(values: dict[str, int], slots: dict[str, Sums]) -> dict[str, int]:
        gauge = dict.fromkeys(slots, 0)
        for name, value in values.items():
            gauge[slot(name)] += value
        return gauge

    def _forwarder_cpu(self) -> dict[str, float]:
        """Of the process that each forwarder is in: a process of its own, or all there is."""
        cpu: dict[str, float] = {name: used for name, used in self._cpu_before.items() if name.startswith(FORWARDERS)}
        for process in self._processes.values():
            for actor in process.mailboxes:
                if actor.startswith(FORWARDERS):
                    cpu[slot(actor)] = cpu.get(slot(actor), 0.0) + process.cpu_seconds
        return cpu


def _merge(into: Sums, other: Sums) -> None:
    into.opened += other.opened
    into.bridged_in += other.bridged_in
    into.hand_offs += other.hand_offs
    for mine, theirs in (
        (into.bytes_by_class, other.bytes_by_class),
        (into.failed, other.failed),
        (into.ended, other.ended),
        (into.refusals, other.refusals),
        (into.handshake_failures, other.handshake_failures),
    ):
        add_counts(mine, theirs)
    for stage, times in other.setup.items():
        into.setup[stage] = add_times(into.setup.get(stage), times)
