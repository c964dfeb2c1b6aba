"""Records kept for others: only true ones, only so many, and those of the modest stay."""

from __future__ import annotations

import msgspec
import pytest

from actors.kad_records import ProviderRecords, RecordPolicy, SignedRecords
from actors.record_store import MemoryStore
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.kad import MAX_VALUE, KadPeer, KadRecord
from protocol.kad_keys import descriptor_key
from tests.support.descriptors import descriptor, validate
from tests.support.peers import seeded

NOW = 1000.0
HOUR = 3600.0
KEY = b"\x12\x20" + bytes(32)
GLOBAL = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"
PRIVATE = b"\x04\xc0\xa8\x01\x01\x06\x0f\xa1"

ALICE, BOB = (Identity.from_seed(seeded(name)) for name in ("alice", "bob"))


def nothing(count: int) -> bytes:
    return bytes(count)


def peer(number: int) -> bytes:
    return b"\x12\x20" + seeded(f"peer {number}")


def add(records: ProviderRecords, who: bytes, ip: str, now: float = NOW, key: bytes = KEY) -> None:
    records.add(key, who, ip, [KadPeer(who, (GLOBAL,))], now)


def providers(records: ProviderRecords, now: float = NOW, count: int = 100, key: bytes = KEY) -> list[KadPeer]:
    return records.find(key, count, now, nothing)


def code(refused: pytest.ExceptionInfo[RemoteProtocolError]) -> str:
    return refused.value.code


# Providers.


def test_a_provider_is_found_for_two_days_and_its_addresses_for_one() -> None:
    records = ProviderRecords(MemoryStore())
    add(records, peer(1), "8.8.8.8")
    assert providers(records, NOW + 24 * HOUR - 1) == [KadPeer(peer(1), (GLOBAL,))]
    assert providers(records, NOW + 24 * HOUR) == [KadPeer(peer(1), ())]
    assert providers(records, NOW + 48 * HOUR) == []
    assert providers(records, key=b"another") == []
    records.expire(NOW + 48 * HOUR - 1)
    assert len(records) == 1
    records.expire(NOW + 48 * HOUR)
    assert len(records) == 0


def test_nobody_provides_in_the_name_of_another() -> None:
    records = ProviderRecords(MemoryStore())
    with pytest.raises(RemoteProtocolError) as refused:
        records.add(KEY, peer(1), "8.8.8.8", [KadPeer(peer(2), (GLOBAL,))], NOW)
    assert code(refused) == "foreign"
    records.add(KEY, peer(1), "8.8.8.8", [KadPeer(peer(2), (GLOBAL,)), KadPeer(peer(1), (GLOBAL,))], NOW)
    assert [one.id for one in providers(records)] == [peer(1)]


def test_addresses_that_lead_inward_are_left_out() -> None:
    records = ProviderRecords(MemoryStore())
    records.add(KEY, peer(1), "8.8.8.8", [KadPeer(peer(1), (PRIVATE, GLOBAL))], NOW)
    assert providers(records) == [KadPeer(peer(1), (GLOBAL,))]
    with pytest.raises(RemoteProtocolError) as refused:
        records.add(KEY, peer(2), "8.8.8.8", [KadPeer(peer(2), (PRIVATE,))], NOW)
    assert code(refused) == "address"
    records.add(KEY, peer(3), "192.168.1.1", [KadPeer(peer(3), (PRIVATE,))], NOW)


def test_one_peer_has_so_many_keys() -> None:
    records = ProviderRecords(MemoryStore(), RecordPolicy(per_peer=3))
    for number in range(3):
        add(records, peer(1), "8.8.8.8", key=b"%d" % number)
    add(records, peer(1), "8.8.8.8", key=b"0")  # again
    with pytest.raises(RemoteProtocolError) as refused:
        add(records, peer(1), "8.8.8.8", key=b"3")
    assert code(refused) == "peer_full"


def test_a_flood_of_one_network_leaves_the_others_and_their_place_in_answers() -> None:
    records = ProviderRecords(MemoryStore(), RecordPolicy(per_key=50, per_group=1000, providers=1000))
    for number in range(10):
        add(records, peer(number), f"9.{number}.1.1")
    for number in range(10, 2000):
        add(records, peer(number), f"8.8.{number % 250}.1", NOW + number)
    assert len(records) == 50
    found = {one.id for one in providers(records, NOW + 2000, 20)}
    assert {peer(number) for number in range(10)} <= found


def test_one_network_has_so_many_records_in_all() -> None:
    records = ProviderRecords(MemoryStore(), RecordPolicy(per_group=20))
    for number in range(100):
        add(records, peer(number), f"8.8.{number % 5}.1", key=b"%d" % (number % 10))
    assert len(records) == 20


def test_the_table_is_bounded_and_the_store_too() -> None:
    store = MemoryStore()
    records = ProviderRecords(store, RecordPolicy(providers=100))
    for number in range(1000):
        add(records, peer(number), f"{8 + number % 100}.{number % 250}.1.1", NOW + number, key=b"%d" % (number % 7))
    assert len(records) == len(store.values) == 100


def test_of_a_network_the_latest_comes_first() -> None:
    records = ProviderRecords(MemoryStore())
    for number in range(5):
        add(records, peer(number), f"8.8.{number}.1", NOW + number)
    add(records, peer(0), "8.8.0.1", NOW + 10)
    assert [one.id for one in providers(records, NOW + 11, 3)] == [peer(0), peer(4), peer(3)]


