"""Messages between actors as bytes: msgpack, inside an envelope that says who, to whom, and by when.

The same codec reads msgpack from outside (:func:`decode_untrusted`): bounded in size, then typed.  Whatever is wrong
in it is one error, :class:`CodecError`.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import RemoteProtocolError
from protocol.messages import Message

#: Bytes of one envelope.  A report of 10,000 reservations is about 1 MB.
MAX_ENVELOPE: Final = 16 * 1024 * 1024

T = TypeVar("T")


class CodecError(RemoteProtocolError):
    """Bytes that are no message."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "codec")


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way.  ``deadline``: Unix time after which nobody waits for it, 0: none.  ``traceparent``: W3C
    trace context, "": none.  ``incarnation``: which start of the sender said it, greater with each start; 0: something
    that is no actor."""

    sender: str
    receiver: str
    message: Message
    deadline: float = 0.0
    traceparent: str = ""
    incarnation: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """The envelope as msgpack."""
    return _encoder.encode(envelope)


def decode(data: bytes) -> Envelope:
    """The envelope in ``data``; CodecError whatever is wrong with it."""
    if len(data) > MAX_ENVELOPE:
        raise CodecError(f"a message of {len(data)} bytes, at most {MAX_ENVELOPE} are taken")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise CodecError(f"not a message: {error}") from error


def decode_untrusted(data: bytes, kind: type[T], max_bytes: int) -> T:
    """A ``kind`` (a msgspec type whose own fields bound what is in it) out of foreign msgpack; CodecError."""
    if len(data) > max_bytes:
        raise CodecError(f"{len(data)} bytes, at most {max_bytes} are taken")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise CodecError(f"not a {getattr(kind, '__name__', 'message')}: {error}") from error


def known(message: Any) -> bool:
    """Whether ``message`` is one that may travel."""
    return isinstance(message, Message)
