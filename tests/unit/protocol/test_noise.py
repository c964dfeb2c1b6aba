"""The Noise handshake of libp2p and the ciphers behind it."""

from __future__ import annotations

import pytest

from protocol.arena import HEADROOM, Arena
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity, PeerId
from protocol.noise import (
    MAX_HANDSHAKE_MESSAGE,
    MAX_PLAINTEXT,
    SIGNATURE_PREFIX,
    Handshake,
    HandshakeCompleted,
    Opener,
    Sealer,
    StaticKey,
)
from protocol.proto import noise_pb2
from tests.support.peers import seeded

YAMUX = ("/yamux/1.0.0",)


def static(name: str) -> StaticKey:
    return StaticKey(Identity.from_seed(seeded(name)), seeded(name + " static"))


def pair(
    ours: tuple[str, ...] = YAMUX, theirs: tuple[str, ...] = YAMUX, expected: PeerId | None = None
) -> tuple[Handshake, Handshake]:
    return (
        Handshake(static("alice"), seeded("e1"), initiator=True, muxers=ours, expected=expected),
        Handshake(static("bob"), seeded("e2"), initiator=False, muxers=theirs),
    )


def carry(source: Handshake, target: Handshake, size: int = 0) -> bytes:
    data = source.data_to_send()
    for start in range(0, len(data), size or max(len(data), 1)):
        target.receive_data(data[start : start + (size or len(data))])
    return data


@pytest.mark.parametrize("size", [0, 1, 3, 33])
def test_both_learn_who_the_other_is(size: int) -> None:
    alice, bob = pair()
    carry(alice, bob, size)
    carry(bob, alice, size)
    at_alice = alice.next_event()
    carry(alice, bob, size)
    at_bob = bob.next_event()
    assert isinstance(at_alice, HandshakeCompleted) and isinstance(at_bob, HandshakeCompleted)
    assert at_alice.peer == static("bob").identity.peer_id and at_bob.peer == static("alice").identity.peer_id
    assert (at_alice.send_key, at_alice.receive_key) == (at_bob.receive_key, at_bob.send_key)
    assert at_alice.muxer == at_bob.muxer == YAMUX[0]
    assert (
        alice.next_event() is None and "[scrubbed]" in repr(at_alice) and at_alice.send_key.hex() not in repr(at_alice)
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [(("/b", "/a"), ("/a", "/b"), "/b"), (("/a",), ("/b",), None), ((), YAMUX, None), (YAMUX, (), None)],
)
def test_the_initiators_preference_decides(ours: tuple[str, ...], theirs: tuple[str, ...], agreed: str | None) -> None:
    alice, bob = pair(ours, theirs)
    carry(alice, bob)
    carry(bob, alice)
    carry(alice, bob)
    events = alice.next_event(), bob.next_event()
    assert [event and event.muxer for event in events] == [agreed, agreed]


def test_another_peer_than_expected() -> None:
    alice, bob = pair(expected=static("carol").identity.peer_id)
    carry(alice, bob)
    carry(bob, alice)
    with pytest.raises(RemoteProtocolError) as raised:
        alice.next_event()
    assert raised.value.code == "wrong-peer"
    assert alice.data_to_send() == b""


def test_what_follows_the_last_message_is_kept() -> None:
    alice, bob = pair()
    carry(alice, bob)
    carry(bob, alice)
    bob.receive_data(alice.data_to_send() + b"transport")
    assert bob.next_event() is not None and bob.trailing_data() == b"transport" and bob.trailing_data() == b""


