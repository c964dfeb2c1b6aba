"""Kademlia's messages: what is said is understood, and nothing unbounded or ill-formed comes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import kad
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity
from protocol.kad import KadMessage, KadPeer, KadRecord, MessageType
from protocol.kad_keys import (
    RELAYS,
    common_prefix,
    descriptor_key,
    descriptor_peer,
    keyspace,
    provider_cid,
    provider_key,
)
from protocol.proto import kad_pb2
from tests.support.peers import seeded

PEERS = tuple(Identity.from_seed(seeded(f"kad {number}")).peer_id for number in range(40))
ADDRESS = b"\x04\x01\x02\x03\x04\x06\x0f\xa1"
KEY = provider_key(RELAYS)
ASK = KadMessage(MessageType.GET_PROVIDERS, KEY)

peers = st.builds(
    KadPeer,
    st.sampled_from([peer.bytes for peer in PEERS]),
    st.lists(
        st.binary(min_size=4, max_size=4).map(lambda ip: b"\x04" + ip + b"\x06\x0f\xa1"), max_size=4, unique=True
    ).map(tuple),
)


def distinct(found: list[KadPeer]) -> tuple[KadPeer, ...]:
    return tuple({peer.id: peer for peer in found}.values())


@given(
    st.sampled_from(MessageType),
    st.binary(min_size=1, max_size=kad.MAX_KEY),
    st.none() | st.binary(max_size=kad.MAX_VALUE),
    st.lists(peers, max_size=20).map(distinct),
    st.lists(peers, max_size=20).map(distinct),
)
def test_a_message_is_read_as_it_was_written(kind, key, value, closer, providers) -> None:
    record = None if value is None else KadRecord(key, value, "2026-01-02T03:04:05Z")
    message = KadMessage(kind, key, record, closer, providers)
    assert kad.decode_answer(kad.encode(message), message) == message
    if kind is not MessageType.PUT_VALUE or record is not None:
        assert kad.decode_request(kad.encode(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for read in (kad.decode_request, lambda data: kad.decode_answer(data, ASK)):
        try:
            message = read(data)
        except RemoteProtocolError:
            continue
        assert len(message.key) <= kad.MAX_KEY
        assert len(message.closer) <= kad.MAX_CLOSER and len(message.providers) <= kad.MAX_PROVIDERS


@given(st.data())
def test_a_damaged_message_is_a_message_or_an_error(data: st.DataObject) -> None:
    whole = kad.encode(KadMessage(MessageType.GET_PROVIDERS, KEY, closer=(KadPeer(PEERS[0].bytes, (ADDRESS,)),)))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        kad.decode_answer(whole[:cut], ASK)
    except RemoteProtocolError:
        pass
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    try:
        kad.decode_answer(damaged + data.draw(st.binary(max_size=8)), ASK)
    except RemoteProtocolError:
        pass


def test_unknown_fields_are_skipped() -> None:
    assert kad.decode_request(kad.encode(ASK) + b"\xa2\x06\x03new") == ASK


@pytest.mark.parametrize(
    ("payload", "code"),
    (
        (kad_pb2.Message(type=6, key=b"k").SerializeToString(), "kad"),
        (kad_pb2.Message(type=-1, key=b"k").SerializeToString(), "kad"),
        (kad_pb2.Message(type=4).SerializeToString(), "kad"),
        (kad_pb2.Message(type=4, key=bytes(kad.MAX_KEY + 1)).SerializeToString(), "oversized"),
        (kad_pb2.Message(type=0, key=b"k").SerializeToString(), "kad"),
        (kad_pb2.Message(type=0, key=b"k", record=kad_pb2.Record(key=b"other", value=b"v")).SerializeToString(), "kad"),
        (
            kad_pb2.Message(
                type=0, key=b"k", record=kad_pb2.Record(key=b"k", value=bytes(kad.MAX_VALUE + 1))
            ).SerializeToString(),
            "oversized",
        ),
        (bytes(kad.MAX_REQUEST + 1), "oversized"),
        (b"\x12\x05abc", "kad"),
        (b"\xff" * 20, "kad"),
    ),
)
def test_what_no_request_may_be(payload: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        kad.decode_request(payload)
    assert raised.value.code == code


@pytest.mark.parametrize(
    "answer",
    (
        KadMessage(MessageType.FIND_NODE, KEY),
        KadMessage(MessageType.GET_PROVIDERS, b"another"),
        KadMessage(MessageType.GET_PROVIDERS, KEY, KadRecord(b"another", b"value")),
    ),
)
def test_an_answer_is_to_the_question(answer: KadMessage) -> None:
    with pytest.raises(RemoteProtocolError):
        kad.decode_answer(kad.encode(answer), ASK)


def test_an_answer_may_leave_its_key_out() -> None:
    assert kad.decode_answer(kad.encode(KadMessage(MessageType.GET_PROVIDERS)), ASK).key == b""


def test_ping_needs_no_key() -> None:
    ping = KadMessage(MessageType.PING)
    assert kad.decode_request(kad.encode(ping)) == ping


def test_what_is_malformed_in_an_answer_is_left_out_and_counted() -> None:
    told = kad_pb2.Message(type=3, key=KEY)
    told.closer_peers.add(id=PEERS[0].bytes, addrs=[ADDRESS, b"junk", ADDRESS[:-1], b"\x04\x01\x02\x03\x04\xff\x7f"])
    told.closer_peers.add(id=b"no peer id", addrs=[ADDRESS])
    told.closer_peers.add(id=PEERS[0].bytes, addrs=[])
    answer = kad.decode_answer(told.SerializeToString(), ASK)
    assert answer.closer == (KadPeer(PEERS[0].bytes, (ADDRESS,)),)
    assert answer.left_out == 5


def test_more_peers_and_addresses_than_are_taken_are_left_out() -> None:
    told = kad_pb2.Message(type=3, key=KEY)
    for peer in PEERS:
        told.closer_peers.add(id=peer.bytes, addrs=[ADDRESS[:-1] + bytes((port,)) for port in range(1, 30)])
    answer = kad.decode_answer(told.SerializeToString(), ASK)
    assert len(answer.closer) == kad.MAX_CLOSER
    assert {len(peer.addresses) for peer in answer.closer} == {kad.MAX_ADDRESSES}
    assert answer.left_out > 0


def test_an_answer_that_is_sent_fits_what_rust_reads() -> None:
    names = tuple(b"\x36\xc8" + b"a" * 200 + bytes((number,)) for number in range(1, 17))
    many = tuple(KadPeer(peer.bytes, names) for peer in PEERS)
    closer = tuple(KadPeer(peer.bytes, (ADDRESS,)) for peer in PEERS[:20])
    encoded = kad.encode(KadMessage(MessageType.GET_PROVIDERS, KEY, closer=closer, providers=many))
    assert len(encoded) <= kad.MAX_SENT
    decoded = kad_pb2.Message.FromString(encoded)
    assert len(decoded.closer_peers) == 20 and 0 < len(decoded.provider_peers) < len(many)


def test_too_large_a_key_or_value_of_our_own_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError):
        kad.encode(KadMessage(MessageType.FIND_NODE, bytes(kad.MAX_KEY + 1)))
    with pytest.raises(LocalProtocolError):
        kad.encode(KadMessage(MessageType.PUT_VALUE, b"k", KadRecord(b"k", bytes(kad.MAX_VALUE + 1))))


# Keys.


def test_the_directory_s_key_is_that_of_discovery_in_go_and_js() -> None:
    # sha256sum of the name; tests/vectors/kad.json has the CIDs that go and js make.
    assert provider_key("relays/available").hex() == (
        "12207a4248b8ae82b1de7b1cca519f6c8a94c46cd74bed5306afb421e14d894a1562"
    )
    assert provider_cid("relays/available") == b"\x01\x55" + provider_key("relays/available")


def test_a_descriptor_s_key_has_a_namespace_and_one_form() -> None:
    for peer in PEERS[:3]:
        key = descriptor_key(peer)
        assert key == f"/relays/available/{peer}".encode()
        assert len(key) <= kad.MAX_KEY
        assert descriptor_peer(key) == peer


@pytest.mark.parametrize(
    "key",
    (
        b"",
        b"/pk/abc",
        b"/relays/available/",
        b"/relays/available/nobody",
        b"relays/available/12D3KooWGC9STmMQ6RWNLYyEQeMnAeTLxkHJ5jGuFzXbwjFFQYTM",
        b"/relays/available/" + str(PEERS[0]).encode() + b"/",
        b"/relays/available/\xff\xfe",
    ),
)
def test_another_key_is_no_descriptor_s(key: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        descriptor_peer(key)
    assert raised.value.code == "foreign"


def test_distance_is_xor_of_hashes() -> None:
    here, there = keyspace(PEERS[0].bytes), keyspace(PEERS[1].bytes)
    assert common_prefix(here, here) == 256
    assert common_prefix(0, 1 << 255) == 0
    assert common_prefix(0, 1) == 255
    assert common_prefix(here, there) == common_prefix(there, here)
