"""Who a peer is: keys, and the peer ids made from them.

A peer id is the multihash of the protobuf of a public key: the identity multihash when that is at most 42 bytes
(Ed25519, secp256k1), else SHA-256 (RSA, ECDSA).  Our own key is Ed25519; the three other types are verified, because
peers that have them exist.

Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

from google.protobuf.message import DecodeError
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.proto import keys_pb2
from protocol.wire import decode_uvarint

#: "If the length of the serialized bytes is less than or equal to 42, compute the peer ID with the identity multihash".
MAX_INLINE_KEY: Final = 42
IDENTITY_HASH: Final = 0x00
SHA2_256: Final = 0x12

#: How the ids of Ed25519 keys begin, and those of keys that are hashed.
_ED25519_ID: Final = bytes((IDENTITY_HASH, 36))
_SHA2_256_ID: Final = bytes((SHA2_256, 32))
LIBP2P_KEY_CODEC: Final = 0x72

#: Bytes of an Ed25519 public key.
ED25519_KEY: Final = 32

#: Bits of an RSA key.  The specification's least; and the most that verifying may cost us.
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

#: A public key's protobuf: RSA-8192 needs 1,062 bytes.
MAX_PUBLIC_KEY: Final = 2048

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {character: value for value, character in enumerate(_ALPHABET)}

#: Characters of a peer id as text: 42 inlined bytes with their header are 60 in base58, a CID a few more.
_MAX_TEXT: Final = 128


def base58_encode(data: bytes) -> str:
    """Base58 with the Bitcoin alphabet."""
    number = int.from_bytes(data, "big")
    out = []
    while number:
        number, digit = divmod(number, 58)
        out.append(_ALPHABET[digit])
    out.extend("1" * (len(data) - len(data.lstrip(b"\0"))))
    return "".join(reversed(out))


def base58_decode(text: str) -> bytes:
    """The inverse of :func:`base58_encode`; ValueError for a character that is none of its alphabet."""
    number = 0
    for character in text:
        digit = _DIGITS.get(character)
        if digit is None:
            raise ValueError(f"{character!r} is no base58 character")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


class PeerId:
    """The id of a peer: a multihash, compared and hashed by its bytes.  RemoteProtocolError when it is none."""

    __slots__ = ("_text", "bytes")

    def __init__(self, data: bytes) -> None:
        _check_multihash(data)
        self.bytes = data
        self._text: str | None = None

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """From base58 (``12D3Koo...``, ``Qm...``) or a CIDv1 in base32 (``bafz...``); ValueError when it is neither."""
        if len(text) > _MAX_TEXT:
            raise ValueError(f"a peer id of {len(text)} characters")
        try:
            if text.startswith(("1", "Qm")):
                return cls(base58_decode(text))
            if not text.startswith("b"):
                raise ValueError(f"{text!r} is no peer id: base58 (12D3Koo..., Qm...) or a CIDv1 (bafz...)")
            body = text[1:].upper()
            cid = base64.b32decode(body + "=" * (-len(body) % 8))
            if cid[:2] != bytes((1, LIBP2P_KEY_CODEC)):
                raise ValueError(f"{text!r} is a CID of something else than a libp2p key")
            return cls(cid[2:])
        except (RemoteProtocolError, binascii.Error) as error:
            raise ValueError(f"{text!r} is no peer id: {error}") from error

    def __str__(self) -> str:
        if self._text is None:
            self._text = base58_encode(self.bytes)
        return self._text

    def __repr__(self) -> str:
        return f"PeerId({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeerId) and self.bytes == other.bytes

    def __hash__(self) -> int:
        return hash(self.bytes)


def _check_multihash(data: bytes) -> None:
    if (len(data) == 38 and data.startswith(_ED25519_ID)) or (len(data) == 34 and data.startswith(_SHA2_256_ID)):
        return  # nearly all there are
    code = decode_uvarint(data[:10])
    size = decode_uvarint(data[:10], code[1]) if code is not None else None
    if code is None or size is None or len(data) - size[1] != size[0]:
        raise RemoteProtocolError("a peer id that is no multihash", "peer-id")
    if code[0] == IDENTITY_HASH:
        if not 0 < size[0] <= MAX_INLINE_KEY:
            raise RemoteProtocolError(f"a peer id with {size[0]} inlined bytes", "peer-id")
    elif code[0] != SHA2_256 or size[0] != hashlib.sha256().digest_size:
        raise RemoteProtocolError("a peer id with an unknown hash", "peer-id")


class PublicKey:
    """A peer's public key, as the protobuf that it was received in.

    Decoding checks its form; what the key type's library must check is checked when a signature is verified.
    """

    __slots__ = ("_data", "_encoded", "_peer_id", "kind")

    def __init__(self, kind: int, data: bytes, encoded: bytes) -> None:
        self.kind = kind
        self._data = data
        self._encoded = encoded
        self._peer_id: PeerId | None = None

    @classmethod
    def ed25519(cls, data: bytes) -> PublicKey:
        """From the 32 bytes of an Ed25519 key."""
        return cls(keys_pb2.Ed25519, data, b"\x08\x01\x12\x20" + data)

    @classmethod
    def decode(cls, encoded: bytes) -> PublicKey:
        """From the protobuf ``PublicKey``; RemoteProtocolError when it is none or too large."""
        if len(encoded) > MAX_PUBLIC_KEY:
            raise RemoteProtocolError(f"a public key of {len(encoded)} bytes", "oversized")
        message = keys_pb2.PublicKey()
        try:
            message.ParseFromString(encoded)
        except DecodeError as error:
            raise RemoteProtocolError("a public key that is no protobuf", "key") from error
        if not message.IsInitialized():
            # An unknown type counts as absent: proto2's enums are closed.
            raise RemoteProtocolError("a public key without a known type, or without its bytes", "key")
        if message.Type == keys_pb2.Ed25519 and len(message.Data) != ED25519_KEY:
            raise RemoteProtocolError(f"an Ed25519 key of {len(message.Data)} bytes", "key")
        # "encoding must be deterministic", "No additional fields may be defined": the id is made from the two fields
        # alone.  Whatever else the peer wrote would be kept by protobuf, and make many ids of one key.
        plain = keys_pb2.PublicKey(Type=message.Type, Data=message.Data)
        return cls(message.Type, message.Data, plain.SerializeToString(deterministic=True))

    def encode(self) -> bytes:
        return self._encoded

    @property
    def peer_id(self) -> PeerId:
        if self._peer_id is None:
            encoded = self._encoded
            if len(encoded) <= MAX_INLINE_KEY:
                self._peer_id = PeerId(bytes((IDENTITY_HASH, len(encoded))) + encoded)
            else:
                self._peer_id = PeerId(bytes((SHA2_256, 32)) + hashlib.sha256(encoded).digest())
        return self._peer_id

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` over ``data`` was made with this key.  RemoteProtocolError when the key is no key."""
        if self.kind == keys_pb2.Ed25519:
            try:
                VerifyKey(self._data).verify(data, signature)
            except (BadSignatureError, ValueError):
                return False
            return True
        return _verify_other(self.kind, self._data, data, signature)

    def __repr__(self) -> str:
        return f"PublicKey({keys_pb2.KeyType.Name(self.kind)}, {self.peer_id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash(self._encoded)


