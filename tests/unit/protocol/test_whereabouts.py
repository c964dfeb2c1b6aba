"""Whereabouts: what was signed comes back, and nothing that says where the peer itself is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from protocol import whereabouts
from protocol.envelope import seal_peer_record
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.whereabouts import (
    CLOCK_SKEW,
    LIFE,
    MAX_ADDRESSES,
    MAX_RECORD,
    WhereaboutsKept,
    WhereaboutsMessage,
    WhereaboutsSaid,
    WhereaboutsTold,
    WhereaboutsWanted,
    is_hidden,
    open_whereabouts,
    seal_whereabouts,
)
from tests.support.peers import seeded

NOW = 1_800_000_000.5
ALICE = Identity.from_seed(seeded("alice"))
RELAY = Identity.from_seed(seeded("relay")).peer_id


def binary(text: str) -> bytes:
    return Multiaddr(text).to_bytes()


CIRCUIT = binary(f"/ip4/203.0.113.7/tcp/4001/p2p/{RELAY}/p2p-circuit")
NAMED = binary(f"/dns4/relay.example/tcp/4001/p2p/{RELAY}/p2p-circuit")
ONION = binary("/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234")


def test_it_comes_back() -> None:
    said = open_whereabouts(seal_whereabouts(ALICE, (CIRCUIT, NAMED, ONION), NOW), NOW + 5)
    assert (said.peer, said.addresses) == (ALICE.peer_id, (CIRCUIT, NAMED, ONION))
    assert said.expires_at == pytest.approx(NOW + LIFE)


def test_a_later_one_has_a_greater_sequence() -> None:
    first, second = (open_whereabouts(seal_whereabouts(ALICE, (CIRCUIT,), when), NOW) for when in (NOW, NOW + 0.002))
    assert second.sequence > first.sequence


SHOWN = [
    binary("/ip4/198.51.100.1/tcp/4001"),
    binary(f"/ip4/198.51.100.1/tcp/4001/p2p/{ALICE.peer_id}"),
    binary(f"/ip4/203.0.113.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{ALICE.peer_id}"),
    binary(f"/ip4/203.0.113.7/udp/4001/quic-v1/p2p/{RELAY}/p2p-circuit"),
    binary(f"/p2p/{RELAY}/p2p-circuit"),
    b"",
    b"\xff\xff",
]


@pytest.mark.parametrize("address", SHOWN)
def test_an_address_that_leads_to_the_peer_is_neither_said_nor_believed(address: bytes) -> None:
    assert not is_hidden(address)
    with pytest.raises(ValueError, match="through relays"):
        seal_whereabouts(ALICE, (CIRCUIT, address), NOW)
    with pytest.raises(RemoteProtocolError) as error:
        open_whereabouts(seal_peer_record(ALICE, int(NOW * 1000), (CIRCUIT, address)), NOW)
    assert error.value.code == "address"


@pytest.mark.parametrize(
    ("record", "when", "code"),
    [
        (seal_whereabouts(ALICE, (CIRCUIT,), NOW), NOW + LIFE, "expired"),
        (seal_whereabouts(ALICE, (CIRCUIT,), NOW), NOW - CLOCK_SKEW - 1, "early"),
        (seal_peer_record(ALICE, int(NOW * 1000), ()), NOW, "address"),
        (seal_peer_record(ALICE, int(NOW * 1000), (CIRCUIT,) * (MAX_ADDRESSES + 1)), NOW, "address"),
        (seal_peer_record(ALICE, 2**63, (CIRCUIT,)), NOW, "early"),
        (seal_peer_record(ALICE, int(NOW * 1000), (CIRCUIT,) * 60), NOW, "oversized"),
        (b"", NOW, "envelope"),
    ],
)
def test_what_is_not_believed(record: bytes, when: float, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        open_whereabouts(record, when)
    assert error.value.code == code


def test_another_peers_signature_is_not_its_own() -> None:
    record = bytearray(seal_whereabouts(ALICE, (CIRCUIT,), NOW))
    record[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        open_whereabouts(bytes(record), NOW)


def test_too_many_are_not_said() -> None:
    with pytest.raises(ValueError, match="at most"):
        seal_whereabouts(ALICE, (CIRCUIT,) * (MAX_ADDRESSES + 1), NOW)


def test_the_largest_fits() -> None:
    longest = binary(f"/dns4/{'a' * 60}.{'b' * 60}.example/tcp/4001/p2p/{RELAY}/p2p-circuit")
    assert len(seal_whereabouts(ALICE, (longest,) * MAX_ADDRESSES, NOW)) <= MAX_RECORD


@pytest.mark.parametrize(
    "message",
    [
        WhereaboutsWanted(ALICE.peer_id.bytes),
        WhereaboutsTold(b"", "nobody knows"),
        WhereaboutsSaid(seal_whereabouts(ALICE, (CIRCUIT,), NOW)),
        WhereaboutsKept(20),
    ],
)
def test_messages_come_back(message: WhereaboutsMessage) -> None:
    assert whereabouts.decode(whereabouts.encode(message)) == message


@given(st.binary(max_size=300))
def test_anything_else_is_refused_as_the_peers_fault(data: bytes) -> None:
    for read in (whereabouts.decode, lambda said: open_whereabouts(said, NOW)):
        try:
            read(data)
        except RemoteProtocolError:
            continue
