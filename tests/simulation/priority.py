"""Whom a full relay serves: its real RelayServer and ReputationTracker, and peers that want circuits, in virtual time.

    helpers   operators and the public both want more than there is
    sybils    the same operators, and N newcomers that the relay has seen to relay once: honest ones; or identities of
              one person that all sign receipts for each other, and for whom a relay vouches that is known well

Peers come from addresses of their own, for an attacker has as many as he pays for: what bounds him here is the
mechanism alone.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from actors.actor import Send
from actors.record_store import MemoryStore
from actors.relay_server import RelayServer, RelayServerPolicy
from actors.reputation_tracker import ReputationTracker
from protocol import messages, receipts
from protocol.discovery_messages import Observed
from protocol.identity import Identity
from protocol.service_messages import StreamMessage
from tests.support.peers import seeded

BEGIN = 1_800_000_000.0
HOUR = 3600.0

#: Circuits that the relay carries at a time, seconds that one lasts and that a refused peer waits, on average.
SLOTS = 200
LASTS = 120.0
RETRIES = 20.0

#: Seconds until what is held is counted: until then the relay fills up, and classes learn what they want.
WARM_UP = 1800.0


@dataclass
class Group:
    """``peers``, each of which wants ``wants`` circuits at a time.  ``held``: circuit-seconds; ``asked``, ``refused``:
    requests."""

    name: str
    peers: list[bytes]
    wants: int
    held: float = 0.0
    asked: int = 0
    refused: int = 0

    @property
    def refusals(self) -> float:
        return self.refused / max(self.asked, 1)


@dataclass
class Relay:
    """``open``: circuits by number: whose, since when."""

    random: random.Random
    slots: int = SLOTS
    now: float = BEGIN
    open: dict[int, tuple[Group, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        most = 10**6
        policy = RelayServerPolicy(
            max_reservations=most,
            max_reservations_per_ip=most,
            max_reservations_per_group=most,
            max_circuits=self.slots,
            max_circuits_per_peer=most,
            max_circuits_per_ip=most,
            max_circuits_per_pair=most,
            rate_limits=False,
        )
        self.identity = Identity.from_seed(seeded("the relay"))
        self.server = RelayServer(policy, forwarders=("f",), tracker="reputation")
        self.server.handle_deadline(self.now)
        self.server.handle(messages.ForwarderReport("f", 1, (), ()), self.now)
        self.tracker = ReputationTracker("reputation", MemoryStore(), self.identity, relay_server="relay_server")
        self._numbers = 0
        self.target = Identity.from_seed(seeded("a target")).peer_id.bytes
        self.server.handle(messages.ReserveAsked(1, "f", 1, self.target, "192.0.2.1"), self.now)

    def tell(self, message: object) -> None:
        """To ReputationTracker, and what it says to RelayServer."""
        self._pass_on(self.tracker.handle(message, self.now))  # type: ignore[arg-type]

    def _pass_on(self, sends: list[Send]) -> None:
        for send in sends:
            if send.receiver == "relay_server":
                self._pass_on(self.server.handle(send.message, self.now))

    def works(self, peer: bytes, hours: int) -> None:
        """It was seen to relay in the last so many hours."""
        end = self.now
        for hour in reversed(range(hours)):
            self.now = end - hour * HOUR
            self.tell(Observed(peer, "probe", 0.05, works=True))
        self.now = end

    def show(self, peer: bytes, address: str, envelopes: list[bytes]) -> None:
        """``peer`` shows what others have signed for it."""
        shown = receipts.encode(receipts.ReceiptsShown(tuple(envelopes[: receipts.MAX_SHOWN])))
        self._numbers += 1
        self.tell(StreamMessage("f", self._numbers, peer, address, receipts.PROTOCOL, shown))

    def run(self, groups: list[Group], seconds: float) -> None:
        """Let all of them ask, for so long; what they held is counted after a while."""
        events: list[tuple[float, int, Group, bytes, int]] = []
        begin, end = self.now + WARM_UP, self.now + WARM_UP + seconds

        def later(mean: float, group: Group, peer: bytes, circuit: int) -> None:
            self._numbers += 1
            heapq.heappush(events, (self.now + self.random.expovariate(1 / mean), self._numbers, group, peer, circuit))

        for group in groups:
            for peer in group.peers * group.wants:
                later(RETRIES, group, peer, 0)
        while events and events[0][0] < end:
            self.now, _, group, peer, circuit = heapq.heappop(events)
            if circuit:
                self._ended(circuit, begin)
                later(1.0, group, peer, 0)
                continue
            admitted = self._asks(peer)
            if self.now >= begin:
                group.asked += 1
                group.refused += admitted is None
            if admitted is None:
                later(RETRIES, group, peer, 0)
            else:
                self.open[admitted] = group, self.now
                later(LASTS, group, peer, admitted)
        self.now = end
        for circuit in list(self.open):
            self._ended(circuit, begin)

    def _asks(self, peer: bytes) -> int | None:
        """The number of its circuit, None: it was refused."""
        self._numbers += 1
        number = self._numbers
        asked = messages.ConnectAsked(number, "f", number, peer, self.target, "192.0.2.2")
        (send,) = self.server.handle(asked, self.now)
        if not isinstance(send.message, messages.ConnectAdmitted):
            return None
        self.server.handle(messages.CircuitOpened(send.message.circuit, "f"), self.now)
        return int(send.message.circuit)

    def _ended(self, circuit: int, begin: float) -> None:
        group, since = self.open.pop(circuit)
        group.held += max(self.now - max(since, begin), 0.0)
        self.server.handle(messages.CircuitEnded(circuit, "f", 1 << 20, 1 << 20, "closed"), self.now)
        # Its hour is renewed, as clients do.
        self.server.handle(messages.ReserveAsked(1, "f", 1, self.target, "192.0.2.1"), self.now)


def identities(name: str, count: int) -> list[Identity]:
    return [Identity.from_seed(seeded(f"{name} {number}")) for number in range(count)]


def ids(some: list[Identity]) -> list[bytes]:
    return [one.peer_id.bytes for one in some]


def helpers(seed: int, *, operators: int = 20, public: int = 200, wants: int = 5, hours: float = 2.0) -> list[Group]:
    """Operators want less than is kept for them, the public five times all: five circuits each, of 200."""
    relay = Relay(random.Random(seed))
    groups = [
        Group("operators", ids(identities("operator", operators)), wants),
        Group("public", ids(identities("public", public)), wants),
    ]
    for peer in groups[0].peers:
        relay.works(peer, 12)
    relay.run(groups, hours * HOUR)
    return groups


#: Of the newcomers: each for itself; all sign for each other; and a relay that is known well signs for each.
KINDS = ("honest", "for each other", "and one well known")


def sybils(seed: int, count: int, kind: str, *, operators: int = 20, hours: float = 2.0) -> Counter[str]:
    """Parts of what all held: of ``count`` newcomers, of the operators, and of the public."""
    relay = Relay(random.Random(seed))
    known, new = identities("operator", operators), identities("newcomer", count)
    groups = [
        Group("newcomers", ids(new), 20),
        Group("operators", ids(known), 20),
        Group("public", ids(identities("public", 400)), 5),
    ]
    for peer in groups[1].peers:
        relay.works(peer, 12)
    for peer in groups[0].peers:
        relay.works(peer, 1)
    if kind != "honest":
        # Each has as many witnesses as may be shown, of the others; the well-known one among them.
        window = int(relay.now // receipts.WINDOW)
        for number, one in enumerate(new):
            others = [new[(number + step) % count] for step in range(1, min(receipts.MAX_SHOWN, count))]
            witnesses = others if kind == "for each other" else [known[0], *others]
            signed = [
                receipts.sign(
                    receipts.Receipt(one.peer_id.bytes, witness.peer_id.bytes, window, 40, 0, 40, 40),
                    witness,
                    receipts.SHOWN,
                )
                for witness in witnesses
            ]
            relay.show(one.peer_id.bytes, f"198.51.{number // 250}.{number % 250}", signed)
    relay.run(groups, hours * HOUR)
    total = sum(group.held for group in groups)
    return Counter({group.name: group.held / total for group in groups})
