"""The routing table: peers proved to be servers of the protocol, spread over the keyspace and over IP groups.

A bucket for each length of the prefix that a peer's place shares with ours, k peers in each.  A peer is put in only
when it has answered a query, or its identify names the protocol, over a connection that proves its peer id and its IP.
Who is in stays in: a newcomer to a full bucket waits as a spare, and takes the place of one that stopped answering.
So whoever floods us with new peers displaces nobody, and whoever has one network block has three places in a bucket.

Source: Maymounkov and Mazieres, "Kademlia" (2002), 2.2 to 2.4; https://github.com/libp2p/specs/blob/master/kad-dht,
"Kademlia Routing Table"; diversity as in go-libp2p-kbucket's peerdiversity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from actors.kad_addresses import group_of
from protocol.kad_keys import common_prefix, keyspace

#: Longest prefix for which keys are looked for at random: each bit doubles the hashes, 8192 are about 10 ms.  What lies
#: nearer is found by looking for ourselves.
MAX_REFRESHED: Final = 12


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """``k``: peers in a bucket (the specification's 20).  ``group_in_bucket``, ``group_in_table``: of one IP group.
    ``check_after``: seconds after which a silent peer is asked whether it is there; ``check_when_wanted``: the same
    when a spare waits for its place, or it failed to answer; ``failures``: in a row, that end a peer's place (one may
    be a lost connection); ``refresh``: seconds after which a bucket in whose range nothing was looked for is refreshed
    (Kademlia's hour)."""

    k: int = 20
    group_in_bucket: int = 3
    group_in_table: int = 10
    check_after: float = 900.0
    check_when_wanted: float = 60.0
    failures: int = 2
    refresh: float = 3600.0


@dataclass(slots=True)
class Contact:
    """``place``: in the keyspace.  ``addresses``: binary multiaddrs to dial.  ``address``: the IP that it was met at.
    ``since``: when it came in; ``seen``: when it last answered; ``checked``: when it was last asked whether it is
    there, or failed."""

    peer: bytes
    place: int
    addresses: tuple[bytes, ...]
    address: str
    since: float
    seen: float
    checked: float = 0.0
    failures: int = 0

    @property
    def group(self) -> str:
        return group_of(self.address)


class RoutingTable:
    """See the module.  ``own``: our peer id's bytes."""

    __slots__ = ("_buckets", "_contacts", "_groups", "_place", "_policy", "_refreshed", "_spares")

    def __init__(self, own: bytes, policy: TablePolicy | None = None) -> None:
        self._policy = policy or TablePolicy()
        self._place = keyspace(own)
        self._buckets: dict[int, dict[bytes, Contact]] = {}
        self._spares: dict[int, dict[bytes, Contact]] = {}
        self._contacts: dict[bytes, Contact] = {}
        self._groups: Counter[str] = Counter()
        self._refreshed: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._contacts)

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._contacts

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._contacts.values())

    @property
    def spares(self) -> int:
        """Peers that wait for a place."""
        return sum(map(len, self._spares.values()))

    def find(self, peer: bytes) -> Contact | None:
        return self._contacts.get(peer)

    def proved(self, peer: bytes, addresses: tuple[bytes, ...], address: str, now: float) -> str:
        """``peer`` is a server, met at the IP ``address``; ``addresses``: where to dial it.

        ``added``, ``known``, ``full`` (it waits), ``group`` (its network has its share), or ``self``.
        """
        place = keyspace(peer)
        prefix = common_prefix(place, self._place)
        if place == self._place:
            return "self"
        known = self._contacts.get(peer)
        if known is not None:
            self._again(known, prefix, addresses, address, now)
            return "known"
        contact = Contact(peer, place, addresses, address, now, now)
        if not self._fits(contact, self._buckets.get(prefix, {}).values()):
            return "group"
        bucket = self._buckets.setdefault(prefix, {})
        if len(bucket) < self._policy.k:
            self._put(contact, bucket)
            self._spare_no_more(peer, prefix)
            return "added"
        spares = self._spares.get(prefix, {})
        others = [one for one in spares.values() if one.peer != peer]
        if not self._fits(contact, [*bucket.values(), *others]):
            return "group"
        spares.pop(peer, None)
        spares[peer] = contact
        self._spares[prefix] = spares
        if len(spares) > self._policy.k:
            del spares[next(iter(spares))]
        return "full"

    def wanted(self, peer: bytes, address: str) -> bool:
        """Whether ``peer``, met at ``address``, would get a place or may wait for one: if not, who it is need not be
        asked."""
        place = keyspace(peer)
        prefix = common_prefix(place, self._place)
        if peer in self._contacts or place == self._place or peer in self._spares.get(prefix, ()):
            return False
        return self._fits(Contact(peer, place, (), address, 0.0, 0.0), self._buckets.get(prefix, {}).values())

    def failed(self, peer: bytes, now: float) -> bool:
        """It did not answer; True when it has lost its place, which a spare may have now."""
        contact = self._contacts.get(peer)
        if contact is None:
            return False
        contact.failures += 1
        contact.checked = now
        if contact.failures < self._policy.failures:
            return False
        self.remove(peer)
        return True

    def remove(self, peer: bytes) -> None:
        """Without waiting for more failures: it said that it is no server."""
        contact = self._contacts.pop(peer, None)
        if contact is None:
            return
        prefix = common_prefix(contact.place, self._place)
        bucket = self._buckets[prefix]
        del bucket[peer]
        self._count(contact, -1)
        self._promote(prefix, bucket)
        if not bucket:
            del self._buckets[prefix]

    def closest(self, target: int, count: int, exclude: Collection[bytes] = ()) -> list[Contact]:
        """The ``count`` contacts nearest to ``target``, nearest first."""
        # A table has some hundred contacts; sorted() has a third of heapq's cost for so few.
        candidates = [contact for contact in self._contacts.values() if contact.peer not in exclude]
        candidates.sort(key=lambda contact: contact.place ^ target)
        return candidates[:count]

    # What is to be done now and then.

    def to_check(self, now: float, count: int) -> list[Contact]:
        """At most ``count`` contacts to ask whether they are there, longest silent first; they count as asked."""
        due = []
        for prefix, bucket in self._buckets.items():
            wanted = bool(self._spares.get(prefix))
            silent = [one for one in bucket.values() if max(one.seen, one.checked) + self._patience(one, wanted) <= now]
            # For one spare one contact is asked, the longest silent: Kademlia's "least-recently seen".
            due += nsmallest(1, silent, key=lambda one: one.seen) if wanted else silent
        due = nsmallest(count, due, key=lambda one: one.seen)
        for contact in due:
            contact.checked = now
        return due

    def looked_for(self, target: int, now: float) -> None:
        """Something was looked for at ``target``: the bucket that covers it is fresh."""
        self._refreshed[min(common_prefix(target, self._place), MAX_REFRESHED + 1)] = now

    def to_refresh(self, now: float, jitter: float) -> int | None:
        """The prefix length of a bucket to refresh, or None.  ``jitter``: 0 to 1, random, so that peers which started
        together do not go on together."""
        patience = self._policy.refresh * (0.75 + jitter / 2)
        for prefix in self.prefixes():
            if self._refreshed.setdefault(prefix, now) + patience <= now:
                return prefix
        return None

    def prefixes(self) -> list[int]:
        """Lengths of the prefixes whose buckets may have members, as far as keys can be found for them."""
        return list(range(min(max(self._buckets, default=-1), MAX_REFRESHED) + 1))

    def key_at(self, prefix: int, randomness: Callable[[int], bytes]) -> bytes:
        """A key, in the form of a peer id, whose place shares exactly ``prefix`` bits with ours."""
        if not 0 <= prefix <= MAX_REFRESHED:
            raise ValueError(f"a prefix of {prefix} bits")
        seed = randomness(24)
        number = 0
        # Each try hits with a chance of 1 in 2**(prefix + 1).
        while True:
            key = b"\x12\x20" + seed + number.to_bytes(8, "big")
            if common_prefix(keyspace(key), self._place) == prefix:
                return key
            number += 1

    # Within.

    def _again(self, known: Contact, prefix: int, addresses: tuple[bytes, ...], address: str, now: float) -> None:
        known.seen, known.failures = now, 0
        if address != known.address:
            moved = Contact(known.peer, known.place, addresses, address, now, now)
            others = [one for one in self._buckets[prefix].values() if one is not known]
            self._count(known, -1)
            fits = self._fits(moved, others)
            if fits:
                known.address = address
            self._count(known, 1)
            if not fits:
                return
        if addresses:
            known.addresses = addresses

    def _patience(self, contact: Contact, wanted: bool) -> float:
        return self._policy.check_when_wanted if wanted or contact.failures else self._policy.check_after

    def _fits(self, contact: Contact, others: Collection[Contact]) -> bool:
        group = contact.group
        if not group:
            return True
        of_group = sum(one.group == group for one in others)
        return of_group < self._policy.group_in_bucket and self._groups[group] < self._policy.group_in_table

    def _put(self, contact: Contact, bucket: dict[bytes, Contact]) -> None:
        bucket[contact.peer] = self._contacts[contact.peer] = contact
        self._count(contact, 1)

    def _promote(self, prefix: int, bucket: dict[bytes, Contact]) -> None:
        """The latest spare that may have the free place: it was there most recently."""
        for peer, spare in reversed(self._spares.get(prefix, {}).items()):
            if self._fits(spare, bucket.values()):
                self._spare_no_more(peer, prefix)
                self._put(spare, bucket)
                return

    def _spare_no_more(self, peer: bytes, prefix: int) -> None:
        spares = self._spares.get(prefix)
        if spares is not None:
            spares.pop(peer, None)
            if not spares:
                del self._spares[prefix]

    def _count(self, contact: Contact, change: int) -> None:
        group = contact.group
        if group:
            self._groups[group] += change
            if not self._groups[group]:
                del self._groups[group]
