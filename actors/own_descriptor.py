"""DescriptorIssuer: what this relay says of itself to those who look for one, and when it says it anew.

It asks RelayServer how full the relay is, and hears at which addresses others reach it.  A descriptor goes to those
who publish it (DHTAdvertiser, MdnsDiscovery) when there is none yet, when the addresses are others, when the relay has
become a good deal fuller or emptier, and before the last expires.  A relay that nobody reaches, or that does not want
to be found, has none: the last is withdrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from actors.actor import Send
from protocol.addresses import is_global
from protocol.descriptor import MAX_ADDRESS, MAX_ADDRESSES, Capacity, RelayDescriptor, Terms, seal_descriptor
from protocol.discovery_messages import DescriptorChanged, ReachabilityChanged
from protocol.identity import Identity
from protocol.messages import ActorDown, ActorUp, AddressesChanged, StatusAnswer, StatusAsked, Undeliverable

#: Seconds that a descriptor holds: a relay that vanishes is listed no longer than that.
LIFE: Final = 7200

#: Part of that after which a new one is issued; the rest is for publishers and clocks that are late.
RENEWAL: Final = 0.6

#: Seconds between two looks at how full the relay is, and between two descriptors that differ in nothing else.
LOOK_INTERVAL: Final = 30.0
LEAST_INTERVAL: Final = 120.0

#: Change of the load that is told, as a share of the whole.
CHANGE: Final = 0.25

#: Seconds that RelayServer has to answer.
PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class DescriptorPolicy:
    """``mode``: what is said of it; "": this relay is not to be found.  ``reservations``, ``circuits``: limits.  What
    RelayServer says of mode and circuits goes before it.
    ``assume_reachable``: its addresses are believed to lead to it though nobody has confirmed it; ``private``: private
    ones too."""

    mode: Literal["", "cooperative", "dedicated"]
    reservations: int
    circuits: int
    terms: Terms
    agent: str
    assume_reachable: bool = False
    private: bool = False


class DescriptorIssuer:
    """See the module.  ``publishers``: actors that are told."""

    def __init__(
        self,
        name: str,
        identity: Identity,
        policy: DescriptorPolicy,
        publishers: Sequence[str],
        relay_server: str,
        addresses: Sequence[bytes] = (),
    ) -> None:
        self.policy = policy
        self.descriptor: RelayDescriptor | None = None
        self._name = name
        self._identity = identity
        self._publishers = tuple(publishers)
        self._relay_server = relay_server
        self._own = tuple(addresses)
        self._confirmed: tuple[bytes, ...] = ()
        self._status: StatusAnswer | None = None
        self._envelope = b""
        self._asked = 0
        self._next_look = 0.0
        self._sequence = 0

    def handle(
        self,
        message: StatusAnswer | AddressesChanged | ReachabilityChanged | Undeliverable | ActorUp | ActorDown,
        now: float,
    ) -> list[Send]:
        match message:
            case StatusAnswer():
                self._status = message
            case AddressesChanged(addresses=addresses):
                self._own = addresses
            case ReachabilityChanged(addresses=addresses):
                self._confirmed = addresses
            case ActorUp(actor=actor) if actor in self._publishers and self._envelope:
                return [Send(actor, DescriptorChanged(self._envelope))]  # it knows nothing
            case _:
                return []
        return self._look(now)

    def next_deadline(self) -> float | None:
        return self._next_look

    def handle_deadline(self, now: float) -> list[Send]:
        if now < self._next_look:
            return []
        self._next_look = now + LOOK_INTERVAL
        self._asked += 1
        return [Send(self._relay_server, StatusAsked(self._asked, self._name)), *self._look(now)]

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Where others reach this relay, as far as that is known; binary multiaddrs."""
        known = self._confirmed
        if self.policy.assume_reachable:
            known += tuple(one for one in self._own if self.policy.private or is_global(one))
        return tuple(dict.fromkeys(one for one in known if len(one) <= MAX_ADDRESS))[:MAX_ADDRESSES]

    @property
    def _mode(self) -> Literal["", "cooperative", "dedicated"]:
        match self._status.listed if self._status is not None else None:
            case None:
                return self.policy.mode
            case "cooperative" | "dedicated" as mode:
                return mode
            case _:
                return ""

    def _look(self, now: float) -> list[Send]:
        mode, addresses, status = self._mode, self.addresses, self._status
        if not mode or not addresses:
            if self.descriptor is None:
                return []
            self.descriptor, self._envelope = None, b""
            return self._publish()
        if status is None:
            return []  # how full it is will be known in a moment
        capacity = self._capacity(status)
        if not self._due(addresses, capacity, now):
            return []
        # Later than any before, over restarts and set clocks too.
        self._sequence = max(self._sequence + 1, int(now * 1000))
        self.descriptor = RelayDescriptor(
            peer_id=self._identity.peer_id.bytes,
            addresses=addresses,
            mode=mode,
            sequence=self._sequence,
            issued_at=int(now),
            expires_at=int(now) + LIFE,
            capacity=capacity,
            terms=self.policy.terms,
            agent=self.policy.agent[:64],
        )
        self._envelope = seal_descriptor(self.descriptor, self._identity)
        return self._publish()

    def _due(self, addresses: tuple[bytes, ...], capacity: Capacity, now: float) -> bool:
        last = self.descriptor
        if last is None or last.mode != self._mode or set(last.addresses) != set(addresses):
            return True
        if now >= last.issued_at + RENEWAL * LIFE:
            return True
        changed = abs(last.capacity.load - capacity.load) >= CHANGE or (
            min(last.capacity.reservations, last.capacity.circuits) > 0
        ) != (min(capacity.reservations, capacity.circuits) > 0)
        return changed and now >= last.issued_at + LEAST_INTERVAL

    def _capacity(self, status: StatusAnswer) -> Capacity:
        reservations, circuits = self.policy.reservations, status.max_circuits or self.policy.circuits
        used = [status.reservations / max(reservations, 1), status.circuits / max(circuits, 1)]
        if status.hourly is not None:
            used.append(status.bytes_last_hour / max(status.hourly, 1))
        return Capacity(
            max(reservations - status.reservations, 0),
            max(circuits - status.circuits, 0),
            None if status.hourly is None else max(status.hourly - status.bytes_last_hour, 0),
            min(round(max(used), 2), 1.0),
        )

    def _publish(self) -> list[Send]:
        return [Send(name, DescriptorChanged(self._envelope)) for name in self._publishers]
