"""Bridges: circuits whose ends sit on two forwarders.

    A, the dialler's                         RelayServer                          B, the target's
      │  ConnectAsked  ─────────────────────────►│
      │                                          │─── BridgeExpected(token, target) ──►│
      │◄── ConnectAdmitted(token, B's bridge) ───│                                     │
      │  one socket: token, STOP CONNECT  ─────────────────────────────────────────►   │  STOP stream to the target
      │  ◄──────────────────────────────────────────────────────────  STATUS           │  joined to the bridge's stream
    HOP stream joined to the bridge's stream

A bridge is a connection of both with one stream on it, which either's switch joins to its peer's stream as it joins any
two.  So a bridged circuit has the credit, half-close and reset of a local one, end to end; its limits and its report
are A's.  On one host it is a unix socket and frames travel as they are; between hosts it is TCP with Noise, and both
ends prove the node's own identity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from actors.circuit_steps import Steps
from actors.deadlines import Deadlines
from actors.inbound_streams import QuietOwner
from actors.links import Beyond, ForwarderPolicy, Link, Links
from actors.relay_streams import Admission
from protocol import messages
from protocol.connection import Connection, ConnectionLimits, Multiplexed
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.noise import StaticKey
from protocol.plain_connection import PlainConnection
from protocol.relay_hop import Limit, Status
from protocol.relay_stop import IncomingCircuit, StopServer
from protocol.switching import Switch
from protocol.yamux import Stream

#: Bytes of a token: more than anyone guesses.
TOKEN: Final = 16

#: Bridges that may wait for RelayServer's word of them, and its words that may wait for their bridge.
MAX_EXPECTED: Final = 4096

UNIX: Final = "/unix/"


@dataclass(frozen=True, slots=True)
class Dial:
    """The host is to connect ``link`` to ``address``; if it cannot, the link is lost."""

    link: Link
    address: str


class BridgeStream(QuietOwner):
    """The first and only stream of a bridge, at the target's forwarder.  ``asked``: token and request are complete.
    ``gone``: the dialler's forwarder gave up."""

    __slots__ = ("_asked", "_gone", "_machine", "_peer", "admission", "limit", "steps", "token")

    def __init__(
        self, stream: Stream, asked: Callable[[BridgeStream], None], gone: Callable[[BridgeStream], None]
    ) -> None:
        super().__init__(stream)
        self.token = b""
        self.limit: Limit | None = None
        self.steps: Steps | None = None
        self.admission: Admission | None = None
        self._asked = asked
        self._gone = gone
        self._machine = StopServer()
        self._peer: PeerId | None = None

    @property
    def source(self) -> PeerId:
        assert self._peer is not None
        return self._peer

    def data_received(self, data: bytes) -> None:
        if len(self.token) < TOKEN:
            missing = TOKEN - len(self.token)
            self.token += data[:missing]
            data = data[missing:]
        self._machine.receive_data(data)
        match self._machine.next_event():
            case IncomingCircuit(peer=peer, limit=limit):
                self._peer, self.limit = peer, limit
                self._asked(self)
            case None:
                pass

    def finished(self) -> None:
        # The dialler may half-close before the circuit stands; one that never asked is given up.
        if self._peer is None:
            raise RemoteProtocolError("a bridge that ended before it asked for anything", "bridge")

    def was_reset(self) -> None:
        self._gone(self)

    def accept(self, limit: Limit | None) -> bytes:
        self._machine.accept()
        self._flush()
        return self._machine.trailing_data()

    def refuse(self, status: Status, reason: str, retry_after: int) -> None:
        self._machine.refuse(status, reason)
        self._flush()
        self.stream.session.finish(self.stream)

    def _flush(self) -> None:
        output = self._machine.data_to_send()
        if output and self.stream.sendable:
            self.stream.session.send(self.stream, output)


