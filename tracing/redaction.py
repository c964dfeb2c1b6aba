"""Who and where, in what leaves the node: keyed hashes, so that one peer can be followed and nobody named.

The key is drawn when the node starts, is never written down, and is replaced every ``rotation`` seconds by a hash of
itself: whoever learns a key can compute later ones, but names nobody in what was exported before.  A peer has one hash
as long as a key lasts and another under the next, so its circuits of two periods cannot be joined.  A hash alone is not
enough for addresses, of which there are few enough to try them all; the key makes that useless.

With ``clear`` nothing is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from ipaddress import ip_address
from typing import Final

import msgspec

from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from tracing.spans import Secret

KEY_SIZE: Final = 32

_RATCHET: Final = b"descord-rotate"


class RedactionKey(msgspec.Struct, frozen=True, array_like=True):
    """The key of a period, as the processes of one node hand it on.  ``since``: Unix time when the period began."""

    key: bytes
    since: float


class Redactor:
    """See the module.  ``rotation``: seconds."""

    __slots__ = ("_current", "clear", "rotation")

    def __init__(self, key: RedactionKey, rotation: float, *, clear: bool = False) -> None:
        self.rotation = rotation
        self.clear = clear
        self._current = key

    def key(self, now: float) -> RedactionKey:
        """The key at ``now``, for another process of this node."""
        current, rotation = self._current, self.rotation
        while now - current.since >= rotation:
            current = RedactionKey(blake2b(current.key, digest_size=KEY_SIZE, person=_RATCHET).digest(),
                                   current.since + rotation)  # fmt: skip
        self._current = current
        return current

    def show(self, secret: Secret, now: float) -> str:
        """What stands for ``secret``: ``peer-`` or ``address-`` and 16 hexadecimal digits; about 2 us."""
        if self.clear:
            return _in_clear(secret)
        digest = blake2b(secret.value, digest_size=8, key=self.key(now).key, person=secret.kind.encode())
        return f"{secret.kind}-{digest.hexdigest()}"


def _in_clear(secret: Secret) -> str:
    if secret.kind == "peer":
        try:
            return str(PeerId(secret.value))
        except RemoteProtocolError:
            return secret.value.hex()
    return secret.value.decode()


# Peer ids as base58 (of Ed25519, secp256k1 and hashed keys) and as a CID.
_PEER: Final = re.compile(
    r"(?<![1-9A-HJ-NP-Za-km-z])(?:12D3KooW[1-9A-HJ-NP-Za-km-z]{44}|16Uiu2HA[1-9A-HJ-NP-Za-km-z]{45}"
    r"|Qm[1-9A-HJ-NP-Za-km-z]{44})(?![1-9A-HJ-NP-Za-km-z])|\bbafz[a-z2-7]{40,}"
)
# As hexadecimal, and as Python shows bytes: an identity multihash around a protobuf of type Ed25519 or secp256k1.
_PEER_HEX: Final = re.compile(r"(?:0024080112|0025080212)[0-9a-fA-F]{66,68}")
_PEER_REPR: Final = re.compile(r"""\\x00[$%]\\x08\\x0[12]\\x12(?:[ !]|\\x2[01])(?:\\x[0-9a-f]{2}|\\.|[^\\]){32,33}""")
_ONION: Final = re.compile(r"(?<![0-9A-Za-z])[a-z2-7]{56}(?=\.onion|:\d|/|$|[^0-9A-Za-z])", re.I)
_NAME: Final = re.compile(r"/(dns|dns4|dns6|dnsaddr)/([^/\s\"']+)")
_IP4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")
_IP6: Final = re.compile(
    r"(?<![0-9A-Za-z:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![0-9A-Za-z])"
)


class Scrubber:
    """Finds peer ids and addresses in free text, a line of the log, and puts their hashes there.

    For what nobody foresaw: no line of ours names a peer, but an exception's text may.  ``own``: texts that are the
    node's own and stay.
    """

    __slots__ = ("_now", "_own", "_redactor")

    def __init__(self, redactor: Redactor, now: Callable[[], float], own: Iterable[str] = ()) -> None:
        self._redactor = redactor
        self._now = now
        self._own = frozenset(own)

    def scrub(self, text: str) -> str:
        if self._redactor.clear:
            return text
        text = _PEER.sub(self._peer_text, text)
        text = _PEER_HEX.sub("peer-scrubbed", text)
        text = _PEER_REPR.sub("peer-scrubbed", text)
        text = _ONION.sub(lambda found: self._show("address", found.group().lower().encode()), text)
        text = _NAME.sub(self._name, text)
        text = _IP6.sub(self._ip, text)
        return _IP4.sub(self._ip, text)

    def _show(self, kind: str, value: bytes) -> str:
        return self._redactor.show(Secret(kind, value), self._now())

    def _peer_text(self, found: re.Match[str]) -> str:
        text = found.group()
        if text in self._own:
            return text
        try:
            value = PeerId.parse(text).bytes
        except ValueError:
            value = text.encode()
        return self._show("peer", value)

    def _name(self, found: re.Match[str]) -> str:
        protocol, name = found.groups()
        return found.group() if name in self._own else f"/{protocol}/{self._show('address', name.encode())}"

    def _ip(self, found: re.Match[str]) -> str:
        text = found.group()
        try:
            ip = ip_address(text)
        except ValueError:
            return text
        if text in self._own or ip.is_unspecified:
            return text
        return self._show("address", str(ip).encode())
