"""An actor's inbox: bounded, control before data.

A full mailbox refuses, by name, and counts; it never grows and never blocks the sender.  Control messages (an actor
fell, an actor wants a report) pass data and are not refused: there are as many as there are actors.
"""

from __future__ import annotations

from collections import deque

from protocol.codec import Envelope
from protocol.messages import CONTROL


class MailboxFull(Exception):
    """``receiver`` has as many messages waiting as it may have."""

    def __init__(self, receiver: str, capacity: int) -> None:
        super().__init__(f"the mailbox of {receiver} is full: {capacity} messages (mailbox_capacity)")
        self.receiver = receiver


class Mailbox:
    """``capacity``: data messages that may wait.  ``refused``: how many were refused."""

    __slots__ = ("_control", "_data", "capacity", "name", "refused")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.refused = 0
        self._control: deque[Envelope] = deque()
        self._data: deque[Envelope] = deque()

    def put(self, envelope: Envelope) -> None:
        """MailboxFull when the capacity is reached."""
        if isinstance(envelope.message, CONTROL):
            self._control.append(envelope)
        elif len(self._data) < self.capacity:
            self._data.append(envelope)
        else:
            self.refused += 1
            raise MailboxFull(self.name, self.capacity)

    def take(self) -> Envelope | None:
        if self._control:
            return self._control.popleft()
        return self._data.popleft() if self._data else None

    def clear(self) -> int:
        """Forget all that waits; how many they were."""
        count = len(self)
        self._control.clear()
        self._data.clear()
        return count

    def discard(self, sender: str) -> int:
        """Forget what ``sender`` said; how many messages that were."""
        count = len(self)
        self._control = deque(envelope for envelope in self._control if envelope.sender != sender)
        self._data = deque(envelope for envelope in self._data if envelope.sender != sender)
        return count - len(self)

    def __len__(self) -> int:
        return len(self._control) + len(self._data)
