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

from actors.deadlines import Deadlines
from actors.links import ForwarderPolicy, Link
from actors.relay_streams import Admission, HopStream, StopStream, told_limit
from actors.self_description import SelfDescription
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
    both by the number that RelayServer gave.
    """

    __slots__ = (
        "_deadlines",
        "_description",
        "_identity",
        "_links",
        "_name",
        "_next_request",
        "_policy",
        "_refusals",
        "_switch",
        "_tell",
        "asked",
        "circuits",
        "opening",
    )

    def __init__(
        self,
        name: str,
        policy: ForwarderPolicy,
        identity: Identity,
        switch: Switch,
        links: dict[int, Link],
        deadlines: Deadlines,
        description: SelfDescription,
        refusals: Counter[str],
        tell: Callable[[messages.RelayServerMessage], None],
    ) -> None:
        self.asked: dict[int, HopStream] = {}
        self.opening: dict[int, Admission] = {}
        self.circuits: dict[int, Circuit] = {}
        self._name = name
        self._policy = policy
        self._identity = identity
        self._switch = switch
        self._links = links
        self._deadlines = deadlines
        self._description = description
        self._refusals = refusals
        self._tell = tell
        self._next_request = 1

    def serve(self, stream: Stream) -> HopStream:
        """A peer opened a HOP stream."""
        return HopStream(stream, self._hop_asked, self._hop_gone)

    def expired(self, hop: HopStream) -> bool:
        """Its time is over; False when it waits for nothing here."""
        if self.asked.pop(hop.request_id, None) is None:
            return False
        self._refuse(hop, Status.CONNECTION_FAILED, "the relay did not decide in time", 1)
        return True

    # What peers ask for.

    def _hop_asked(self, hop: HopStream) -> None:
        link: Link = hop.stream.session.connection.owner
        if link.relayed:
            # "RESERVE and CONNECT over a relayed connection: PERMISSION_DENIED" (circuit-v2, "Hop protocol").
            self._refuse(hop, Status.PERMISSION_DENIED, "not over a relayed connection", 0)
            return
        request_id = hop.request_id = self._next_request
        self._next_request += 1
        self.asked[request_id] = hop
        self._ask(request_id, hop)

    def _ask(self, request_id: int, hop: HopStream) -> None:
        link: Link = hop.stream.session.connection.owner
        peer = link.peer.bytes
        if hop.target is None:
            link.may_hold = True
            self._tell(messages.ReserveAsked(request_id, self._name, link.id, peer, link.address))
        else:
            target = hop.target.bytes
            self._tell(messages.ConnectAsked(request_id, self._name, link.id, peer, target, link.address))

    def ask_again(self) -> None:
        """A RelayServer starts: what its predecessor did not answer is asked anew, once, for it may have fallen over
        the very question."""
        for request_id, hop in list(self.asked.items()):
            if hop.asked_again:
                del self.asked[request_id]
                self._refuse(hop, Status.CONNECTION_FAILED, "the relay could not decide", 1)
            else:
                hop.asked_again = True
                self._ask(request_id, hop)

    def _hop_gone(self, hop: HopStream) -> None:
        """The dialler went away before its request was answered or its circuit stood."""
        self.asked.pop(hop.request_id, None)
        admission = hop.admission
        if admission is not None and self.opening.pop(admission.circuit, None) is not None:
            self._deadlines.cancel(admission)
            if not admission.stop.stream.closed:
                admission.stop.stream.session.reset(admission.stop.stream)
            self._failed(admission.circuit, Status.CONNECTION_FAILED, "the dialler went away")

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
        expires_at = int(granted.expires_at)
        hop.grant(
            expires_at,
            self._description.reservation_addresses(link.local),
            seal_voucher(self._identity, link.peer, expires_at),
            told_limit(granted.limit_duration, granted.limit_data),
        )

    def refused(self, refused: messages.ReserveRefused | messages.ConnectRefused) -> None:
        hop = self._take_asked(refused.request_id)
        if hop is not None:
            self._refuse(hop, Status(refused.status), refused.reason, refused.retry_after)

    def _refuse(self, hop: HopStream, status: Status, reason: str, retry_after: int) -> None:
        self._refusals[status.name] += 1
        hop.refuse(status, reason, retry_after)

    # Circuits.

    def connect_admitted(self, admitted: messages.ConnectAdmitted, now: float) -> None:
        hop = self._take_asked(admitted.request_id)
        if hop is None:
            self._failed(admitted.circuit, Status.CONNECTION_FAILED, "the dialler went away")
            return
        self._deadlines.cancel(hop.stream)
        link = self._links.get(admitted.target_connection)
        if (
            admitted.target_forwarder != self._name
            or link is None
            or link.connection.state is not State.MULTIPLEXED
            or link.peer.bytes != admitted.target
        ):
            self._refuse(hop, Status.NO_RESERVATION, "the target is no longer connected here", 0)
            self._failed(admitted.circuit, Status.NO_RESERVATION, "the target is no longer connected here")
            return
        try:
            stream = link.connection.session.open_stream()
        except LocalProtocolError as error:
            self._refuse(hop, Status.CONNECTION_FAILED, f"the target takes no stream: {error}", 1)
            self._failed(admitted.circuit, Status.CONNECTION_FAILED, str(error))
            return
        limit = told_limit(admitted.limit_duration, admitted.limit_data)
        stop = StopStream(stream, hop.stream.session.connection.owner.peer, limit, self._stop_answered)
        admission = Admission(admitted.circuit, hop, stop, admitted.limit_duration, admitted.limit_data)
        hop.admission = stop.admission = admission
        self.opening[admission.circuit] = admission
        self._deadlines.set(
            admission,
            now + self._policy.stop_timeout,
            lambda _: self._stop_failed(admission, "the target did not answer in time"),
        )

    def _stop_answered(self, stop: StopStream, refusal: str | None) -> None:
        admission = stop.admission
        if admission is None or self.opening.get(admission.circuit) is not admission:
            return
        if refusal is not None:
            self._stop_failed(admission, refusal)
            return
        del self.opening[admission.circuit]
        self._deadlines.cancel(admission)
        hop, source, target = admission.hop, admission.hop.stream, stop.stream
        hop.admission = stop.admission = None
        early = hop.accept(told_limit(admission.duration, admission.data))
        answered_with = stop.trailing_data()
        now = source.session.connection.last_received
        circuit = self._switch.join(admission.circuit, source, target, data_limit=admission.data, opened_at=now)
        self.circuits[circuit.id] = circuit
        for stream in (source, target):
            stream.session.connection.owner.circuits += 1
        self._tell(messages.CircuitOpened(circuit=circuit.id, forwarder=self._name))
        if early:
            self._switch.push(source, early)
        if answered_with:
            self._switch.push(target, answered_with)
        if admission.duration and not circuit.reason:
            now = target.session.connection.last_received
            self._deadlines.set(circuit, now + admission.duration, lambda _: self._circuit_expired(circuit))

    def _stop_failed(self, admission: Admission, reason: str) -> None:
        if self.opening.pop(admission.circuit, None) is None:
            return
        self._deadlines.cancel(admission)
        hop, stop = admission.hop, admission.stop
        hop.admission = stop.admission = None
        if not stop.stream.closed:
            stop.stream.session.reset(stop.stream)
        if not hop.stream.closed:
            self._refuse(hop, Status.CONNECTION_FAILED, reason, 0)
        self._failed(admission.circuit, Status.CONNECTION_FAILED, reason)

    def _circuit_expired(self, circuit: Circuit) -> None:
        self._switch.end(circuit, "time limit")
        self.report_ended()

    def report_ended(self) -> None:
        ended, self._switch.ended = self._switch.ended, []
        for circuit in ended:
            self._deadlines.cancel(circuit)
            if self.circuits.pop(circuit.id, None) is None:
                continue
            for stream in (circuit.source, circuit.target):
                stream.session.connection.owner.circuits -= 1
            self._tell(
                messages.CircuitEnded(
                    circuit=circuit.id,
                    forwarder=self._name,
                    bytes_to_target=circuit.bytes_to_target,
                    bytes_to_source=circuit.bytes_to_source,
                    reason=circuit.reason,
                )
            )

    def _failed(self, circuit: int, status: Status, reason: str) -> None:
        self._tell(
            messages.CircuitFailed(circuit=circuit, forwarder=self._name, status=int(status), reason=reason[:200])
        )
