"""Records are told again before they end, to newcomers at once, and never all at one time."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

from actors.kad_lookup import Candidate, State
from actors.kad_region import NetworkSize, Region
from actors.relay_publisher import RelayPublisher
from protocol.identity import Identity
from protocol.kad import KadMessage, MessageType
from tests.support.descriptors import descriptor, validate
from tests.support.peers import seeded

HOUR = 3600.0
OWN = Identity.from_seed(seeded("own"))


@dataclass
class FakeWalk:
    near: list[bytes]

    def closest(self) -> list[Candidate]:
        return [Candidate(0, peer, (), 0, frozenset(), state=State.ANSWERED) for peer in self.near]


@dataclass
class Near:
    """Look-ups that end at once, at ``near``."""

    near: list[bytes]
    looks: list[float] = field(default_factory=list)
    told: list[tuple[float, bytes]] = field(default_factory=list)
    put: list[tuple[float, bytes, bytes]] = field(default_factory=list)

    def start(self, request: KadMessage, now: float, done: object, **options: object) -> FakeWalk:
        self.looks.append(now)
        walk = FakeWalk(list(self.near))
        done(walk, now)  # type: ignore[operator]
        return walk

    def tell(self, peer: bytes, addresses: tuple[bytes, ...], message: KadMessage, now: float) -> None:
        assert message.type is MessageType.ADD_PROVIDER
        self.told.append((now, peer))

    def ask(self, peer: bytes, addresses: tuple[bytes, ...], request: KadMessage, done: object, now: float) -> None:
        assert request.record is not None
        self.put.append((now, peer, request.record.value))


def publisher(near: Near, jitter: float = 0.5) -> RelayPublisher:
    region = Region(near, NetworkSize(), random.Random(1).randbytes, Counter())  # type: ignore[arg-type]
    return RelayPublisher(OWN.peer_id, near, validate, lambda: jitter, Counter(), region)  # type: ignore[arg-type]


def run(made: RelayPublisher, start: float, seconds: float) -> None:
    now = start
    while (due := made.next_deadline()) is not None and due <= start + seconds:
        now = max(now, due)
        made.handle_deadline(now)


def test_a_peer_is_told_again_before_the_record_ends_and_a_newcomer_at_once() -> None:
    near = Near([b"a", b"b"])
    made = publisher(near)
    made.changed(descriptor(OWN, 1, 1000 * HOUR), 0.0)
    run(made, 0.0, 10 * HOUR)
    assert near.told == [(0.0, b"a"), (0.0, b"b")]
    near.near = [b"b", b"c"]
    run(made, 10 * HOUR, 100 * HOUR)
    times = [when for when, peer in near.told if peer == b"b"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps and all(18 * HOUR < gap <= 22 * HOUR for gap in gaps)
    first = next(when for when, peer in near.told if peer == b"c")
    assert 10 * HOUR < first < 11 * HOUR


def test_a_descriptor_goes_out_again_before_it_ends_and_not_after() -> None:
    near = Near([b"a"])
    made = publisher(near)
    made.changed(descriptor(OWN, 1, HOUR), 0.0)
    run(made, 0.0, 10 * HOUR)
    times = [when for when, _, _ in near.put]
    assert len(times) >= 3 and max(times) < HOUR
    assert made.envelope == b"" and made.next_deadline() is None


def test_new_descriptors_go_out_soon_but_not_every_second() -> None:
    near = Near([b"a"])
    made = publisher(near)
    for second in range(600):
        made.changed(descriptor(OWN, second + 1, 10 * HOUR), float(second))
        run(made, float(second), 0.999)
    assert 9 <= len(near.put) <= 11
    last = near.put[-1]
    assert last[2] == descriptor(OWN, int(last[0]) + 1, 10 * HOUR)
    assert len({when for when, _ in near.told}) == 1


def test_failures_are_tried_again_ever_more_rarely_and_at_once_when_there_are_peers() -> None:
    near = Near([])
    made = publisher(near)
    made.changed(descriptor(OWN, 1, 1000 * HOUR), 0.0)
    run(made, 0.0, 3 * HOUR)
    assert 20 < len(near.looks) < 60, "of two keys"
    assert near.told == near.put == []
    near.near = [b"a"]
    made.again(3 * HOUR)
    run(made, 3 * HOUR, 0.0)
    assert near.told == [(3 * HOUR, b"a")] and len(near.put) == 1


def test_those_that_started_together_do_not_go_on_together() -> None:
    times = []
    for jitter in (0.0, 1.0):
        made = publisher(Near([b"a"]), jitter)
        made.changed(descriptor(OWN, 1, 1000 * HOUR), 0.0)
        run(made, 0.0, 0.0)
        times.append(made.next_deadline())
    assert times[0] != times[1]


def test_nothing_is_told_of_one_that_withdrew() -> None:
    near = Near([b"a"])
    made = publisher(near)
    made.changed(descriptor(OWN, 1, 1000 * HOUR), 0.0)
    made.changed(b"", 0.0)
    assert made.next_deadline() is None and made.addresses == ()
    run(made, 0.0, 100 * HOUR)
    assert near.looks == []
