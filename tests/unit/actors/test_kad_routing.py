"""The routing table: what is in has proved itself, stays while it answers, and is spread out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.kad_addresses import group_of
from actors.kad_routing import MAX_REFRESHED, Contact, RoutingTable, TablePolicy
from protocol.kad_keys import common_prefix, keyspace

OWN = b"own"
ADDRESS = (b"\x04\x01\x02\x03\x04\x06\x0f\xa1",)


def peers_at(prefix: int, count: int) -> list[bytes]:
    found, number = [], 0
    while len(found) < count:
        peer = b"peer %d" % number
        if common_prefix(keyspace(peer), keyspace(OWN)) == prefix:
            found.append(peer)
        number += 1
    return found


def filled(count: int = 20) -> tuple[RoutingTable, list[bytes]]:
    table, peers = RoutingTable(OWN), peers_at(0, 40)
    for number, peer in enumerate(peers[:count]):
        assert table.proved(peer, ADDRESS, f"8.{number}.1.1", 100.0 + number) == "added"
    return table, peers


def test_a_newcomer_to_a_full_bucket_waits_and_displaces_nobody() -> None:
    table, peers = filled()
    assert table.proved(peers[20], ADDRESS, "9.1.1.1", 200.0) == "full"
    assert peers[20] not in table and len(table) == 20 and table.spares == 1
    for peer in peers[:20]:
        assert peer in table


def test_a_spare_takes_the_place_of_one_that_stopped_answering() -> None:
    table, peers = filled()
    table.proved(peers[20], ADDRESS, "9.1.1.1", 200.0)
    table.proved(peers[21], ADDRESS, "9.2.1.1", 201.0)
    due = table.to_check(1000.0, 10)
    assert [one.peer for one in due] == [peers[0]], "one for the spares: the longest silent"
    assert [one.peer for one in table.to_check(1001.0, 10)] == [peers[1]], "then the next, not the same again"
    assert not table.failed(peers[0], 1010.0), "one failure may be a lost connection"
    assert table.failed(peers[0], 1070.0)
    assert peers[0] not in table and peers[21] in table, "the latest spare was there most recently"


def test_one_that_answers_keeps_its_place() -> None:
    table, peers = filled()
    table.proved(peers[20], ADDRESS, "9.1.1.1", 200.0)
    table.failed(peers[0], 300.0)
    assert table.proved(peers[0], (), "8.0.1.1", 301.0) == "known"
    assert not table.failed(peers[0], 400.0)
    assert peers[0] in table
    assert table.find(peers[0]).addresses == ADDRESS


def test_silent_peers_are_asked_after_a_while() -> None:
    table, peers = filled(3)
    assert table.to_check(900.0, 10) == []
    assert [one.peer for one in table.to_check(1001.5, 10)] == peers[:2]
    assert [one.peer for one in table.to_check(1003.0, 10)] == peers[2:3]


def test_one_network_block_has_three_places_in_a_bucket() -> None:
    table, peers = RoutingTable(OWN), peers_at(0, 8)
    outcomes = [table.proved(peer, ADDRESS, f"8.8.{number}.1", 1.0) for number, peer in enumerate(peers)]
    assert outcomes == ["added"] * 3 + ["group"] * 5
    assert not table.wanted(b"another", "8.8.9.9") or common_prefix(keyspace(b"another"), keyspace(OWN)) != 0


def test_one_network_block_has_few_places_in_all() -> None:
    table = RoutingTable(OWN, TablePolicy(group_in_table=5))
    for prefix in range(4):
        for peer in peers_at(prefix, 3):
            table.proved(peer, ADDRESS, "8.8.1.1", 1.0)
    assert len(table) == 5


def test_one_network_block_does_not_crowd_out_the_spares() -> None:
    table, peers = filled(20)
    for number, peer in enumerate(peers[20:39]):
        table.proved(peer, ADDRESS, f"9.9.{number}.1", 200.0)
    assert table.spares == 3
    assert table.proved(peers[39], ADDRESS, "9.10.0.1", 201.0) == "full"
    assert table.spares == 4


def test_a_private_network_is_no_group() -> None:
    table = RoutingTable(OWN)
    for number, peer in enumerate(peers_at(0, 20)):
        assert table.proved(peer, ADDRESS, f"192.168.1.{number + 1}", 1.0) == "added"


def test_a_peer_that_moves_into_a_full_group_keeps_its_old_address() -> None:
    table, peers = RoutingTable(OWN), peers_at(0, 4)
    for peer in peers[:3]:
        table.proved(peer, ADDRESS, "8.8.1.1", 1.0)
    table.proved(peers[3], ADDRESS, "9.9.1.1", 1.0)
    table.proved(peers[3], (b"elsewhere",), "8.8.2.2", 2.0)
    assert (table.find(peers[3]).address, table.find(peers[3]).addresses) == ("9.9.1.1", ADDRESS)
    table.proved(peers[3], (b"elsewhere",), "10.0.0.1", 3.0)
    assert (table.find(peers[3]).address, table.find(peers[3]).addresses) == ("10.0.0.1", (b"elsewhere",))


def test_we_are_not_in_our_own_table() -> None:
    table = RoutingTable(OWN)
    assert table.proved(OWN, ADDRESS, "8.8.8.8", 1.0) == "self"
    assert len(table) == 0 and not table.wanted(OWN, "8.8.8.8")


def test_closest_are_the_nearest() -> None:
    table = RoutingTable(OWN)
    for number in range(200):
        table.proved(b"peer %d" % number, ADDRESS, f"8.{number}.1.1", 1.0)
    target = keyspace(b"target")
    expected = sorted(one.place ^ target for one in table)[:20]
    assert [one.place ^ target for one in table.closest(target, 20)] == expected
    nearest = table.closest(target, 1)[0]
    assert nearest not in table.closest(target, 20, exclude=(nearest.peer,))


def test_buckets_nobody_looked_into_are_refreshed_in_turn() -> None:
    table, _ = filled(3)
    assert table.to_refresh(1000.0, 0.5) is None
    assert table.to_refresh(4599.0, 0.5) is None
    assert table.to_refresh(4600.0, 0.5) == 0
    table.looked_for(keyspace(table.key_at(0, bytes)), 4600.0)
    assert table.to_refresh(4601.0, 0.5) is None
    assert RoutingTable(OWN).to_refresh(1e9, 0.0) is None


@pytest.mark.parametrize("prefix", (0, 1, 5, MAX_REFRESHED))
def test_a_key_in_a_bucket_is_found(prefix: int) -> None:
    table = RoutingTable(OWN)
    key = table.key_at(prefix, bytes)
    assert common_prefix(keyspace(key), keyspace(OWN)) == prefix
    assert len(key) == 34
    with pytest.raises(ValueError):
        table.key_at(MAX_REFRESHED + 1, bytes)


class TableMachine(RuleBasedStateMachine):
    """Whatever happens, in any order, the bounds hold and the table agrees with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = TablePolicy(k=3, group_in_bucket=2, group_in_table=4)
        self.table = RoutingTable(OWN, self.policy)
        self.now = 0.0
        self.proved: set[bytes] = set()

    @rule(peer=st.integers(0, 60), ip=st.integers(0, 11))
    def meet(self, peer: int, ip: int) -> None:
        known = {one.peer for one in self.table}
        name = b"peer %d" % peer
        outcome = self.table.proved(name, ADDRESS, f"8.{ip // 2}.{ip}.1" if ip < 10 else f"10.0.0.{ip}", self.now)
        self.proved.add(name)
        now = {one.peer for one in self.table}
        assert known <= now, "nobody is displaced"
        assert (name in now) == (outcome in ("added", "known"))

    @rule(peer=st.integers(0, 60))
    def fail(self, peer: int) -> None:
        name = b"peer %d" % peer
        before = name in self.table
        assert self.table.failed(name, self.now) == (before and name not in self.table)

    @rule(seconds=st.floats(0, 2000))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for contact in self.table.to_check(self.now, 5):
            assert contact.peer in self.table

    @rule(peer=st.integers(0, 60))
    def remove(self, peer: int) -> None:
        self.table.remove(b"peer %d" % peer)
        assert len(self.table) <= len(self.proved)

    @invariant()
    def bounds_hold(self) -> None:
        buckets: dict[int, list[Contact]] = {}
        groups: Counter[str] = Counter()
        for one in self.table:
            assert one.peer in self.proved and one.place == keyspace(one.peer)
            buckets.setdefault(common_prefix(one.place, keyspace(OWN)), []).append(one)
            groups[group_of(one.address)] += 1
        for bucket in buckets.values():
            assert len(bucket) <= self.policy.k
            of = Counter(one.group for one in bucket if one.group)
            assert not of or max(of.values()) <= self.policy.group_in_bucket
        del groups[""]
        assert not groups or max(groups.values()) <= self.policy.group_in_table
        assert +self.table._groups == groups
        assert self.table.spares <= self.policy.k * 256


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=60, deadline=None, derandomize=True, database=None)