def test_providers_outlive_a_restart() -> None:
    store = MemoryStore()
    records = ProviderRecords(store)
    add(records, peer(1), "8.8.8.8")
    add(records, peer(2), "9.9.9.9", NOW - 47 * HOUR)
    store.put(b"p" + bytes((34,)) + KEY + peer(3), b"junk")
    moved = msgspec.msgpack.encode((KEY, peer(5), (GLOBAL,), "8.8.8.8", NOW))
    store.put(b"p" + bytes((34,)) + KEY + peer(4), moved)
    store.put(b"contacts", b"of somebody else")
    again = ProviderRecords(store)
    again.load(NOW + 2 * HOUR)
    assert providers(again, NOW + 2 * HOUR) == [KadPeer(peer(1), (GLOBAL,))]
    assert len(store.values) == 2, "what is old or damaged is gone from the store too"


# Descriptors.


def put(
    records: SignedRecords,
    identity: Identity,
    sequence: int,
    *,
    expires_at: float = NOW + HOUR,
    ip: str = "8.8.8.8",
    now: float = NOW,
) -> bytes:
    envelope = descriptor(identity, sequence, expires_at)
    records.put(KadRecord(descriptor_key(identity.peer_id), envelope), ip, now)
    return envelope


def kept(records: SignedRecords, identity: Identity, now: float = NOW) -> bytes | None:
    found = records.find(descriptor_key(identity.peer_id), now)
    return None if found is None else found[0]


def test_a_later_descriptor_replaces_an_earlier_and_no_other_does() -> None:
    records = SignedRecords(MemoryStore(), validate)
    first = put(records, ALICE, 5)
    assert put(records, ALICE, 5) == first, "the same again"
    for sequence, expires_at in ((4, NOW + HOUR), (5, NOW + 2 * HOUR)):
        with pytest.raises(RemoteProtocolError) as refused:
            put(records, ALICE, sequence, expires_at=expires_at)
        assert code(refused) == "stale"
    assert kept(records, ALICE) == first
    assert kept(records, ALICE) != put(records, ALICE, 6) == kept(records, ALICE)


def test_a_descriptor_is_found_until_it_expires() -> None:
    records = SignedRecords(MemoryStore(), validate)
    envelope = put(records, ALICE, 1)
    assert kept(records, ALICE, NOW + HOUR - 1) == envelope
    assert kept(records, ALICE, NOW + HOUR) is None and kept(records, BOB) is None
    records.expire(NOW + HOUR)
    assert len(records) == 0
    with pytest.raises(RemoteProtocolError) as refused:
        put(records, ALICE, 2, expires_at=NOW - 1)
    assert code(refused) == "expired"


def test_no_descriptor_is_kept_for_ever() -> None:
    records = SignedRecords(MemoryStore(), validate, RecordPolicy(most_life=100.0))
    put(records, ALICE, 1, expires_at=NOW + 1e9)
    assert kept(records, ALICE, NOW + 100.0) is None


def test_what_is_no_descriptor_of_that_peer_is_refused() -> None:
    records = SignedRecords(MemoryStore(), validate)
    own = descriptor(ALICE, 1, NOW + HOUR)
    forged = own[:-1] + bytes((own[-1] ^ 1,))
    for key, value, reason in (
        (descriptor_key(BOB.peer_id), own, "foreign"),
        (b"/pk/abc", own, "foreign"),
        (descriptor_key(ALICE.peer_id), forged, "envelope"),
        (descriptor_key(ALICE.peer_id), b"", "envelope"),
        (descriptor_key(ALICE.peer_id), bytes(MAX_VALUE + 1), "oversized"),
    ):
        with pytest.raises(RemoteProtocolError) as refused:
            records.put(KadRecord(key, value), "8.8.8.8", NOW)
        assert code(refused) == reason
    assert len(records) == 0


def test_made_up_relays_of_one_network_displace_each_other() -> None:
    records = SignedRecords(MemoryStore(), validate, RecordPolicy(descriptors=20, per_group=15))
    honest = [Identity.from_seed(seeded(f"honest {number}")) for number in range(5)]
    for number, identity in enumerate(honest):
        put(records, identity, 1, ip=f"9.{number}.1.1")
    for number in range(60):
        put(records, Identity.from_seed(seeded(f"made up {number}")), 1, ip=f"8.8.{number}.1")
    assert len(records) == 20
    assert all(kept(records, identity) for identity in honest)


def test_who_repeats_anothers_descriptor_does_not_make_it_its_own() -> None:
    records = SignedRecords(MemoryStore(), validate, RecordPolicy(per_group=1))
    put(records, ALICE, 1, ip="9.9.9.9")
    put(records, ALICE, 1, ip="8.8.8.8")
    put(records, BOB, 1, ip="8.8.8.8")
    assert kept(records, ALICE) and kept(records, BOB)


def test_descriptors_outlive_a_restart() -> None:
    store = MemoryStore()
    records = SignedRecords(store, validate)
    envelope = put(records, ALICE, 7)
    put(records, BOB, 1, expires_at=NOW + 10)
    store.values[b"d" + peer(1)] = store.values[b"d" + ALICE.peer_id.bytes]
    store.values[b"d" + peer(2)] = b"junk"
    again = SignedRecords(store, validate)
    again.load(NOW + 60)
    assert len(again) == len(store.values) == 1
    assert kept(again, ALICE, NOW + 60) == envelope
    with pytest.raises(RemoteProtocolError):
        put(again, ALICE, 6, now=NOW + 60)
