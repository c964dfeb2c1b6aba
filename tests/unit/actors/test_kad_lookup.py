"""A look-up ends at the nearest that answer, whatever some of them say."""

from __future__ import annotations

from collections.abc import Callable

from actors.kad_lookup import Lookup, LookupPolicy
from protocol.identity import Identity, PeerId
from protocol.kad import KadPeer
from protocol.kad_keys import keyspace
from tests.support.peers import seeded

OWN = b"own"
KEY = b"key"
TARGET = keyspace(KEY)
POLICY = LookupPolicy()


class Node:
    """A server that knows the 20 nearest of those that it may know."""

    def __init__(self, number: int, ip: str) -> None:
        self.peer = PeerId(b"\x12\x20" + seeded(f"node {number}")).bytes
        self.ip = ip
        octets = bytes(int(part) for part in ip.split("."))
        self.told = KadPeer(self.peer, (b"\x04" + octets + b"\x06\x0f\xa1",))
        self.distance = keyspace(self.peer) ^ TARGET


def world(count: int) -> dict[bytes, Node]:
    nodes = [Node(number, f"{11 + number // 200}.{number % 200}.1.1") for number in range(count)]
    return {node.peer: node for node in nodes}


def nearest(nodes: dict[bytes, Node], count: int = 20) -> list[Node]:
    return sorted(nodes.values(), key=lambda node: node.distance)[:count]


Answer = Callable[[Node], list[KadPeer] | None]


def honest(nodes: dict[bytes, Node]) -> Answer:
    told = [node.told for node in nearest(nodes)]
    return lambda node: told


def run(lookup: Lookup, nodes: dict[bytes, Node], answer: Answer, now: float = 0.0) -> list[bytes]:
    """Everybody who was asked, in order."""
    asked: list[bytes] = []
    while not lookup.finished(now):
        wanted = lookup.next(now)
        assert wanted, "nobody to ask and nobody to wait for, yet it is not over"
        assert len(wanted) <= POLICY.alpha
        for candidate in wanted:
            asked.append(candidate.peer)
            node = nodes.get(candidate.peer)
            reachable = node is not None and set(candidate.addresses) & set(node.told.addresses)
            told = answer(node) if node is not None and reachable else None
            if told is None:
                lookup.failed(candidate.peer)
            else:
                assert node is not None
                lookup.answered(candidate.peer, node.ip, told)
    return asked


def begun(nodes: dict[bytes, Node], seeds: int = 5, policy: LookupPolicy = POLICY) -> Lookup:
    lookup = Lookup(OWN, KEY, policy, 0.0)
    for node in list(nodes.values())[:seeds]:
        lookup.seed(node.peer, node.told.addresses, node.ip)
    return lookup


def test_the_nearest_of_all_are_found() -> None:
    nodes = world(400)
    lookup = begun(nodes)
    asked = run(lookup, nodes, honest(nodes))
    assert [one.peer for one in lookup.closest()] == [node.peer for node in nearest(nodes)]
    assert len(asked) <= 20 + 5 + 3 * POLICY.beta
    assert len(asked) == len(set(asked)) == lookup.asked


def test_at_most_alpha_are_asked_at_a_time() -> None:
    nodes = world(100)
    lookup = begun(nodes, seeds=50)
    assert len(lookup.next(0.0)) == POLICY.alpha
    assert lookup.next(0.0) == []


def test_those_that_fail_are_passed_over() -> None:
    nodes = world(200)
    down = {node.peer for node in nearest(nodes, 30)[::2]}
    up = {peer: node for peer, node in nodes.items() if peer not in down}
    told = [node.told for node in nearest(nodes, 32)]
    lookup = begun(up)

    def answer(node: Node) -> list[KadPeer] | None:
        if node.peer in down:
            return None
        return sorted(
            [*told, *(one.told for one in nearest(up, 40))], key=lambda one: keyspace(one.id) ^ keyspace(node.peer)
        )[:20]

    run(lookup, nodes, answer)
    found = [one.peer for one in lookup.closest()]
    assert not down & set(found) and len(found) == 20


def test_no_seeds_is_the_end() -> None:
    lookup = Lookup(OWN, KEY, POLICY, 0.0)
    assert lookup.finished(0.0) and lookup.closest() == [] and lookup.next(0.0) == []


def test_the_time_is_bounded() -> None:
    nodes = world(50)
    lookup = begun(nodes)
    lookup.next(0.0)
    assert not lookup.finished(59.9)
    assert lookup.finished(60.0) and lookup.next(60.0) == []
    assert Lookup(OWN, KEY, POLICY, 100.0, timeout=5.0).deadline == 105.0
    assert Lookup(OWN, KEY, POLICY, 100.0, timeout=500.0).deadline == 160.0


def test_enough_is_enough() -> None:
    nodes = world(50)
    lookup = begun(nodes)
    lookup.next(0.0)
    lookup.stop()
    assert lookup.finished(0.0) and lookup.next(0.0) == []


# Liars.


def fakes(count: int, ip: Callable[[int], str], *, near: bool = True) -> list[KadPeer]:
    """Peers that are nowhere: the nearest to the target of many."""
    made = [Node(1_000_000 + number, ip(number)) for number in range(count * (30 if near else 1))]
    return [node.told for node in sorted(made, key=lambda node: node.distance)[:count]]


def test_made_up_peers_end_up_nowhere() -> None:
    nodes = world(300)
    made_up = fakes(300, lambda number: f"{60 + number % 40}.{number % 250}.1.1")
    good = honest(nodes)
    liar = next(iter(nodes))
    turn = iter(range(0, 300, 20))

    def answer(node: Node) -> list[KadPeer] | None:
        return made_up[(start := next(turn)) : start + 20] if node.peer == liar else good(node)

    lookup = begun(nodes)
    asked = run(lookup, nodes, answer)
    assert [one.peer for one in lookup.closest()] == [node.peer for node in nearest(nodes)]
    assert len(asked) <= 60


