"""Who was crowded out of the nearest to a key is found, and nobody looks for them when nobody was."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from actors.kad_region import LEAST_SAMPLES, NetworkSize, Region, quarter_key, region_bits
from protocol.kad import KadMessage
from protocol.kad_keys import BITS, keyspace

K = 20
RANDOM = random.Random(3).randbytes


class World:
    """Peers by chance, and walks that find the k nearest of them at once.  ``begun``: look-ups of the region."""

    def __init__(self, count: int, k: int = K) -> None:
        self.peers = [RANDOM(34) for _ in range(count)]
        self.k = k
        self.begun: list[Callable[[float], None]] = []

    def walk(self, key: bytes) -> Any:
        target = keyspace(key)
        near = sorted(self.peers, key=lambda one: keyspace(one) ^ target)[: self.k]
        found = [SimpleNamespace(peer=one, distance=keyspace(one) ^ target) for one in near]
        return SimpleNamespace(closest=lambda: found, lookup=SimpleNamespace(wanted=K, target=target))

    def start(self, request: KadMessage, now: float, done: Callable[[Any, float], None]) -> None:
        self.begun.append(lambda now: done(self.walk(request.key), now))

    def size(self, samples: int = 9) -> NetworkSize:
        size = NetworkSize()
        for _ in range(samples):
            size.note(self.walk(RANDOM(34)))
        return size

    def attack(self, key: bytes, count: int) -> list[bytes]:
        """So many peers that lie nearer to ``key`` than all others."""
        nearest = self.walk(key).closest()[0].distance
        found: list[bytes] = []
        while len(found) < count:
            if keyspace(one := RANDOM(34)) ^ keyspace(key) < nearest:
                found.append(one)
        self.peers += found
        return found


def around(world: World, size: NetworkSize, key: bytes) -> tuple[list[bytes], Counter[str]]:
    counts: Counter[str] = Counter()
    told: list[Sequence[Any]] = []
    region = Region(world, size, RANDOM, counts)  # type: ignore[arg-type]
    region.around(world.walk(key), 0.0, lambda nearest, now: told.append(nearest))
    for done in world.begun:
        assert not told, "only when all were looked into"
        done(1.0)
    (nearest,) = told
    return [one.peer for one in nearest], counts


@pytest.mark.parametrize("count", [60, 500, 3000])
def test_the_size_of_a_network_is_guessed_well_enough(count: int) -> None:
    guess = World(count).size(15)()
    assert guess is not None and count / 1.6 < guess < count * 1.6


def test_of_too_little_nothing_is_guessed() -> None:
    assert World(500).size(LEAST_SAMPLES - 1)() is None
    assert World(10).size()() is None, "look-ups see all of it"


@pytest.mark.parametrize("attackers", [20, 60])
def test_those_who_were_crowded_out_are_found(attackers: int) -> None:
    world = World(400)
    size = world.size()
    key = RANDOM(34)
    honest = [one.peer for one in world.walk(key).closest()]
    crowd = world.attack(key, attackers)
    assert not {one.peer for one in world.walk(key).closest()} & set(honest)
    found, counts = around(world, size, key)
    assert len(set(found) & set(honest)) >= 0.75 * K
    assert found[0] in crowd and found == sorted(found, key=lambda one: keyspace(one) ^ keyspace(key))
    assert counts == {"crowded look-up": 1} and len(world.begun) == 4


def test_nobody_looks_further_when_nobody_crowds() -> None:
    world = World(400)
    size = world.size()
    for _ in range(200):
        key = RANDOM(34)
        found, counts = around(world, size, key)
        assert found == [one.peer for one in world.walk(key).closest()] and not counts and not world.begun


def test_a_look_up_that_found_too_few_is_not_judged() -> None:
    world = World(400)
    size = world.size()
    key = RANDOM(34)
    world.attack(key, 30)
    world.k = K - 1
    found, counts = around(world, size, key)
    assert len(found) == K - 1 and not counts


@pytest.mark.parametrize(("size", "bits"), [(1.0, 0), (39.0, 0), (41.0, 1), (10_000.0, 8), (1e12, 14)])
def test_a_region_has_twice_as_many_as_are_wanted_at_most(size: float, bits: int) -> None:
    assert region_bits(size, K) == bits
    assert size / 2**bits >= K or bits == 0


def test_keys_lie_in_the_four_quarters_of_the_region() -> None:
    target = keyspace(b"key")
    for bits in (0, 5):
        places = [keyspace(quarter_key(target, bits, number, RANDOM)) for number in range(4)]
        assert [place >> (BITS - bits - 2) & 3 for place in places] == [0, 1, 2, 3]
        assert {place >> (BITS - bits) for place in places} == {target >> (BITS - bits)}
