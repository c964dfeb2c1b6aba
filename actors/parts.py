"""The actors of a node with their ports, made where a runtime of many processes wants them (actors/runtime/spec.py)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass, field

from actors.circuit_forwarder import CircuitForwarder
from actors.network_names import services, tracker
from actors.policies import forwarder_policy, host_policy, relay_server_policy
from actors.ports import bridge_sockets, move_sockets
from actors.ports.clock import told_by
from actors.ports.host import Host, random_bytes
from actors.ports.process_watch import ProcessWatch
from actors.ports.shared_crowd import CrowdFile, SharedCrowd
from actors.ports.takeover import Takeover
from actors.ports.telemetry import FLUSH, Telemetry, TelemetryConfig, process_telemetry
from actors.relay_server import RelayServer
from actors.runtime.spec import Part, Site, Surroundings
from actors.settings import Settings
from protocol.identity import Identity
from protocol.noise import StaticKey
from protocol.quota_messages import TermsSet

log = logging.getLogger(__name__)

RELAY_SERVER = "relay_server"
METRICS = "metrics"
FORWARDERS = "forwarder/"


@dataclass(frozen=True, slots=True)
class Keys:
    """What proves to peers that they talk to this node, whichever of its forwarders they meet."""

    identity: bytes = field(repr=False)
    static: bytes = field(repr=False)

    def unpack(self) -> StaticKey:
        return StaticKey(Identity.decode(self.identity), self.static)


@dataclass(frozen=True, slots=True)
class Place:
    """What the forwarders of a node have in common.  ``listen``: IP address and port of each socket.  ``addresses``:
    binary multiaddrs.  ``host``: the one that ``folder`` and ``crowd`` are on; elsewhere each counts for itself."""

    listen: tuple[tuple[str, int], ...]
    addresses: tuple[bytes, ...]
    host: Site
    folder: str
    crowd: CrowdFile


def region(name: str) -> int:
    """Where a forwarder counts its connections: not where its predecessor did, which may still be there."""
    slot, _, generation = name.removeprefix(FORWARDERS).partition(".")
    return int(slot) * 2 + int(generation or 0) % 2


def relay_server(surroundings: Surroundings, settings: Settings, telemetry: TelemetryConfig, terms: TermsSet) -> Part:
    exporting = process_telemetry(telemetry)
    # Those that start later report by themselves; to ask them too would have them ask everything again.
    forwarders = [name for name in surroundings.others if name.startswith(FORWARDERS)]
    actor = RelayServer(
        relay_server_policy(settings),
        forwarders=forwarders,
        randomness=random_bytes,
        tracer=exporting.tracer,
        terms=terms,
        tracker=tracker(settings),
    )

    watch = _watch(surroundings, settings, exporting)

    async def close(grace: float) -> None:
        watch.stop()
        await exporting.stop(FLUSH)

    return Part(actor, close=close, drop=watch.stop, tracer=exporting.tracer)


def forwarder(
    surroundings: Surroundings, settings: Settings, keys: Keys, place: Place, telemetry: TelemetryConfig
) -> Part:
    """A forwarder on its own sockets, at the ports that it shares with the others.  OSError."""
    name, here = surroundings.name, surroundings.host
    exporting = process_telemetry(telemetry)
    host = Host(host_policy(settings), post=surroundings.post, wake=surroundings.wake, now=surroundings.now)
    static = keys.unpack()
    try:
        listeners: list[socket.socket] = []
        crowd = None
        if here.address:
            listeners.append(bridge_sockets.listen_tcp(here.address))
        if here == place.host:
            path = os.path.join(place.folder, name.replace("/", "-"))
            listeners += [bridge_sockets.listen_unix(path), move_sockets.listen(path + "-moves")]
            crowd = SharedCrowd(place.crowd, region(name), settings.connection_rate_per_ip)
        for listener in listeners:
            host.neighbours.listen(listener)
        actor = CircuitForwarder(
            name,
            forwarder_policy(settings),
            static,
            random_bytes,
            pid=os.getpid(),
            now=surroundings.now(),
            wall=told_by(surroundings.now),
            note=log.debug,
            addresses=place.addresses,
            relay_server=RELAY_SERVER,
            host=here.name,
            bridges=[bridge_sockets.address_of(listener) for listener in listeners],
            adopting=surroundings.adopting,
            crowd=crowd,
            tracer=exporting.tracer,
            metrics=METRICS if settings.metrics_port else "",
            services=services(settings),
        )
        takeover = Takeover(
            host,
            actor,
            static,
            surroundings.now,
            surroundings.wake,
            listen=place.listen,
            timeout=settings.handover_timeout,
        )
        if not surroundings.adopting:
            takeover.bind()
    except BaseException:
        host.abandon()
        raise
    host.attach(actor)
    # What it has to say at once (its report) leaves when its first turn ends.
    asyncio.get_running_loop().call_soon(host.end_turn)

    watch = _watch(surroundings, settings, exporting)

    def drop() -> None:
        watch.stop()
        host.abandon()

    async def close(grace: float) -> None:
        watch.stop()
        began = surroundings.now()
        await host.close(grace)
        await exporting.stop(max(grace - (surroundings.now() - began), 0.0) + FLUSH)

    return Part(
        actor,
        after_handle=host.end_turn,
        close=close,
        drop=drop,
        tracer=exporting.tracer,
        hand_over=takeover.hand_over,
        take_in=takeover.take_in,
    )


def _watch(surroundings: Surroundings, settings: Settings, telemetry: Telemetry) -> ProcessWatch:
    """Tells the metrics how this process is, if there are any."""
    name = surroundings.name
    watch = ProcessWatch(
        name,
        surroundings.post,
        metrics=METRICS,
        mailboxes=lambda: {name: surroundings.waiting()},
        spans=telemetry.counts,
    )
    if settings.metrics_port:
        asyncio.get_running_loop().call_soon(watch.start)
    return watch
