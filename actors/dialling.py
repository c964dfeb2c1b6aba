"""Connections that a forwarder opens, for services (actors/services.py): which address is tried when, and which wins.

Addresses are tried one after the other, the next as soon as one fails, or after a while beside it (RFC 8305, "Happy
Eyeballs", section 5).  The first that is connected and whose peer proves to be the one that is wanted ends it.  Sockets
are the host's (actors/ports/outgoing.py): it takes :class:`Attempt`s and says what became of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.deadlines import Deadlines
from actors.links import Link, Links
from protocol.addresses import decode_tcp
from protocol.identity import PeerId

#: Addresses of one peer that are tried: what a host with a few interfaces has, of both IP versions.
MAX_ADDRESSES: Final = 8

#: Seconds between two attempts that run beside each other (RFC 8305, section 8).
STAGGER: Final = 0.25

#: Peers that are being dialled at a time.  A walk through the DHT dials ten; a probe of relays as many.
MAX_DIALS: Final = 128


@dataclass(eq=False, slots=True)
class Attempt:
    """A TCP connection that the host is to open.  ``give_up``: set by the host; called when it is not wanted."""

    dial: Dial
    address: str
    port: int
    give_up: Callable[[], None] = lambda: None


@dataclass(eq=False, slots=True)
class Dial:
    """``expected``: who must answer, None: whoever does.  ``settled(link, code, reason)``: called once, with the
    connection, or None and why there is none."""

    expected: PeerId | None
    addresses: deque[tuple[str, int]]
    settled: Callable[[Link | None, str, str], None]
    attempts: set[Attempt] = field(default_factory=set)
    links: set[Link] = field(default_factory=set)
    problem: tuple[str, str] = ("dial", "no address that can be dialled: TCP over IP")


class Dialling:
    """``wanted``: attempts that the host is to make; it takes them."""

    def __init__(self, links: Links, deadlines: Deadlines) -> None:
        self.wanted: list[Attempt] = []
        self._links = links
        self._deadlines = deadlines
        self._dials: set[Dial] = set()

    def __len__(self) -> int:
        return len(self._dials)

    def begin(
        self,
        expected: PeerId | None,
        addresses: Sequence[bytes],
        settled: Callable[[Link | None, str, str], None],
        now: float,
    ) -> Dial | None:
        """Dial a peer at ``addresses`` (binary multiaddrs); None: too many are being dialled.  ``settled`` may be
        called at once."""
        if len(self._dials) >= MAX_DIALS:
            return None
        usable = dict.fromkeys(found for address in addresses if (found := decode_tcp(address)) is not None)
        dial = Dial(expected, deque(list(usable)[:MAX_ADDRESSES]), settled)
        self._dials.add(dial)
        self._next(dial, now)
        return dial

    def abandon(self, dial: Dial) -> None:
        """Nobody wants it any more; ``settled`` is not called."""
        if dial in self._dials:
            self._close(dial)
            for link in dial.links:
                link.connection.close()
                link.connection.mark_dirty()

    # What the host says.

    def connected(self, attempt: Attempt, remote: bytes, local: bytes, now: float) -> Link | None:
        """Its socket is connected; ``remote``, ``local``: binary multiaddrs of its ends.  None: it is not wanted."""
        dial = attempt.dial
        dial.attempts.discard(attempt)
        if dial not in self._dials:
            return None
        link = self._links.dial(attempt.address, remote, local, now, dial.expected)
        if link is None:
            dial.problem = ("limit", "there are max_connections connections")
            self._next(dial, now)
            return None
        link.dial = dial
        dial.links.add(link)
        return link

    def failed(self, attempt: Attempt, reason: str, now: float) -> None:
        """It could not be connected."""
        dial = attempt.dial
        dial.attempts.discard(attempt)
        if dial in self._dials:
            dial.problem = ("dial", reason)
            self._next(dial, now)

    # What the forwarder says.

    def proved(self, link: Link) -> None:
        """The peer of a dialled connection has proved who it is."""
        dial, link.dial = link.dial, None
        if dial in self._dials:
            dial.links.discard(link)
            self._close(dial)
            for other in dial.links:
                other.connection.close()
                other.connection.mark_dirty()
            dial.settled(link, "", "")

    def lost(self, link: Link, reason: str, now: float) -> None:
        """A connection ended before that."""
        dial, link.dial = link.dial, None
        if dial is None:
            return
        dial.links.discard(link)
        if dial in self._dials:
            error = link.connection.error
            code = "peer" if error is not None and error.code == "wrong-peer" else "dial"
            dial.problem = (code, str(error or reason))
            self._next(dial, now)

    def _next(self, dial: Dial, now: float) -> None:
        if dial.addresses:
            attempt = Attempt(dial, *dial.addresses.popleft())
            dial.attempts.add(attempt)
            self.wanted.append(attempt)
            self._deadlines.set(dial, now + STAGGER, lambda later: self._beside(dial, later))
        elif not dial.attempts and not dial.links:
            self._close(dial)
            dial.settled(None, *dial.problem)

    def _beside(self, dial: Dial, now: float) -> None:
        if dial.addresses:
            self._next(dial, now)

    def _close(self, dial: Dial) -> None:
        self._dials.discard(dial)
        self._deadlines.cancel(dial)
        for attempt in dial.attempts:
            attempt.give_up()
        dial.attempts.clear()
