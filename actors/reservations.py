"""Who holds a slot to be reached through this relay: the policy of reservations, and nothing else.

Limits in all, per household (an IPv4 address or an IPv6 /64) and per group of addresses that one owner is likely to
have: without them whoever has a machine with a network block has every slot.  A peer that reserves again refreshes; it
keeps one slot, on the connection that it used last.  When that connection ends, the one that it used before takes over,
if it still lives: so the table depends on what connections hold, not on the order in which that became known.
Meanwhile a peer counts at each household from which it holds one: a limit is never exceeded by moving away and back.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush


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


@lru_cache(maxsize=4096)  # 12 us otherwise, and one request asks several times
def group_of(address: str) -> str:
    """The /24 of an IPv4 address, the /56 of an IPv6 address (what a provider gives one household), else itself."""
    try:
        ip = ipaddress.ip_address(plain(address))
    except ValueError:
        return address
    bits = 24 if ip.version == 4 else 56
    return str(ipaddress.ip_network((ip, bits), strict=False))


@lru_cache(maxsize=4096)
def household(address: str) -> str:
    """Whom one address stands for, where limits are counted: an IPv4 address, the /64 of an IPv6 one (every host there
    has as many addresses as it likes), else itself."""
    address = plain(address)
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        return address


def plain(address: str) -> str:
    """An IPv4 address that an IPv6 socket wrote as ``::ffff:192.0.2.1`` as itself."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


class _PeersAt:
    """How many peers there are at a place (an address, a network), each counted once however often it is there."""

    __slots__ = ("_times", "peers")

    def __init__(self) -> None:
        self.peers: Counter[str] = Counter()
        self._times: Counter[tuple[bytes, str]] = Counter()

    def others(self, peer: bytes, place: str) -> int:
        return self.peers[place] - ((peer, place) in self._times)

    def count(self, peer: bytes, place: str, step: int) -> None:
        """``step``: +1 or -1."""
        key = (peer, place)
        before = self._times[key]
        self._times[key] = before + step
        if before == 0:
            self.peers[place] += 1
        elif before + step == 0:
            del self._times[key]
            self.peers[place] -= 1
            if not self.peers[place]:
                del self.peers[place]


class Reservations:
    """The table of reservations.  An operation costs the same whatever the table's size (the heap of expiries is
    cleaned now and then, which spread over what filled it costs the same too); losing a forwarder walks the table.

    ``group``: from an address to what is counted together, for instance an AS number where a table of them is at hand.
    ``left``: called when the last reservation of a peer has ended.
    """

    __slots__ = ("_addresses", "_expiries", "_group", "_groups", "_held", "_left", "_table", "limits")

    def __init__(
        self,
        max_all: int,
        max_per_ip: int,
        max_per_group: int,
        group: Callable[[str], str] = group_of,
        left: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self.limits = (max_all, max_per_ip, max_per_group)
        self._group = group
        self._left = left
        # Of each peer the connections on which it reserved, the one used last at the end.
        self._table: dict[bytes, dict[tuple[str, int], Reservation]] = {}
        self._held = 0
        self._addresses = _PeersAt()
        self._groups = _PeersAt()
        # Refreshing and ending leave an expiry behind, which is stale: no reservation of its peer runs out then.
        self._expiries: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        """Peers with a reservation."""
        return len(self._table)

    @property
    def expiries_remembered(self) -> int:
        """Stale ones included: the only part of the table that could outgrow it."""
        return len(self._expiries)

    def find(self, peer: bytes, now: float) -> Reservation | None:
        """The live reservation of ``peer``."""
        reservation = self._current(peer)
        return reservation if reservation is not None and reservation.expires_at > now else None

    def refused(self, peer: bytes, address: str, now: float) -> Refusal | None:
        """Why ``peer`` may not reserve from ``address`` now; None: it may."""
        self.expire(now)
        in_all = len(self._table) - (peer in self._table)  # a refresh frees the slot that it takes
        on_address = self._addresses.others(peer, household(address))
        in_group = self._groups.others(peer, self._group(address))
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
        """Hold ``reservation``, in place of the connection's older one.  The caller asked :meth:`refused`, or
        rebuilds."""
        peer, key = reservation.peer, (reservation.forwarder, reservation.connection)
        held = self._table.setdefault(peer, {})
        latest = next(reversed(held.values())).expires_at if held else reservation.expires_at
        replaced = held.pop(key, None)
        if replaced is not None:
            self._count(replaced, -1)
        held[key] = reservation
        self._count(reservation, +1)
        if reservation.expires_at < latest:  # told late, by a second forwarder's report
            self._table[peer] = dict(sorted(held.items(), key=lambda item: item[1].expires_at))
        heappush(self._expiries, (reservation.expires_at, peer))
        if len(self._expiries) > 2 * self._held + 64:
            self._expiries = [(one.expires_at, one.peer) for many in self._table.values() for one in many.values()]
            heapify(self._expiries)

    def end(self, peer: bytes, forwarder: str, connection: int) -> None:
        """The connection is gone; what the peer holds on another one stays."""
        if (forwarder, connection) in self._table.get(peer, ()):
            self._take_out(peer, [(forwarder, connection)])

    def end_forwarder(self, forwarder: str) -> None:
        """All connections of ``forwarder`` are gone."""
        for peer, held in list(self._table.items()):
            if gone := [key for key in held if key[0] == forwarder]:
                self._take_out(peer, gone)

    def expire(self, now: float) -> None:
        """Forget what has run out."""
        while (expiry := self.next_expiry()) is not None and expiry <= now:
            peer = self._expiries[0][1]
            self._take_out(peer, [next(iter(self._table[peer]))])

    def next_expiry(self) -> float | None:
        """When the next reservation runs out."""
        while self._expiries:
            expires_at, peer = self._expiries[0]
            held = self._table.get(peer)
            # Its peer's oldest is the one that it is about, or is younger: then the entry is stale.
            if held is not None and next(iter(held.values())).expires_at <= expires_at:
                return expires_at
            heappop(self._expiries)
        return None

    def _current(self, peer: bytes) -> Reservation | None:
        held = self._table.get(peer)
        return next(reversed(held.values())) if held else None

    def _take_out(self, peer: bytes, connections: list[tuple[str, int]]) -> None:
        held = self._table[peer]
        for key in connections:
            self._count(held.pop(key), -1)
        if not held:
            del self._table[peer]
            self._left(peer)

    def _count(self, reservation: Reservation, step: int) -> None:
        self._held += step
        self._addresses.count(reservation.peer, household(reservation.address), step)
        self._groups.count(reservation.peer, self._group(reservation.address), step)

    def _wait(self, now: float) -> int:
        """Seconds until the next reservation runs out; a peer may go before, so not more than a minute."""
        expiry = self.next_expiry()
        return 60 if expiry is None else max(1, min(60, math.ceil(expiry - now)))
