"""multistream-select 1.0: two peers agree what a stream is for.

Each line is a varint length and text that ends in a newline.  Both sides say ``/multistream/1.0.0``; the dialer
proposes a protocol; the listener repeats it, or answers ``na``.

A dialer may write its header and proposal in one piece, and the first bytes of the protocol behind them: both
machines keep what follows their last line.

Source: https://github.com/multiformats/multistream-select.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.machine import Machine
from protocol.wire import FrameReader, encode_uvarint, frame

HEADER: Final = "/multistream/1.0.0"

#: Bytes of a line: names of protocols are short.  A peer that needs more is refused before we keep any.
MAX_LINE: Final = 1024

#: Proposals on one stream before the listener loses patience.
MAX_PROPOSALS: Final = 32


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Both sides agreed on ``protocol``."""

    protocol: str


@dataclass(frozen=True, slots=True)
class ProtocolsRefused:
    """The listener speaks none of what the dialer proposed."""

    protocols: tuple[str, ...]


def encode_line(text: str) -> bytes:
    """One line on the wire."""
    return frame(text.encode() + b"\n")


_HEADER_LINE: Final = encode_line(HEADER)
_NOT_AVAILABLE: Final = encode_line("na")


class _Negotiation(Machine[Negotiated | ProtocolsRefused]):
    __slots__ = ("_greeted", "_reader")

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_LINE)
        self._greeted = False

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        while not self._done and (line := self._reader.next_frame()) is not None:
            if line[-1:] != b"\n":
                raise RemoteProtocolError("a multistream line that does not end in a newline", "multistream")
            try:
                text = line[:-1].decode()
            except UnicodeDecodeError as error:
                raise RemoteProtocolError("a multistream line that is no text", "multistream") from error
            if not self._greeted:
                if text != HEADER:
                    raise RemoteProtocolError(f"the peer does not speak {HEADER}", "multistream")
                self._greeted = True
                self._greet()
            else:
                self._line(text)

    def _greet(self) -> None: ...

    def _line(self, text: str) -> None: ...

    def _finish(self, event: Negotiated | ProtocolsRefused) -> None:
        self._done = True
        self._trailing = self._reader.trailing_data()
        self._events.append(event)


class Listener(_Negotiation):
    """The side that a stream was opened to.  Event: :class:`Negotiated`."""

    __slots__ = ("_proposals", "_protocols")

    def __init__(self, protocols: Container[str]) -> None:
        super().__init__()
        self._protocols = protocols
        self._proposals = 0

    def _greet(self) -> None:
        self._output += _HEADER_LINE

    def _line(self, text: str) -> None:
        self._proposals += 1
        if self._proposals > MAX_PROPOSALS:
            raise RemoteProtocolError(f"more than {MAX_PROPOSALS} protocols were proposed", "multistream")
        if text == "ls":
            names = self._protocols if isinstance(self._protocols, Iterable) else ()
            body = b"".join(encode_line(name) for name in names)
            self._output += encode_uvarint(len(body) + 1) + body + b"\n"
        elif text in self._protocols:
            self._output += encode_line(text)
            self._finish(Negotiated(text))
        else:
            self._output += _NOT_AVAILABLE


class Dialer(_Negotiation):
    """The side that opened the stream; proposes ``protocols`` in their order, the first together with the header.

    Events: :class:`Negotiated`, :class:`ProtocolsRefused`.
    """

    __slots__ = ("_proposed", "_protocols")

    def __init__(self, protocols: Sequence[str]) -> None:
        super().__init__()
        if not protocols:
            raise LocalProtocolError("there must be a protocol to propose")
        self._protocols = tuple(protocols)
        self._proposed = 0
        self._output = _HEADER_LINE + encode_line(self._protocols[0])

    def _line(self, text: str) -> None:
        proposal = self._protocols[self._proposed]
        if text == proposal:
            self._finish(Negotiated(text))
        elif text != "na":
            raise RemoteProtocolError(f"{text[:80]!r} is no answer to the proposal {proposal!r}", "multistream")
        elif self._proposed + 1 == len(self._protocols):
            self._finish(ProtocolsRefused(self._protocols))
        else:
            self._proposed += 1
            self._output += encode_line(self._protocols[self._proposed])
