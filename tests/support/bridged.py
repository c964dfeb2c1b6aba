"""A relay of two forwarders in memory: what :class:`~tests.support.peers.MemoryRelay` is, with bridges in between."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy, Link
from actors.moves import decode
from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import messages
from protocol.arena import RECEIVE_SIZE
from protocol.connection import State
from protocol.noise import StaticKey
from tests.support.peers import MemoryPeer, MemoryRelay, seeded
from tracing.tracer import AnyTracer

NAMES = ("forwarder/0", "forwarder/1")


class BridgedRelay(MemoryRelay):
    """``attach(peer, forwarder=1)`` puts a peer on the second.  ``plain``: the two are on one host.
    ``moves``: dialler's connections move to their targets' forwarders."""

    def __init__(
        self,
        policy: RelayServerPolicy | None = None,
        forwarder_policy: ForwarderPolicy | None = None,
        *,
        piece: int = 0,
        plain: bool = True,
        tracer: Callable[[str], AnyTracer] | None = None,
        moves: bool = False,
    ) -> None:
        super().__init__(policy, forwarder_policy, piece=piece, tracer=tracer)
        self.forwarders = {
            name: CircuitForwarder(
                name,
                forwarder_policy or ForwarderPolicy(rate_limits=False, max_connections_per_ip=10_000),
                StaticKey(self.identity, seeded("relay static")),
                self._random,
                host="here" if plain else name,
                tracer=self.tracers[name],
                bridges=(f"/unix/{name}", f"/ip4/192.0.2.{number}/tcp/1", *([f"/moves/{name}"] if moves else [])),
            )
            for number, name in enumerate(NAMES)
        }
        self.forwarder = self.forwarders[NAMES[0]]
        self.relay_server = RelayServer(
            policy or RelayServerPolicy(rate_limits=False),
            forwarders=NAMES,
            randomness=self._random,
            tracer=self.tracers["relay_server"],
        )
        self.plain = plain
        self.home: dict[MemoryPeer, CircuitForwarder] = {}
        #: Each end of a bridge with the other's forwarder and link.
        self.bridges: dict[Link, tuple[CircuitForwarder, Link]] = {}
        #: The dialler's forwarder cannot reach the target's.
        self.unreachable = False
        #: Connections that were to move: how many did, and whether any can.
        self.moved = 0
        self.immovable = False
        #: RelayServer's words of bridges come behind the bridges.
        self.late_words: list[messages.BridgeExpected] | None = None

    def attach(
        self, peer: MemoryPeer, address: str = "192.0.2.7", *, relayed: bool = False, forwarder: int = 0
    ) -> Link:
        home = self.home[peer] = self.forwarders[NAMES[forwarder]]
        link = home.accept(address, bytes.fromhex("04c0000207061f90"), b"", self.now, relayed=relayed)
        self.links[peer] = link
        self.run()
        return link

    def detach(self, peer: MemoryPeer) -> None:
        self.home.pop(peer).lost(self.links.pop(peer), "connection closed by the peer")
        self.run()

    def lose_forwarder(self, number: int) -> None:
        """It fell, and took its connections along."""
        forwarder = self.forwarders[NAMES[number]]
        for link, (other, far) in list(self.bridges.items()):
            if other is not forwarder:
                continue
            del self.bridges[link], self.bridges[far]
            survivor = next(f for f in self.forwarders.values() if f is not forwarder)
            survivor.lost(link, "connection closed by the peer")
        for peer in [peer for peer, home in self.home.items() if home is forwarder]:
            del self.links[peer], self.home[peer]
        self._post([*self.relay_server.handle(messages.ActorDown(NAMES[number]), self.now)])
        self.run()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            for forwarder in self.forwarders.values():
                self._post(forwarder.handle_deadline(self.now))
            deadline = self.relay_server.next_deadline()
            if deadline is not None and deadline <= self.now:
                self._post(self.relay_server.handle_deadline(self.now))
            self.run()

    def _post(self, sends: list) -> bool:
        for send in sends:
            if self.late_words is not None and isinstance(send.message, messages.BridgeExpected):
                self.late_words.append(send.message)
                continue
            actor = self.relay_server if send.receiver == "relay_server" else self.forwarders[send.receiver]
            self.tracers[send.receiver].current = send.traceparent
            self._post(actor.handle(send.message, self.now))
        return bool(sends)

    def _turn(self) -> bool:
        moved = False
        for forwarder in self.forwarders.values():
            moved |= self._post(forwarder.take_sends())
            moved |= self._move(forwarder)
            moved |= self._connect(forwarder)
        for peer in list(self.links):
            data = peer.output()
            for piece in self._pieces(data) if data else ():
                moved = True
                self._receive(self.home[peer], self.links[peer], piece)
        for forwarder in self.forwarders.values():
            self._post(forwarder.take_sends())
            moved |= self._move(forwarder)
            moved |= self._connect(forwarder)
            moved |= self._write(forwarder)
        return moved

    def _receive(self, forwarder: CircuitForwarder, link: Link, data: bytes) -> None:
        # What one receive brings is written before the next, as a host does: a bridge sends from where it received.
        for start in range(0, len(data), RECEIVE_SIZE):
            if link.connection.state is not State.CLOSED:
                link.connection.receive_data(data[start : start + RECEIVE_SIZE], self.now)
                forwarder.received(link, self.now)
            self._write(forwarder)

    def _move(self, forwarder: CircuitForwarder) -> bool:
        moves = forwarder.take_moves(self.now)
        for move in moves:
            self._write(forwarder)
            peer = next(peer for peer, link in self.links.items() if link is move.link)
            state = forwarder.move_out(move, self.now)
            if self.immovable:
                self.links[peer] = forwarder.stays(move, self.now, state)
                continue
            other = self.forwarders[move.address.removeprefix("/moves/")]
            self.links[peer] = other.move_in(decode(msgspec.msgpack.encode(state)), self.now)
            self.home[peer] = other
            self.moved += 1
        return bool(moves)

    def _connect(self, forwarder: CircuitForwarder) -> bool:
        dials = forwarder.take_dials()
        for dial in dials:
            if self.unreachable or dial.link.connection.state is State.CLOSED:
                forwarder.lost(dial.link, "cannot be reached")
                continue
            assert dial.address.startswith("/unix/" if self.plain else "/ip4/")
            assert dial.link.beyond is not None
            other = self.forwarders[dial.link.beyond.forwarder]
            far = other.accept_bridge(self.now, plain=self.plain)
            self.bridges[dial.link] = (other, far)
            self.bridges[far] = (forwarder, dial.link)
        return bool(dials)

    def _write(self, forwarder: CircuitForwarder) -> bool:
        """Carry what ``forwarder`` has to say; True when it was anything."""
        arena = forwarder.arena
        by_connection = {self.links[peer].connection: peer for peer, home in self.home.items() if home is forwarder}
        pieces: list[tuple[MemoryPeer | Link, bytes]] = []
        closed: list[Link] = []
        while True:
            dirty, arena.dirty = arena.dirty, []
            for connection in dirty:
                data = b"".join(connection.take_output())
                link: Link = connection.owner  # type: ignore[assignment]
                receiver = link if link in self.bridges else by_connection.get(connection)
                if receiver is not None and data:
                    pieces.append((receiver, data))
                if connection.state is State.CLOSED and link in self.bridges:
                    closed.append(link)
            forwarder.settle()
            if not arena.dirty:
                break
        arena.reset()
        for receiver, data in pieces:
            for piece in self._pieces(data):
                if isinstance(receiver, Link):
                    if receiver in self.bridges:  # else its other end has closed meanwhile
                        self._receive(*self.bridges[receiver], piece)
                else:
                    receiver.receive(piece, self.now)
        for link in closed:
            entry = self.bridges.pop(link, None)
            if entry is not None:
                other, far = entry
                self.bridges.pop(far, None)
                forwarder.lost(link, "connection closed")
                far.connection.receive_eof()
                other.lost(far, "connection closed by the peer")
        return bool(pieces) or bool(closed)
