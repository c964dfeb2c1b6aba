"""Padding: what is said on a stream, in frames of a few sizes, so that a relay does not see how long a message is.

    u8 which of SIZES, u8 zero, u16 how much of it is data; the data; zeros up to the size

A padded stream is one of the libp2p protocol :data:`PROTOCOL`.  Within it, padded as all else, the application's
protocol is negotiated by multistream-select, so that its name's length is hidden too.  One who does not speak
:data:`PROTOCOL` refuses the stream; nothing is then sent without padding.

Why on a stream, and not in each Noise message: libp2p's Noise has no room for padding that another implementation would
take off, and pings and windows, which have one size anyway, need none.  Why these sizes: one size, as Tor's cells of
514 bytes, costs a bulk transfer a header and a cipher call for each of them; TLS 1.3 (RFC 8446, 5.4) and MLS (RFC 9420,
6.3.1) leave the choice to the sender.  Steps of four tell log2(5) = 2.3 bits of a message that fits one frame.  The
largest is one frame and one Noise message in every connection that it passes, so bulk is padded by 0.8 percent.

At its end a stream is filled up so that all its frames together are of a size that Padmé gives (Nikitin et al.,
"Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019, section 4): at most 12
percent more, and fewer the longer it is.  Who counts bytes sees that total; who watches each frame may guess where the
full ones end.

Padding that is not zero is an error, as in MLS: it would be a way to say something that nobody looks at.  A frame
without data is allowed, and no cheaper for its sender than any other: none is below 256 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.machine import Machine

PROTOCOL: Final = "/descord/padded/1.0.0"

#: Bytes of a frame, its header included: multiples of UNIT.
SIZES: Final = (256, 1024, 4096, 16384, 64 * 1024 - 512)
UNIT: Final = 256

_HEADER: Final = struct.Struct(">BBH")
HEADER_SIZE: Final = _HEADER.size

#: Bytes of data that one frame takes.
MAX_DATA: Final = SIZES[-1] - HEADER_SIZE

_ZEROS: Final = memoryview(bytes(SIZES[-1]))


def padme(length: int) -> int:
    """``length`` rounded up as Padmé does: as many low bits are zero as leave log2(log2(length)) of the others."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << exponent - exponent.bit_length()) - 1
    return length + mask & ~mask


def encode_frame(data: bytes | bytearray | memoryview, which: int = 0) -> bytes:
    """``data`` in the smallest frame that holds it, of SIZES[``which``] at least.  LocalProtocolError: more than
    MAX_DATA bytes."""
    length = len(data)
    if length > MAX_DATA:
        raise LocalProtocolError(f"a frame takes {MAX_DATA} bytes, not {length}")
    while SIZES[which] - HEADER_SIZE < length:
        which += 1
    return b"".join((_HEADER.pack(which, 0, length), data, _ZEROS[: SIZES[which] - HEADER_SIZE - length]))


class Padder:
    """The sending side.  ``total``: bytes of the frames that were sent; whoever sends them adds to it, for of what was
    made some may never leave."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0

    def frames(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """``data``, any amount, in frames: all full but the last."""
        view = memoryview(data)
        for start in range(0, len(view), MAX_DATA):
            yield encode_frame(view[start : start + MAX_DATA])

    def filling(self) -> Iterator[bytes]:
        """The frames without data that bring ``total`` to what Padmé gives; large ones first."""
        left = padme(max(self.total // UNIT, 1)) * UNIT - self.total
        for which in reversed(range(len(SIZES))):
            while left >= SIZES[which]:
                left -= SIZES[which]
                yield encode_frame(b"", which)


@dataclass(frozen=True, slots=True)
class Unpadded:
    """The data of one frame, 1 to MAX_DATA bytes."""

    data: bytes


class Unpadder(Machine[Unpadded]):
    """The receiving side.  Keeps less than one frame, and what the last ``receive_data`` brought."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= HEADER_SIZE:
                which, zero, length = _HEADER.unpack_from(buffer, start)
                if which >= len(SIZES) or zero or length > SIZES[which] - HEADER_SIZE:
                    raise RemoteProtocolError(f"no padded frame: size {which}, {zero}, {length} bytes", "padding")
                end = start + SIZES[which]
                if len(buffer) < end:
                    break
                behind = start + HEADER_SIZE + length
                if buffer.count(0, behind, end) != end - behind:
                    raise RemoteProtocolError("padding that is not zero", "padding")
                if length:
                    with memoryview(buffer) as view:
                        self._events.append(Unpadded(bytes(view[start + HEADER_SIZE : behind])))
                start = end
        finally:
            del buffer[:start]

    def _receive_eof(self) -> None:
        if self._buffer:
            raise RemoteProtocolError("the stream ended within a padded frame", "closed")
