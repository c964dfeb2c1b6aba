"""The figures of the node as Prometheus reads them.

Names follow https://prometheus.io/docs/practices/naming/; README of deploy/ says what to look at.  prometheus_client is
imported with this module, which is when a metrics port is set: 15 ms and 1 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.metrics import FORWARDERS, Snapshot, add_times, slot
from protocol.messages import Times
from tracing.metrics import LAG_BOUNDS, SETUP_BOUNDS

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
PREFIX: Final = "descord_relay_"


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(snapshot: Snapshot, *, version: str, limits: Mapping[str, float]) -> bytes:
    """All metrics as text.  ``limits``: settings that figures are compared with, by name."""
    return generate_latest(_Families(families(snapshot, version=version, limits=limits)))


def families(snapshot: Snapshot, *, version: str, limits: Mapping[str, float]) -> list[Metric]:
    forwarders = {name.removeprefix(FORWARDERS): sums for name, sums in snapshot.forwarders.items()}
    status = snapshot.status
    traffic = CounterMetricFamily(
        PREFIX + "relayed_bytes", "Payload passed on, both ways, by class of service.", labels=("forwarder", "class")
    )
    setup: dict[str, Times] = {}
    failed: dict[str, float] = {}
    ended: dict[str, float] = {}
    handshakes: dict[str, float] = {}
    for name, sums in forwarders.items():
        for kind, count in sums.bytes_by_class.items():
            traffic.add_metric((name, kind), count)
        for stage, times in sums.setup.items():
            setup[stage] = add_times(setup.get(stage), times)
        for into, more in ((failed, sums.failed), (ended, sums.ended), (handshakes, sums.handshake_failures)):
            for label, count in more.items():
                into[label] = into.get(label, 0) + count
    errors = CounterMetricFamily(
        PREFIX + "protocol_errors", "Breaches of the protocol by peers.", labels=("layer", "code")
    )
    for (layer, code), count in snapshot.errors.items():
        errors.add_metric((layer, code), count)
    events = CounterMetricFamily(
        PREFIX + "network_events", "What the actors of the network of relays did.", labels=("actor", "event")
    )
    sizes = GaugeMetricFamily(
        PREFIX + "network_size", "What the actors of the network of relays have.", labels=("actor", "what")
    )
    for family, values in ((events, snapshot.events), (sizes, snapshot.sizes)):
        for actor, named in values.items():
            for what, value in named.items():
                family.add_metric((actor, what), value)
    processes = snapshot.processes
    return [
        _gauge("info", "The software that runs.", "version", {version: 1}),
        _gauge("limit", "Settings that figures here come up against.", "setting", limits),
        _gauge(
            "relay_server_answers",
            "1: RelayServer answered when it was asked for its figures.",
            "",
            {"": status is not None},
        ),
        _gauge("open_connections", "Connections of peers.", "forwarder", _slots(snapshot.connections)),
        _gauge("open_circuits", "Circuits that stand.", "forwarder", _slots(snapshot.circuits)),
        _gauge("reservations", "Peers with a reservation.", "", {"": status.reservations} if status else {}),
        _counter("reservations_granted", "Reservations granted, refreshed ones too.", "", {"": snapshot.granted}),
        _counter("circuits", "Circuits that came to stand.", "forwarder", {n: s.opened for n, s in forwarders.items()}),
        _counter(
            "bridged_circuits",
            "Of those, circuits to peers of this forwarder that another one's peers dialled.",
            "forwarder",
            {name: sums.bridged_in for name, sums in forwarders.items()},
        ),
        _counter("circuit_failures", "Admitted circuits that came to nothing.", "reason", failed),
        _counter("circuit_ends", "Circuits that are over.", "reason", ended),
        traffic,
        _counter(
            "refusals", "Requests and connections refused, by the limit that was hit.", "reason", snapshot.refused
        ),
        _counter("lost_connections", "Connections given up, or lost by the network.", "reason", snapshot.lost),
        _counter("refused_answers", "Refusals as peers were told them.", "status", snapshot.answers),
        errors,
        events,
        sizes,
        _gauge(
            "relayed_last_hour_bytes", "Relayed in the last hour.", "", {"": status.bytes_last_hour} if status else {}
        ),
        _gauge(
            "bandwidth_cap_bytes",
            "What may be relayed in an hour, where there is a cap.",
            "",
            {"": status.hourly} if status and status.hourly is not None else {},
        ),
        _counter("handshake_failures", "Connections that ended before their peer was known.", "reason", handshakes),
        _counter(
            "hand_offs",
            "Circuits taken over from another process.",
            "forwarder",
            {name: sums.hand_offs for name, sums in forwarders.items()},
        ),
        _histogram(
            "circuit_setup_seconds",
            "From a request for a circuit until it was admitted, from there until the target answered, and in all.",
            "stage",
            SETUP_BOUNDS,
            setup,
        ),
        _gauge(
            "mailbox_messages",
            "Messages that wait for an actor.",
            "actor",
            {slot(actor): depth for one in processes.values() for actor, depth in one.mailboxes.items()},
        ),
        _counter(
            "messages_refused", "Messages that no mailbox took.", "", {"": sum(p.refused for p in processes.values())}
        ),
        _counter(
            "messages_expired", "Messages that came too late.", "", {"": sum(p.expired for p in processes.values())}
        ),
        _counter("actor_restarts", "Times that an actor fell or was replaced.", "actor", snapshot.restarts),
        _counter(
            "forwarder_cpu_seconds",
            "CPU time of the process that a forwarder is in.",
            "forwarder",
            _slots(snapshot.forwarder_cpu),
        ),
        _counter(
            "process_cpu_seconds", "CPU time.", "process", {name: one.cpu_seconds for name, one in processes.items()}
        ),
        _gauge(
            "process_resident_bytes",
            "Memory.",
            "process",
            {name: one.resident_bytes for name, one in processes.items()},
        ),
        _gauge(
            "process_open_files",
            "File descriptors.",
            "process",
            {name: one.open_files for name, one in processes.items()},
        ),
        _histogram(
            "event_loop_lag_seconds",
            "How late the event loop does what is due.",
            "process",
            LAG_BOUNDS,
            {name: one.lag for name, one in processes.items()},
        ),
        _counter(
            "spans",
            "Spans exported, dropped because too many waited, and failed because nobody took them.",
            "result",
            {
                result: sum(one.spans.get(result, 0) for one in processes.values())
                for result in ("exported", "dropped", "failed")
            },
        ),
    ]


def _slots(values: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(FORWARDERS): value for name, value in values.items()}


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,) if label else ())
    for key, value in values.items():
        family.add_metric((key,) if label else (), value)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=(label,) if label else ())
    for key, value in values.items():
        family.add_metric((key,) if label else (), value)
    return family


def _histogram(name: str, text: str, label: str, bounds: Sequence[float], values: Mapping[str, Times]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=(label,))
    for key, times in values.items():
        count = 0
        buckets = []
        for bound, more in zip((*map(str, bounds), "+Inf"), times.counts, strict=True):
            count += more
            buckets.append((bound, count))
        family.add_metric((key,), buckets, times.total)
    return family
