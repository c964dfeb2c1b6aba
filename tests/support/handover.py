"""A relay in memory whose forwarder is replaced while peers talk through it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from actors import handover
from actors.circuit_forwarder import CircuitForwarder
from actors.handover_state import GroupState
from actors.links import ForwarderPolicy, Link
from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import messages
from protocol.handover import decode
from protocol.noise import StaticKey
from tests.support.bridged import BridgedRelay
from tests.support.peers import MemoryPeer, MemoryRelay, seeded
from tracing.tracer import AnyTracer


class MovingRelay(MemoryRelay):
    """``moves``: asked between two turns whether the forwarder is to be replaced now."""

    def __init__(
        self,
        policy: RelayServerPolicy | None = None,
        forwarder_policy: ForwarderPolicy | None = None,
        *,
        piece: int = 0,
        moves: Callable[[], bool] = lambda: False,
        tracer: Callable[[str], AnyTracer] | None = None,
    ) -> None:
        super().__init__(policy, forwarder_policy, piece=piece, tracer=tracer)
        self.moves = moves
        self.generation = 0

    def between_turns(self) -> None:
        if self.moves():
            self.hand_over()

    def successor(self, name: str) -> CircuitForwarder:
        return CircuitForwarder(
            name,
            self.forwarder.policy,
            StaticKey(self.identity, seeded("relay static")),
            self._random,
            addresses=[bytes.fromhex("04010203040610e1")],
            adopting=True,
            tracer=self.tracers[name],
        )

    def hand_over(self, *, shift: float = 0.0, restart_relay_server: bool = False) -> None:
        """All groups go to a new forwarder, as data; RelayServer is told, or replaced too, as in an upgrade."""
        self._post(self.forwarder.take_sends())
        self._flush()
        self.generation += 1
        old, new = self.forwarder, self.successor(f"forwarder/0.{self.generation}")
        ready: list[bool] = []
        old.begin_handover(new.name, lambda: ready.append(True))
        self._post(old.take_sends())
        assert ready
        new._links.expect(old._links.counts())
        for group in handover.groups(old):
            self.move(old, new, group, shift=shift)
        assert not old._setup.circuits and not old._setup.opening and not old._setup.asked
        handover.add_totals(new, handover.totals(old))
        self.forwarder = new
        if restart_relay_server:
            before = self.relay_server
            self.relay_server = RelayServer(before.policy, (new.name,), report_wait=60.0, terms=before._terms.terms)
            self._post(self.relay_server.handle_deadline(self.now))
        new.adopted(old.name)
        self._post(new.take_sends())
        for link in new.links.values():
            if not link.connection.blocked:
                new.drained(link)
        self._flush()

    def move(self, old: CircuitForwarder, new: CircuitForwarder, group: list[Link], *, shift: float = 0.0) -> None:
        peers: dict[Link, MemoryPeer] = {link: peer for peer, link in self.links.items()}
        moved = moved_group(old, new, group, self.now, StaticKey(self.identity, seeded("relay static")), shift)
        for link, successor in zip(group, moved, strict=True):
            if link in peers:
                self.links[peers[link]] = successor


def moved_group(
    old: CircuitForwarder, new: CircuitForwarder, group: list[Link], now: float, static: StaticKey, shift: float = 0.0
) -> list[Link]:
    """``group`` as it goes from process to process.  What is made of the data gives the same data again."""
    state = decode(msgspec.msgpack.encode(handover.release(old, group)), GroupState, 1 << 24)
    if not shift:
        said, expected = new.take_sends(), new._links._expected.copy()
        assert handover.release(new, handover.adopt(new, state, now, static=static)) == state
        new.take_sends()
        new._sends += said
        new._links.expect(expected - new._links._expected)
    return handover.adopt(new, state, now, static=static, shift=shift)


class MovingBridges(BridgedRelay):
    """Two forwarders, of which either can be replaced, or be no more: the other takes what it has."""

    def hand_over(self, number: int) -> None:
        name = list(self.forwarders)[number]
        old = self.forwarders[name]
        new = CircuitForwarder(
            f"{name}.1",
            old.policy,
            StaticKey(self.identity, seeded("relay static")),
            self._random,
            host=old._host,
            bridges=old._bridge_addresses,
            adopting=True,
            tracer=self.tracers[f"{name}.1"],
        )
        self.forwarders[new.name] = new
        self._pass_on(old, new)
        # In the place of the old one.
        self.forwarders = {
            (new.name if key == name else key): (new if key == name else f)
            for key, f in self.forwarders.items()
            if key != new.name
        }
        self._say_gone(old, new)

    def merge(self) -> None:
        """The second has all that the first had."""
        old, new = self.forwarders.values()
        self._pass_on(old, new)
        del self.forwarders[old.name]
        self._say_gone(old, new)

    def _say_gone(self, old: CircuitForwarder, new: CircuitForwarder) -> None:
        self._post(new.take_sends())
        self._post([*self.relay_server.handle(messages.ActorDown(old.name), self.now)])

    def _pass_on(self, old: CircuitForwarder, new: CircuitForwarder) -> None:
        ready: list[bool] = []
        old.begin_handover(new.name, lambda: ready.append(True))
        self._post(old.take_sends())
        assert ready
        peers = {link: peer for peer, link in self.links.items()}
        for group in handover.groups(old):
            moved = moved_group(old, new, group, self.now, StaticKey(self.identity, seeded("relay static")))
            for link, successor in zip(group, moved, strict=True):
                if link in peers:
                    self.links[peers[link]] = successor
                    self.home[peers[link]] = new
                if link in self.bridges:
                    other, far = self.bridges.pop(link)
                    self.bridges[successor] = (other, far)
                    self.bridges[far] = (new, successor)
        handover.add_totals(new, handover.totals(old))
        new.adopted(old.name)
