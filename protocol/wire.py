"""Varints and length-prefixed frames: how nearly every libp2p message is laid on a stream.

Source: https://github.com/multiformats/unsigned-varint.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from protocol.errors import LocalProtocolError, RemoteProtocolError

#: "implementations must restrict the size of the varint to a max of 9 bytes (63 bits)".
MAX_VARINT_BYTES: Final = 9

_SMALL = tuple(bytes((n,)) for n in range(128))


def encode_uvarint(number: int) -> bytes:
    """``number`` as an unsigned varint, 1 to 9 bytes.  LocalProtocolError outside 0 .. 2**63 - 1."""
    if 0 <= number < 128:
        return _SMALL[number]
    if not 0 <= number < 1 << 63:
        raise LocalProtocolError(f"{number} is no unsigned varint: 0 to 2**63 - 1")
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_uvarint(buffer: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """(number, offset behind it), or None when the varint is not all there.

    RemoteProtocolError when it is longer than 9 bytes or than it need be ("must be encoded in the minimum number of
    bytes").
    """
    number = shift = 0
    for index in range(offset, min(len(buffer), offset + MAX_VARINT_BYTES)):
        byte = buffer[index]
        number |= (byte & 127) << shift
        if byte < 128:
            if not byte and shift:
                raise RemoteProtocolError("a varint is longer than it need be", "varint")
            return number, index + 1
        shift += 7
    if len(buffer) - offset >= MAX_VARINT_BYTES:
        raise RemoteProtocolError(f"a varint of more than {MAX_VARINT_BYTES} bytes", "varint")
    return None


def frame(payload: bytes) -> bytes:
    """``payload`` behind its length."""
    return encode_uvarint(len(payload)) + payload


class FrameReader:
    """Length-prefixed frames of at most ``limit`` bytes out of any cuts.

    Keeps at most one frame's bytes and what the last ``receive_data`` brought behind it.
    """

    __slots__ = ("_buffer", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = b""

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer = self._buffer + bytes(data) if self._buffer else bytes(data)

    def next_frame(self) -> bytes | None:
        """The next frame's payload; None: not all there.  RemoteProtocolError when it is announced too large."""
        decoded = decode_uvarint(self._buffer)
        if decoded is None:
            return None
        size, start = decoded
        if size > self.limit:
            raise RemoteProtocolError(f"a message of {size} bytes, at most {self.limit} are taken", "oversized")
        if len(self._buffer) < start + size:
            return None
        payload = self._buffer[start : start + size]
        self._buffer = self._buffer[start + size :]
        return payload

    def trailing_data(self) -> bytes:
        """The bytes behind the last frame, once."""
        buffer, self._buffer = self._buffer, b""
        return buffer

    def __bool__(self) -> bool:
        """True while bytes wait for the rest of their frame."""
        return bool(self._buffer)


M = TypeVar("M", bound=Message)


def parse(message: M, data: bytes, what: str, code: str) -> M:
    """``message``, filled from a peer's ``data``; RemoteProtocolError when that is no protobuf.  ``what``: that it
    should be, ``code``: of the error."""
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(f"{what} that is no protobuf", code) from error
    return message