@pytest.mark.parametrize("bit", range(0, 8 * 100, 97))
@pytest.mark.parametrize("turn", [1, 2])
def test_a_flipped_bit_is_found(turn: int, bit: int) -> None:
    alice, bob = pair()
    carry(alice, bob)
    sender, receiver = bob, alice
    if turn == 2:
        carry(bob, alice)
        sender, receiver = alice, bob
    data = bytearray(sender.data_to_send())
    data[2 + bit // 8] ^= 1 << bit % 8
    receiver.receive_data(data)
    with pytest.raises(RemoteProtocolError) as first:
        receiver.next_event()
    receiver.receive_data(bytes(100_000))
    with pytest.raises(RemoteProtocolError) as second:
        receiver.next_event()
    assert str(first.value) == str(second.value) and receiver.trailing_data() == b"", "nothing is kept after an error"


@pytest.mark.parametrize(
    "first", [b"\0\0", b"\0\x1f" + bytes(31), b"\0\x20" + bytes(32), (MAX_HANDSHAKE_MESSAGE + 1).to_bytes(2, "big")]
)
def test_a_first_message_that_is_none(first: bytes) -> None:
    _, bob = pair()
    bob.receive_data(first)
    with pytest.raises(RemoteProtocolError):
        bob.next_event()


def test_the_end_in_the_middle() -> None:
    _, bob = pair()
    bob.receive_eof()
    with pytest.raises(RemoteProtocolError, match="closed"):
        bob.next_event()


@pytest.mark.parametrize("forged", ["signature", "prefix", "key", "empty", "no protobuf"])
def test_an_identity_that_is_not_proved(forged: str) -> None:
    mallory = static("mallory")
    message = noise_pb2.NoiseHandshakePayload(
        identity_key=static("bob").identity.public_key.encode(),
        identity_sig=mallory.identity.sign(SIGNATURE_PREFIX + mallory.public),
    )
    if forged == "prefix":
        message.identity_key = mallory.identity.public_key.encode()
        message.identity_sig = mallory.identity.sign(mallory.public)
    elif forged == "key":
        message.identity_key = b""
    encoded = {"empty": b"", "no protobuf": b"\xff\xff"}.get(forged, message.SerializeToString())
    mallory._payloads[YAMUX] = encoded
    alice = Handshake(static("alice"), seeded("e1"), initiator=True, muxers=YAMUX)
    bob = Handshake(mallory, seeded("e2"), initiator=False, muxers=YAMUX)
    carry(alice, bob)
    carry(bob, alice)
    with pytest.raises(RemoteProtocolError):
        alice.next_event()


@pytest.mark.parametrize("size", [0, 1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 3 * MAX_PLAINTEXT])
def test_what_is_sealed_is_opened(size: int) -> None:
    arena = Arena()
    plain = bytes(index % 251 for index in range(size))
    sealer, opener = Sealer(seeded("key")), Opener(seeded("key"))
    view, start, end = sealer.seal(arena, memoryview(plain))
    wire, got = bytes(view[start:end]), b""
    capacity = 65_537
    pending = b""
    for at in range(0, len(wire), capacity):
        pending += wire[at : at + capacity]
        arena.inbound[: len(pending)] = pending
        consumed, plain_end = opener.open(arena, len(pending), HEADROOM)
        got += bytes(arena.plain_view[HEADROOM:plain_end])
        pending = pending[consumed:]
    assert got == plain and not pending and opener.counter == sealer.counter


def test_messages_that_are_forged_repeated_or_swapped_are_refused() -> None:
    arena = Arena()
    sealer = Sealer(seeded("key"))
    wires = []
    for text in (b"one", b"two"):
        view, start, end = sealer.seal(arena, memoryview(text))
        wires.append(bytes(view[start:end]))
    for data in (wires[1], wires[0] * 2, wires[0][:-1] + b"\0", b"\0\x0f" + bytes(15), b"\0\0"):
        arena.inbound[: len(data)] = data
        with pytest.raises(RemoteProtocolError):
            Opener(seeded("key")).open(arena, len(data), HEADROOM)


def test_keys_have_32_bytes_and_are_not_shown() -> None:
    with pytest.raises(LocalProtocolError):
        StaticKey(Identity.from_seed(bytes(32)), bytes(31))
    assert repr(static("alice")) == "StaticKey([scrubbed])"
