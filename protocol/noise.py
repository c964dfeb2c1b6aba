"""Noise XX as libp2p speaks it: the handshake, and the two ciphers that come out of it.

    -> e
    <- e, ee, s, es   with the responder's libp2p identity, signed over its static key
    -> s, se          with the initiator's

Every message, in the handshake and after, is a 16-bit big-endian length and that many bytes (specs/noise,
"Wire format").  The payload of the second and third message is a protobuf that ties the static key to a peer id
and lists the stream multiplexers that the sender offers, so that no further negotiation is needed for them
(specs/noise, "Noise Extensions").

After the handshake a :class:`Sealer` and an :class:`Opener` work on the forwarder's arena: no bytes objects, one
cipher call a message.

Source: https://github.com/libp2p/specs/blob/master/noise/README.md; The Noise Protocol Framework, revision 34.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from google.protobuf.message import DecodeError
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from protocol.arena import Arena
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity, PeerId, PublicKey
from protocol.proto import noise_pb2
from protocol.small_cipher import NEXT, SMALL, Crypt, SmallCipherError, packet_number, small_opener, small_sealer

PROTOCOL: Final = "/noise"
NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"
MAX_MESSAGE: Final = 65535
TAG: Final = 16
MAX_PLAINTEXT: Final = MAX_MESSAGE - TAG
KEY: Final = 32

#: A handshake message holds a key, an identity and a few names; a peer that announces more is refused before we
#: wait for it.  RSA-8192 identities need a little over 2 KiB.
MAX_HANDSHAKE_MESSAGE: Final = 8 * 1024

#: Messages of a connection after which a second cipher for its small ones is worth its memory: most connections hold a
#: reservation and say little.
MANY: Final = 64

_nonce = struct.Struct("<4xQ").pack
_length = struct.Struct(">H")


class StaticKey:
    """An X25519 key with its identity's signature over it: made once a process, used in every handshake.

    "The static key ... MAY be used for multiple Noise sessions" (specs/noise, "Static Key Authentication"), which
    saves each handshake one key generation and one signature.
    """

    __slots__ = ("_payloads", "_private", "identity", "public")

    def __init__(self, identity: Identity, private: bytes) -> None:
        if len(private) != KEY:
            raise LocalProtocolError(f"an X25519 private key has {KEY} bytes, not {len(private)}")
        self.identity = identity
        self._private = private
        self.public = crypto_scalarmult_base(private)
        self._payloads: dict[tuple[str, ...], bytes] = {}

    def __repr__(self) -> str:
        return "StaticKey([scrubbed])"

    def secret(self) -> bytes:
        """The private key, for the process that goes on with handshakes of this one (actors/ports/handover.py)."""
        return self._private

    def agree(self, public: bytes) -> bytes:
        """The X25519 shared secret with ``public``; RemoteProtocolError for a point of small order."""
        return _agree(self._private, public)

    def payload(self, muxers: Sequence[str]) -> bytes:
        """The handshake payload that presents our identity and offers ``muxers``."""
        names = tuple(muxers)
        encoded = self._payloads.get(names)
        if encoded is None:
            message = noise_pb2.NoiseHandshakePayload(
                identity_key=self.identity.public_key.encode(),
                identity_sig=self.identity.sign(SIGNATURE_PREFIX + self.public),
            )
            message.extensions.stream_muxers.extend(names)
            encoded = self._payloads[names] = message.SerializeToString()
        return encoded


def _agree(private: bytes, public: bytes) -> bytes:
    try:
        return crypto_scalarmult(private, public)
    except CryptoError as error:
        raise RemoteProtocolError("noise: the peer's X25519 key is of small order", "noise") from error


class SymmetricState:
    """Chaining key, hash and the cipher of a handshake (Noise, section 5.2)."""

    __slots__ = ("_cipher", "_counter", "chaining_key", "hash")

    def __init__(self, prologue: bytes = b"") -> None:
        self.chaining_key = self.hash = NAME.ljust(32, b"\0") if len(NAME) <= KEY else hashlib.sha256(NAME).digest()
        self._cipher: ChaCha20Poly1305 | None = None
        self._counter = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self.chaining_key, key = _hkdf(self.chaining_key, secret)
        self._cipher = ChaCha20Poly1305(key)
        self._counter = 0

    def encrypt(self, plaintext: bytes) -> bytes:
        if self._cipher is None:
            sealed = plaintext
        else:
            sealed = self._cipher.encrypt(_nonce(self._counter), plaintext, self.hash)
            self._counter += 1
        self.mix_hash(sealed)
        return sealed

    def decrypt(self, sealed: bytes) -> bytes:
        if self._cipher is None:
            plaintext = sealed
        else:
            try:
                plaintext = self._cipher.decrypt(_nonce(self._counter), sealed, self.hash)
            except InvalidTag as error:
                raise RemoteProtocolError("noise: a handshake message does not authenticate", "noise") from error
            self._counter += 1
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Keys of the initiator's and the responder's sending direction (Noise, section 5.2, Split)."""
        return _hkdf(self.chaining_key, b"")


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """The peer proved who it is.

    ``muxer``: the multiplexer agreed in the handshake, or None when the peer offered none of ours.
    ``send_key``, ``receive_key``: 32 bytes each.
    """

    public_key: PublicKey
    muxer: str | None
    send_key: bytes
    receive_key: bytes

    @property
    def peer(self) -> PeerId:
        return self.public_key.peer_id

    def __repr__(self) -> str:
        return f"HandshakeCompleted(peer={self.peer}, muxer={self.muxer!r}, keys=[scrubbed])"


