"""Kademlia between sixty real cores: relays are found, liars do not prevent it, records outlive peers, floods end."""

from __future__ import annotations

from collections import Counter

import pytest
from multiaddr import Multiaddr

from actors.kad_records import RecordPolicy
from protocol import kad
from protocol.identity import Identity
from protocol.kad import KadMessage, KadPeer, KadRecord, MessageType
from protocol.kad_keys import RELAYS, descriptor_key, provider_key
from protocol.service_messages import StreamMessage
from protocol.whereabouts import open_whereabouts, seal_whereabouts
from protocol.whereabouts_messages import WhereaboutsFound, WhereaboutsGiven, WhereaboutsSought, WhereaboutsStored
from tests.simulation.kademlia import LIES, Kademlia, Liar, stranger
from tests.simulation.network import FORWARDER, Host, Weather
from tests.support.descriptors import descriptor
from tests.support.peers import seeded

KEY = provider_key(RELAYS)


@pytest.fixture(scope="module")
def calm() -> tuple[Kademlia, list[Host]]:
    """Sixty nodes, of which eight are relays."""
    world = Kademlia(seed=1)
    world.join(60)
    world.network.run(30.0)
    relays = world.nodes[3::8]
    for node in relays:
        world.relay(node)
    world.network.run(30.0)
    return world, relays


def test_every_relay_is_found_with_its_descriptor(calm: tuple[Kademlia, list[Host]]) -> None:
    world, relays = calm
    for node in world.nodes[::12]:
        found = world.search(node)
        wanted = {relay.peer.bytes for relay in relays} - {node.peer.bytes}
        assert {one.peer for one in found} == wanted
        assert all(one.descriptor for one in found)


def test_copies_lie_at_the_nearest_to_their_keys(calm: tuple[Kademlia, list[Host]]) -> None:
    world, relays = calm
    for relay in relays:
        holders = [
            node
            for node in world.nodes
            if world.core(node).descriptors.find(descriptor_key(relay.peer), world.network.now)
        ]
        assert 15 <= len(holders) <= 20
    providers = Counter(
        one.id
        for node in world.nodes
        for one in world.core(node).providers.find(KEY, 100, world.network.now, node.random_bytes)
    )
    assert set(providers) == {relay.peer.bytes for relay in relays}
    assert min(providers.values()) >= 15


def test_whereabouts_are_found_from_everywhere_and_the_latest_counts(calm: tuple[Kademlia, list[Host]]) -> None:
    world, relays = calm
    bob, carol = (Identity.from_seed(seeded(name)) for name in ("bob", "carol"))
    circuits = [
        Multiaddr(f"/ip4/9.9.9.{number}/tcp/4001/p2p/{relay.peer}/p2p-circuit").to_bytes()
        for number, relay in enumerate(relays[:2])
    ]

    def ask(node: Host, question: WhereaboutsSought | WhereaboutsGiven) -> WhereaboutsFound | WhereaboutsStored:
        node.post(question)
        answers: list[WhereaboutsFound | WhereaboutsStored] = []

        def answered() -> bool:
            told = (*node.heard(WhereaboutsFound), *node.heard(WhereaboutsStored))
            answers[:] = [one for one in told if one.request_id == question.request_id]
            return bool(answers)

        assert world.network.run_until(answered, 30.0), "a question is always answered"
        return answers[0]

    for number, circuit in enumerate(circuits):
        record = seal_whereabouts(bob, (circuit,), world.network.now)
        stored = ask(world.nodes[7 + number], WhereaboutsGiven(100 + number, "asker", record, "198.51.100.1", 15.0))
        assert isinstance(stored, WhereaboutsStored) and stored.copies >= 15, stored.problem
        world.network.run(10.0)
    for number, node in enumerate(world.nodes[::10]):
        found = ask(node, WhereaboutsSought(200 + number, "asker", bob.peer_id.bytes, 15.0))
        assert isinstance(found, WhereaboutsFound) and found.record == record
        assert open_whereabouts(found.record, world.network.now).addresses == (circuits[1],)
    nobody = ask(world.nodes[0], WhereaboutsSought(300, "asker", carol.peer_id.bytes, 15.0))
    assert isinstance(nobody, WhereaboutsFound) and nobody.record == b"" and "nobody" in nobody.problem


def test_a_client_finds_relays_and_nobody_asks_it(calm: tuple[Kademlia, list[Host]]) -> None:
    world, relays = calm
    (client,) = world.join(1, server=False)
    found = world.search(client)
    assert {one.peer for one in found} == {relay.peer.bytes for relay in relays}
    assert not any(client.peer.bytes in world.core(node).table for node in world.nodes)
    world.leave(client)


