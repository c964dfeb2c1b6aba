"""Relay descriptors: what was signed comes back, and nothing else is believed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.descriptor import (
    CLOCK_SKEW,
    DOMAIN,
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_LIFE,
    MAX_SIZE,
    PAYLOAD_TYPE,
    Capacity,
    RelayDescriptor,
    Terms,
    open_descriptor,
    seal_descriptor,
)
from protocol.envelope import seal
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from tests.support.peers import seeded

NOW = 1_800_000_000
ALICE = Identity.from_seed(seeded("alice"))
MALLORY = Identity.from_seed(seeded("mallory"))
GOOD = RelayDescriptor(
    peer_id=ALICE.peer_id.bytes,
    addresses=(bytes.fromhex("04cb007101060fa1"),),
    mode="cooperative",
    sequence=7,
    issued_at=NOW,
    expires_at=NOW + 3600,
    capacity=Capacity(1000, 2000, 5_000_000_000, 0.25),
    terms=Terms(0, 0, 3600),
    agent="descord-relay/0.1.0",
)


def test_it_comes_back() -> None:
    assert open_descriptor(seal_descriptor(GOOD, ALICE), NOW) == GOOD
    assert open_descriptor(seal_descriptor(GOOD, ALICE), NOW).peer == ALICE.peer_id


def test_a_later_version_says_more() -> None:
    payload = msgspec.msgpack.encode([*msgspec.to_builtins(GOOD, builtin_types=(bytes,)), "more", {"and": "more"}])
    assert open_descriptor(seal(ALICE, DOMAIN, PAYLOAD_TYPE, payload), NOW) == GOOD


def test_the_largest_fits() -> None:
    most = 2**53
    largest = msgspec.structs.replace(
        GOOD,
        addresses=(bytes(MAX_ADDRESS),) * MAX_ADDRESSES,
        sequence=most,
        capacity=Capacity(most, most, most, 0.123456789),
        terms=Terms(most, most, most),
        agent="x" * 64,
    )
    envelope = seal_descriptor(largest, ALICE)
    assert len(envelope) <= MAX_SIZE
    assert open_descriptor(envelope, NOW) == largest


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"expires_at": NOW}, "stale"),
        ({"issued_at": NOW + CLOCK_SKEW + 1, "expires_at": NOW + CLOCK_SKEW + 100}, "future"),
        ({"expires_at": NOW + MAX_LIFE + 1}, "lifetime"),
        ({"issued_at": NOW + 100, "expires_at": NOW + 50}, "lifetime"),
        ({"peer_id": MALLORY.peer_id.bytes}, "forged"),
        ({"peer_id": b"no peer id"}, None),
        ({"addresses": ()}, "codec"),
        ({"addresses": (b"\4\1\2\3\4\6\0\1",) * (MAX_ADDRESSES + 1)}, "codec"),
        ({"addresses": (bytes(MAX_ADDRESS + 1),)}, "codec"),
        ({"mode": "client-only"}, "codec"),
        ({"sequence": -1}, "codec"),
        ({"capacity": Capacity(1, 1, None, 1.5)}, "codec"),
        ({"capacity": Capacity(1, 1, None, float("nan"))}, "codec"),
        ({"agent": "x" * 65}, "codec"),
        ({"agent": "x" * 4000}, "oversized"),
    ],
)
def test_what_is_wrong_is_not_believed(more: dict[str, object], code: str | None) -> None:
    bad = seal_descriptor(msgspec.structs.replace(GOOD, **more), ALICE)
    with pytest.raises(RemoteProtocolError) as caught:
        open_descriptor(bad, NOW)
    assert code in (None, caught.value.code)


def test_another_signature_of_the_relay_is_none() -> None:
    payload = msgspec.msgpack.encode(GOOD)
    for envelope in (seal(ALICE, "another domain", PAYLOAD_TYPE, payload), seal(ALICE, DOMAIN, b"\3\1", payload)):
        with pytest.raises(RemoteProtocolError):
            open_descriptor(envelope, NOW)


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    envelope = bytearray(seal_descriptor(GOOD, ALICE))
    place = data.draw(st.integers(0, len(envelope) - 1))
    match data.draw(st.sampled_from(["cut", "flip", "junk"])):
        case "cut":
            damaged = bytes(envelope[:place])
        case "flip":
            envelope[place] ^= data.draw(st.integers(1, 255))
            damaged = bytes(envelope)
        case _:
            damaged = data.draw(st.binary(max_size=300))
    try:
        assert open_descriptor(damaged, NOW) == GOOD, "what it did not sign was believed"
    except RemoteProtocolError:
        pass
