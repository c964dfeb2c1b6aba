"""Opening small messages with the other cipher is opening them: same bytes, same errors, same counter."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocol import noise
from protocol.arena import HEADROOM, Arena
from protocol.errors import RemoteProtocolError
from protocol.noise import Opener, Sealer
from protocol.small_cipher import SMALL, packet_number, small_opener

KEY = bytes(range(32))
SIZES = (1, 12, 1200, SMALL - 17, SMALL - 16, SMALL - 15, 5000, 20_000, 1)

needs_extra = pytest.mark.skipif(
    small_opener(KEY) is None, reason="the `fast` extra is missing: pip install 'descord-relay[fast]'"
)


def sealed(sizes: tuple[int, ...], counter: int) -> tuple[bytes, bytes]:
    """(messages of ``sizes``, their plaintext)."""
    arena, sealer = Arena(), Sealer(KEY, counter)
    wire = plain = b""
    for index, size in enumerate(sizes):
        part = bytes([index % 251]) * size
        plain += part
        buffer, start, end = sealer.seal(arena, memoryview(part))
        wire += bytes(buffer[start:end])
        arena.reset()
    return wire, plain


def opened(opener: Opener, wire: bytes) -> tuple[int, bytes]:
    arena = Arena()
    arena.inbound[: len(wire)] = wire
    consumed, end = opener.open(arena, len(wire), HEADROOM)
    return consumed, bytes(arena.plain[HEADROOM:end])


def settled(counter: int) -> Opener:
    """An opener that has seen enough small messages to use the small cipher."""
    opener = Opener(KEY, counter)
    opener._small = True
    return opener


@needs_extra
@pytest.mark.parametrize("counter", [0, 250, 255, 256, 65_530, 2**40 - 3])
def test_it_opens_what_cryptography_sealed(counter: int) -> None:
    wire, plain = sealed(SIZES, counter)
    for opener in (Opener(KEY, counter), settled(counter)):
        assert opened(opener, wire + b"\x00\x20half") == (len(wire), plain)
        assert opener.counter == counter + len(SIZES)


@needs_extra
@pytest.mark.parametrize("position", [2, 100, 1300, -1])
def test_damage_is_the_same_error(position: int) -> None:
    wire, _ = sealed((1200, 1200), 0)
    damaged = bytearray(wire)
    damaged[position] ^= 1
    for opener in (Opener(KEY), settled(0)):
        with pytest.raises(RemoteProtocolError, match="authenticate"):
            opened(opener, bytes(damaged))


def test_a_message_shorter_than_its_tag_is_refused() -> None:
    for opener in (Opener(KEY), settled(0)):
        with pytest.raises(RemoteProtocolError, match="tag"):
            opened(opener, b"\x00\x0f" + bytes(15))


def test_without_the_extra_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "small_opener", lambda key: None)
    wire, plain = sealed(SIZES, 7)
    assert opened(settled(7), wire) == (len(wire), plain)


def test_it_is_used_once_a_connection_has_sent_enough_small_messages() -> None:
    opener = Opener(KEY)
    wire, _ = sealed((100,) * (noise.MANY + 1), 0)
    opened(opener, wire)
    assert opener._small
    wire, _ = sealed((60_000,), noise.MANY + 1)
    opened(opener, wire)
    assert not opener._small


def test_a_packet_number_is_the_counter_with_its_bytes_reversed() -> None:
    assert packet_number(1) == 1 << 56
    assert packet_number(0x0102030405060708) == 0x0807060504030201


@needs_extra
def test_what_it_seals_is_what_cryptography_would() -> None:
    for size in (1, 1200, SMALL, SMALL + 1):
        arena, plain = Arena(), memoryview(bytes(range(256)) * 20)[:size]
        counter = noise.MANY + 5
        sealer = Sealer(KEY, counter)
        buffer, start, end = sealer.seal(arena, plain)
        wire = bytes(buffer[start:end])
        assert sealer.counter == counter + 1
        assert wire[2:] == ChaCha20Poly1305(KEY).encrypt(struct.pack("<4xQ", counter), bytes(plain), None)
        assert opened(Opener(KEY, counter), wire) == (size + 18, bytes(plain))
