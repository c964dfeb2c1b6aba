"""Joining the network, and staying in it.

To join, those that we know of are asked for peers near us: given ones, and those of the last run.  Then we look for
ourselves, and into each part of the keyspace once, so that the table is full.  While nobody answers that is tried again
after a growing, random time; it is too when the table has become nearly empty.

Now and then silent peers are asked whether they are there, parts of the keyspace that nobody looked into are looked
into, and what the table holds is kept for the next start.

Peers that the table has lost are asked again, for a day.  Most are gone for ever; but a network that was cut in two
would never become one again otherwise, each half being content with itself.

Source: Maymounkov and Mazieres, "Kademlia" (2002), 2.3 ("join", "refresh"); libp2p's kad-dht, "Bootstrap process".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from actors.deadlines import Deadlines
from actors.kad_addresses import scope_of, to_dial
from actors.kad_region import NetworkSize
from actors.kad_routing import RoutingTable
from actors.kad_walks import Walk, Walks
from actors.record_store import RecordStore
from protocol.codec import decode_untrusted
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad import KadMessage, MessageType

#: Row of the store that holds peers to join by.
_ROW: Final = b"contacts"

#: Bytes of it: so many peers with a few addresses each.
_MAX_ROW: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class UpkeepPolicy:
    """Seconds, unless said otherwise.  ``tick``: between looks at what is to be done.  ``checks``: peers asked at a
    tick whether they are there.  ``few``: peers in the table below which the network is joined anew.  ``settle``: from
    the first peer that answers until we look for ourselves.  ``rejoin``, ``most_rejoin``: after a failure to join,
    doubling.  ``joiners``: peers that are asked at once to join.  ``hints``:
    of our own network that are remembered for that.  ``near``: between look-ups of ourselves.  ``save``:
    between savings, of ``saved`` peers.  ``reunite``: between questions to ``lost_asked`` of those that the table has
    lost, of which ``lost`` are remembered, for ``lost_life``."""

    tick: float = 30.0
    checks: int = 10
    few: int = 4
    settle: float = 0.5
    rejoin: float = 15.0
    most_rejoin: float = 1800.0
    joiners: int = 16
    hints: int = 8
    near: float = 1800.0
    save: float = 600.0
    saved: int = 64
    reunite: float = 600.0
    lost_asked: int = 3
    lost: int = 128
    lost_life: float = 86_400.0


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    peer: bytes
    addresses: tuple[bytes, ...]


class Upkeep:
    """``own``: our peer id's bytes.  ``bootstrap``: peers to join by, as (peer id or b"" for whoever answers,
    addresses).  ``jitter()``: 0 to 1, random.  ``joined(now)``: called when peers are known after none were, and again
    when those near us are.  ``size``: is told of look-ups into random places."""

    def __init__(
        self,
        own: bytes,
        table: RoutingTable,
        walks: Walks,
        store: RecordStore,
        bootstrap: Sequence[tuple[bytes, tuple[bytes, ...]]],
        randomness: Callable[[int], bytes],
        jitter: Callable[[], float],
        joined: Callable[[float], None],
        size: NetworkSize,
        policy: UpkeepPolicy | None = None,
    ) -> None:
        self._own = own
        self._table = table
        self._walks = walks
        self._store = store
        self._bootstrap = list(bootstrap)
        self._randomness = randomness
        self._jitter = jitter
        self._on_joined = joined
        self._size = size
        self._policy = policy or UpkeepPolicy()
        self._deadlines = Deadlines()
        self._saved: list[_Saved] = []
        self._hints: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        #: Where peers were that the table had, and when it last did.
        self._had: dict[bytes, tuple[tuple[bytes, ...], float]] = {}
        self._asked = 0
        self._failures = 0
        self._settled = False
        self._near: Walk | None = None
        self._prefixes: list[int] = []
        self._refreshing = False

    def start(self, now: float) -> None:
        """Once, before anything else: take what was saved."""
        for row, value in self._store.load():
            if row == _ROW:
                self._load(value)
        self._had = {one.peer: (one.addresses, now) for one in self._saved}
        self._deadlines.set("tick", now + self._policy.tick * self._jitter(), self._tick)
        self._deadlines.set("save", now + self._policy.save, self._save)
        self._deadlines.set("reunite", now + self._policy.reunite * (0.5 + self._jitter()), self._reunite)

    def reachable(self, now: float) -> None:
        """There is a forwarder after there was none."""
        self._deadlines.set("join", now + self._jitter() * self._policy.settle, self._join)

    @property
    def hopeful(self) -> bool:
        """Whether there is anybody to join by."""
        return bool(len(self._table) or self._bootstrap or self._hints or self._saved)

    def hint(self, peer: bytes, addresses: tuple[bytes, ...], now: float, *, configured: bool = False) -> None:
        """Somebody who may be in the DHT, and a way into it: of our own network, or ``configured`` by a person, which
        no number of others pushes out."""
        if configured:
            others = [one for one in self._bootstrap if one[0] != peer]
            self._bootstrap = [*others, (peer, addresses)][-self._policy.joiners :]
        elif peer != self._own and self._hints.get(peer) != addresses:
            self._hints[peer] = addresses
            self._hints.move_to_end(peer)
            while len(self._hints) > self._policy.hints:
                self._hints.popitem(last=False)
        else:
            return
        if len(self._table) < self._policy.few and not self._asked:
            self._deadlines.set("join", now + self._jitter() * self._policy.settle, self._join)

    def met(self, now: float) -> None:
        """The table may have its first peer."""
        if not self._settled and len(self._table) and self._near is None and not self._deadlines.when("near"):
            self._deadlines.set("near", now + self._policy.settle, self._look_near)
            self._on_joined(now)

    def next_deadline(self) -> float | None:
        return self._deadlines.next()

    def handle_deadline(self, now: float) -> None:
        self._deadlines.run(now)

    # Joining.

    def _join(self, now: float) -> None:
        if self._asked:
            return
        known = [(one.peer, one.addresses) for one in self._saved]
        request = KadMessage(MessageType.FIND_NODE, self._own)
        for peer, addresses in [*self._bootstrap, *self._hints.items(), *known][: self._policy.joiners]:
            if peer != self._own and peer not in self._table:
                self._asked += 1
                self._walks.ask(peer, addresses, request, self._answered, now)
        if not self._asked:
            self._asked_all(now)

    def _answered(self, answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
        self._asked -= 1
        self.met(now)
        if not self._asked:
            self._asked_all(now)

    def _asked_all(self, now: float) -> None:
        if len(self._table) >= self._policy.few:
            self._failures = 0
            return
        wait = min(self._policy.rejoin * 2.0 ** min(self._failures, 16), self._policy.most_rejoin)
        self._failures += 1
        self._deadlines.set("join", now + wait * (0.5 + self._jitter() / 2), self._join)

    def _look_near(self, now: float) -> None:
        def done(walk: Walk, now: float) -> None:
            self._near = None
            if not len(self._table):
                self._deadlines.cancel("near")  # the first who answers is the occasion
            elif not self._settled:
                self._settled = True
                self._prefixes = self._table.prefixes()
                self._refresh(now)
                self._on_joined(now)

        if self._near is None:
            self._deadlines.set("near", now + self._policy.near * (0.75 + self._jitter() / 2), self._look_near)
            request = KadMessage(MessageType.FIND_NODE, self._own)
            self._near = self._walks.start(request, now, done)
            if self._near.over:
                self._near = None

    # Staying.

    def _tick(self, now: float) -> None:
        self._remember(now)
        self._deadlines.set("tick", now + self._policy.tick * (0.75 + self._jitter() / 2), self._tick)
        request = KadMessage(MessageType.FIND_NODE, self._own)
        for contact in self._table.to_check(now, self._policy.checks):
            self._walks.ask(contact.peer, contact.addresses, request, _ignore, now)
        if not self._refreshing:
            prefix = self._table.to_refresh(now, self._jitter())
            self._prefixes = [] if prefix is None else [prefix]
            self._refresh(now)
        if len(self._table) < self._policy.few and not self._asked and not self._deadlines.when("join"):
            if not len(self._table):
                self._settled, self._failures = False, 0
                self._deadlines.cancel("near")
            self._asked_all(now)

    def _remember(self, now: float) -> None:
        for one in self._table:
            self._had[one.peer] = one.addresses, now
        kept = sorted(self._had.items(), key=lambda entry: -entry[1][1])[: self._policy.lost + len(self._table)]
        self._had = {peer: (where, at) for peer, (where, at) in kept if at > now - self._policy.lost_life}

    def _reunite(self, now: float) -> None:
        """Ask some of those that were lost, and the given ones: one that answers may be of a part of the network that
        ours had lost, and the peers that it tells of near us lead there."""
        self._deadlines.set("reunite", now + self._policy.reunite * (0.75 + self._jitter() / 2), self._reunite)
        self._remember(now)
        if len(self._table) < self._policy.few:
            return  # it joins anew
        known = {**{peer: addresses for peer, addresses in self._bootstrap if peer}, **self._lost()}
        asked = sorted(known.items(), key=lambda entry: self._jitter())[: self._policy.lost_asked]
        request = KadMessage(MessageType.FIND_NODE, self._own)

        def answered(answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
            if answer is not None:
                teller = scope_of(address)
                seeds = [(told.id, to_dial(told.addresses, teller), "") for told in answer.closer]
                self._walks.start(request, now, _over, seeds=[seed for seed in seeds if seed[1]])

        for peer, addresses in asked:
            if peer != self._own and peer not in self._table:
                self._walks.ask(peer, addresses, request, answered, now)

    def _lost(self) -> dict[bytes, tuple[bytes, ...]]:
        return {peer: addresses for peer, (addresses, _) in self._had.items() if peer not in self._table}

    def _refresh(self, now: float) -> None:
        """Look into the next part of the keyspace."""
        if self._refreshing or not self._prefixes:
            return
        self._refreshing = True
        key = self._table.key_at(self._prefixes.pop(0), self._randomness)

        def done(walk: Walk, now: float) -> None:
            self._size.note(walk)
            self._refreshing = False
            self._refresh(now)

        self._walks.start(KadMessage(MessageType.FIND_NODE, key), now, done)

    def _save(self, now: float) -> None:
        self._deadlines.set("save", now + self._policy.save, self._save)
        best = sorted(self._table, key=lambda one: one.since)[: self._policy.saved]
        if best:
            saved = [_Saved(one.peer, one.addresses) for one in best]
            self._store.put(_ROW, msgspec.msgpack.encode(saved))

    def _load(self, value: bytes) -> None:
        try:
            self._saved = decode_untrusted(value, list[_Saved], _MAX_ROW)[: self._policy.saved]
            for one in self._saved:
                PeerId(one.peer)
        except RemoteProtocolError:
            self._saved = []
            self._store.delete(_ROW)


def _over(walk: Walk, now: float) -> None:
    """Those who answered are in the table by now."""


def _ignore(answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
    """What an answer means for the table is known by now."""
