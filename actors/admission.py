"""What RelayServer goes by when it answers: its limits, how often peers and addresses may ask, and how it says no."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from actors.rate_limit import KeyedBuckets
from actors.reservations import household
from protocol import messages
from protocol.relay_hop import Status

#: Peers and addresses whose request rate is remembered.
MAX_RATE_KEYS: Final = 65_536

Asked = messages.ReserveAsked | messages.ConnectAsked


@dataclass(frozen=True, slots=True)
class RelayServerPolicy:
    """The limits, each a setting of the same name, with its default (actors/settings_table.py says why).

    Rates are requests a minute; a quarter of them may come at once.  0 seconds or bytes: unlimited.
    """

    max_reservations: int = 1024
    max_reservations_per_ip: int = 16
    max_reservations_per_group: int = 128
    max_circuits: int = 2048
    max_circuits_per_peer: int = 128
    max_circuits_per_ip: int = 256
    max_circuits_per_pair: int = 32
    circuit_data: int = 0
    circuit_duration: float = 0.0
    reservation_duration: float = 3600.0
    rate_limits: bool = True
    reserve_rate_per_peer: float = 30.0
    reserve_rate_per_ip: float = 240.0
    connect_rate_per_peer: float = 600.0
    connect_rate_per_ip: float = 2400.0
    move_diallers: bool = True
    trusted_peers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """``setting``: what was hit, as it is counted; ``retry_after``: seconds, 0: not known."""

    status: Status
    setting: str
    reason: str
    retry_after: int

    def told(self, asked: Asked) -> messages.ReserveRefused | messages.ConnectRefused:
        """The answer to ``asked``."""
        kind = messages.ReserveRefused if isinstance(asked, messages.ReserveAsked) else messages.ConnectRefused
        return kind(
            request_id=asked.request_id,
            connection=asked.connection,
            status=int(self.status),
            reason=f"{self.reason} ({self.setting})",
            retry_after=self.retry_after,
        )


TO_ITSELF: Final = Refusal(Status.PERMISSION_DENIED, "self", "a peer cannot be connected to itself", 0)
NO_RESERVATION: Final = Refusal(Status.NO_RESERVATION, "no_reservation", "the target has no reservation here", 0)


def refused(asked: Asked, setting: str, reason: str, retry_after: int) -> Refusal:
    """One for want of something, with the status that says so for what was asked."""
    reserving = isinstance(asked, messages.ReserveAsked)
    status = Status.RESERVATION_REFUSED if reserving else Status.RESOURCE_LIMIT_EXCEEDED
    return Refusal(status, setting, reason, retry_after)


@dataclass(frozen=True, slots=True)
class _Rate:
    """How often one ``of`` (peer, address) may ask."""

    setting: str
    per_minute: float
    of: str
    buckets: KeyedBuckets


class Rates:
    """How often may be asked, of one address and of one peer."""

    def __init__(self, policy: RelayServerPolicy) -> None:
        self._limited = policy.rate_limits
        self._reserve = (
            _rate("reserve_rate_per_ip", policy.reserve_rate_per_ip, "address"),
            _rate("reserve_rate_per_peer", policy.reserve_rate_per_peer, "peer"),
        )
        self._connect = (
            _rate("connect_rate_per_ip", policy.connect_rate_per_ip, "address"),
            _rate("connect_rate_per_peer", policy.connect_rate_per_peer, "peer"),
        )

    def exceeded(self, asked: Asked, now: float) -> Refusal | None:
        """Who asks too often.  The address comes first: whoever makes up peers is stopped before each of them is given
        a bucket.  What is refused costs neither."""
        if not self._limited:
            return None
        if isinstance(asked, messages.ReserveAsked):
            rates, peer = self._reserve, asked.peer
        else:
            rates, peer = self._connect, asked.source
        keys = (household(asked.address), peer)
        for rate, key in zip(rates, keys, strict=True):
            wait = rate.buckets.wait(key, now)
            if wait > 0:
                reason = f"more than {rate.per_minute:g} a minute of one {rate.of}"
                return refused(asked, rate.setting, reason, math.ceil(min(wait, 3600.0)))
        for rate, key in zip(rates, keys, strict=True):
            rate.buckets.take(key, now)
        return None


def _rate(setting: str, per_minute: float, of: str) -> _Rate:
    return _Rate(setting, per_minute, of, KeyedBuckets(per_minute / 60, max(per_minute / 4, 1), MAX_RATE_KEYS))
