"""What a forwarder holds, as it tells a RelayServer that knows nothing: one that just started."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from actors.links import Link
from actors.relay_streams import Admission
from protocol import messages
from protocol.switching import Circuit
from protocol.yamux import Stream


def count(
    forwarder: str, links: Collection[object], circuits: Collection[object], switched: int, refusals: Mapping[str, int]
) -> messages.ForwarderCounters:
    """What it did so far.  ``switched``: bytes."""
    return messages.ForwarderCounters(forwarder, len(links), len(circuits), switched, dict(refusals))


def report(
    counters: messages.ForwarderCounters,
    pid: int,
    links: Iterable[Link],
    circuits: Iterable[Circuit],
    opening: Iterable[Admission],
    **about: Any,
) -> messages.ForwarderReport:
    """Reservations and circuits.  ``opening``: circuits whose target has not answered yet; they count, and their
    numbers must not be given again.  ``about``: further fields of the report."""
    forwarder = counters.forwarder
    reservations = tuple(
        messages.HeldReservation(link.id, link.peer.bytes, link.address, link.reserved_until)
        for link in links
        if link.reserved_until
    )
    held = [
        *(_held(circuit.id, circuit.source, circuit.target, circuit.opened_at, forwarder) for circuit in circuits),
        *(
            _held(admission.circuit, admission.hop.stream, admission.stop.stream, 0.0, forwarder)
            for admission in opening
            if admission.stop is not None
        ),
    ]
    own = tuple(circuit for circuit in held if circuit is not None)
    return messages.ForwarderReport(
        forwarder, pid, reservations, own, bytes_forwarded=counters.bytes_forwarded, **about
    )


def _held(
    circuit: int, source: Stream, target: Stream, opened_at: float, forwarder: str
) -> messages.HeldCircuit | None:
    """None: the forwarder that brings it here tells of it."""
    dialler: Link = source.session.connection.owner
    reserver: Link = target.session.connection.owner
    if dialler.bridge:
        return None
    beyond = reserver.beyond
    return messages.HeldCircuit(
        circuit=circuit,
        source=dialler.peer.bytes,
        target=reserver.peer.bytes if beyond is None else beyond.peer.bytes,
        source_connection=dialler.id,
        target_connection=reserver.id if beyond is None else beyond.connection,
        opened_at=opened_at,
        target_forwarder=forwarder if beyond is None else beyond.forwarder,
        address=dialler.address,
    )