def test_a_crowd_of_liars_that_tell_only_of_each_other_does_not_hide_the_honest() -> None:
    """One seed of five is a liar, and the liars are nearer than anybody honest: other paths still end at the honest."""
    nodes = world(300)
    crowd_nodes = sorted(
        (Node(2_000_000 + number, f"{60 + number % 100}.7.1.1") for number in range(3000)),
        key=lambda node: node.distance,
    )[:60]
    crowd = {node.peer: node for node in crowd_nodes}
    everyone = nodes | crowd
    good = honest(nodes)
    seed = next(iter(nodes))

    def answer(node: Node) -> list[KadPeer] | None:
        if node.peer in crowd or node.peer == seed:
            return [one.told for one in crowd_nodes[:20]]
        return good(node)

    lookup = begun(nodes)
    asked = run(lookup, everyone, answer)
    reached = [node.peer for node in nearest(nodes, 3) if node.peer in asked]
    assert len(reached) == 3, "those nearest of the honest were asked too"
    assert len(asked) <= POLICY.max_asked


def test_one_network_block_counts_for_three() -> None:
    nodes = world(300)
    block = sorted(
        (Node(3_000_000 + number, f"99.99.{number % 250}.1") for number in range(3000)), key=lambda node: node.distance
    )[:40]
    everyone = nodes | {node.peer: node for node in block}
    told = [node.told for node in nearest(everyone, 20)]
    good = honest(nodes)
    lookup = begun(nodes)
    run(lookup, everyone, lambda node: [*told[:10], *good(node)[:10]])
    of_block = [one for one in lookup.closest() if one.address.startswith("99.99.")]
    assert len(of_block) == 3


def test_a_network_of_nobody_is_soon_asked_no_more() -> None:
    nodes = world(100)
    victims = fakes(120, lambda number: f"77.77.{number % 250}.{1 + number % 200}")
    turn = iter(range(10_000))
    asked = run(lookup := begun(nodes), nodes, lambda node: victims[(start := next(turn) * 10 % 110) : start + 10])
    dialled = [peer for peer in asked if peer in {one.id for one in victims}]
    # Those that were being asked when the others failed come on top.
    assert len(dialled) <= 2 * POLICY.per_group + POLICY.alpha
    assert lookup.finished(0.0)


def test_requests_are_bounded_whatever_is_told() -> None:
    nodes = world(50)
    turn = [0]

    def answer(node: Node) -> list[KadPeer]:
        turn[0] += 1
        return fakes(20, lambda number: f"{20 + turn[0] % 200}.{number % 250}.1.1", near=False)

    lookup = begun(nodes)
    run(lookup, nodes, answer)
    assert lookup.asked <= POLICY.max_asked
    assert lookup.known <= POLICY.max_known + 50


def test_what_cannot_be_believed_is_left_out_and_counted() -> None:
    nodes = world(3)
    liar = next(iter(nodes.values()))
    lookup = begun(nodes, seeds=1)
    (candidate,) = lookup.next(0.0)
    addresses = (b"\x04\x7f\x00\x00\x01\x06\x0f\xa1", b"\x04\xc0\xa8\x01\x01\x06\x0f\xa1", b"\x36\x01a\x06\x0f\xa1")
    other = Identity.from_seed(seeded("other")).peer_id.bytes
    told = [KadPeer(OWN, liar.told.addresses), KadPeer(liar.peer, liar.told.addresses), KadPeer(other, addresses)]
    lookup.answered(candidate.peer, liar.ip, told)
    assert lookup.refused == {"self": 2, "address": 1}
    assert lookup.known == 1 and lookup.finished(0.0)


def test_a_local_peer_may_tell_of_local_ones() -> None:
    lookup = Lookup(OWN, KEY, POLICY, 0.0)
    lookup.seed(b"\x12\x20" + bytes(32), (), "127.0.0.1")
    (candidate,) = lookup.next(0.0)
    local = KadPeer(b"\x12\x20" + seeded("local"), (b"\x04\x7f\x00\x00\x01\x06\x0f\xa1",))
    lookup.answered(candidate.peer, "127.0.0.1", [local])
    assert [one.peer for one in lookup.next(0.0)] == [local.id]


def test_a_wrong_address_is_mended_by_others() -> None:
    lookup = Lookup(OWN, KEY, POLICY, 0.0)
    nodes = list(world(4).values())
    for node in nodes[:2]:
        lookup.seed(node.peer, node.told.addresses, node.ip)
    lookup.next(0.0)
    target = nodes[2]
    lookup.answered(nodes[0].peer, nodes[0].ip, [KadPeer(target.peer, nodes[3].told.addresses)])
    assert [one.addresses for one in lookup.next(0.0)] == [nodes[3].told.addresses]
    lookup.failed(target.peer)
    lookup.answered(nodes[1].peer, nodes[1].ip, [target.told])
    assert [one.addresses for one in lookup.next(0.0)] == [target.told.addresses]
    lookup.failed(target.peer)
    lookup.answered(nodes[1].peer, nodes[1].ip, [KadPeer(target.peer, nodes[3].told.addresses)])
    assert lookup.next(0.0) == [], "but not for ever"


def test_answers_out_of_turn_are_ignored() -> None:
    nodes = world(5)
    lookup = begun(nodes)
    peer = next(iter(nodes))
    lookup.answered(peer, "8.8.8.8", [node.told for node in nodes.values()])
    lookup.failed(peer)
    lookup.failed(b"nobody")
    assert lookup.known == 5 and not lookup.finished(0.0)
