"""What a server answers, to whom, and which streams it lets go."""

from __future__ import annotations

import pytest

from actors.kad_records import WHEREABOUTS, ProviderRecords, SignedRecords
from actors.kad_routing import RoutingTable
from actors.kad_server import MAX_IDLE, MAX_IDLE_OF_HOUSEHOLD, IdleStreams, KadServer
from actors.record_store import MemoryStore
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.kad import KadMessage, KadPeer, KadRecord, MessageType
from protocol.kad_keys import RELAYS, descriptor_key, provider_key, whereabouts_peer
from protocol.whereabouts import open_whereabouts
from tests.support.descriptors import descriptor, validate
from tests.support.peers import seeded

NOW = 1_800_000_000.0
OWN, ALICE = (Identity.from_seed(seeded(name)) for name in ("own", "alice"))
GLOBAL = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"
PRIVATE = b"\x04\xc0\xa8\x01\x01\x06\x0f\xa1"
KEY = provider_key(RELAYS)


def peer(number: int) -> bytes:
    return b"\x12\x20" + seeded(f"peer {number}")


def server() -> KadServer:
    table = RoutingTable(OWN.peer_id.bytes)
    for number in range(60):
        table.proved(peer(number), (GLOBAL, PRIVATE), f"{11 + number}.1.1.1", NOW)
    store = MemoryStore()
    made = KadServer(
        OWN.peer_id.bytes,
        table,
        ProviderRecords(store),
        SignedRecords(store, validate),
        SignedRecords(store, open_whereabouts, peer_of=whereabouts_peer, row=WHEREABOUTS),
        bytes,
    )
    made.addresses = (GLOBAL, PRIVATE)
    return made


def ask(made: KadServer, request: KadMessage, who: bytes = peer(1), ip: str = "9.9.9.9") -> KadMessage | None:
    return made.answer(request, who, ip, NOW)


def test_the_twenty_nearest_without_the_asker() -> None:
    answer = ask(server(), KadMessage(MessageType.FIND_NODE, peer(1)))
    assert answer is not None and len(answer.closer) == 20
    assert peer(1) not in {one.id for one in answer.closer}
    answer = ask(server(), KadMessage(MessageType.FIND_NODE, peer(1)), who=peer(2))
    assert answer is not None and answer.closer[0].id == peer(1)


def test_private_addresses_are_told_in_private_networks_only() -> None:
    request = KadMessage(MessageType.FIND_NODE, OWN.peer_id.bytes)
    answer = ask(server(), request)
    assert answer is not None and {one.addresses for one in answer.closer} == {(GLOBAL,)}
    assert answer.closer[0].id == OWN.peer_id.bytes, "who looks for us finds us"
    answer = ask(server(), request, ip="10.0.0.1")
    assert answer is not None and {one.addresses for one in answer.closer} == {(GLOBAL, PRIVATE)}


def test_providers_are_those_that_said_so_and_we() -> None:
    made = server()
    alice = ALICE.peer_id.bytes
    assert ask(made, KadMessage(MessageType.ADD_PROVIDER, KEY, providers=(KadPeer(alice, (GLOBAL,)),)), alice) is None
    answer = ask(made, KadMessage(MessageType.GET_PROVIDERS, KEY))
    assert answer is not None and answer.providers == (KadPeer(alice, (GLOBAL,)),) and len(answer.closer) == 20
    made.provided = frozenset({KEY})
    answer = ask(made, KadMessage(MessageType.GET_PROVIDERS, KEY))
    assert answer is not None and answer.providers[0] == KadPeer(OWN.peer_id.bytes, (GLOBAL,))
    with pytest.raises(RemoteProtocolError):
        ask(made, KadMessage(MessageType.ADD_PROVIDER, KEY, providers=(KadPeer(alice, (GLOBAL,)),)))


def test_values_are_descriptors_that_were_put_and_our_own() -> None:
    made = server()
    key = descriptor_key(ALICE.peer_id)
    record = KadRecord(key, descriptor(ALICE, 1, NOW + 60))
    assert ask(made, KadMessage(MessageType.PUT_VALUE, key, record)) == KadMessage(MessageType.PUT_VALUE, key, record)
    answer = ask(made, KadMessage(MessageType.GET_VALUE, key))
    assert answer is not None and answer.record == KadRecord(key, record.value, "2027-01-15T08:00:00Z")
    own = descriptor_key(OWN.peer_id)
    answer = ask(made, KadMessage(MessageType.GET_VALUE, own))
    assert answer is not None and answer.record is None and answer.closer
    made.envelope = b"ours"
    answer = ask(made, KadMessage(MessageType.GET_VALUE, own))
    assert answer is not None and answer.record is not None and answer.record.value == b"ours"


def test_values_of_other_kinds_are_not_here_but_who_may_have_them_is_told() -> None:
    answer = ask(server(), KadMessage(MessageType.GET_VALUE, b"/ipns/somebody"))
    assert answer is not None and answer.record is None and len(answer.closer) == 20
    with pytest.raises(RemoteProtocolError) as refused:
        ask(server(), KadMessage(MessageType.PUT_VALUE, b"/ipns/x", KadRecord(b"/ipns/x", b"v")))
    assert refused.value.code == "foreign"


def test_a_ping_is_answered() -> None:
    assert ask(server(), KadMessage(MessageType.PING)) == KadMessage(MessageType.PING)


# Streams that are idle.


def test_the_longest_idle_of_a_household_is_let_go() -> None:
    idle = IdleStreams()
    for number in range(MAX_IDLE_OF_HOUSEHOLD):
        assert idle.answered("forwarder/0", number, "8.8.8.8") is None
    assert idle.answered("forwarder/0", 0, "8.8.8.8") is None, "that one is not idle long"
    assert idle.answered("forwarder/0", 1000, "8.8.8.8") == ("forwarder/0", 1)
    assert idle.answered("forwarder/0", 1001, "9.9.9.9") is None


def test_idle_streams_of_many_are_bounded_and_the_modest_keep_theirs() -> None:
    idle = IdleStreams()
    idle.answered("forwarder/0", 1, "9.9.9.9")
    for number in range(2 * MAX_IDLE):
        victim = idle.answered("forwarder/1", number, f"8.8.8.{number % 20}")
        assert victim is None or victim[0] == "forwarder/1"
    assert len(idle) <= MAX_IDLE
    idle.over("forwarder/0", 1)
    idle.lost("forwarder/1")
    assert len(idle) == 0


def test_a_household_keeps_to_its_rate_and_values_cost_more() -> None:
    idle = IdleStreams()
    asked = sum(idle.may_ask("8.8.8.8", MessageType.FIND_NODE, NOW) for _ in range(1000))
    assert asked == 200
    assert idle.may_ask("9.9.9.9", MessageType.FIND_NODE, NOW)
    assert sum(idle.may_ask("8.8.8.8", MessageType.PUT_VALUE, NOW + 1) for _ in range(10)) == 4
