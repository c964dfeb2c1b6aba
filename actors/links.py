"""The connections of a forwarder: which are let in, how many there are of an address, and which have gone quiet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from actors.crowd import Counted, Crowd
from actors.deadlines import Deadlines
from actors.reservations import household
from protocol.connection import Connection, ConnectionLimits, State
from protocol.errors import LocalProtocolError
from protocol.identity import PeerId
from protocol.noise import StaticKey
from protocol.switching import Switch

if TYPE_CHECKING:
    from actors.dialling import Dial

#: How often a connection that is not idle is looked at in idle_timeout, which bounds how late it is found idle.
LOOKS: Final = 4


@dataclass(frozen=True, slots=True)
class ForwarderPolicy:
    """The limits of one forwarder, each a setting of the same name, with its default (actors/settings_table.py).

    ``serves``, ``rate``: the terms that it begins with (protocol/quota_messages.py)."""

    max_connections: int = 4096
    max_connections_per_ip: int = 64
    connection_rate_per_ip: float = 240.0  # a minute
    rate_limits: bool = True
    idle_timeout: float = 60.0
    stream_timeout: float = 30.0
    stop_timeout: float = 15.0
    circuit_window: int = 1024 * 1024
    serve_perf: bool = False
    connection: ConnectionLimits = field(default_factory=ConnectionLimits)
    serves: bool = True
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a bridge leads to: the connection ``connection`` of another forwarder, to ``peer``."""

    forwarder: str
    connection: int
    peer: PeerId


class Link:
    """What a forwarder knows of one connection, beside the wire.

    ``address``: the remote IP as text.  ``remote``, ``local``: binary multiaddrs.  ``relayed``: it came through another
    relay, which no port of ours brings yet.  ``agent``: what it says that it is, for the log.  ``may_hold``: a
    reservation was asked for, so RelayServer may hold one.  ``reserved_until``: by our own clock, seconds, 0: no
    reservation.  ``dialled``: we opened it; ``dial``: for whom, until its peer has proved itself (actors/dialling.py).
    ``outstayed``: it is closed because it was idle.  ``bridge``: at its other end is another forwarder of
    this node (actors/bridges.py); ``beyond``: the peer that it leads to, None on the side of that peer.
    """

    __slots__ = (
        "address",
        "agent",
        "beyond",
        "bridge",
        "circuits",
        "connection",
        "dial",
        "dialled",
        "id",
        "idle_since",
        "local",
        "may_hold",
        "outstayed",
        "relayed",
        "remote",
        "reserved_until",
    )

    def __init__(
        self, link_id: int, connection: Connection, address: str, remote: bytes, local: bytes, *, relayed: bool
    ) -> None:
        self.id = link_id
        self.connection = connection
        self.address = address
        self.remote = remote
        self.local = local
        self.relayed = relayed
        self.bridge = False
        self.beyond: Beyond | None = None
        self.agent = ""
        self.idle_since: float | None = None
        self.may_hold = False
        self.outstayed = False
        self.reserved_until = 0.0
        self.circuits = 0
        self.dialled = connection.initiator and address != ""
        self.dial: Dial | None = None

    @property
    def peer(self) -> PeerId:
        """Who is at the other end; LocalProtocolError before that is proved."""
        peer = self.connection.peer
        if peer is None:
            raise LocalProtocolError("the connection has not proved its peer yet")
        return peer