class Bridges:
    """The bridges of one forwarder.

    ``dials``: those that the host is to connect.  ``matched``: called with the stream and RelayServer's word of it.
    ``moved``: called with its word of a circuit whose dialler moved in instead.
    """

    __slots__ = (
        "_arrived",
        "_deadlines",
        "_early",
        "_expected",
        "_links",
        "_policy",
        "_randomness",
        "_static",
        "_switch",
        "dials",
        "matched",
        "moved",
    )

    def __init__(
        self,
        policy: ForwarderPolicy,
        switch: Switch,
        links: Links,
        static: StaticKey,
        randomness: Callable[[int], bytes],
        deadlines: Deadlines,
    ) -> None:
        self.dials: list[Dial] = []
        self._policy = policy
        self._switch = switch
        self._links = links
        self._static = static
        self._randomness = randomness
        self._deadlines = deadlines
        self.matched: Callable[[BridgeStream, messages.BridgeExpected, float], None] = lambda *_: None
        self.moved: Callable[[messages.BridgeExpected], None] = lambda _: None
        self._expected: dict[bytes, messages.BridgeExpected] = {}
        self._early: dict[bytes, BridgeStream] = {}
        self._arrived: set[bytes] = set()

    # The dialler's side.

    def dial(self, admitted: messages.ConnectAdmitted, now: float) -> Link:
        """A bridge to the target's forwarder: a link whose socket the host is to connect."""
        beyond = Beyond(admitted.target_forwarder, admitted.target_connection, PeerId(admitted.target))
        link = self._link(plain=admitted.bridge.startswith(UNIX), initiator=True, now=now, beyond=beyond)
        self.dials.append(Dial(link, admitted.bridge))
        return link

    # The target's side.

    def accept(self, now: float, *, plain: bool) -> Link:
        """Another forwarder connected.  ``plain``: on the unix socket, which only they can open."""
        return self._link(plain=plain, initiator=False, now=now, beyond=None)

    def proved(self, link: Link, multiplexed: Multiplexed) -> None:
        """RemoteProtocolError unless the other end of a bridge is this node too."""
        if multiplexed.peer != self._static.identity.peer_id:
            raise RemoteProtocolError("a bridge that does not come from a forwarder of this node", "bridge")

    def serve(self, stream: Stream, gone: Callable[[BridgeStream], None]) -> BridgeStream:
        """The stream of a bridge that another forwarder connected."""

        def forget(bridge: BridgeStream) -> None:
            self._early.pop(bridge.token, None)
            gone(bridge)

        return BridgeStream(stream, self._asked, forget)

    def expect(self, expected: messages.BridgeExpected, now: float) -> None:
        """RelayServer's word of a bridge, which may come before it or after."""
        early = self._early.pop(expected.token, None)
        if early is not None:
            if not early.stream.closed:
                self.matched(early, expected, now)
            return
        if expected.token in self._arrived:
            self._arrived.discard(expected.token)
            self.moved(expected)
            return
        if len(self._expected) >= MAX_EXPECTED:
            return  # its dialler hears of it when its time is over
        self._expected[expected.token] = expected
        self._deadlines.set(expected.token, now + self._policy.stop_timeout, lambda _: self._forget(expected.token))

    def arrived(self, token: bytes, now: float) -> None:
        """The dialler of the circuit that RelayServer announces with ``token`` has moved in (actors/moves.py)."""
        expected = self._expected.pop(token, None)
        if expected is not None:
            self._deadlines.cancel(token)
            self.moved(expected)
        elif len(self._arrived) < MAX_EXPECTED:
            self._arrived.add(token)
            self._deadlines.set(token, now + self._policy.stop_timeout, lambda _: self._arrived.discard(token))

    def words(self, connections: Collection[int]) -> list[messages.BridgeExpected]:
        """RelayServer's words of bridges to our peers at ``connections`` that have not come, which are forgotten."""
        found = [one for one in self._expected.values() if one.target_connection in connections]
        for expected in found:
            del self._expected[expected.token]
            self._deadlines.cancel(expected.token)
        return found

    def early(self, bridge: BridgeStream) -> bool:
        """Whether ``bridge`` came before RelayServer's word of it."""
        return self._early.get(bridge.token) is bridge

    def take_up(self, bridge: BridgeStream) -> None:
        """A bridge that waited for RelayServer's word elsewhere."""
        self._asked(bridge)

    def leave(self, bridge: BridgeStream) -> None:
        """It waits for the word elsewhere."""
        if self.early(bridge):
            del self._early[bridge.token]

    def _forget(self, token: bytes) -> None:
        self._expected.pop(token, None)

    def _asked(self, bridge: BridgeStream) -> None:
        expected = self._expected.pop(bridge.token, None)
        if expected is not None:
            self._deadlines.cancel(expected.token)
            self.matched(bridge, expected, bridge.stream.session.connection.last_received)
        elif bridge.token in self._early or len(self._early) >= MAX_EXPECTED:
            raise RemoteProtocolError("a bridge that nobody announced", "bridge")
        else:
            self._early[bridge.token] = bridge  # the stream's deadline ends it, if no word comes

    def limits(self, *, plain: bool) -> ConnectionLimits:
        """One stream, opened by whoever connects, by a program of ours: nothing to be counted a second."""
        limits = self._policy.connection
        yamux = replace(limits.yamux, max_inbound_streams=1, pings_per_second=0, streams_per_second=0)
        return replace(limits, yamux=yamux, keepalive_interval=0.0 if plain else limits.keepalive_interval)

    def _link(self, *, plain: bool, initiator: bool, now: float, beyond: Beyond | None) -> Link:
        limits = self.limits(plain=plain)
        connection: Connection
        if plain:
            connection = PlainConnection(self._switch, now, initiator=initiator, limits=limits)
        else:
            connection = Connection(
                self._switch,
                self._static,
                self._randomness(32),
                now,
                initiator=initiator,
                limits=limits,
                expected=self._static.identity.peer_id if initiator else None,
            )
        return self._links.bridge(connection, beyond, now)
