"""From the settings of a node to the policies of its actors and ports."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

from actors.admission import RelayServerPolicy
from actors.links import ForwarderPolicy
from actors.ports.endpoint import HostPolicy
from actors.relay_mode import CLIENT_ONLY, ModePolicy, rate_of
from actors.settings import Settings
from actors.supervisor import RestartPolicy
from protocol.connection import ConnectionLimits
from protocol.identity import PeerId
from protocol.yamux import YamuxLimits


def relay_server_policy(s: Settings) -> RelayServerPolicy:
    return RelayServerPolicy(
        max_reservations=s.max_reservations,
        max_reservations_per_ip=s.max_reservations_per_ip,
        max_reservations_per_group=s.max_reservations_per_group,
        max_circuits=s.max_circuits,
        max_circuits_per_peer=s.max_circuits_per_peer,
        max_circuits_per_ip=s.max_circuits_per_ip,
        max_circuits_per_pair=s.max_circuits_per_pair,
        circuit_data=s.circuit_data,
        circuit_duration=s.circuit_duration,
        reservation_duration=s.reservation_duration,
        rate_limits=s.rate_limits,
        move_diallers=s.move_diallers,
        trusted_peers=tuple(PeerId.parse(text).bytes for text in s.trusted_peers),
        reserve_rate_per_peer=s.reserve_rate_per_peer,
        reserve_rate_per_ip=s.reserve_rate_per_ip,
        connect_rate_per_peer=s.connect_rate_per_peer,
        connect_rate_per_ip=s.connect_rate_per_ip,
    )


def mode_policy(s: Settings) -> ModePolicy:
    return ModePolicy(
        mode=s.mode,
        max_bandwidth=s.max_bandwidth,
        max_circuits=s.max_circuits,
        uptime_target=s.uptime_target,
        run_when=s.run_when,
        public=s.public,
        incentive=s.incentive,
    )


def forwarder_policy(s: Settings) -> ForwarderPolicy:
    rates = s.rate_limits
    return ForwarderPolicy(
        max_connections=s.max_connections,
        max_connections_per_ip=s.max_connections_per_ip,
        connection_rate_per_ip=s.connection_rate_per_ip,
        rate_limits=rates,
        idle_timeout=s.idle_timeout,
        stream_timeout=s.stream_timeout,
        stop_timeout=s.stop_timeout,
        circuit_window=s.circuit_window,
        serve_perf=s.serve_perf,
        serves=s.mode != CLIENT_ONLY,
        rate=rate_of(s.max_bandwidth),
        connection=ConnectionLimits(
            handshake_timeout=s.handshake_timeout,
            keepalive_interval=s.keepalive_interval,
            keepalive_timeout=s.keepalive_timeout,
            yamux=YamuxLimits(
                max_inbound_streams=s.max_inbound_streams,
                max_unacknowledged=s.max_unacked_streams,
                max_frame=s.max_frame,
                pings_per_second=int(s.ping_rate_per_connection) if rates else 0,
                streams_per_second=int(s.stream_rate_per_connection) if rates else 0,
            ),
        ),
    )


def host_policy(s: Settings) -> HostPolicy:
    """Of one forwarder: what may be unsent in all is shared evenly, for it bounds memory and is never near."""
    return HostPolicy(
        max_backlog=s.max_backlog,
        max_backlog_total=max(s.max_backlog_total // s.forwarders, 1 << 20),
        write_timeout=s.write_timeout,
        reserved_files=s.max_open_files_reserve,
        frame_rate_per_ip=s.frame_rate_per_ip if s.rate_limits else 0.0,
    )


def restart_policy(s: Settings) -> RestartPolicy:
    return RestartPolicy(s.max_restarts, s.restart_window)


def not_applied(old: Settings, new: Settings) -> list[str]:
    """Settings that changed although new actors make nothing of it: the node itself reads them, when it starts."""
    values = {field.name: getattr(new, field.name) for field in fields(Settings) if field.name not in _READ_OTHERWISE}
    changed = {name: value for name, value in values.items() if getattr(old, name) != value}
    return [name for name, value in changed.items() if _applied(replace(old, **{name: value})) == _applied(old)]


def _applied(s: Settings) -> tuple[object, ...]:
    s = replace(s, rate_limits=True)  # else those that depend on it would seem to be read by nobody
    policies = relay_server_policy(s), forwarder_policy(s), host_policy(s), mode_policy(s)
    return *policies, s.forwarders, s.announce, s.handover_timeout


#: Fields that are no settings, and the one that others depend on.
_READ_OTHERWISE: Final = ("origin", "print_settings", "config", "rate_limits")