class Links:
    """See the module.  ``refusals``: counted by the name of the limit.  ``crowd``: None counts those of this table."""

    __slots__ = (
        "_by_peer",
        "_crowd",
        "_deadlines",
        "_expected",
        "_next_id",
        "_policy",
        "_randomness",
        "_refusals",
        "_static",
        "_switch",
        "table",
    )

    def __init__(
        self,
        policy: ForwarderPolicy,
        switch: Switch,
        static: StaticKey,
        randomness: Callable[[int], bytes],
        deadlines: Deadlines,
        refusals: Counter[str],
        crowd: Counted | None = None,
    ) -> None:
        self.table: dict[int, Link] = {}
        self._by_peer: dict[bytes, dict[int, Link]] = {}
        self._policy = policy
        self._switch = switch
        self._static = static
        self._randomness = randomness
        self._deadlines = deadlines
        self._refusals = refusals
        self._next_id = 1
        self._crowd = crowd or Crowd(policy.connection_rate_per_ip)
        self._expected: Counter[str] = Counter()

    def admit(self, address: str, now: float) -> str:
        """Whether a connection from ``address`` may be accepted: "" or the limit that forbids it."""
        policy, home = self._policy, household(address)
        if self._crowd.count() >= policy.max_connections:
            reason = "max_connections"
        elif self._crowd.of(home) >= policy.max_connections_per_ip:
            reason = "max_connections_per_ip"
        elif policy.rate_limits and not self._crowd.may_come(home, now):
            reason = "connection_rate_per_ip"
        else:
            return ""
        self._refusals[reason] += 1
        return reason

    def accept(self, address: str, remote: bytes, local: bytes, now: float, *, relayed: bool) -> Link:
        """Take a connection that :meth:`admit` let in."""
        connection = Connection(
            self._switch,
            self._static,
            self._randomness(32),
            now,
            initiator=False,
            limits=self._policy.connection,
        )
        link = self._add(connection, address, remote, local, now, relayed=relayed)
        self._crowd.came(household(address))
        return link

    def dial(self, address: str, remote: bytes, local: bytes, now: float, expected: PeerId | None) -> Link | None:
        """A connection that we opened, to ``expected`` if that is given; None when there are too many."""
        if self._crowd.count() >= self._policy.max_connections:
            return None
        connection = Connection(
            self._switch,
            self._static,
            self._randomness(32),
            now,
            initiator=True,
            limits=self._policy.connection,
            expected=expected,
        )
        link = self._add(connection, address, remote, local, now, relayed=False)
        self._crowd.came(household(address))
        return link

    def proved(self, link: Link) -> None:
        """Its peer has proved who it is."""
        self._by_peer.setdefault(link.peer.bytes, {})[link.id] = link

    def to(self, peer: bytes) -> Link | None:
        """A connection to ``peer`` on which streams can be opened."""
        for link in self._by_peer.get(peer, {}).values():
            session = link.connection.session
            if link.connection.state is State.MULTIPLEXED and not (session.going_away or session.remote_going_away):
                return link
        return None

    def bridge(self, connection: Connection, beyond: Beyond | None, now: float) -> Link:
        """A connection with another forwarder.  It counts as no peer's: there are as many as there are circuits."""
        link = self._add(connection, "", b"", b"", now, relayed=False)
        link.bridge, link.beyond = True, beyond
        return link

    def _add(
        self, connection: Connection, address: str, remote: bytes, local: bytes, now: float, *, relayed: bool
    ) -> Link:
        link = Link(self._next_id, connection, address, remote, local, relayed=relayed)
        self._next_id += 1
        connection.owner = link
        self.table[link.id] = link
        self._watch(link, now)
        return link

    def adopt(
        self, connection: Connection, address: str, remote: bytes, local: bytes, looked_at: float, *, relayed: bool
    ) -> Link:
        """Take a peer's connection that another forwarder hands over: it was let in there.  ``looked_at``: when it is
        next seen whether it lives."""
        home = household(address)
        if self._expected[home]:
            self._forget_expected(home, 1)
        link = self._add(connection, address, remote, local, looked_at, relayed=relayed)
        self._crowd.came(home)
        if connection.peer is not None:
            self.proved(link)
        self.look_at(link, looked_at)
        return link

    def look_at(self, link: Link, when: float) -> None:
        """See then whether ``link`` lives, instead of when its time would be."""
        self._deadlines.set(link, when, lambda later: self._look_at(link, later))

    def counts(self) -> dict[str, int]:
        """How many connections there are of each household, those that are expected too."""
        homes = Counter(household(link.address) for link in self.table.values() if not link.bridge)
        return dict(homes + self._expected)

    def expect(self, counts: Mapping[str, int]) -> None:
        """So many of each household will be handed over: they take their places already, unless both count
        together."""
        if self._crowd.shared:
            return
        for address, count in counts.items():
            self._expected[home := household(address)] += count  # one of an older version counts addresses
            for _ in range(count):
                self._crowd.came(home)

    def expect_no_more(self) -> None:
        """What was expected and has not come will not come."""
        for home, count in list(self._expected.items()):
            self._forget_expected(home, count)

    def _forget_expected(self, home: str, count: int) -> None:
        for _ in range(count):
            self._crowd.left(home)
        self._expected[home] -= count
        if self._expected[home] <= 0:
            del self._expected[home]

    def remove(self, link: Link) -> bool:
        """Forget ``link``; False when it was forgotten before."""
        if self.table.pop(link.id, None) is None:
            return False
        self._deadlines.cancel(link)
        if link.connection.peer is not None and (known := self._by_peer.get(link.peer.bytes)) is not None:
            known.pop(link.id, None)
            if not known:
                del self._by_peer[link.peer.bytes]
        if not link.bridge:
            self._crowd.left(household(link.address))
        return True

    def _watch(self, link: Link, now: float) -> None:
        """Look at the connection again when the first of its deadlines may have come.

        Receiving does not move the entry, nor does the end of a stream: :meth:`_look_at` finds the connection alive and
        sets the next one, so a busy connection costs some looks an interval.
        """
        timeout = self._policy.idle_timeout
        idle = now + timeout / LOOKS if link.idle_since is None else link.idle_since + timeout
        when = link.connection.next_deadline()
        self._deadlines.set(link, idle if when is None else min(when, idle), lambda later: self._look_at(link, later))

    def _look_at(self, link: Link, now: float) -> None:
        connection = link.connection
        connection.handle_deadline(now)
        if connection.session.streams or link.reserved_until > now:
            link.idle_since = None
        elif connection.state is State.MULTIPLEXED:
            if link.idle_since is None:
                link.idle_since = now
            elif now - link.idle_since >= self._policy.idle_timeout:
                link.outstayed = True
                connection.close()
        if connection.state is State.CLOSED:
            connection.mark_dirty()
        else:
            self._watch(link, now)
