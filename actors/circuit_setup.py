"""What peers ask of a forwarder by HOP, and the circuits that come of it.

    RESERVE  ->  ReserveAsked   ->  ReserveGranted / ReserveRefused   ->  STATUS
    CONNECT  ->  ConnectAsked   ->  ConnectAdmitted / ConnectRefused
                                        |
                                    STOP stream to the target  ->  STATUS to both  ->  joined by the switch

Each step is taken when a message or bytes come, or when a deadline has passed: nothing waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from actors.bridges import Bridges, BridgeStream
from actors.circuit_steps import CircuitSteps
from actors.deadlines import Deadlines
from actors.end_codes import failure_code
from actors.links import ForwarderPolicy, Link
from actors.moves import Move
from actors.refusals import FAILED
from actors.relay_streams import Admission, CircuitAsker, HopStream, StopStream, told_limit
from actors.self_description import SelfDescription
from actors.shares import WEIGHT
from protocol import messages
from protocol.connection import State
from protocol.envelope import seal_voucher
from protocol.errors import LocalProtocolError
from protocol.identity import Identity
from protocol.relay_hop import Status
from protocol.switching import Circuit, Switch
from protocol.yamux import Stream


class CircuitSetup:
    """The requests of one forwarder ``name`` and its circuits.

    ``links``: its connections by number.  ``tell``: takes what RelayServer is to hear.  ``asked``: requests that it has
    not answered, by their number.  ``opening``: circuits whose target has not answered, ``circuits``: those that stand,
    both by the number that RelayServer gave.  ``steps``: is told each step that a request takes.  ``moves``:
    connections that the host is to send to their targets' forwarders.  ``wall``: from a time as we have it to what
    clocks show then.  ``note``: takes what a log at debug says.
    """

    __slots__ = (
        "_bridges",
        "_crossing",
        "_deadlines",
        "_description",
        "_expire_at",
        "_identity",
        "_links",
        "_name",
        "_next_request",
        "_note",
        "_policy",
        "_refusals",
        "_steps",
        "_switch",
        "_tell",
        "_wall",
        "asked",
        "bridged_bytes",
        "circuits",
        "moves",
        "opening",
    )

    def __init__(
        self,
        name: str,
        policy: ForwarderPolicy,
        identity: Identity,
        switch: Switch,
        links: dict[int, Link],
        bridges: Bridges,
        deadlines: Deadlines,
        description: SelfDescription,
        refusals: Counter[str],
        tell: Callable[[messages.RelayServerMessage, str], None],
        steps: CircuitSteps,
        expire_at: Callable[[Stream, float], None],
        wall: Callable[[float], float],
        note: Callable[..., None],
    ) -> None:
        self.asked: dict[int, HopStream] = {}
        self.opening: dict[int, Admission] = {}
        self.circuits: dict[int, Circuit] = {}
        self._name = name
        self._policy = policy
        self._identity = identity
        self._switch = switch
        self._links = links
        self._bridges = bridges
        bridges.matched, bridges.moved = self.bridge_arrived, self.moved_in
        self._deadlines = deadlines
        self._description = description
        self._refusals = refusals
        self._tell = tell
        self._expire_at = expire_at
        self._steps = steps
        self._wall = wall
        self._note = note
        self._next_request = 1
        # Bridges that are being connected: their admission, and the token to show.
        self._crossing: dict[int, tuple[Admission, bytes]] = {}
        self.bridged_bytes = 0
        self.moves: list[Move] = []

    def serve(self, stream: Stream) -> HopStream:
        """A peer opened a HOP stream."""
        return HopStream(stream, self._hop_asked, self._hop_gone)

    def expired(self, hop: HopStream) -> bool:
        """Its time is over; False when it waits for nothing here."""
        if self.asked.pop(hop.request_id, None) is None:
            return False
        self._refusals["undecided"] += 1
        self._refuse(hop, Status.CONNECTION_FAILED, "the relay did not decide in time", 1)
        return True

    # What peers ask for.

    def _hop_asked(self, hop: HopStream) -> None:
        link: Link = hop.stream.session.connection.owner
        self._steps.asked(hop, link.peer.bytes, None if hop.target is None else hop.target.bytes, link.address)
        if link.relayed:
            # "RESERVE and CONNECT over a relayed connection: PERMISSION_DENIED" (circuit-v2, "Hop protocol").
            self._refusals["relayed"] += 1
            self._refuse(hop, Status.PERMISSION_DENIED, "not over a relayed connection", 0)
            return
        self.take_up(hop, waiting=True)

    def take_up(self, hop: HopStream, *, waiting: bool) -> None:
        """A request that is complete; ``waiting``: RelayServer is to answer it."""
        request_id = hop.request_id = self._next_request
        self._next_request += 1
        if waiting:
            self.asked[request_id] = hop
            self._ask(request_id, hop)

    def _ask(self, request_id: int, hop: HopStream) -> None:
        link: Link = hop.stream.session.connection.owner
        peer = link.peer.bytes
        if hop.target is None:
            link.may_hold = True
            asked = messages.ReserveAsked(request_id, self._name, link.id, peer, link.address)
            self._tell(asked, self._steps.context(hop))
        else:
            target = hop.target.bytes
            wanted = messages.ConnectAsked(request_id, self._name, link.id, peer, target, link.address)
            self._tell(wanted, self._steps.context(hop))

    def ask_again(self, *, suspect: bool = True) -> None:
        """A RelayServer starts: what its predecessor did not answer is asked anew, once, for it may have fallen over
        the very question; any number of times when that cannot be why."""
        for request_id, hop in list(self.asked.items()):
            if not suspect:
                self._ask(request_id, hop)
            elif hop.asked_again:
                del self.asked[request_id]
                self._refusals["undecided"] += 1
                self._refuse(hop, Status.CONNECTION_FAILED, "the relay could not decide", 1)
            else:
                hop.asked_again = True
                self._ask(request_id, hop)

    def _hop_gone(self, hop: HopStream) -> None:
        """The dialler went away before its request was answered or its circuit stood."""
        self.asked.pop(hop.request_id, None)
        self._asker_gone(hop)
        self._steps.gone(hop)

    def _asker_gone(self, hop: CircuitAsker) -> None:
        admission = hop.admission
        if admission is not None and self._give_up(admission):
            self._failed(admission, Status.CONNECTION_FAILED, "the dialler went away")

    def _take_asked(self, request_id: int) -> HopStream | None:
        hop = self.asked.pop(request_id, None)
        return None if hop is None or hop.stream.closed else hop

    def reserve_granted(self, granted: messages.ReserveGranted) -> None:
        link = self._links.get(granted.connection)
        if link is None:
            return  # its end was told, behind the question
        # Held, even if nobody waits for the answer any more: it ends with the connection.
        link.reserved_until = granted.expires_at
        hop = self._take_asked(granted.request_id)
        if hop is None:
            return
        expires_at = int(self._wall(granted.expires_at))
        hop.grant(
            expires_at,
            self._description.reservation_addresses(link.local, link.remote),
            seal_voucher(self._identity, link.peer, expires_at),
            told_limit(granted.limit_duration, granted.limit_data),
        )
        self._steps.granted(hop)

    def refused(self, refused: messages.ReserveRefused | messages.ConnectRefused) -> None:
        hop = self._take_asked(refused.request_id)
        if hop is not None:
            self._refuse(hop, Status(refused.status), refused.reason, refused.retry_after)

    def _refuse(self, hop: CircuitAsker, status: Status, reason: str, retry_after: int) -> None:
        self._refusals[status.name] += 1
        self._note("refused with %s: %s", status.name, reason)
        hop.refuse(status, reason, retry_after)
        if not hop.stream.closed:
            self._expire_at(hop.stream, self._steps.now + self._policy.stream_timeout)
        self._steps.refused(hop, status)

    # Circuits.

    def connect_admitted(self, admitted: messages.ConnectAdmitted, now: float) -> None:
        hop = self._take_asked(admitted.request_id)
        if hop is None:
            self._tell_failed(admitted.circuit, Status.CONNECTION_FAILED, "the dialler went away")
            return
        self._deadlines.cancel(hop.stream)
        admission = Admission(admitted.circuit, hop, None, admitted.limit_duration, admitted.limit_data)
        admission.service_class = admitted.service_class
        self._steps.admitted(hop, admitted.circuit)
        self.await_answer(admission, now + self._policy.stop_timeout)
        if admitted.target_forwarder == self._name:
            self._ask_target(admission, admitted.target_connection, admitted.target)
        elif not admitted.moves or not self._move(hop.stream.session.connection.owner, admitted):
            self._cross(admission, admitted, now)

    def _move(self, link: Link, admitted: messages.ConnectAdmitted) -> bool:
        """Have ``link`` sent to its target's forwarder with the next turn's end; False when something binds it here."""
        for move in self.moves:
            if move.link is link and move.address == admitted.moves:
                move.admitted.append(admitted)
                return True
        move = Move(link, admitted.moves, [admitted])
        if move.possible:
            self.moves.append(move)
        return move.possible

    def stays(self, move: Move, now: float) -> None:
        """The dialler's connection could not move to its target's forwarder."""
        for admitted in move.admitted:
            admission = self.opening.get(admitted.circuit)
            if admission is not None:
                self._cross(admission, admitted, now)

    def moved_in(self, expected: messages.BridgeExpected) -> None:
        """A dialler's connection has moved here, with the admission on it, and RelayServer knows of it."""
        admission = self.opening.get(expected.circuit)
        if admission is None:
            return  # it went away, or gave up, which RelayServer was told
        if admission.hop.source.bytes != expected.source:
            self._stop_failed(admission, Status.PERMISSION_DENIED, "the circuit was announced for another dialler")
        else:
            self._ask_target(admission, expected.target_connection, expected.target)

    def _cross(self, admission: Admission, admitted: messages.ConnectAdmitted, now: float) -> None:
        if not admitted.bridge:
            self._stop_failed(admission, Status.CONNECTION_FAILED, "the target's forwarder cannot be reached")
            return
        self._steps.bridging(admission.hop)
        link = self._bridges.dial(admitted, now)
        self._crossing[link.id] = (admission, admitted.token)
        if link.connection.state is State.MULTIPLEXED:
            self.bridge_ready(link)

    def bridge_arrived(self, bridge: BridgeStream, expected: messages.BridgeExpected, now: float) -> None:
        """Another forwarder brings a circuit to a peer of ours.  Its limits are that forwarder's affair.

        Here its number is negative: the other's half may come to this forwarder, by a hand-over, and both live on.
        """
        self._deadlines.cancel(bridge.stream)
        admission = Admission(-expected.circuit, bridge, None, 0.0, 0)
        self._steps.bridged(bridge, expected.traceparent)
        self._steps.admitted(bridge, expected.circuit)
        self.await_answer(admission, now + self._policy.stop_timeout)
        if bridge.source.bytes != expected.source:
            self._stop_failed(admission, Status.PERMISSION_DENIED, "the bridge was announced for another dialler")
        else:
            self._ask_target(admission, expected.target_connection, expected.target)

    def bridge_gone(self, bridge: BridgeStream) -> None:
        """The dialler's forwarder gave the bridge up."""
        self._asker_gone(bridge)
        self._steps.gone(bridge)

    def bridge_ready(self, link: Link) -> None:
        """A bridge that we dial is connected, and its other end has proved itself: ask through it."""
        admission, token = self._crossing.pop(link.id, (None, b""))
        if admission is None:
            link.connection.close()
            link.connection.mark_dirty()
        else:
            self._open_stop(admission, link, token)

    def bridge_lost(self, link: Link) -> None:
        """A bridge could not be connected."""
        admission, _ = self._crossing.pop(link.id, (None, b""))
        if admission is not None:
            self._stop_failed(admission, Status.CONNECTION_FAILED, "the target's forwarder cannot be reached")

    def await_answer(self, admission: Admission, deadline: float) -> None:
        """The target is asked, and has until ``deadline``."""
        admission.hop.admission = admission
        self.opening[admission.circuit] = admission
        self._deadlines.set(
            admission,
            deadline,
            lambda _: self._stop_failed(admission, Status.CONNECTION_FAILED, "the target did not answer in time"),
        )

    def _ask_target(self, admission: Admission, connection: int, target: bytes) -> None:
        link = self._links.get(connection)
        if link is None or link.connection.state is not State.MULTIPLEXED or link.peer.bytes != target:
            self._stop_failed(admission, Status.NO_RESERVATION, "the target is no longer connected here")
        else:
            self._steps.stopping(admission.hop)
            self._open_stop(admission, link, b"")

    def _open_stop(self, admission: Admission, link: Link, token: bytes) -> None:
        try:
            stream = link.connection.session.open_stream()
        except LocalProtocolError as error:
            self._stop_failed(admission, Status.CONNECTION_FAILED, f"the target takes no stream: {error}")
            return
        hop = admission.hop
        limit = hop.limit if isinstance(hop, BridgeStream) else told_limit(admission.duration, admission.data)
        admission.stop = StopStream(stream, hop.source, limit, self._stop_answered, token)
        admission.stop.admission = admission

    def _stop_answered(self, stop: StopStream, status: Status, reason: str) -> None:
        admission = stop.admission
        if admission is None or self.opening.get(admission.circuit) is not admission:
            return
        if status is not Status.OK:
            self._stop_failed(admission, status, reason)
            return
        del self.opening[admission.circuit]
        self._deadlines.cancel(admission)
        hop, source, target = admission.hop, admission.hop.stream, stop.stream
        hop.admission = stop.admission = None
        early = hop.accept(told_limit(admission.duration, admission.data))
        answered_with = stop.trailing_data()
        now = source.session.connection.last_received
        name = admission.service_class
        circuit = self._switch.join(
            admission.circuit,
            source,
            target,
            data_limit=admission.data,
            opened_at=now,
            service_class=name,
            weight=WEIGHT.get(name, 1),
        )
        self.circuits[circuit.id] = circuit
        self._steps.joined(hop, circuit)
        for stream in (source, target):
            stream.session.connection.owner.circuits += 1
        if not isinstance(hop, BridgeStream):
            self._tell(messages.CircuitOpened(circuit=circuit.id, forwarder=self._name), "")
        if early:
            self._switch.push(source, early)
        if source.fin_received and not circuit.reason:
            self._switch.finish(source)
        # The target's end, if it has come already, comes behind this as an event.
        if answered_with:
            self._switch.push(target, answered_with)
        if admission.duration and not circuit.reason:
            now = target.session.connection.last_received
            self._deadlines.set(circuit, now + admission.duration, lambda _: self._circuit_expired(circuit))

    def _stop_failed(self, admission: Admission, status: Status, reason: str) -> None:
        if not self._give_up(admission):
            return
        hop = admission.hop
        self._steps.setup_failed(hop, status, reason)
        if not hop.stream.closed:
            self._refuse(hop, status, reason, 0)
        self._failed(admission, status, reason)

    def _give_up(self, admission: Admission) -> bool:
        """End what was begun for it; False when it was over before."""
        if self.opening.pop(admission.circuit, None) is None:
            return False
        self._deadlines.cancel(admission)
        stop = admission.stop
        admission.hop.admission = None
        if stop is None:
            for number, (crossing, _) in self._crossing.items():
                if crossing is admission:
                    del self._crossing[number]
                    _close(self._links[number])
                    break
            return True
        stop.admission = None
        link: Link = stop.stream.session.connection.owner
        if not stop.stream.closed:
            stop.stream.session.reset(stop.stream)
        stop.stream.owner = None
        if link.bridge:
            _close(link)
        return True

    def _circuit_expired(self, circuit: Circuit) -> None:
        self._switch.end(circuit, "time limit")
        self.report_ended()

    def report_ended(self) -> None:
        ended, self._switch.ended = self._switch.ended, []
        for circuit in ended:
            self._deadlines.cancel(circuit)
            if self.circuits.pop(circuit.id, None) is None:
                continue
            failed = self._steps.ended(circuit)
            links: list[Link] = [stream.session.connection.owner for stream in (circuit.source, circuit.target)]
            for link in links:
                link.circuits -= 1
                if link.bridge:
                    _close(link)
            if links[0].bridge:
                # The dialler's forwarder counts it and tells of it.
                self.bridged_bytes += circuit.bytes_to_target + circuit.bytes_to_source
                continue
            self._tell(
                messages.CircuitEnded(
                    circuit=circuit.id,
                    forwarder=self._name,
                    bytes_to_target=circuit.bytes_to_target,
                    bytes_to_source=circuit.bytes_to_source,
                    reason=circuit.reason,
                    failed=failed,
                ),
                "",
            )

    def bytes_counted_elsewhere(self) -> int:
        """Bytes of circuits that another forwarder brings here: it counts them too."""
        living = (c for c in self.circuits.values() if c.source.session.connection.owner.bridge)
        return self.bridged_bytes + sum(circuit.bytes_to_target + circuit.bytes_to_source for circuit in living)

    def _failed(self, admission: Admission, status: Status, reason: str) -> None:
        if not isinstance(admission.hop, BridgeStream):
            self._refusals[FAILED + failure_code(reason)] += 1
            self._tell_failed(admission.circuit, status, reason)

    def _tell_failed(self, circuit: int, status: Status, reason: str) -> None:
        self._tell(
            messages.CircuitFailed(circuit=circuit, forwarder=self._name, status=int(status), reason=reason[:200]), ""
        )


def _close(link: Link) -> None:
    """A bridge carries one circuit and ends with it."""
    link.connection.close()
    link.connection.mark_dirty()
