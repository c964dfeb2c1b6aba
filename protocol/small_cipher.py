"""A faster cipher for small messages, where the ``fast`` extra is installed.

OpenSSL sets its ChaCha20-Poly1305 up anew for every message, for about 1 us; AWS-LC does not.  Below 4 KiB that
outweighs OpenSSL's faster pass over the bytes.  Measured, microseconds to open one message:

    bytes         64   1,200  2,048  4,096  8,192  16,384  65,519
    cryptography  1.05  1.63   1.61   2.17   3.15    4.98   17.66
    qh3           0.34  0.83   1.14   2.01   3.64    7.42   29.46

The cipher is the one that qh3, a QUIC library, has for its packets.  QUIC makes a nonce by XOR of a fixed value with
the packet number, big-endian in the last 8 of 12 bytes (RFC 9001, section 5.3); Noise takes 4 zero bytes and the
counter, little-endian: with a fixed value of zero the packet number is the counter with its bytes reversed.

qh3 keeps the class for itself, so it is used only if it answers as ``cryptography`` does when this module is imported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, cast

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

#: Messages up to this size are opened faster here.
SMALL: Final = 3072

#: From one packet number to the next, while the counter's lowest byte does not wrap.
NEXT: Final = 1 << 56

#: (packet number, sealed message or plaintext, associated data) -> the other.
Crypt = Callable[[int, bytes, bytes], bytes]

_little = struct.Struct("<Q").pack
_big = struct.Struct(">Q").unpack


def packet_number(counter: int) -> int:
    """The packet number whose QUIC nonce is Noise's for ``counter``."""
    number: int = _big(_little(counter))[0]
    return number


def _load() -> tuple[Any, type[Exception]]:
    try:
        from qh3._hazmat import AeadChaCha20Poly1305, CryptoError

        key, counter, plain = bytes(range(32)), 0x0102030405060708, b"as cryptography seals it"
        sealed = ChaCha20Poly1305(key).encrypt(struct.pack("<4xQ", counter), plain, None)
        cipher, number = AeadChaCha20Poly1305(key, bytes(12)), packet_number(counter)
        if cipher.decrypt(number, sealed, b"") != plain or cipher.encrypt(number, plain, b"") != sealed:
            return None, ValueError
    except Exception:
        # Not installed, or no longer what it was: cryptography does small messages too.
        return None, ValueError
    return AeadChaCha20Poly1305, CryptoError


_cipher, SmallCipherError = _load()


def small_opener(key: bytes) -> Crypt | None:
    """What opens small messages under ``key``, raising :data:`SmallCipherError` when one does not authenticate; None
    without the extra."""
    return None if _cipher is None else cast(Crypt, _cipher(key, bytes(12)).decrypt)


def small_sealer(key: bytes) -> Crypt | None:
    """What seals small messages under ``key``; None without the extra."""
    return None if _cipher is None else cast(Crypt, _cipher(key, bytes(12)).encrypt)
