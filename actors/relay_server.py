"""RelayServer: who may reserve, and who may connect to whom.

It sees no byte of any circuit.  Forwarders ask; it answers from its tables; they tell it what became of it.  Its
tables live as long as the connections that they are about, so it stores nothing: one that starts anew asks each
forwarder for what it holds, and answers nobody before it knows (or a second has passed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from actors.actor import Send
from actors.admission import NO_RESERVATION, TO_ITSELF, Asked, Rates, Refusal, RelayServerPolicy, refused
from actors.admission_spans import AdmissionSpans
from actors.circuit_counts import LIMITS, CircuitCounts
from actors.loads import Loads
from actors.relay_handover import Handovers
from actors.relay_terms import RelayTerms
from actors.reservations import Reservation, Reservations, group_of, household
from actors.served_circuits import ServedCircuits
from actors.standing import Standing
from protocol import discovery_messages, messages, quota_messages
from protocol.relay_hop import Status
from protocol.reputation_messages import Contributed, ServedWanted
from tracing.tracer import AnyTracer

#: Seconds that a new RelayServer waits for its forwarders' reports before it goes by what it has.
REPORT_WAIT: Final = 1.0

#: Requests that may wait for those reports.  More than a forwarder has connections is nobody's need; 5 MB.
MAX_WAITING: Final = 16_384

#: Seconds after which an admitted circuit of which nothing was heard no longer counts.
ADMISSION_TIMEOUT: Final = 120.0

#: Bytes of a bridge's token (actors/bridges.py).
TOKEN: Final = 16

#: Seconds after which a dialler that found all circuits in use is told to ask again.
CIRCUIT_RETRY: Final = 10


@dataclass(frozen=True, slots=True)
class _Circuit:
    source: bytes
    target: bytes
    forwarder: str
    target_forwarder: str
    admitted_at: float
    household: str


class RelayServer:
    """See the module.  ``forwarders``: the names of the actors that own connections; others may come and go.
    ``randomness(n)``: n random bytes, for the tokens of bridges; a node of one forwarder needs none.
    ``report_wait``: seconds that reports are waited for.
    ``terms``: what the node's owner lets it do at first, None: anything.
    ``tracker``: ReputationTracker, which is told what is relayed; "": nobody is."""

    def __init__(
        self,
        policy: RelayServerPolicy,
        forwarders: Sequence[str],
        *,
        group: Callable[[str], str] = group_of,
        randomness: Callable[[int], bytes] | None = None,
        report_wait: float = REPORT_WAIT,
        tracer: AnyTracer | None = None,
        terms: quota_messages.TermsSet | None = None,
        tracker: str = "",
    ) -> None:
        self.policy = policy
        self._terms = RelayTerms(terms, policy.max_circuits)
        self._spans = AdmissionSpans(tracer)
        self._randomness = randomness
        self._report_wait = report_wait
        self._reach: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._loads = Loads()
        self._forwarders = dict.fromkeys(forwarders)
        self._standing = Standing(policy.trusted_peers, policy.max_reservations, self._terms.max_circuits)
        self._reservations = Reservations(
            policy.max_reservations,
            policy.max_reservations_per_ip,
            policy.max_reservations_per_group,
            group,
            self._standing.peer_left,
        )
        self._circuits: dict[int, _Circuit] = {}
        self._opening: dict[int, float] = {}
        self._counts = CircuitCounts({setting: getattr(policy, setting) for setting in LIMITS})
        self._next_circuit = 1
        self._refused: Counter[str] = Counter()
        self._granted = 0
        self._tracker = tracker
        self._served_circuits = ServedCircuits()
        self._untold = 0  # circuits that came to be since the tracker was told
        self._lost = 0  # and that were lost with their forwarder
        self._counters: dict[str, messages.ForwarderCounters] = {}
        self._bytes_before = 0  # of forwarders that are gone
        self._refusals_before: Counter[str] = Counter()
        # Until each forwarder has reported, requests wait; one that is asked again waits once.
        self._unreported: set[str] = set(self._forwarders)
        self._reported: set[str] = set()
        self._waiting: dict[tuple[str, int], Asked] = {}
        self._report_deadline: float | None = None
        self._handovers = Handovers()
        self._started = False
        self._rates = Rates(policy)

    # What tests and the node look at.

    @property
    def reservations_in_all(self) -> int:
        return len(self._reservations)

    @property
    def refused_here(self) -> dict[str, int]:
        """Requests refused, by the limit that was hit."""
        return dict(self._refused)

    def bytes_last_hour(self, now: float) -> int:
        """Relayed, as far back as is known here."""
        return self._terms.last_hour.total(now)

    @property
    def circuits_in_all(self) -> int:
        return len(self._circuits)

    # The actor.

    def handle(self, message: messages.RelayServerMessage, now: float) -> list[Send]:
        self._spans.now = self._standing.now = now
        match message:
            case messages.ReserveAsked() | messages.ConnectAsked():
                self._spans.asked(message)
                return self._asked(message, now)
            case messages.CircuitOpened(circuit=circuit, forwarder=forwarder):
                self._opened(circuit, forwarder)
            case messages.CircuitFailed(circuit=circuit):
                self._spans.settled(circuit, failed=True)
                self._forget(circuit)
            case messages.CircuitEnded(circuit=circuit, failed=failed):
                self._spans.settled(circuit, failed=failed)
                self._served(message)
                self._forget(circuit)
            case messages.ReservationEnded(forwarder=forwarder, connection=connection, peer=peer):
                self._reservations.end(peer, forwarder, connection)
                self._end_waiting(forwarder, connection)
            case messages.ForwarderReport():
                told = self._terms.reported(message)
                self._take_report(message, now)
                return told + self._answer_waiting(now)
            case messages.ForwarderCounters(forwarder=forwarder):
                self._counters[forwarder] = message
                self._loads.reported(forwarder, message.bytes_forwarded, now)
                told = self._contributed(self._terms.last_hour.count(message, now))
                if forwarder not in self._forwarders and not self._handovers:
                    # It reported to a predecessor of ours, which fell before anybody knew of it.
                    told.append(Send(forwarder, messages.ReportWanted()))
                return told
            case messages.HandoverBegins(forwarder=forwarder):
                self._handovers.begin(message, now)
                return [Send(forwarder, messages.HandoverReady())]
            case messages.ActorDown(actor=actor):
                if not self._handovers.fell(actor):
                    self._forwarder_lost(actor)
                return self._answer_waiting(now)
            case messages.StatusAsked(request_id=request_id, asker=asker) if not self._unreported:
                return [Send(asker, self._status(request_id, now))]
            case ServedWanted():
                return [Send(self._tracker, self._served_circuits.take(message))]
            case discovery_messages.ClassTold():
                self._standing.told(message, now)
            case quota_messages.TermsSet():
                self._standing.circuits.limit = message.max_circuits
                return self._terms.set(message, self._forwarders, now)
            case quota_messages.QuotaWanted() | quota_messages.QuotaReturned() if message.forwarder in self._forwarders:
                return self._terms.handle(message, now)
            case messages.ActorUp() | messages.StatusAsked():
                pass  # a forwarder reports by itself when it starts; until all have, sums would be too small
            case quota_messages.QuotaWanted() | quota_messages.QuotaReturned():
                pass  # of one that is gone, or not known yet: that one is asked for a report first
        return []

    def next_deadline(self) -> float | None:
        if not self._started:
            return 0.0
        times = [self._report_deadline] if self._unreported and self._report_deadline is not None else []
        expiry = self._reservations.next_expiry()
        if expiry is not None:
            times.append(expiry)
        if (handover := self._handovers.next_deadline()) is not None:
            times.append(handover)
        if (share_out := self._terms.next_deadline()) is not None:
            times.append(share_out)
        if self._opening:
            times.append(next(iter(self._opening.values())) + ADMISSION_TIMEOUT)
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[Send]:
        self._spans.now = self._standing.now = now
        sends: list[Send] = []
        if not self._started:
            self._started = True
            self._report_deadline = now + self._report_wait
            # A predecessor's answers may still be on their way: its numbers lie below, at less than a million a second.
            self._next_circuit = max(self._next_circuit, int(now * 1000) << 10)
            sends += [Send(forwarder, messages.ReportWanted()) for forwarder in self._forwarders]
        elif self._unreported and self._report_deadline is not None and self._report_deadline <= now:
            self._unreported.clear()
        for lost in self._handovers.expire(now):
            self._forwarder_lost(lost)
        sends += self._answer_waiting(now) + self._terms.handle_deadline(now)
        self._reservations.expire(now)
        # In the order of their admission: the first that is young ends the search.
        while self._opening:
            circuit, admitted_at = next(iter(self._opening.items()))
            if admitted_at + ADMISSION_TIMEOUT > now:
                break
            self._spans.settled(circuit, failed=True)
            self._forget(circuit)
        return sends

    # Answers.

    def _asked(self, asked: Asked, now: float) -> list[Send]:
        if self._unreported:
            return self._wait(asked)
        if self._handovers:
            held = self._reservations.find(asked.target, now) if isinstance(asked, messages.ConnectAsked) else None
            if self._handovers.drops(asked):
                self._spans.forget(asked)
                return []
            if self._handovers.holds(asked, held.forwarder if held else None):
                return []
        return self._answer(asked, now)

    def _answer(self, asked: Asked, now: float) -> list[Send]:
        if isinstance(asked, messages.ReserveAsked):
            return [self._reserve(asked, now)]
        return self._connect(asked, now)

    def _refuse(self, asked: Asked, refusal: Refusal) -> Send:
        self._refused[refusal.setting] += 1
        self._spans.refused(asked, refusal.setting)
        return Send(asked.forwarder, refusal.told(asked))

    def _wait(self, asked: Asked) -> list[Send]:
        key = (asked.forwarder, asked.request_id)
        if len(self._waiting) < MAX_WAITING or key in self._waiting:
            self._waiting[key] = asked
            return []
        reason = f"the relay is starting and {MAX_WAITING} requests wait already"
        return [self._refuse(asked, Refusal(Status.RESOURCE_LIMIT_EXCEEDED, "starting", reason, 1))]

    def _end_waiting(self, forwarder: str, connection: int) -> None:
        """The connection is gone: what it asked is not to be granted when there is time."""
        for key in [
            key for key, asked in self._waiting.items() if key[0] == forwarder and asked.connection == connection
        ]:
            del self._waiting[key]

    def _answer_waiting(self, now: float) -> list[Send]:
        """Answer what may be answered now; the rest waits on."""
        if self._unreported:
            return []
        waiting, self._waiting = self._waiting, {}
        asked = [*waiting.values(), *self._handovers.take_held()]
        return self._terms.begin(now) + [send for one in asked for send in self._asked(one, now)]

    def _reserve(self, asked: messages.ReserveAsked, now: float) -> Send:
        policy = self.policy
        refusal = self._terms.refusal(asked, now) or self._rates.exceeded(asked, now)
        if refusal is not None:
            return self._refuse(asked, refusal)
        full = self._reservations.refused(asked.peer, asked.address, now)
        if full is not None:
            return self._refuse(asked, refused(asked, full.setting, full.reason, full.retry_after))
        if (kept := self._standing.refusal(asked, CIRCUIT_RETRY, now)) is not None:
            return self._refuse(asked, kept)
        expires_at = now + policy.reservation_duration
        self._put(Reservation(asked.peer, asked.forwarder, asked.connection, asked.address, expires_at), now)
        granted = messages.ReserveGranted(
            asked.request_id, asked.connection, expires_at, policy.circuit_duration, policy.circuit_data
        )
        self._granted += 1
        self._spans.granted(asked)
        return Send(asked.forwarder, granted)

    def _connect(self, asked: messages.ConnectAsked, now: float) -> list[Send]:
        found = (
            self._terms.refusal(asked, now)
            or self._rates.exceeded(asked, now)
            or self._may_connect(asked.source, asked.target, asked.address, now)
        )
        if not isinstance(found, Refusal):
            found = self._standing.refusal(asked, CIRCUIT_RETRY, now) or found
        if isinstance(found, Refusal):
            return [self._refuse(asked, found)]
        admitted = self._admit(asked, found, now)
        if found.forwarder == asked.forwarder:
            return [Send(asked.forwarder, admitted)]
        return self._bridge(asked, admitted, now)

    def _bridge(self, asked: messages.ConnectAsked, admitted: messages.ConnectAdmitted, now: float) -> list[Send]:
        """The target is another forwarder's: tell that one what comes, and the dialler's where to bring it."""
        here, _ = self._reach.get(asked.forwarder, ("", ()))
        there, bridges = self._reach.get(admitted.target_forwarder, ("", ()))
        kind = "/unix/" if here == there else "/ip"
        bridge = next((address for address in bridges if address.startswith(kind)), "")
        if self._randomness is None or not bridge:
            # The forwarder refuses it, with this reason, and tells us that it failed.
            return [Send(asked.forwarder, admitted)]
        token = self._randomness(TOKEN)
        expected = messages.BridgeExpected(
            circuit=admitted.circuit,
            token=token,
            source=asked.source,
            target=asked.target,
            target_connection=admitted.target_connection,
            traceparent=self._spans.context,
        )
        moves = next((one for one in bridges if one.startswith("/moves/")), "") if kind == "/unix/" else ""
        if not (self.policy.move_diallers and self._loads.welcomes(admitted.target_forwarder, asked.forwarder, now)):
            moves = ""
        admitted = msgspec.structs.replace(admitted, bridge=bridge, token=token, moves=moves)
        return [Send(admitted.target_forwarder, expected), Send(asked.forwarder, admitted)]

    def _may_connect(self, source: bytes, target: bytes, address: str, now: float) -> Reservation | Refusal:
        exceeded, most = Status.RESOURCE_LIMIT_EXCEEDED, self._terms.max_circuits
        if source == target:
            return TO_ITSELF
        held = self._reservations.find(target, now)
        if held is None:
            return NO_RESERVATION
        if len(self._circuits) >= most:
            reason = f"all {most} circuits are in use"
            return Refusal(exceeded, "max_circuits", reason, CIRCUIT_RETRY)
        full = self._counts.refused(source, target, household(address))
        return held if full is None else Refusal(exceeded, *full, CIRCUIT_RETRY)

    def _admit(self, asked: messages.ConnectAsked, held: Reservation, now: float) -> messages.ConnectAdmitted:
        circuit = self._next_circuit
        self._next_circuit += 1
        home = household(asked.address)
        self._remember(circuit, _Circuit(asked.source, asked.target, asked.forwarder, held.forwarder, now, home))
        self._opening[circuit] = now
        self._spans.admitted(asked, circuit)
        return messages.ConnectAdmitted(
            request_id=asked.request_id,
            connection=asked.connection,
            circuit=circuit,
            target=asked.target,
            target_forwarder=held.forwarder,
            target_connection=held.connection,
            limit_duration=self.policy.circuit_duration,
            limit_data=self.policy.circuit_data,
            service_class=self._standing.class_of_circuit(circuit),
        )

    # Tables.

    def _put(self, reservation: Reservation, now: float) -> None:
        self._reservations.put(reservation)
        self._standing.peer_reserved(reservation.peer, now)

    def _remember(self, number: int, circuit: _Circuit) -> None:
        self._circuits[number] = circuit
        self._standing.circuit_began(number, circuit.source, circuit.target, circuit.admitted_at)
        self._counts.add(circuit.source, circuit.target, circuit.household)

    def _contributed(self, carried: int) -> list[Send]:
        """``carried``: bytes of circuits since a forwarder last said."""
        circuits, self._untold = self._untold, 0
        lost, self._lost = self._lost, 0
        if not self._tracker or not (carried or circuits or lost):
            return []
        return [Send(self._tracker, Contributed(carried, circuits, lost))]

    def _served(self, ended: messages.CircuitEnded) -> None:
        if self._tracker and (circuit := self._circuits.get(ended.circuit)) is not None:
            to_target, to_source = ended.bytes_to_target, ended.bytes_to_source
            self._served_circuits.ended(circuit.source, circuit.target, to_target, to_source, failed=ended.failed)

    def _opened(self, number: int, forwarder: str) -> None:
        if self._opening.pop(number, None) is not None:
            self._untold += 1
        circuit = self._circuits.get(number)
        if circuit is not None and circuit.forwarder != forwarder:
            # The dialler's connection has moved to its target's forwarder.
            self._circuits[number] = replace(circuit, forwarder=forwarder)

    def _forget(self, number: int) -> None:
        self._opening.pop(number, None)
        circuit = self._circuits.pop(number, None)
        if circuit is not None:
            self._standing.circuit_ended(number)
            self._counts.remove(circuit.source, circuit.target, circuit.household)

    def _take_report(self, report: messages.ForwarderReport, now: float) -> None:
        """A forwarder's first report adds to what it was granted since, if it was late.  A further one is of a
        forwarder that began anew, and is all that it holds."""
        forwarder = report.forwarder
        self._handovers.reported(report)
        if report.replaces:
            self._replaced(report.replaces, forwarder)
        elif forwarder in self._reported:
            self._reservations.end_forwarder(forwarder)
            # Those that it dials: circuits to its peers are reported by the forwarders of their diallers.
            for number in [number for number, circuit in self._circuits.items() if circuit.forwarder == forwarder]:
                self._forget(number)
        self._forwarders[forwarder] = None  # maybe it came since we started
        self._reported.add(forwarder)
        self._reach[forwarder] = (report.host, report.bridges)
        self._unreported.discard(forwarder)
        for held in report.reservations:
            if held.expires_at > now:
                self._put(Reservation(held.peer, forwarder, held.connection, held.address, held.expires_at), now)
        for one in report.circuits:
            self._forget(one.circuit)
            home = household(one.address)
            self._remember(
                one.circuit, _Circuit(one.source, one.target, forwarder, one.target_forwarder, one.opened_at, home)
            )
            self._next_circuit = max(self._next_circuit, one.circuit + 1)

    def _replaced(self, old: str, new: str) -> None:
        """Forget what ``old`` held, but for circuits that others dialled: those lead to ``new`` now."""
        for number, circuit in self._circuits.items():
            if circuit.target_forwarder == old:
                self._circuits[number] = replace(circuit, target_forwarder=new)
        for number in [number for number, circuit in self._circuits.items() if circuit.forwarder == old]:
            self._forget(number)
        self._counters.pop(old, None)  # what it counted the new one goes on with
        self._forwarder_lost(old)
        self._forwarders[new] = None

    def _forwarder_lost(self, forwarder: str) -> None:
        """It holds nothing any more, waits for nothing, and need not be waited for."""
        self._reservations.end_forwarder(forwarder)
        self._forwarders.pop(forwarder, None)  # it, or its successor, reports when it starts
        if (last := self._counters.pop(forwarder, None)) is not None:
            self._bytes_before += last.bytes_forwarded
            self._refusals_before.update(last.refusals)
        self._spans.lost(forwarder)
        self._reach.pop(forwarder, None)
        self._terms.lost(forwarder)
        self._loads.forget(forwarder)
        self._reported.discard(forwarder)
        self._unreported.discard(forwarder)
        self._waiting = {key: asked for key, asked in self._waiting.items() if key[0] != forwarder}
        for number in [n for n, c in self._circuits.items() if forwarder in (c.forwarder, c.target_forwarder)]:
            self._lost += number not in self._opening
            self._spans.settled(number, failed=True)
            self._forget(number)

    def _status(self, request_id: int, now: float) -> messages.StatusAnswer:
        refusals = self._refusals_before.copy()
        for counters in self._counters.values():
            refusals.update(counters.refusals)
        return messages.StatusAnswer(
            request_id=request_id,
            reservations=len(self._reservations),
            circuits=len(self._circuits),
            connections=sum(counters.connections for counters in self._counters.values()),
            bytes_forwarded=self._bytes_before + sum(one.bytes_forwarded for one in self._counters.values()),
            refusals=dict(refusals),
            refused_here=self.refused_here,
            granted=self._granted,
            **self._terms.told(now),
        )
