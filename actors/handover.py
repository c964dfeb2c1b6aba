"""A forwarder's connections as plain data, and back: how it hands them to another forwarder.

:func:`groups` cuts what it holds into the smallest parts that can move alone, :func:`release` takes one out of an old
forwarder and :func:`adopt` puts it into a new one.  Nobody is told of either: for peers nothing happened, and
RelayServer hears at the end, by one report that replaces the old forwarder's (actors/relay_server.py).  Sockets are the
host's (actors/ports/handover.py).

These functions are the forwarder's own, in a file of their own: they know what is inside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from actors.bridges import BridgeStream
from actors.handover_state import (
    AdmissionState,
    Bridge,
    ExpectedState,
    GroupState,
    JoinedState,
    LinkState,
    StreamOwnerState,
    Totals,
)
from actors.inbound_streams import PerfAnswer, QuietOwner
from actors.links import Beyond, Link
from actors.relay_streams import Admission, HopStream, StopStream
from actors.stream_handover import restore_owner, take_owner
from protocol import handover, messages
from protocol.connection import State
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.noise import StaticKey
from protocol.switching import Circuit
from protocol.yamux import Stream

if TYPE_CHECKING:
    from actors.circuit_forwarder import CircuitForwarder


def groups(forwarder: CircuitForwarder) -> list[list[Link]]:
    """The connections that live, in the smallest groups that circuits and admissions allow; small groups first, so that
    most connections wait for little."""
    leader: dict[Link, Link] = {
        link: link for link in forwarder.links.values() if link.connection.state is not State.CLOSED
    }

    def find(link: Link) -> Link:
        while (above := leader[link]) is not link:
            leader[link] = leader[above]
            link = above
        return link

    setup = forwarder._setup
    pairs = [(_link(circuit.source), _link(circuit.target)) for circuit in setup.circuits.values()]
    for admission in setup.opening.values():
        if admission.stop is not None:
            pairs.append((_link(admission.hop.stream), _link(admission.stop.stream)))
    for number, (admission, _) in setup._crossing.items():
        if number in forwarder.links:
            pairs.append((_link(admission.hop.stream), forwarder.links[number]))
    for source, target in pairs:
        if source in leader and target in leader:
            leader[find(source)] = find(target)
    parts: dict[Link, list[Link]] = {}
    for link in leader:
        parts.setdefault(find(link), []).append(link)
    return sorted(parts.values(), key=len)


def complete(forwarder: CircuitForwarder, links: Collection[Link]) -> bool:
    """Whether ``links`` are still whole groups: circuits may have come since these were found."""
    inside = set(links)
    return all(
        (_link(circuit.source) in inside) == (_link(circuit.target) in inside)
        for circuit in _circuits_of(links)
        if forwarder.links.get(_link(circuit.source).id) and forwarder.links.get(_link(circuit.target).id)
    ) and all(
        (_link(one.hop.stream) in inside) == (_link(one.stop.stream) in inside)
        for one in forwarder._setup.opening.values()
        if one.stop is not None
    )


# The old one.


def release(forwarder: CircuitForwarder, links: Sequence[Link]) -> GroupState:
    """Take ``links``, whole groups, out of ``forwarder``.  Between turns: what they had to write was written."""
    places = {link: place for place, link in enumerate(links)}
    setup, deadlines = forwarder._setup, forwarder._deadlines

    def end(stream: Stream) -> tuple[int, int]:
        return places[_link(stream)], stream.id

    circuits = _circuits_of(links)
    for circuit in circuits:
        if circuit.source.closed or circuit.target.closed:
            forwarder.switch.meter.leave(circuit)
            _let_go(circuit)
            forwarder.switch.ended.append(circuit)
    setup.report_ended()
    circuits = [circuit for circuit in circuits if not circuit.reason]
    forwarder.switch.meter.collect()  # quota is this forwarder's, and stays
    admissions = [one for one in setup.opening.values() if _link(one.hop.stream) in places]
    crossing = {
        admission.circuit: (places[link], token)
        for number, (admission, token) in setup._crossing.items()
        if (link := forwarder.links.get(number)) in places and link is not None
    }
    joined = tuple(
        JoinedState(
            handover.CircuitState(
                circuit.id,
                end(circuit.source),
                end(circuit.target),
                handover.data_limit(circuit),
                circuit.opened_at,
                circuit.overrun,
                circuit.service_class,
                circuit.weight,
            ),
            deadlines.when(circuit),
            forwarder.steps.splice_state(circuit),
        )
        for circuit in circuits
    )
    opening = tuple(
        AdmissionState(
            circuit=one.circuit,
            hop=end(one.hop.stream),
            stop=None if one.stop is None else end(one.stop.stream),
            crossing=crossing.get(one.circuit, (-1, b""))[0],
            token=crossing.get(one.circuit, (-1, b""))[1],
            duration=one.duration,
            data=one.data,
            deadline=deadlines.when(one),
            service_class=one.service_class,
        )
        for one in admissions
    )
    taken = tuple(_take_link(forwarder, link) for link in links)
    # Only now, when all of it could be taken, is anything forgotten.
    numbers = {link.id: place for link, place in places.items()}
    expected = tuple(
        ExpectedState(word.circuit, word.token, word.source, numbers[word.target_connection], word.traceparent)
        for word in forwarder._bridges.words(numbers)
    )
    for circuit in circuits:
        del setup.circuits[circuit.id]
        forwarder.switch.meter.let_go(circuit)
        deadlines.cancel(circuit)
        forwarder.steps.drop_circuit(circuit.id)
    for admission in admissions:
        del setup.opening[admission.circuit]
        deadlines.cancel(admission)
    for link in links:
        setup._crossing.pop(link.id, None)
        _forget(forwarder, link)
    return GroupState(taken, joined, opening, expected)


def _let_go(circuit: Circuit) -> None:
    """Both ends have finished; one waits for its peer to take the last bytes, and needs no circuit for that."""
    circuit.reason = "finished"
    for stream in (circuit.source, circuit.target):
        stream.out = None
        stream.circuit = None
        if not stream.closed:
            stream.owner = QuietOwner(stream)


def _take_link(forwarder: CircuitForwarder, link: Link) -> LinkState:
    deadlines, beyond = forwarder._deadlines, link.beyond
    streams = []
    for stream in link.connection.session.streams.values():
        owner, deadline = stream.owner, deadlines.when(stream)
        if owner is not None or deadline:
            state = None if owner is None else take_owner(forwarder, owner)
            streams.append(StreamOwnerState(stream.id, state, deadline))
    return LinkState(
        connection=handover.take(link.connection),
        address=link.address,
        remote=link.remote,
        local=link.local,
        relayed=link.relayed,
        bridge=link.bridge,
        beyond=None if beyond is None else (beyond.forwarder, beyond.connection, beyond.peer.bytes),
        agent=link.agent,
        idle_since=link.idle_since,
        may_hold=link.may_hold,
        reserved_until=link.reserved_until,
        blocked=link.connection.blocked,
        looked_at=deadlines.when(link),
        push_at=deadlines.when(("push", link.id)),
        streams=tuple(streams),
    )


def _forget(forwarder: CircuitForwarder, link: Link) -> None:
    forwarder._links.remove(link)
    forwarder._deadlines.cancel(("push", link.id))
    for stream in link.connection.session.streams.values():
        owner = stream.owner
        forwarder._deadlines.cancel(stream)
        if isinstance(owner, HopStream | BridgeStream):
            forwarder.steps.drop_request(owner)
        if isinstance(owner, HopStream):
            forwarder._setup.asked.pop(owner.request_id, None)
        elif isinstance(owner, BridgeStream):
            forwarder._bridges.leave(owner)
        elif isinstance(owner, PerfAnswer):
            forwarder.own.producers.pop(owner, None)
    link.connection.state = State.CLOSED


# The new one.


def adopt(
    forwarder: CircuitForwarder, state: GroupState, now: float, *, static: StaticKey, shift: float = 0.0
) -> list[Link]:
    """Put a group into ``forwarder``; its links, in the order in which they were released.

    ``static``: the key of the forwarder that released it.  ``shift``: seconds by which our clock is ahead of its clock.
    LocalProtocolError when the state does not fit together; then nothing of it is kept.
    """
    links: list[Link] = []
    forwarder.steps.now = now
    try:
        for one in state.links:
            links.append(_adopt_link(forwarder, one, static, shift))
        for joined in state.circuits:
            _adopt_circuit(forwarder, links, joined, shift)
        for link, one in zip(links, state.links, strict=True):
            _adopt_streams(forwarder, link, one, shift)
        for admission in state.admissions:
            _adopt_admission(forwarder, links, admission, shift)
        for word in state.expected:
            link = links[word.target]
            forwarder._bridges.expect(
                messages.BridgeExpected(
                    word.circuit, word.token, word.source, link.peer.bytes, link.id, word.traceparent
                ),
                now,
            )
        _take_up_bridges(forwarder, links, state)
    except (LookupError, ValueError, TypeError, AttributeError, RemoteProtocolError) as error:
        for joined in state.circuits:
            if (circuit := forwarder._setup.circuits.pop(joined.circuit.id, None)) is not None:
                forwarder.switch.meter.let_go(circuit)
            forwarder.steps.drop_circuit(joined.circuit.id)
        for admission in state.admissions:
            forwarder._setup.opening.pop(admission.circuit, None)
        for link in links:
            _forget(forwarder, link)
        raise LocalProtocolError(f"a group that does not fit together: {error!r}") from error
    forwarder._schedule_counters(now)
    return links


def _adopt_link(forwarder: CircuitForwarder, state: LinkState, static: StaticKey, shift: float) -> Link:
    limits = forwarder.policy.connection
    if state.bridge:
        limits = forwarder._bridges.limits(plain=state.connection.kind == handover.PLAIN)
    connection = handover.restore(state.connection, forwarder.switch, static, limits, shift)
    when = state.looked_at + shift
    if state.bridge:
        beyond = None if state.beyond is None else Beyond(state.beyond[0], state.beyond[1], PeerId(state.beyond[2]))
        link = forwarder._links.bridge(connection, beyond, when)
        forwarder._links.look_at(link, when)
    else:
        link = forwarder._links.adopt(connection, state.address, state.remote, state.local, when, relayed=state.relayed)
    link.agent = state.agent
    link.idle_since = None if state.idle_since is None else state.idle_since + shift
    link.may_hold = state.may_hold
    link.reserved_until = state.reserved_until + shift if state.reserved_until else 0.0
    connection.blocked = state.blocked
    if state.push_at:
        forwarder._deadlines.set(("push", link.id), state.push_at + shift, partial(forwarder._push_to, link))
    return link


def _adopt_circuit(forwarder: CircuitForwarder, links: Sequence[Link], state: JoinedState, shift: float) -> None:
    source, target = _stream(links, state.circuit.source), _stream(links, state.circuit.target)
    circuit = handover.rejoin(forwarder.switch, state.circuit, source, target, shift)
    forwarder._setup.circuits[circuit.id] = circuit
    forwarder.steps.resume(circuit, state.splice)
    for stream in (source, target):
        _link(stream).circuits += 1
    if state.deadline:
        forwarder._deadlines.set(circuit, state.deadline + shift, lambda _: forwarder._setup._circuit_expired(circuit))


def _adopt_streams(forwarder: CircuitForwarder, link: Link, state: LinkState, shift: float) -> None:
    session = link.connection.session
    for one in state.streams:
        stream = session.streams[one.stream]
        if one.owner is not None:
            restore_owner(forwarder, stream, one.owner)
        if one.deadline:
            forwarder._expire_stream_at(stream, one.deadline + shift)
    for stream_state in state.connection.session.streams:
        stream = session.streams[stream_state.id]
        if stream_state.waits and stream.out is not None:
            stream.out.session.connection.waiting.add(stream)


def _adopt_admission(forwarder: CircuitForwarder, links: Sequence[Link], state: AdmissionState, shift: float) -> None:
    hop = _stream(links, state.hop).owner
    stop = None if state.stop is None else _stream(links, state.stop).owner
    if not isinstance(hop, HopStream | BridgeStream) or not isinstance(stop, StopStream | None):
        raise TypeError("an admission without its two streams")
    admission = Admission(state.circuit, hop, stop, state.duration, state.data, state.service_class)
    if stop is not None:
        stop.admission = admission
    elif state.crossing >= 0:
        forwarder._setup._crossing[links[state.crossing].id] = (admission, state.token)
    forwarder._setup.await_answer(admission, state.deadline + shift)


def _take_up_bridges(forwarder: CircuitForwarder, links: Sequence[Link], state: GroupState) -> None:
    for link, one in zip(links, state.links, strict=True):
        for stream_state in one.streams:
            bridge = link.connection.session.streams[stream_state.stream].owner
            if isinstance(stream_state.owner, Bridge) and stream_state.owner.early and isinstance(bridge, BridgeStream):
                forwarder._bridges.take_up(bridge)


def discard(forwarder: CircuitForwarder, links: Sequence[Link]) -> None:
    """What was adopted is not ours after all."""
    numbers = {link.id for link in links}
    with contextlib.suppress(LocalProtocolError):
        release(forwarder, links)
    forwarder._sends = [send for send in forwarder._sends if getattr(send.message, "connection", 0) not in numbers]


# Both.


def totals(forwarder: CircuitForwarder) -> Totals:
    """What it did; of circuits that are handed over their bytes go with them."""
    return Totals(forwarder.arena.bytes_switched, forwarder._setup.bridged_bytes, dict(forwarder.refusals))


def add_totals(forwarder: CircuitForwarder, state: Totals) -> None:
    forwarder.arena.bytes_switched += state.bytes_switched
    forwarder._setup.bridged_bytes += state.bridged_bytes
    forwarder.refusals.update(state.refusals)
    forwarder.steps.inherit(state.bytes_switched - state.bridged_bytes, state.refusals)


def _link(stream: Stream) -> Link:
    link: Link = stream.session.connection.owner
    return link


def _stream(links: Sequence[Link], end: tuple[int, int]) -> Stream:
    return links[end[0]].connection.session.streams[end[1]]


def _circuits_of(links: Iterable[Link]) -> list[Circuit]:
    found: dict[int, Circuit] = {}
    for link in links:
        for stream in link.connection.session.streams.values():
            if stream.circuit is not None:
                found[stream.circuit.id] = stream.circuit
    return list(found.values())
