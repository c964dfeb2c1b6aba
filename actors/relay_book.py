"""The relays that are known, from whom, and what came of trying them.

Anybody can tell of relays, and of as many as he likes.  So what each source may fill is its own: a flood from the DHT
pushes out what came from the DHT and was never reached, not what mDNS told, what a person has configured, or what
served us before.  Within a source, one network (a /16, for IPv6 a /32) has a bounded part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.dial_policy import dialable, network_of
from protocol.descriptor import RelayDescriptor

#: Relays that are remembered of each source.  Each costs about 2 kB with its descriptor.
MAX_OF_SOURCE: Final = 256

#: Of these, relays of one network.  mDNS tells of one network alone, and is not bound by it.
MAX_OF_NETWORK: Final = 16

#: Addresses of a relay that are remembered.
MAX_ADDRESSES: Final = 8

#: Sources whose addresses may be private ones: mDNS is of this network, and a person has written the others.
LOCAL: Final = frozenset({"mdns", "public"})

#: Answers of those that are of no use now.
USELESS: Final = frozenset({"unreachable", "norelay"})


@dataclass(slots=True)
class KnownRelay:
    """``origin``: the source that it counts for.  ``sources``: when each told of it last.  ``descriptor``: verified,
    None: none was told.  ``latency``: seconds, of the last probe that came back.  ``answer``: as ProbeResult says it.
    ``retry_at``: when it asked to be asked again.  ``probed_at``, ``reached_at``: 0.0: never.  ``proved``: at which of
    its addresses it has proved its peer id."""

    peer: bytes
    origin: str
    addresses: tuple[bytes, ...]
    sources: dict[str, float] = field(default_factory=dict)
    descriptor: RelayDescriptor | None = None
    envelope: bytes = b""
    latency: float | None = None
    answer: str = "unprobed"
    retry_at: float = 0.0
    probed_at: float = 0.0
    reached_at: float = 0.0
    proved: tuple[bytes, ...] = ()

    @property
    def network(self) -> str:
        return network_of(self.addresses[0])

    @property
    def load(self) -> float | None:
        return None if self.descriptor is None else self.descriptor.capacity.load

    def forget_stale(self, now: float) -> None:
        """What it said of itself holds until it expires."""
        if self.descriptor is not None and self.descriptor.expires_at <= now:
            self.descriptor, self.envelope = None, b""


class RelayBook:
    """``private``: private addresses are dialled whoever tells them."""

    def __init__(self, own: bytes, *, private: bool = False) -> None:
        self.relays: dict[bytes, KnownRelay] = {}
        self.refused: Counter[str] = Counter()
        self._own = own
        self._private = private

    def __len__(self) -> int:
        return len(self.relays)

    def learn(
        self,
        source: str,
        peer: bytes,
        addresses: Sequence[bytes],
        now: float,
        descriptor: RelayDescriptor | None = None,
        envelope: bytes = b"",
    ) -> KnownRelay | None:
        """``source`` tells of ``peer``; ``descriptor``, ``envelope``: verified.  None: it is not remembered."""
        if peer == self._own:
            return None
        if descriptor is not None:
            addresses = (*descriptor.addresses, *addresses)
        usable = dialable(addresses, private=self._private or source in LOCAL, most=MAX_ADDRESSES)
        known = self.relays.get(peer)
        if known is None:
            if not usable:
                self.refused["no address"] += 1
                return None
            if not self._make_room(source, network_of(usable[0])):
                return None
            known = self.relays[peer] = KnownRelay(peer, source, usable)
        newer = descriptor is not None and (
            known.descriptor is None or descriptor.sequence >= known.descriptor.sequence
        )
        if newer:
            # The relay's own word: what was told before of where it is does not count beside it.
            known.descriptor, known.envelope = descriptor, envelope
            known.addresses = usable or known.addresses
        elif known.descriptor is None:
            known.addresses = tuple(dict.fromkeys((*usable, *known.addresses)))[:MAX_ADDRESSES]
        known.proved = tuple(one for one in known.proved if one in known.addresses)
        known.sources[source] = now
        return known

    def _make_room(self, source: str, network: str) -> bool:
        own = [one for one in self.relays.values() if one.origin == source]
        same = [one for one in own if one.network == network]
        if source != "mdns" and len(same) >= MAX_OF_NETWORK:
            return self._push_out(same, "network")
        return len(own) < MAX_OF_SOURCE or self._push_out(own, "source")

    def _push_out(self, among: Iterable[KnownRelay], reason: str) -> bool:
        """Forget the one that was told longest ago of those that never served; False: all did."""
        useless = [one for one in among if not one.reached_at or one.answer == "norelay"]
        if not useless:
            self.refused[reason] += 1
            return False
        # One that was tried in vain before one that was not tried.
        worst = min(useless, key=lambda one: (one.answer not in USELESS, max(one.sources.values(), default=0.0)))
        del self.relays[worst.peer]
        self.refused[reason] += 1
        return True

    def met(self, peer: bytes, at: bytes) -> None:
        """It was dialled at ``at``, and has proved its peer id there."""
        known = self.relays.get(peer)
        if known is not None and at in known.addresses and at not in known.proved:
            known.proved = (at, *known.proved)

    def reached(self, peer: bytes, latency: float, now: float) -> None:
        if (known := self.relays.get(peer)) is not None:
            known.latency = latency
            known.probed_at = known.reached_at = now
            if known.answer == "unreachable":
                known.answer = "unprobed"

    def answered(self, peer: bytes, answer: str, retry_after: int, now: float) -> None:
        """What it said, or that it was not reached."""
        if (known := self.relays.get(peer)) is not None:
            known.answer = answer
            known.probed_at = now
            known.retry_at = now + retry_after if retry_after else 0.0