def _verify_other(kind: int, key: bytes, data: bytes, signature: bytes) -> bool:
    """RSA, secp256k1 and ECDSA.  Imported on use: most nodes never meet one, and it is 10 MB."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    public: Any
    try:
        if kind == keys_pb2.Secp256k1:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key)
        else:
            public = load_der_public_key(key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RemoteProtocolError("a public key that its type does not allow", "key") from error
    try:
        if kind == keys_pb2.RSA:
            if not isinstance(public, rsa.RSAPublicKey) or not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
                raise RemoteProtocolError(f"an RSA key must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits", "key")
            public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            raise RemoteProtocolError("an ECDSA key that is none", "key")
    except InvalidSignature:
        return False
    return True


class Identity:
    """Our own Ed25519 key.  Prints as ``[scrubbed]``."""

    __slots__ = ("_key", "public_key")

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.public_key = PublicKey.ed25519(bytes(key.verify_key))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """From 32 secret bytes; LocalProtocolError for another number."""
        if len(seed) != 32:
            raise LocalProtocolError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        return cls(SigningKey(seed))

    @classmethod
    def decode(cls, encoded: bytes) -> Identity:
        """From the protobuf ``PrivateKey``; LocalProtocolError when it is none, not Ed25519, or its halves differ."""
        message = keys_pb2.PrivateKey()
        try:
            message.ParseFromString(encoded)
        except DecodeError as error:
            raise LocalProtocolError("the private key is no protobuf") from error
        data = message.Data
        # "seed + public"; older files repeat the public half once more.
        if message.Type != keys_pb2.Ed25519 or len(data) not in (64, 96):
            raise LocalProtocolError("the private key is not an Ed25519 key of 64 bytes")
        identity = cls.from_seed(data[:32])
        if any(data[start : start + 32] != bytes(identity._key.verify_key) for start in range(32, len(data), 32)):
            raise LocalProtocolError("the private key does not belong to the public key beside it")
        return identity

    def encode(self) -> bytes:
        """The protobuf ``PrivateKey``: as other implementations' key files."""
        data = bytes(self._key) + bytes(self._key.verify_key)
        return keys_pb2.PrivateKey(Type=keys_pb2.Ed25519, Data=data).SerializeToString(deterministic=True)

    def sign(self, data: bytes) -> bytes:
        """A 64-byte signature."""
        return self._key.sign(data).signature

    @property
    def peer_id(self) -> PeerId:
        return self.public_key.peer_id

    def __repr__(self) -> str:
        return "Identity([scrubbed])"