_Steps = Generator[None, bytes, HandshakeCompleted]


class Handshake:
    """One side of one handshake, by the machine contract.

    ``ephemeral``: 32 fresh random bytes.  ``muxers``: ours, best first.  ``expected``: the peer id that the dialer
    wants to reach; any other is refused.
    """

    __slots__ = (
        "_error", "_event", "_expected", "_heard", "_muxers", "_output", "_pending", "_private", "_public", "_static",
        "_steps",
    )  # fmt: skip

    def __init__(
        self,
        static: StaticKey,
        ephemeral: bytes,
        *,
        initiator: bool,
        muxers: Sequence[str] = (),
        expected: PeerId | None = None,
    ) -> None:
        self._static = static
        self._private = ephemeral
        self._public = crypto_scalarmult_base(ephemeral)
        self._muxers = tuple(muxers)
        self._expected = expected
        self._pending = bytearray()
        self._heard: list[bytes] = []
        self._output = bytearray()
        self._event: HandshakeCompleted | None = None
        self._error: RemoteProtocolError | None = None
        self._steps: _Steps | None = self._initiate() if initiator else self._respond()
        next(self._steps)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        if self._error is not None:
            return
        self._pending += data
        while self._steps is not None:
            if len(self._pending) < _length.size:
                return
            (size,) = _length.unpack_from(self._pending)
            if size > MAX_HANDSHAKE_MESSAGE:
                self._fail(RemoteProtocolError(f"noise: a handshake message of {size} bytes", "oversized"))
                return
            if len(self._pending) < _length.size + size:
                return
            message = bytes(self._pending[_length.size : _length.size + size])
            del self._pending[: _length.size + size]
            try:
                self._heard.append(message)
                self._steps.send(message)
            except StopIteration as done:
                self._event = done.value
                self._steps = None
                self._heard.clear()
            except RemoteProtocolError as error:
                self._fail(error)

    def hear_again(self, messages: Sequence[bytes], pending: bytes) -> None:
        """Take up a handshake that another process began with the same keys: what it heard, and has answered."""
        for message in messages:
            self.receive_data(_length.pack(len(message)) + message)
            self._output.clear()
        self._pending += pending

    def receive_eof(self) -> None:
        if self._steps is not None:
            self._fail(RemoteProtocolError("noise: the peer closed during the handshake", "closed"))

    def next_event(self) -> HandshakeCompleted | None:
        event, self._event = self._event, None
        if event is None and self._error is not None:
            raise self._error.bare()
        return event

    def data_to_send(self) -> bytes:
        output = bytes(self._output)
        self._output.clear()
        return output

    def trailing_data(self) -> bytes:
        """What followed the last handshake message: the first bytes of the transport."""
        data = bytes(self._pending)
        self._pending.clear()
        return data

    def _fail(self, error: RemoteProtocolError) -> None:
        self._error = error.bare()
        self._steps = None
        self._pending.clear()

    def _write(self, message: bytes) -> None:
        self._output += _length.pack(len(message)) + message

    def _initiate(self) -> _Steps:
        state = SymmetricState()
        state.mix_hash(self._public)
        state.mix_hash(b"")
        self._write(self._public)  # -> e
        message = yield  # <- e, ee, s, es
        ephemeral, static, sealed = _parts(message, KEY, KEY + TAG)
        state.mix_hash(ephemeral)
        state.mix_key(_agree(self._private, ephemeral))
        remote_static = state.decrypt(static)
        state.mix_key(_agree(self._private, remote_static))
        public_key, offered = self._authenticate(state.decrypt(sealed), remote_static)
        last = state.encrypt(self._static.public)  # -> s, se
        state.mix_key(self._static.agree(ephemeral))
        self._write(last + state.encrypt(self._static.payload(self._muxers)))
        ours, theirs = state.split()
        return HandshakeCompleted(public_key, _choose(self._muxers, offered), ours, theirs)

    def _respond(self) -> _Steps:
        state = SymmetricState()
        message = yield  # -> e
        ephemeral, payload = _parts(message, KEY)
        state.mix_hash(ephemeral)
        state.mix_hash(payload)
        state.mix_hash(self._public)  # <- e, ee, s, es
        state.mix_key(_agree(self._private, ephemeral))
        reply = self._public + state.encrypt(self._static.public)
        state.mix_key(self._static.agree(ephemeral))
        self._write(reply + state.encrypt(self._static.payload(self._muxers)))
        message = yield  # -> s, se
        static, sealed = _parts(message, KEY + TAG)
        remote_static = state.decrypt(static)
        state.mix_key(_agree(self._private, remote_static))
        public_key, offered = self._authenticate(state.decrypt(sealed), remote_static)
        theirs, ours = state.split()
        # "the initiator's preference decides": the first of the initiator's list that we also speak.
        return HandshakeCompleted(public_key, _choose(offered, self._muxers), ours, theirs)

    def _authenticate(self, payload: bytes, static: bytes) -> tuple[PublicKey, tuple[str, ...]]:
        message = noise_pb2.NoiseHandshakePayload()
        try:
            message.ParseFromString(payload)
        except DecodeError as error:
            raise RemoteProtocolError("noise: the handshake payload is no protobuf", "noise") from error
        public_key = PublicKey.decode(message.identity_key)
        if not public_key.verify(SIGNATURE_PREFIX + static, message.identity_sig):
            raise RemoteProtocolError("noise: the identity's signature over the static key is wrong", "noise")
        if self._expected is not None and public_key.peer_id != self._expected:
            raise RemoteProtocolError(
                f"noise: expected peer {self._expected}, the other side is {public_key.peer_id}", "wrong-peer"
            )
        return public_key, tuple(message.extensions.stream_muxers)


