"""The steps of each request and circuit of a forwarder, told to the tracer and counted for metrics.

    circuit                          from the CONNECT request to the circuit's end, or the refusal
    ├── hop.connect                  to the answer that the dialler is given
    ├── relay.admit                  RelayServer's part (actors/admission_spans.py)
    ├── bridge.connect               only if the target is another forwarder's: until that one answers
    ├── stop.connect                 at the target's forwarder: from our STOP request to its answer
    └── splice                       at each forwarder that the circuit passes: from joined to ended

    reservation, hop.reserve, relay.reserve  for RESERVE

All have the root as their parent: it is what crosses processes.  Nothing here is called for bytes.  The first byte of
either direction is seen when the turn of the loop that passed it ends, and has the time of that turn's receive; that
holds for the :data:`MAX_WATCHED` recorded circuits that were joined last, the others are looked at once a second.

Names of peers and addresses go into the root alone, as secrets (tracing/spans.py).  What peers say goes nowhere:
reasons are translated into the codes of actors/end_codes.py.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

import msgspec

from actors.class_bytes import ClassBytes
from actors.end_codes import LIMITS, ORDINARY, end_code, failure_code
from protocol import messages
from protocol.connection import Connection
from protocol.relay_hop import Status
from protocol.switching import Circuit
from protocol.yamux import Stream
from tracing.context import context_of
from tracing.metrics import SETUP_BOUNDS, Histogram
from tracing.spans import SpanState, address, peer
from tracing.tracer import NULL_SPAN, AnySpan, AnyTracer, NullTracer, Span

#: Recorded circuits whose first bytes are looked for at the end of each turn: 0.1 us each.
MAX_WATCHED: Final = 8


class Steps:
    """How far one request has come.  ``bridged``: it came by a bridge, and its root is elsewhere; ``context``: the root
    as others know it; ``step``: what is under way beside ``hop``.  ``draft``: its trace is not recorded, and there are
    no spans of it yet."""

    __slots__ = ("admitted_at", "asked_at", "bridged", "context", "draft", "hop", "root", "step")

    def __init__(
        self, asked_at: float, context: str, root: AnySpan = NULL_SPAN, hop: AnySpan = NULL_SPAN, *, bridged: bool
    ) -> None:
        self.asked_at = asked_at
        self.admitted_at = 0.0
        self.context = context
        self.root = root
        self.hop = hop
        self.step: AnySpan = NULL_SPAN
        self.bridged = bridged
        self.draft: Draft | None = None


class Draft:
    """What the spans of a circuit are made of if it fails.  ``drawn``: ids of trace and root; ``who``: dialler, target
    (None: it reserves) and address; ``step_name``, ``step_at``: how the target is asked, and since when."""

    __slots__ = ("circuit", "drawn", "joined_at", "step_at", "step_name", "who")

    def __init__(self, drawn: bytes, who: tuple[bytes, bytes | None, str]) -> None:
        self.drawn = drawn
        self.who = who
        self.circuit = 0
        self.step_name = ""
        self.step_at = 0.0
        self.joined_at = 0.0


def _identify(forwarder: str, source: bytes, target: bytes | None, remote: str, root: Span) -> None:
    """Who asked, where, and for whom."""
    root.set("descord.forwarder", forwarder)
    root.set("descord.peer" if target is None else "descord.source", peer(source))
    if target is not None:
        root.set("descord.target", peer(target))
    root.set("network.peer.address", address(remote))


class Asker(Protocol):
    """A HOP stream, or the bridge from another forwarder: it carries its steps."""

    stream: Stream
    steps: Steps | None


class StepsState(msgspec.Struct, frozen=True, array_like=True):
    """Steps with their open spans, on the way to another process."""

    asked_at: float
    admitted_at: float
    context: str
    bridged: bool
    root: SpanState | None
    hop: SpanState | None
    step: SpanState | None


class SpliceState(msgspec.Struct, frozen=True, array_like=True):
    """The open spans of a circuit that stands, likewise."""

    root: SpanState | None
    splice: SpanState | None


class _Circuit:
    """The open spans of a circuit that stands."""

    __slots__ = ("root", "seen_to_source", "seen_to_target", "splice")

    def __init__(self, root: AnySpan, splice: AnySpan) -> None:
        self.root = root
        self.splice = splice
        self.seen_to_target = False
        self.seen_to_source = False


class CircuitSteps:
    """See the module.  ``now``: the time of what is going on, set by the forwarder before it acts.

    ``setup``: seconds until admitted ("admit"), from there until the target answered ("stop"), and in all ("total").
    ``opened``: circuits of our diallers that came to stand; ``bridged_in``: those of other forwarders' diallers;
    ``failed``, ``ended_by``: why others did not, and why those are over; ``hand_offs``: circuits that came from another
    process.
    """

    def __init__(self, forwarder: str, tracer: AnyTracer | None = None) -> None:
        self.now = 0.0
        self.opened = 0
        self.bridged_in = 0
        self.failed: Counter[str] = Counter()
        self.ended_by: Counter[str] = Counter()
        self.handshake_failures: Counter[str] = Counter()
        self.hand_offs = 0
        self._class_bytes = ClassBytes()
        self._inherited_bytes = 0
        self._inherited: Counter[str] = Counter()
        self.setup = {stage: Histogram(SETUP_BOUNDS) for stage in ("admit", "stop", "total")}
        self._forwarder = forwarder
        self._tracer: AnyTracer = tracer if tracer is not None else NullTracer()
        #: Their spans, or what they would be made of.
        self._circuits: dict[int, _Circuit | Steps] = {}
        #: Circuits whose first bytes are not seen yet, the newest last.
        self.watched: deque[Circuit] = deque()
        self._late: dict[int, Circuit] = {}

    # Requests.

    def asked(self, hop: Asker, source: bytes, target: bytes | None, remote: str) -> None:
        """A peer's request is complete.  ``target`` None: it wants to reserve."""
        now = self.now
        if not self._tracer.enabled:
            hop.steps = Steps(now, "", bridged=False)
            return
        drawn, recorded = self._tracer.draw()
        steps = hop.steps = Steps(now, context_of(drawn, recorded), bridged=False)
        steps.draft = Draft(drawn, (source, target, remote))
        if recorded:
            self._record(steps)

    def bridged(self, bridge: Asker, context: str) -> None:
        """Another forwarder brings a circuit, whose root it has."""
        bridge.steps = Steps(self.now, context, bridged=True)

    def context(self, hop: Asker) -> str:
        """What goes beside a message about this request."""
        return "" if hop.steps is None else hop.steps.context

    def granted(self, hop: Asker) -> None:
        """A reservation was granted."""
        steps, hop.steps = hop.steps, None
        if steps is not None and steps.draft is None:
            steps.hop.end(self.now)
            steps.root.end(self.now)

    def refused(self, hop: Asker, status: Status) -> None:
        """The request was refused, and the peer told."""
        steps, hop.steps = hop.steps, None
        if steps is not None:
            self._fail(steps, status.name.lower(), status)

    def gone(self, hop: Asker) -> None:
        """The dialler went away before it was answered."""
        steps, hop.steps = hop.steps, None
        if steps is not None:
            self.failed["dialler_left"] += 1
            self._fail(steps, "dialler_left", None)

    # Circuits that are being made.

    def admitted(self, hop: Asker, circuit: int) -> None:
        """RelayServer admitted it."""
        steps = hop.steps
        if steps is not None:
            steps.admitted_at = self.now
            if not steps.bridged:
                self.setup["admit"].observe(self.now - steps.asked_at)
                if steps.draft is not None:
                    steps.draft.circuit = circuit
                else:
                    steps.root.set("descord.circuit", circuit)

    def bridging(self, hop: Asker) -> None:
        """The target is another forwarder's, which is asked now."""
        self._begin(hop, "bridge.connect")

    def stopping(self, hop: Asker) -> None:
        """The target is asked now."""
        self._begin(hop, "stop.connect")

    def _begin(self, hop: Asker, name: str) -> None:
        steps = hop.steps
        if steps is None or not self._tracer.enabled:
            return
        if steps.draft is None:
            if steps.step is NULL_SPAN:
                steps.step = self._child(steps, name, self.now)
        elif not steps.draft.step_name:
            steps.draft.step_name, steps.draft.step_at = name, self.now

    def setup_failed(self, hop: Asker, status: Status, reason: str) -> None:
        """An admitted circuit came to nothing."""
        steps, hop.steps = hop.steps, None
        if steps is not None:
            code = failure_code(reason)
            self.failed[code] += 1
            self._fail(steps, code, status)

    def _fail(self, steps: Steps, code: str, status: Status | None) -> None:
        now = self.now
        self._record(steps)
        for span in (steps.step, steps.hop, steps.root):
            span.set("descord.forwarder", self._forwarder)
            if status is not None:
                span.set("descord.status", status.name)
            span.fail(code)
            span.end(now)

    # Circuits that stand.

    def joined(self, hop: Asker, circuit: Circuit) -> None:
        """Both ends were told, and bytes pass from now on."""
        self._class_bytes.began(circuit)
        steps, hop.steps = hop.steps, None
        if steps is None:
            return
        now = self.now
        if steps.bridged:
            self.bridged_in += 1
        else:
            self.opened += 1
            self.setup["stop"].observe(now - steps.admitted_at)
            self.setup["total"].observe(now - steps.asked_at)
        if not self._tracer.enabled:
            return
        if steps.draft is not None:
            steps.draft.joined_at = now
            self._circuits[circuit.id] = steps
            return
        splice = self._stand(steps, circuit.id, now).splice
        if splice.recording:
            if len(self.watched) == MAX_WATCHED:
                oldest = self.watched.popleft()
                self._late[oldest.id] = oldest
            self.watched.append(circuit)

    def _record(self, steps: Steps) -> None:
        """Make the spans that are open, if there are none yet."""
        draft, steps.draft = steps.draft, None
        if draft is None:
            return
        reserving = draft.who[1] is None
        root = self._tracer.begin("reservation" if reserving else "circuit", steps.asked_at, draft.drawn)
        root.describe(partial(_identify, self._forwarder, *draft.who))
        if draft.circuit:
            root.set("descord.circuit", draft.circuit)
        steps.root = root
        steps.hop = self._child(steps, "hop.reserve" if reserving else "hop.connect", steps.asked_at)
        if draft.step_name:
            steps.step = self._child(steps, draft.step_name, draft.step_at)

    def _stand(self, steps: Steps, circuit: int, joined_at: float) -> _Circuit:
        """End what led to the circuit, begin its splice."""
        steps.step.end(joined_at)
        if steps.hop.recording:
            steps.hop.set("descord.status", Status.OK.name)
        steps.hop.end(joined_at)
        kept = self._circuits[circuit] = _Circuit(steps.root, self._child(steps, "splice", joined_at))
        return kept

    def _spans(self, circuit: int) -> _Circuit | None:
        """Those of a circuit that stands, made if need be."""
        kept = self._circuits.get(circuit)
        if not isinstance(kept, Steps):
            return kept
        assert kept.draft is not None
        joined_at = kept.draft.joined_at
        self._record(kept)
        return self._stand(kept, circuit, joined_at)

    def _child(self, steps: Steps, name: str, start: float) -> AnySpan:
        """A step of the root, wherever that is."""
        if steps.bridged:
            span = self._tracer.join(name, start, steps.context)
        else:
            span = steps.root.child(name, start)
        if span.recording:
            span.set("descord.forwarder", self._forwarder)
        return span

    def look(self, circuit: Circuit | None = None) -> None:
        """Look for the first bytes of the circuits that are watched, or of one."""
        for one in list(self.watched) if circuit is None else (circuit,):
            kept = self._spans(one.id)
            if kept is None or (kept.seen_to_target and kept.seen_to_source):
                continue
            if not kept.seen_to_target and one.bytes_to_target:
                kept.seen_to_target = True
                kept.splice.event("first byte", one.source.session.connection.last_received, to="target")
            if not kept.seen_to_source and one.bytes_to_source:
                kept.seen_to_source = True
                kept.splice.event("first byte", one.target.session.connection.last_received, to="source")
            if kept.seen_to_target and kept.seen_to_source:
                self._unwatch(one)

    def _unwatch(self, circuit: Circuit) -> None:
        self._late.pop(circuit.id, None)
        if circuit in self.watched:
            self.watched.remove(circuit)

    def look_at_late(self) -> None:
        """Once a second: at those that are no longer watched, and whose first bytes are still to come."""
        for circuit in list(self._late.values()):
            self.look(circuit)

    def ended(self, circuit: Circuit) -> bool:
        """It is over, for whatever reason; whether that is an error."""
        code = end_code(circuit)
        self.ended_by[code] += 1
        self._class_bytes.left(circuit.id)
        if code in ORDINARY and isinstance(self._circuits.get(circuit.id), Steps):
            del self._circuits[circuit.id]
            return False
        failed = code not in ORDINARY
        kept = self._spans(circuit.id)
        if kept is None:
            return failed
        now = self.now
        if not kept.splice.recording and code in ORDINARY:
            del self._circuits[circuit.id]
            kept.splice.end(now)
            kept.root.end(now)
            return False
        self.look(circuit)
        self._unwatch(circuit)
        del self._circuits[circuit.id]
        if code in LIMITS:
            kept.splice.event("limit", now, limit=code)
        for span in (kept.splice, kept.root):
            span.set("descord.forwarder", self._forwarder)
            span.set("descord.class", circuit.service_class)
            span.set("descord.bytes_to_target", circuit.bytes_to_target)
            span.set("descord.bytes_to_source", circuit.bytes_to_source)
            span.set("descord.close_reason", code)
            if failed:
                span.fail(code)
            span.end(now)
        return failed

    # Hand-off: the state is taken, resumed in another process, and dropped here; or nothing comes of it.

    def request_state(self, hop: Asker) -> StepsState | None:
        steps = hop.steps
        if steps is None:
            return None
        self._record(steps)
        return StepsState(
            asked_at=steps.asked_at,
            admitted_at=steps.admitted_at,
            context=steps.context,
            bridged=steps.bridged,
            root=steps.root.state(),
            hop=steps.hop.state(),
            step=steps.step.state(),
        )

    def drop_request(self, hop: Asker) -> None:
        steps, hop.steps = hop.steps, None
        if steps is not None:
            for span in (steps.step, steps.hop, steps.root):
                span.drop()

    def resume_request(self, hop: Asker, state: StepsState | None) -> None:
        """The stream came from another process."""
        if state is None:
            return
        root, step = self._resume(state.root), self._resume(state.step)
        steps = Steps(state.asked_at, state.context, root, self._resume(state.hop), bridged=state.bridged)
        steps.admitted_at, steps.step = state.admitted_at, step
        root.event("hand-off", self.now, to=self._forwarder)
        hop.steps = steps

    def splice_state(self, circuit: Circuit) -> SpliceState | None:
        kept = self._spans(circuit.id)
        return None if kept is None else SpliceState(kept.root.state(), kept.splice.state())

    def drop_circuit(self, circuit: int) -> None:
        self._class_bytes.left(circuit)
        kept = self._circuits.pop(circuit, None)
        if isinstance(kept, _Circuit):
            kept.splice.drop()
            kept.root.drop()
        self._late.pop(circuit, None)
        for one in [one for one in self.watched if one.id == circuit]:
            self.watched.remove(one)

    def resume(self, circuit: Circuit, state: SpliceState | None) -> None:
        """The circuit came from another process: its trace goes on."""
        self.hand_offs += 1
        self._class_bytes.began(circuit)
        if state is None or not self._tracer.enabled:
            return
        kept = self._circuits[circuit.id] = _Circuit(self._resume(state.root), self._resume(state.splice))
        kept.seen_to_target = bool(circuit.bytes_to_target)
        kept.seen_to_source = bool(circuit.bytes_to_source)
        kept.splice.event("hand-off", self.now, to=self._forwarder)

    def _resume(self, state: SpanState | None) -> AnySpan:
        return NULL_SPAN if state is None else self._tracer.resume(state)

    def fell(self, now: float) -> None:
        """The forwarder failed, and all its circuits with it."""
        circuits = [kept for number in list(self._circuits) if (kept := self._spans(number)) is not None]
        self._circuits.clear()
        for kept in circuits:
            for span in (kept.splice, kept.root):
                span.set("descord.close_reason", "forwarder_fell")
                span.fail("forwarder_fell")
                span.end(now)

    # Connections.

    def handshake_failed(self, connection: Connection, reason: str) -> None:
        """A connection ended before its peer had proved who it is."""
        error = connection.error
        if error is not None:
            self.handshake_failures[error.code] += 1
        else:
            self.handshake_failures["lost" if reason.startswith("connection lost") else "closed"] += 1

    # Counted.

    def inherit(self, bytes_forwarded: int, refusals: Mapping[str, int]) -> None:
        """What the predecessor did, which goes on to be counted by others as if it had been us, was told to metrics."""
        self._inherited_bytes += bytes_forwarded
        self._inherited.update(refusals)

    def metrics(self, counters: messages.ForwarderCounters, extended: int) -> messages.ForwarderMetrics:
        """What the actor "metrics" is told.  ``extended``: bytes of extensions, a class of their own."""
        by_class = self._class_bytes.told(max(counters.bytes_forwarded - self._inherited_bytes, 0))
        return messages.ForwarderMetrics(
            forwarder=self._forwarder,
            connections=counters.connections,
            circuits=counters.circuits,
            opened=self.opened,
            bridged_in=self.bridged_in,
            hand_offs=self.hand_offs,
            bytes_by_class=by_class | ({"extension": extended} if extended else {}),
            failed=dict(self.failed),
            ended=dict(self.ended_by),
            refusals={why: n - self._inherited[why] for why, n in counters.refusals.items()},
            handshake_failures=dict(self.handshake_failures),
            setup={stage: times.message() for stage, times in self.setup.items()},
        )