def test_the_same_seed_is_the_same_run() -> None:
    def run() -> tuple[Counter[str], list[int]]:
        world = Kademlia(seed=5, weather=Weather(loss=0.05))
        world.join(12)
        world.relay(world.nodes[2])
        world.search(world.nodes[7])
        return world.network.counts, [len(world.core(node).table) for node in world.nodes]

    assert run() == run()


def test_a_quarter_of_liars_does_not_hide_the_relays() -> None:
    world = Kademlia(seed=2, weather=Weather(loss=0.01))
    world.join(45)
    liars = []
    for number in range(15):
        lie = LIES[number % len(LIES)]
        liars.append(
            world.network.add(f"liar {number}", f"{110 + number}.1.1.1", lambda host, lie=lie: Liar(host, lie))
        )  # type: ignore[misc]
    for node in world.nodes:
        for liar in liars[::3]:
            world.core(node).table.proved(liar.peer.bytes, (liar.address,), liar.ip, world.network.now)
    relays = world.nodes[1::9]
    for relay in relays:
        world.relay(relay)
    world.network.run(60.0)
    for node in world.nodes[::11]:
        found = {one.peer for one in world.search(node, 30.0) if one.descriptor}
        assert found >= {relay.peer.bytes for relay in relays} - {node.peer.bytes}
        counts = world.core(node).counts
        assert counts["bad answer: kad"] + counts["no answer: reset"] + counts["not believed: address"] > 0
    assert sum(liar.core.asked for liar in liars if isinstance(liar.core, Liar)) > 0
    dialled = world.network.counts["dial"]
    assert world.network.counts["dial failed"] < dialled, "made-up peers are dialled, but not for ever"


def test_relays_are_found_while_nodes_come_and_go() -> None:
    """A fifth of the nodes is replaced in each of two half-hours, and nobody says good-bye."""
    world = Kademlia(seed=3)
    world.join(45)
    world.network.run(30.0)
    relays = world.nodes[5:15]
    for relay in relays:
        world.relay(relay)
    for half in range(2):
        for _ in range(9):
            world.leave(next(node for node in world.nodes if node not in relays))
            world.join(1, spacing=200.0)
        for relay in relays:
            world.relay(relay, sequence=half + 2)
        world.network.run(60.0)
    for node in world.nodes[::15]:
        found = {one.peer for one in world.search(node, 30.0) if one.descriptor}
        assert found >= {relay.peer.bytes for relay in relays} - {node.peer.bytes}


def test_a_node_that_restarts_still_has_what_it_kept(calm: tuple[Kademlia, list[Host]]) -> None:
    world, _ = calm
    node = max(world.nodes, key=lambda one: len(world.core(one).providers))
    kept = len(world.core(node).providers), len(world.core(node).descriptors)
    world.restart(node)
    world.network.run(1.0)
    assert (len(world.core(node).providers), len(world.core(node).descriptors)) == kept and kept[0] > 0


def test_floods_are_bounded_and_the_honest_go_on(calm: tuple[Kademlia, list[Host]]) -> None:
    world, relays = calm
    holder = max(world.nodes, key=lambda one: len(world.core(one).providers))
    core = world.core(holder)
    expected = {one.id for one in core.providers.find(KEY, 1000, world.network.now, holder.random_bytes)}
    stream = 1_000_000
    now = world.network.now

    def ask(peer: bytes, ip: str, request: KadMessage) -> None:
        nonlocal stream
        stream += 1
        core.handle(StreamMessage(FORWARDER, stream, peer, ip, kad.PROTOCOL, kad.encode(request)), now)

    address = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"
    for number in range(6000):
        peer = b"\x12\x20" + holder.random_bytes(32)
        ip = f"150.{number % 4}.{number // 200}.1"
        key = KEY if number % 2 else holder.random_bytes(34)
        ask(peer, ip, KadMessage(MessageType.ADD_PROVIDER, key, providers=(KadPeer(peer, (address,)),)))
    for number in range(40):
        identity = stranger(number)
        envelope = descriptor(identity, 1, now + 60)
        key = descriptor_key(identity.peer_id)
        ask(identity.peer_id.bytes, "151.1.1.1", KadMessage(MessageType.PUT_VALUE, key, KadRecord(key, envelope[:-1])))
    policy = RecordPolicy()
    assert len(core.providers) <= 4 * policy.per_group + len(expected)
    found = {one.id for one in core.providers.find(KEY, 100, now, holder.random_bytes)}
    assert expected <= found, "those that were there are told, beside the flood"
    assert core.counts["refused: envelope"] + core.counts["refused: rate"] >= 40
    assert len(core.table) + core.table.spares < 200
    for node in world.nodes[1::20]:
        world.network.run(1000.0)
        assert {one.peer for one in world.search(node, 30.0) if one.descriptor} >= {
            relay.peer.bytes for relay in relays
        } - {node.peer.bytes}
