"""Peer ids and the keys that they are made from."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity, PeerId, PublicKey, base58_decode, base58_encode
from protocol.proto import keys_pb2

SPEC_EXAMPLE = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"  # specs/peer-ids, "Peer Ids"


def encoded(kind: int, data: bytes) -> bytes:
    return keys_pb2.PublicKey(Type=kind, Data=data).SerializeToString()  # type: ignore[arg-type]


def der(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        # draft-msporny-base58, "Test Vectors"
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (
            b"The quick brown fox jumps over the lazy dog.",
            "USm3fpXnKG5EUBx2ndxBDMPVciP5hGey2Jh4NDv6gmeo1LkMeiKrLJUUBk6Z",
        ),
        (bytes.fromhex("0000287fb4cd"), "11233QC4"),
        (b"", ""),
        (b"\0\0", "11"),
    ],
)
def test_base58(data: bytes, text: str) -> None:
    assert base58_encode(data) == text
    assert base58_decode(text) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "ä", " "])
def test_what_is_no_base58(text: str) -> None:
    with pytest.raises(ValueError, match="base58"):
        base58_decode(text)


def test_the_example_of_the_specification() -> None:
    peer = PeerId.parse(SPEC_EXAMPLE)
    assert peer.bytes[:2] == bytes((0x12, 32)) and len(peer.bytes) == 34
    assert str(peer) == SPEC_EXAMPLE and repr(peer) == f"PeerId({SPEC_EXAMPLE})"
    assert PeerId(peer.bytes) == peer and hash(PeerId(peer.bytes)) == hash(peer) and peer != SPEC_EXAMPLE


def test_an_ed25519_key_is_in_its_peer_id() -> None:
    identity = Identity.from_seed(bytes(32))
    assert identity.peer_id.bytes == bytes((0, 36)) + identity.public_key.encode()
    assert str(identity.peer_id).startswith("12D3Koo")


def test_a_cid_names_the_same_peer() -> None:
    import base64

    peer = Identity.from_seed(bytes(32)).peer_id
    cid = "b" + base64.b32encode(bytes((1, 0x72)) + peer.bytes).decode().lower().rstrip("=")
    assert cid.startswith("bafz") and PeerId.parse(cid) == peer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1",
        "Qm",
        "b",
        "bafz",
        "bafy" + "a" * 50,
        "1" * 129,
        SPEC_EXAMPLE[:-1],
        SPEC_EXAMPLE + "1",
        "Qm0",
        "b1!",
    ],
)
def test_text_that_is_no_peer_id(text: str) -> None:
    with pytest.raises(ValueError):
        PeerId.parse(text)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\0\x2b" + bytes(43), b"\x12\x1f" + bytes(31), b"\x13\x01a"])
def test_bytes_that_are_no_peer_id(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PeerId(data)


@pytest.mark.parametrize("bits", [2048])
def test_rsa_signatures(bits: int) -> None:
    private = rsa.generate_private_key(65537, bits)
    key = PublicKey.decode(encoded(keys_pb2.RSA, der(private.public_key())))
    signature = private.sign(b"data", padding.PKCS1v15(), hashes.SHA256())
    assert key.verify(b"data", signature) and not key.verify(b"other", signature) and not key.verify(b"data", b"")
    assert str(key.peer_id).startswith("Qm")


def test_small_rsa_keys_are_refused() -> None:
    private = rsa.generate_private_key(65537, 1024)
    key = PublicKey.decode(encoded(keys_pb2.RSA, der(private.public_key())))
    with pytest.raises(RemoteProtocolError, match="2048"):
        key.verify(b"data", private.sign(b"data", padding.PKCS1v15(), hashes.SHA256()))


@pytest.mark.parametrize("kind", [keys_pb2.Secp256k1, keys_pb2.ECDSA])
def test_elliptic_curve_signatures(kind: int) -> None:
    private = ec.generate_private_key(ec.SECP256K1() if kind == keys_pb2.Secp256k1 else ec.SECP256R1())
    public = private.public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    key = PublicKey.decode(encoded(kind, point if kind == keys_pb2.Secp256k1 else der(public)))
    signature = private.sign(b"data", ec.ECDSA(hashes.SHA256()))
    assert key.verify(b"data", signature) and not key.verify(b"other", signature) and not key.verify(b"data", b"x")
    assert str(key.peer_id).startswith("16Uiu2HA" if kind == keys_pb2.Secp256k1 else "Qm")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (keys_pb2.RSA, b"no key"),
        (keys_pb2.ECDSA, b"\x30\x00"),
        (keys_pb2.Secp256k1, bytes(33)),
        (keys_pb2.Secp256k1, b"\x02" + b"\xff" * 32),
        (keys_pb2.RSA, der(ec.generate_private_key(ec.SECP256R1()).public_key())),
        (keys_pb2.ECDSA, der(rsa.generate_private_key(65537, 2048).public_key())),
    ],
)
def test_a_key_that_its_type_does_not_allow(kind: int, data: bytes) -> None:
    key = PublicKey.decode(encoded(kind, data))
    with pytest.raises(RemoteProtocolError):
        key.verify(b"data", b"signature")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x08\x01",
        b"\x12\x20" + bytes(32),
        b"\x08\x07\x12\x20" + bytes(32),
        b"\x08\x01\x12\x1f" + bytes(31),
        b"\x08\x00\x12\x81\x10" + bytes(2049),
    ],
    ids=["nothing", "no protobuf", "no bytes", "no type", "unknown type", "short", "oversized"],
)
def test_what_is_no_public_key(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PublicKey.decode(data)


@pytest.mark.parametrize("extra", [b"\x1a\x01x", b"\x9a\x06\x01x", b"\x18\x01"], ids=["next", "far", "number"])
def test_a_key_has_one_peer_id_whatever_is_written_beside_it(extra: bytes) -> None:
    """ "No additional fields may be defined" (peer-ids, "Keys"): kept, each would make another id of the same key."""
    identity = Identity.from_seed(bytes(range(32)))
    plain = identity.public_key.encode()
    for dressed in (plain + extra, extra + plain, plain[2:] + extra + plain[:2]):
        key = PublicKey.decode(dressed)
        assert key == identity.public_key and key.peer_id == identity.peer_id and key.encode() == plain


def test_ed25519_signatures() -> None:
    identity = Identity.from_seed(bytes(range(32)))
    signature = identity.sign(b"data")
    key = PublicKey.decode(identity.public_key.encode())
    assert key == identity.public_key and key.peer_id == identity.peer_id
    assert key.verify(b"data", signature) and not key.verify(b"date", signature)
    assert not key.verify(b"data", signature[:-1]) and not key.verify(b"data", b"")


def test_a_private_key_comes_back() -> None:
    identity = Identity.from_seed(bytes(range(32)))
    assert Identity.decode(identity.encode()).peer_id == identity.peer_id
    data = keys_pb2.PrivateKey.FromString(identity.encode()).Data
    older = keys_pb2.PrivateKey(Type=keys_pb2.Ed25519, Data=data + data[32:]).SerializeToString()
    assert Identity.decode(older).peer_id == identity.peer_id


def test_a_private_key_that_is_damaged() -> None:
    good = Identity.from_seed(bytes(range(32))).encode()
    for damaged in (b"", b"\xff", good[:-1], good[:-1] + b"\0", b"\x08\x00" + good[2:]):
        with pytest.raises(LocalProtocolError):
            Identity.decode(damaged)
    with pytest.raises(LocalProtocolError):
        Identity.from_seed(bytes(31))


def test_secrets_are_not_shown() -> None:
    assert repr(Identity.from_seed(bytes(32))) == "Identity([scrubbed])"
