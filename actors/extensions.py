"""A forwarder's extensions: a peer's stream joined to a TCP connection to another relay (protocol/extend.py).

    stream ─ data_received ─► outgoing ─► socket      the peer may send more only as the socket takes it
    socket ─ received ──────► stream                   the socket is read only while the peer's window is open

So either side holds at most a window of bytes, and who is slow slows the other end down.  Half-close and reset pass
through.  What the socket takes at once is held nowhere.  Cost: one pass of the cipher and a copy a byte, and a system
call and about 15 us for each 64 KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from actors.client_streams import say
from actors.inbound_streams import QuietOwner
from actors.receive_window import ReceiveWindow
from actors.reservations import household
from protocol import extend
from protocol.addresses import decode_tcp
from protocol.extend import ExtendTold
from protocol.wire import frame
from protocol.yamux import INITIAL_WINDOW, Stream

#: Extensions of one forwarder, and of those of one household: each costs a file descriptor and up to two windows.
MAX_EXTENSIONS: Final = 256
MAX_OF_HOUSEHOLD: Final = 32

#: Addresses of a relay that are tried, one after the other, and seconds for each.
MAX_ADDRESSES: Final = 4
CONNECT_TIMEOUT: Final = 5.0

#: What a libp2p connection begins with (multistream-select 1.0): nothing else is passed on, so that an extension is no
#: way to a mail server or a web site that shares a relay's address.
PROLOGUE: Final = b"\x13/multistream/1.0.0\n"

#: Seconds without a byte either way after which an extension is ended.  Peers ping each other more often.
IDLE: Final = 600.0

#: Bytes to which a peer's window grows while the socket takes what comes: twice what a stream begins with, for
#: MAX_EXTENSIONS peers may have that much lie here.
WINDOW: Final = 2 * INITIAL_WINDOW

#: Bytes read from the socket at a time.
CHUNK: Final = 64 * 1024


class ExtensionSocket(Protocol):
    """What the host made of it.  ``want``: whether it is to be read, and written.  ``send``: how many bytes it takes
    at once."""

    def send(self, data: bytes) -> int: ...
    def want(self) -> None: ...
    def abort(self) -> None: ...


class Extension(QuietOwner):
    """``begun``: as much of PROLOGUE as has come.  ``addresses``: (IP, port) still to be tried.  ``outgoing``: bytes
    that the socket has not taken.  ``moved``: bytes passed on, both ways.  ``ending``: the peer has finished:
    behind ``outgoing`` the socket is too."""

    __slots__ = (
        "_gone",
        "_window",
        "addresses",
        "begun",
        "connected",
        "ended",
        "ending",
        "moved",
        "outgoing",
        "socket",
    )

    def __init__(self, stream: Stream, addresses: Sequence[bytes], gone: Callable[[Extension], None]) -> None:
        super().__init__(stream)
        found = dict.fromkeys(at for address in addresses if (at := decode_tcp(address)) is not None)
        self.addresses = list(found)[:MAX_ADDRESSES]
        self.outgoing = bytearray()
        self.begun = b""
        self.connected = False
        self.moved = 0
        self._window = ReceiveWindow(held=True, most=WINDOW)
        self.ending = False
        self.ended = False
        self.socket: ExtensionSocket | None = None
        self._gone = gone

    # What the stream says.

    def data_received(self, data: bytes) -> None:
        if self.ended:
            self.stream.session.consume(self.stream, len(data))
            return
        if not self.sendable:
            self.begun += data[: len(PROLOGUE) - len(self.begun)]
            if not PROLOGUE.startswith(self.begun):
                self.end()
                return
        if self.connected and self.sendable and not self.outgoing and self.socket is not None:
            sent = self.socket.send(data)
            if self.ended:
                return
            self._sent(sent)
            if sent == len(data):
                return
            data = data[sent:]
        self.outgoing += data
        if self.socket is not None:
            self.socket.want()

    @property
    def sendable(self) -> bool:
        """Whether the peer is known to speak libp2p there, so that ``outgoing`` may leave."""
        return len(self.begun) == len(PROLOGUE)

    def finished(self) -> None:
        self.ending = True
        if self.socket is not None:
            self.socket.want()

    def was_reset(self) -> None:
        self.end()

    def writable(self) -> None:
        if self.socket is not None:
            self.socket.want()

    # What the host says.

    @property
    def room(self) -> int:
        """Bytes that may be read from the socket now."""
        stream = self.stream
        if not self.connected or stream.held or stream.session.connection.blocked:
            return 0
        return min(stream.send_window, CHUNK)

    def opened(self) -> None:
        """The socket is connected: the peer hears that, and its bytes follow."""
        self.connected = True
        say(self.stream, frame(extend.encode(ExtendTold())))

    def failed(self, reason: str) -> None:
        """No address could be connected."""
        say(self.stream, frame(extend.encode(ExtendTold(f"the relay was not reached: {reason}"[:256]))))
        if self.stream.sendable:
            self.stream.session.finish(self.stream)
        self.end(reset=False)

    def taken(self, size: int) -> None:
        """The socket took so many of ``outgoing``."""
        del self.outgoing[:size]
        self._sent(size)

    def _sent(self, size: int) -> None:
        self.moved += size
        self._window.consume(self.stream, size)

    def received(self, data: memoryview) -> None:
        """The other relay sent ``data``, at most ``room``."""
        self.moved += len(data)
        say(self.stream, data)

    def eof(self) -> None:
        """The other relay sends no more."""
        if self.stream.sendable:
            self.stream.session.finish(self.stream)

    def end(self, *, reset: bool = True) -> None:
        """It is over, for whatever reason; the stream is reset unless it was ended in order."""
        if self.ended:
            return
        self.ended = True
        if self.socket is not None:
            self.socket.abort()
        stream = self.stream
        if reset and not stream.closed:
            stream.session.reset(stream)
        self.outgoing.clear()
        self._gone(self)


class Extensions:
    """Those of one forwarder.  ``wanted``: those that the host is to connect; it takes them."""

    def __init__(self) -> None:
        self.wanted: list[Extension] = []
        self._all: dict[Stream, Extension] = {}
        self._moved_before = 0

    @property
    def moved(self) -> int:
        """Bytes that all passed on, both ways, those that are over too."""
        return self._moved_before + sum(one.moved for one in self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def take(self) -> list[Extension]:
        """Those that the host is to connect."""
        wanted, self.wanted = self.wanted, []
        return wanted

    def begin(self, stream: Stream, addresses: Sequence[bytes]) -> bool:
        """Join ``stream``, whose owner is the extension from now on; False: there are too many."""
        home = _home(stream)
        if len(self._all) >= MAX_EXTENSIONS or sum(_home(one) == home for one in self._all) >= MAX_OF_HOUSEHOLD:
            return False
        made = self._all[stream] = Extension(stream, addresses, self._gone)
        stream.owner = made
        self.wanted.append(made)
        return True

    def _gone(self, extension: Extension) -> None:
        if self._all.pop(extension.stream, None) is not None:
            self._moved_before += extension.moved

    def drained(self, connection: object) -> None:
        """A connection takes bytes again."""
        for stream, one in self._all.items():
            if stream.session.connection is connection:
                one.writable()

    def end_all(self) -> None:
        """Another process takes over: a TCP connection to another relay does not go along."""
        for one in list(self._all.values()):
            one.end()


def _home(stream: Stream) -> str:
    return household(stream.session.connection.owner.address)