def _parts(message: bytes, *sizes: int) -> list[bytes]:
    """The fields of fixed ``sizes`` and, last, the rest."""
    if len(message) < sum(sizes):
        raise RemoteProtocolError(f"noise: a handshake message of {len(message)} bytes is too short", "noise")
    parts, start = [], 0
    for size in sizes:
        parts.append(message[start : start + size])
        start += size
    parts.append(message[start:])
    return parts


def _choose(preferred: Sequence[str], other: Sequence[str]) -> str | None:
    return next((name for name in preferred if name in other), None)


class Sealer:
    """The sending cipher: plaintext of the arena becomes Noise messages in the arena's outbound buffer."""

    __slots__ = ("_encrypt_into", "_seal_small", "counter", "key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        self.key = key
        self.counter = counter
        self._encrypt_into = ChaCha20Poly1305(key).encrypt_into
        self._seal_small: Crypt | None = None

    def seal(self, arena: Arena, plain: memoryview) -> tuple[memoryview, int, int]:
        """Seal ``plain``; returns (buffer, start, end) of the wire bytes.

        Cost: 1.3 us a message beside the cipher's own pass (tests/benchmarks, "64 KiB"); half of that for a small one
        where there is a cipher for those.
        """
        size = len(plain)
        messages = (size + MAX_PLAINTEXT - 1) // MAX_PLAINTEXT
        wire = size + messages * (_length.size + TAG)
        start = position = arena.outbound_used
        if start + wire <= len(arena.outbound):
            view = arena.outbound_view
            arena.outbound_used = start + wire
        else:
            # More was written in one turn than was read in it: rare, so it may cost an allocation.
            view = memoryview(bytearray(wire))
            start = position = 0
        counter = self.counter
        if 0 < size <= SMALL and counter > MANY:
            if self._seal_small is None:
                self._seal_small = small_sealer(self.key)
            if self._seal_small is not None:
                self.counter = counter + 1
                sealed = self._seal_small(packet_number(counter), plain.tobytes(), b"")
                _length.pack_into(view, position, size + TAG)
                view[position + _length.size : start + wire] = sealed
                return view, start, start + wire
        offset = 0
        while offset < size:
            stop = min(offset + MAX_PLAINTEXT, size)
            length = stop - offset + TAG
            _length.pack_into(view, position, length)
            position += _length.size
            self._encrypt_into(_nonce(counter), plain[offset:stop], None, view[position : position + length])
            counter += 1
            position += length
            offset = stop
        self.counter = counter
        return view, start, position


class Opener:
    """The receiving cipher: Noise messages of the arena's inbound buffer become plaintext in its plain buffer."""

    __slots__ = ("_decrypt_into", "_open_small", "_small", "counter", "key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        self.key = key
        self.counter = counter
        self._decrypt_into = ChaCha20Poly1305(key).decrypt_into
        self._open_small: Crypt | None = None
        self._small = False

    def open(self, arena: Arena, end: int, target: int) -> tuple[int, int]:
        """Open every whole message in ``inbound[:end]``, one behind the other from ``plain[target]`` on.

        Returns (bytes of inbound consumed, end of the plaintext).  Because the messages' plaintexts are laid side
        by side, a yamux frame that two messages share is whole again, and small frames of many messages can leave
        in one.  Raises RemoteProtocolError for a message that does not authenticate; what came before it is lost
        with the connection.

        Cost: 0.3 us a message beside the cipher.  What a connection sends in small messages is opened by a cipher that
        is faster for those, where there is one (protocol/small_cipher.py).
        """
        first = self.counter
        try:
            opened = self._open_mixed(arena, end, target) if self._small else self._open(arena, end, target)
        except (InvalidTag, SmallCipherError) as error:
            raise RemoteProtocolError("noise: a message does not authenticate", "noise") from error
        messages = self.counter - first
        self._small = self.counter > MANY and opened[0] <= messages * SMALL
        return opened

    def _open(self, arena: Arena, end: int, target: int) -> tuple[int, int]:
        inbound, source, plain = arena.inbound, arena.inbound_view, arena.plain_view
        decrypt_into = self._decrypt_into
        counter = self.counter
        position = 0
        while position + 2 <= end:
            body = position + 2
            stop = body + (inbound[position] << 8 | inbound[position + 1])
            if stop > end:
                break
            if stop - body < TAG:
                raise RemoteProtocolError("noise: a message shorter than its tag", "noise")
            limit = target + stop - body - TAG
            decrypt_into(_nonce(counter), source[body:stop], None, plain[target:limit])
            counter += 1
            target = limit
            position = stop
        self.counter = counter
        return position, target

    def _open_mixed(self, arena: Arena, end: int, target: int) -> tuple[int, int]:
        """The same; small messages go through the small cipher, if there is one."""
        if self._open_small is None:
            self._open_small = small_opener(self.key)
            if self._open_small is None:
                return self._open(arena, end, target)
        inbound, source, plain = arena.inbound, arena.inbound_view, arena.plain_view
        open_small, decrypt_into = self._open_small, self._decrypt_into
        counter = self.counter
        number = packet_number(counter)
        position = 0
        last = end - _length.size
        while position <= last:
            size = inbound[position] << 8 | inbound[position + 1]
            body = position + 2
            stop = body + size
            if stop > end:
                break
            if size < TAG:
                raise RemoteProtocolError("noise: a message shorter than its tag", "noise")
            limit = target + size - TAG
            if size <= SMALL:
                # It takes and gives bytes objects.  One of a whole receive would be faster to cut up, but so large
                # that the allocator gives it back to the system and asks for it again every time.
                plain[target:limit] = open_small(number, source[body:stop].tobytes(), b"")
            else:
                decrypt_into(_nonce(counter), source[body:stop], None, plain[target:limit])
            counter += 1
            # The counter's lowest byte is the packet number's highest.
            number = number + NEXT if counter & 255 else packet_number(counter)
            target = limit
            position = stop
        self.counter = counter
        return position, target
