"""The contract of every wire machine.

A machine owns one protocol on one stream or connection and does no I/O.  Whoever owns it carries bytes:

    machine.receive_data(data)          bytes came, cut anywhere; never raises
    machine.receive_eof()               the peer will send no more
    while event := machine.next_event() what they mean; None when more bytes are needed
    stream.write(machine.data_to_send())

What was good comes out before what was wrong: ``next_event`` gives the events first and then raises
RemoteProtocolError, the same every time, and the machine takes no more.  What belongs to the protocol that
follows on the same stream is given back by ``trailing_data``.  Time comes in as ``now`` and goes out as a deadline.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from protocol.errors import RemoteProtocolError

Event = TypeVar("Event")

#: Bytes that a machine keeps for the protocol behind it.  A peer may send ahead what it knows it will need (a
#: multistream header, a handshake's first message); its bulk waits for the answer.
MAX_TRAILING: Final = 64 * 1024


class Machine(Generic[Event]):
    """Events, output and the error of a machine; the steps are the subclass's ``_receive`` and ``_receive_eof``."""

    __slots__ = ("_done", "_error", "_events", "_output", "_trailing")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._output = b""
        self._error: RemoteProtocolError | None = None
        # After its last message a machine keeps what follows, for the protocol that does.
        self._done = False
        self._trailing = b""

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take ``data``; what is wrong with it comes out of :meth:`next_event`."""
        if self._error is not None:
            return
        if self._done:
            self._keep_trailing(data)
            return
        try:
            self._receive(data)
        except RemoteProtocolError as error:
            self._error = error.bare()

    def receive_eof(self) -> None:
        """The peer finished its side."""
        if self._error is None and not self._done:
            try:
                self._receive_eof()
            except RemoteProtocolError as error:
                self._error = error.bare()

    def next_event(self) -> Event | None:
        """The next event; None when more bytes are needed.  Raises RemoteProtocolError, from then on always."""
        if self._events:
            return self._events.popleft()
        if self._error is not None:
            raise self._error.bare()
        return None

    def data_to_send(self) -> bytes:
        """What is to be written, once."""
        output, self._output = self._output, b""
        return output

    def trailing_data(self) -> bytes:
        """What came behind the machine's last message, once."""
        trailing, self._trailing = self._trailing, b""
        return trailing

    @property
    def trailing_size(self) -> int:
        """Bytes that :meth:`trailing_data` would give."""
        return len(self._trailing)

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` is to be called; None: time does not matter now."""
        return None

    def handle_deadline(self, now: float) -> None:
        """The deadline has come."""

    def _keep_trailing(self, data: bytes | bytearray | memoryview) -> None:
        if len(self._trailing) + len(data) > MAX_TRAILING:
            self._error = RemoteProtocolError(f"more than {MAX_TRAILING} bytes ahead of the answer", "oversized")
            self._trailing = b""
        else:
            self._trailing += bytes(data)

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        raise RemoteProtocolError("nothing more was expected on this stream", "unexpected")

    def _receive_eof(self) -> None:
        raise RemoteProtocolError("the stream ended too early", "closed")
