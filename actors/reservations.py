"""Who holds a slot to be reached through this relay: the policy of reservations, and nothing else.

Limits in all, per IP address and per group of addresses that one owner is likely to have: without them whoever has a
machine with a network block has every slot.  A peer that reserves again refreshes; it keeps one slot, on the
connection that it used last.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(frozen=True, slots=True)
class Reservation:
    """``connection`` of ``forwarder`` is where ``peer`` is reached until ``expires_at`` (Unix time, seconds)."""

    peer: bytes
    forwarder: str
    connection: int
    address: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """``setting``: the limit that was hit; ``retry_after``: seconds until it may be otherwise."""

    setting: str
    reason: str
    retry_after: int


def group_of(address: str) -> str:
    """The /24 of an IPv4 address, the /56 of an IPv6 address (what a provider gives one household), else itself."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    bits = 24 if ip.version == 4 else 56
    return str(ipaddress.ip_network((ip, bits), strict=False))


class Reservations:
    """The table of reservations.  Every operation costs the same whatever the table's size.

    ``group``: from an address to what is counted together, for instance an AS number where a table of them is at hand.
    """

    __slots__ = ("_expiries", "_group", "_per_address", "_per_group", "_table", "limits")

    def __init__(
        self, max_all: int, max_per_ip: int, max_per_group: int, group: Callable[[str], str] = group_of
    ) -> None:
        self.limits = (max_all, max_per_ip, max_per_group)
        self._group = group
        self._table: dict[bytes, Reservation] = {}
        self._per_address: Counter[str] = Counter()
        self._per_group: Counter[str] = Counter()
        # Refreshing leaves its older expiry behind; it is recognised as stale when its time comes.
        self._expiries: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._table)

    def find(self, peer: bytes, now: float) -> Reservation | None:
        """The live reservation of ``peer``."""
        reservation = self._table.get(peer)
        return reservation if reservation is not None and reservation.expires_at > now else None

    def refused(self, peer: bytes, address: str, now: float) -> Refusal | None:
        """Why ``peer`` may not reserve from ``address`` now; None: it may."""
        self.expire(now)
        held = self._table.get(peer)
        group = self._group(address)
        # A refresh frees the slot that it takes.
        in_all = len(self._table) - (held is not None)
        on_address = self._per_address[address] - (held is not None and held.address == address)
        in_group = self._per_group[group] - (held is not None and self._group(held.address) == group)
        max_all, max_per_ip, max_per_group = self.limits
        if in_all >= max_all:
            return Refusal("max_reservations", f"all {max_all} reservations are taken", self._wait(now))
        if on_address >= max_per_ip:
            return Refusal(
                "max_reservations_per_ip", f"all {max_per_ip} reservations of one address are taken", self._wait(now)
            )
        if in_group >= max_per_group:
            return Refusal(
                "max_reservations_per_group",
                f"all {max_per_group} reservations of one network are taken",
                self._wait(now),
            )
        return None

    def put(self, reservation: Reservation) -> None:
        """Hold ``reservation``, in place of the peer's older one.  The caller asked :meth:`refused`, or rebuilds."""
        self._take_out(reservation.peer)
        self._table[reservation.peer] = reservation
        self._per_address[reservation.address] += 1
        self._per_group[self._group(reservation.address)] += 1
        heappush(self._expiries, (reservation.expires_at, reservation.peer))

    def end(self, peer: bytes, forwarder: str, connection: int) -> None:
        """The connection that held it is gone; a reservation that moved to another connection stays."""
        held = self._table.get(peer)
        if held is not None and (held.forwarder, held.connection) == (forwarder, connection):
            self._take_out(peer)

    def end_forwarder(self, forwarder: str) -> None:
        """All connections of ``forwarder`` are gone."""
        for peer in [peer for peer, held in self._table.items() if held.forwarder == forwarder]:
            self._take_out(peer)

    def expire(self, now: float) -> None:
        """Forget what has run out."""
        while self._expiries and self._expiries[0][0] <= now:
            _, peer = heappop(self._expiries)
            held = self._table.get(peer)
            if held is not None and held.expires_at <= now:
                self._take_out(peer)

    def next_expiry(self) -> float | None:
        return self._expiries[0][0] if self._expiries else None

    def _take_out(self, peer: bytes) -> None:
        held = self._table.pop(peer, None)
        if held is None:
            return
        for counter, key in ((self._per_address, held.address), (self._per_group, self._group(held.address))):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]

    def _wait(self, now: float) -> int:
        """Seconds until the next reservation runs out; a peer may go before, so not more than a minute."""
        expiry = self.next_expiry()
        return 60 if expiry is None else max(1, min(60, int(expiry - now)))
