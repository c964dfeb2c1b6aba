"""RelayServer: who may reserve, and who may connect to whom.

It sees no byte of any circuit.  Forwarders ask; it answers from its tables; they tell it what became of it.  Its
tables live as long as the connections that they are about, so it stores nothing: one that starts anew asks each
forwarder for what it holds, and answers nobody before it knows (or a second has passed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from actors.actor import Send
from actors.rate_limit import KeyedBuckets
from actors.reservations import Reservation, Reservations, group_of
from protocol import messages
from protocol.relay_hop import Status

#: Seconds that a new RelayServer waits for its forwarders' reports before it goes by what it has.
REPORT_WAIT: Final = 1.0

#: Peers and addresses whose request rate is remembered.
MAX_RATE_KEYS: Final = 65_536

#: Seconds after which an admitted circuit of which nothing was heard no longer counts.
ADMISSION_TIMEOUT: Final = 120.0


@dataclass(frozen=True, slots=True)
class RelayServerPolicy:
    """The limits, each a setting of the same name (actors/settings_table.py says why).

    Rates are requests a minute; a quarter of them may come at once.  0 seconds or bytes: unlimited.
    """

    max_reservations: int = 1024
    max_reservations_per_ip: int = 16
    max_reservations_per_group: int = 64
    max_circuits: int = 1024
    max_circuits_per_peer: int = 64
    circuit_data: int = 0
    circuit_duration: float = 0.0
    reservation_duration: float = 3600.0
    rate_limits: bool = True
    reserve_rate_per_peer: float = 30.0
    reserve_rate_per_ip: float = 120.0
    connect_rate_per_peer: float = 240.0
    connect_rate_per_ip: float = 960.0


@dataclass(frozen=True, slots=True)
class _Circuit:
    source: bytes
    target: bytes
    forwarder: str
    target_forwarder: str
    admitted_at: float


class RelayServer:
    """See the module.  ``forwarders``: the names of the actors that own connections."""

    def __init__(
        self,
        policy: RelayServerPolicy,
        forwarders: Sequence[str],
        *,
        group: Callable[[str], str] = group_of,
    ) -> None:
        self.policy = policy
        self._forwarders = tuple(forwarders)
        self._reservations = Reservations(
            policy.max_reservations, policy.max_reservations_per_ip, policy.max_reservations_per_group, group
        )
        self._circuits: dict[int, _Circuit] = {}
        self._opening: dict[int, float] = {}
        self._per_peer: Counter[bytes] = Counter()
        self._next_circuit = 1
        self._refusals: Counter[str] = Counter()
        self._counters: dict[str, messages.ForwarderCounters] = {}
        # Until each forwarder has reported, requests wait: their number is bounded by the forwarders' own limits.
        self._unreported: set[str] = set(self._forwarders)
        self._waiting: list[messages.ReserveAsked | messages.ConnectAsked] = []
        self._report_deadline: float | None = None
        self._started = False
        self._reserve_rates = (_buckets(policy.reserve_rate_per_peer), _buckets(policy.reserve_rate_per_ip))
        self._connect_rates = (_buckets(policy.connect_rate_per_peer), _buckets(policy.connect_rate_per_ip))

    # What tests and the node look at.

    @property
    def reservations_in_all(self) -> int:
        return len(self._reservations)

    @property
    def circuits_in_all(self) -> int:
        return len(self._circuits)

    # The actor.

    def handle(self, message: messages.RelayServerMessage, now: float) -> list[Send]:
        match message:
            case messages.ReserveAsked() | messages.ConnectAsked():
                if self._unreported:
                    self._report_deadline = self._report_deadline or now + REPORT_WAIT
                    self._waiting.append(message)
                    return []
                return [self._answer(message, now)]
            case messages.CircuitOpened(circuit=circuit):
                self._opening.pop(circuit, None)
            case messages.CircuitFailed(circuit=circuit) | messages.CircuitEnded(circuit=circuit):
                self._forget(circuit)
            case messages.ReservationEnded(forwarder=forwarder, connection=connection, peer=peer):
                self._reservations.end(peer, forwarder, connection)
            case messages.ForwarderReport():
                return self._take_report(message, now)
            case messages.ForwarderCounters(forwarder=forwarder):
                self._counters[forwarder] = message
            case messages.ActorDown(actor=actor):
                self._forwarder_lost(actor)
            case messages.StatusAsked(request_id=request_id, asker=asker):
                return [Send(asker, self._status(request_id))]
            case messages.ActorUp():
                pass  # a forwarder reports by itself when it starts
        return []

    def next_deadline(self) -> float | None:
        if not self._started:
            return 0.0
        times = [self._report_deadline] if self._unreported and self._report_deadline is not None else []
        expiry = self._reservations.next_expiry()
        if expiry is not None:
            times.append(expiry)
        if self._opening:
            times.append(next(iter(self._opening.values())) + ADMISSION_TIMEOUT)
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[Send]:
        sends: list[Send] = []
        if not self._started:
            self._started = True
            self._report_deadline = now + REPORT_WAIT
            sends += [Send(forwarder, messages.ReportWanted()) for forwarder in self._forwarders]
        elif self._unreported and self._report_deadline is not None and self._report_deadline <= now:
            self._unreported.clear()
            sends += self._answer_waiting(now)
        self._reservations.expire(now)
        # In the order of their admission: the first that is young ends the search.
        while self._opening:
            circuit, admitted_at = next(iter(self._opening.items()))
            if admitted_at + ADMISSION_TIMEOUT > now:
                break
            self._forget(circuit)
        return sends

    # Answers.

    def _answer(self, asked: messages.ReserveAsked | messages.ConnectAsked, now: float) -> Send:
        if isinstance(asked, messages.ReserveAsked):
            return Send(asked.forwarder, self._reserve(asked, now))
        return Send(asked.forwarder, self._connect(asked, now))

    def _answer_waiting(self, now: float) -> list[Send]:
        waiting, self._waiting = self._waiting, []
        return [self._answer(asked, now) for asked in waiting]

    def _reserve(self, asked: messages.ReserveAsked, now: float) -> messages.ReserveGranted | messages.ReserveRefused:
        wait = self._too_often(self._reserve_rates, asked.peer, asked.address, now)
        if wait:
            return self._refuse_reserve(asked, Status.RESERVATION_REFUSED, "reserve_rate", "reserving too often", wait)
        refusal = self._reservations.refused(asked.peer, asked.address, now)
        if refusal is not None:
            full = Status.RESERVATION_REFUSED
            return self._refuse_reserve(asked, full, refusal.setting, refusal.reason, refusal.retry_after)
        expires_at = now + self.policy.reservation_duration
        self._reservations.put(Reservation(asked.peer, asked.forwarder, asked.connection, asked.address, expires_at))
        policy = self.policy
        return messages.ReserveGranted(
            asked.request_id, asked.connection, expires_at, policy.circuit_duration, policy.circuit_data
        )

    def _refuse_reserve(
        self, asked: messages.ReserveAsked, status: Status, setting: str, reason: str, retry_after: int
    ) -> messages.ReserveRefused:
        self._refusals[setting] += 1
        reason = f"{reason} ({setting})"
        return messages.ReserveRefused(asked.request_id, asked.connection, int(status), reason, retry_after)

    def _connect(self, asked: messages.ConnectAsked, now: float) -> messages.ConnectAdmitted | messages.ConnectRefused:
        policy = self.policy
        wait = self._too_often(self._connect_rates, asked.source, asked.address, now)
        if wait:
            refused = (Status.RESOURCE_LIMIT_EXCEEDED, "connect_rate", "connecting too often", wait)
        elif asked.source == asked.target:
            refused = (Status.PERMISSION_DENIED, "self", "a peer cannot be connected to itself", 0)
        elif (held := self._reservations.find(asked.target, now)) is None:
            refused = (Status.NO_RESERVATION, "no_reservation", "the target has no reservation here", 0)
        elif len(self._circuits) >= policy.max_circuits:
            refused = (
                Status.RESOURCE_LIMIT_EXCEEDED,
                "max_circuits",
                f"all {policy.max_circuits} circuits are in use",
                10,
            )
        elif max(self._per_peer[asked.source], self._per_peer[asked.target]) >= policy.max_circuits_per_peer:
            refused = (
                Status.RESOURCE_LIMIT_EXCEEDED,
                "max_circuits_per_peer",
                f"all {policy.max_circuits_per_peer} circuits of one peer are in use",
                10,
            )
        else:
            return self._admit(asked, held, now)
        status, setting, reason, retry_after = refused
        self._refusals[setting] += 1
        return messages.ConnectRefused(
            asked.request_id, asked.connection, int(status), f"{reason} ({setting})", retry_after
        )

    def _admit(self, asked: messages.ConnectAsked, held: Reservation, now: float) -> messages.ConnectAdmitted:
        circuit = self._next_circuit
        self._next_circuit += 1
        self._remember(circuit, _Circuit(asked.source, asked.target, asked.forwarder, held.forwarder, now))
        self._opening[circuit] = now
        return messages.ConnectAdmitted(
            request_id=asked.request_id,
            connection=asked.connection,
            circuit=circuit,
            target=asked.target,
            target_forwarder=held.forwarder,
            target_connection=held.connection,
            limit_duration=self.policy.circuit_duration,
            limit_data=self.policy.circuit_data,
        )

    def _too_often(self, rates: tuple[KeyedBuckets, KeyedBuckets], peer: bytes, address: str, now: float) -> int:
        """Seconds to wait, 0: none."""
        if not self.policy.rate_limits:
            return 0
        for buckets, key in zip(rates, (peer, address), strict=True):
            if not buckets.take(key, now):
                return max(1, round(buckets.wait(key, now)))
        return 0

    # Tables.

    def _remember(self, number: int, circuit: _Circuit) -> None:
        self._circuits[number] = circuit
        self._per_peer[circuit.source] += 1
        self._per_peer[circuit.target] += 1

    def _forget(self, number: int) -> None:
        self._opening.pop(number, None)
        circuit = self._circuits.pop(number, None)
        if circuit is None:
            return
        for peer in (circuit.source, circuit.target):
            self._per_peer[peer] -= 1
            if self._per_peer[peer] <= 0:
                del self._per_peer[peer]

    def _take_report(self, report: messages.ForwarderReport, now: float) -> list[Send]:
        """What a forwarder says that it holds is the truth about it."""
        self._forwarder_lost(report.forwarder)
        # A peer that reserved on two connections is reached through the one it used last.
        for held in sorted(report.reservations, key=lambda held: held.expires_at):
            self._reservations.put(
                Reservation(held.peer, report.forwarder, held.connection, held.address, held.expires_at)
            )
        for circuit in report.circuits:
            self._remember(
                circuit.circuit,
                _Circuit(circuit.source, circuit.target, report.forwarder, circuit.target_forwarder, circuit.opened_at),
            )
            self._next_circuit = max(self._next_circuit, circuit.circuit + 1)
        self._unreported.discard(report.forwarder)
        return [] if self._unreported else self._answer_waiting(now)

    def _forwarder_lost(self, forwarder: str) -> None:
        self._reservations.end_forwarder(forwarder)
        self._counters.pop(forwarder, None)
        for number in [n for n, c in self._circuits.items() if forwarder in (c.forwarder, c.target_forwarder)]:
            self._forget(number)

    def _status(self, request_id: int) -> messages.StatusAnswer:
        refusals = self._refusals.copy()
        for counters in self._counters.values():
            refusals.update(counters.refusals)
        return messages.StatusAnswer(
            request_id=request_id,
            reservations=len(self._reservations),
            circuits=len(self._circuits),
            connections=sum(counters.connections for counters in self._counters.values()),
            bytes_forwarded=sum(counters.bytes_forwarded for counters in self._counters.values()),
            refusals=dict(refusals),
        )


def _buckets(per_minute: float) -> KeyedBuckets:
    return KeyedBuckets(per_minute / 60, max(per_minute / 4, 1), MAX_RATE_KEYS)
