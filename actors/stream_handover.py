"""Streams that end at this node, handed over: each kind of owner (actors/inbound_streams.py, relay_streams.py) as typed
data, and made again.

An owner that waits for an answer of RelayServer asks its question again; one that waits for its peer waits on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors import handover_state as states
from actors.bridges import BridgeStream
from actors.client_streams import Proposal
from actors.inbound_streams import (
    IdentifyAnswer,
    IdentifyPush,
    Negotiation,
    PerfAnswer,
    PingAnswer,
    QuietOwner,
    StreamOwner,
)
from actors.links import Link
from actors.relay_streams import HopStream, StopStream
from protocol import machine_state, relay_stop
from protocol.errors import LocalProtocolError
from protocol.identify import PUSH_PROTOCOL
from protocol.identity import PeerId
from protocol.relay_hop import ConnectRequested, Limit
from protocol.yamux import Stream

if TYPE_CHECKING:
    from actors.circuit_forwarder import CircuitForwarder


def take_owner(forwarder: CircuitForwarder, owner: StreamOwner) -> states.OwnerState:
    """What ``owner`` is in the middle of.  LocalProtocolError for one that no forwarder has."""
    match owner:
        case Negotiation():
            return states.Negotiating(machine_state.take_negotiation(owner._machine))
        case HopStream():
            return states.Hop(
                machine=machine_state.take_hop(owner._machine),
                asked=bool(owner.request_id),
                waiting=forwarder._setup.asked.get(owner.request_id) is owner,
                asked_again=owner.asked_again,
                steps=forwarder.steps.request_state(owner),
            )
        case StopStream():
            negotiation = owner._negotiation
            return states.Stop(
                negotiation=None if negotiation is None else machine_state.take_negotiation(negotiation),
                machine=machine_state.take_reader(owner._machine),
                bridged=owner._bridged,
            )
        case BridgeStream():
            limit = owner.limit
            return states.Bridge(
                token=owner.token,
                machine=machine_state.take_stop_server(owner._machine),
                source=b"" if owner._peer is None else owner._peer.bytes,
                limit=None if limit is None else (limit.duration, limit.data),
                early=forwarder._bridges.early(owner),
                steps=forwarder.steps.request_state(owner),
            )
        case IdentifyPush():
            return states.IdentifyPushed(machine_state.take_reader(owner._machine))
        case PingAnswer():
            return states.Pinging(machine_state.take_ping(owner._machine), owner._unread)
        case PerfAnswer():
            return states.Perf(machine_state.take_perf(owner._machine), producing=owner in forwarder.own.producers)
        case Proposal():
            return states.Pushing(machine_state.take_negotiation(owner._machine))
        case IdentifyAnswer() | QuietOwner():
            return states.Quiet()
    raise LocalProtocolError(f"a stream of a {type(owner).__name__} cannot be handed over")


def restore_owner(forwarder: CircuitForwarder, stream: Stream, state: states.OwnerState) -> StreamOwner:
    """The owner of ``stream``, as it was."""
    owner: StreamOwner
    match state:
        case states.Quiet():
            owner = QuietOwner(stream)
        case states.Negotiating():
            owner = Negotiation(stream, forwarder.own.served, forwarder._negotiated)
            owner._machine = machine_state.restore_listener(state.machine, forwarder.own.served)
        case states.Hop():
            owner = _restore_hop(forwarder, stream, state)
        case states.Stop():
            owner = _restore_stop(forwarder, stream, state)
        case states.Bridge():
            owner = _restore_bridge(forwarder, stream, state)
        case states.IdentifyPushed():
            owner = forwarder.own.identify_push(stream)
            owner._machine = machine_state.restore_identify(state.machine)
        case states.Pinging():
            owner = PingAnswer(stream)
            owner._machine = machine_state.restore_ping(state.machine)
            owner._unread = state.unread
        case states.Perf():
            owner = PerfAnswer(stream, forwarder.own.produces)
            owner._machine = machine_state.restore_perf(state.machine)
            if state.producing:
                forwarder.own.produces(owner)
        case states.Pushing():
            owner = _restore_proposal(forwarder, stream, state)
    stream.owner = owner
    return owner


def _restore_hop(forwarder: CircuitForwarder, stream: Stream, state: states.Hop) -> HopStream:
    hop = forwarder._setup.serve(stream)
    hop._machine = machine_state.restore_hop(state.machine)
    request = hop._machine.request
    if isinstance(request, ConnectRequested):
        hop.target = request.peer
    hop.asked_again = state.asked_again
    forwarder.steps.resume_request(hop, state.steps)
    if state.asked:
        forwarder._setup.take_up(hop, waiting=state.waiting)
    return hop


def _restore_stop(forwarder: CircuitForwarder, stream: Stream, state: states.Stop) -> StopStream:
    """Without its constructor, which sends the request: that was sent."""
    stop = StopStream.__new__(StopStream)
    QuietOwner.__init__(stop, stream)
    stop.admission = None
    stop._bridged = state.bridged
    stop._answered = forwarder._setup._stop_answered
    stop._negotiation = (
        None if state.negotiation is None else machine_state.restore_dialer(state.negotiation, (relay_stop.PROTOCOL,))
    )
    stop._machine = machine_state.restore_stop(state.machine, forwarder.description._identity.peer_id)
    return stop


def _restore_bridge(forwarder: CircuitForwarder, stream: Stream, state: states.Bridge) -> BridgeStream:
    """One that waits for RelayServer's word is taken up when all of its group is here (actors/handover.py)."""
    bridge = forwarder._bridges.serve(stream, forwarder._setup.bridge_gone)
    bridge.token = state.token
    forwarder.steps.resume_request(bridge, state.steps)
    bridge._machine = machine_state.restore_stop_server(state.machine)
    bridge._peer = PeerId(state.source) if state.source else None
    bridge.limit = None if state.limit is None else Limit(*state.limit)
    return bridge


def _restore_proposal(forwarder: CircuitForwarder, stream: Stream, state: states.Pushing) -> Proposal:
    link: Link = stream.session.connection.owner
    proposal = Proposal.__new__(Proposal)
    QuietOwner.__init__(proposal, stream)
    proposal._failed = None
    proposal._agreed = lambda agreed, _: IdentifyAnswer(agreed, forwarder.description.identify(link.remote))
    proposal._machine = machine_state.restore_dialer(state.machine, (PUSH_PROTOCOL,))
    return proposal
