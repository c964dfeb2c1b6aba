"""What a forwarder holds, as it tells a RelayServer that knows nothing: one that just started."""

from __future__ import annotations

from collections.abc import Iterable

from actors.links import Link
from actors.relay_streams import Admission
from protocol import messages
from protocol.switching import Circuit
from protocol.yamux import Stream


def report(
    forwarder: str, pid: int, links: Iterable[Link], circuits: Iterable[Circuit], opening: Iterable[Admission]
) -> messages.ForwarderReport:
    """Reservations and circuits.  ``opening``: circuits whose target has not answered yet; they count, and their
    numbers must not be given again."""
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
    return messages.ForwarderReport(forwarder=forwarder, pid=pid, reservations=reservations, circuits=own)


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
