"""What a node with a bandwidth cap may relay: quota, a byte for a byte.

Quota comes from outside, to each forwarder its part (actors/bandwidth.py).  Here it is spent, on payload of circuits,
each byte once, as it is passed on.

A peer may send 256 KiB on a new stream whatever we say (yamux, "Flow Control"), so a cap cannot be held by credit
alone: what comes without quota is held, at the end of ``out.held``, and leaves when quota is there.  While anything is
held its sender gets no credit for it, so that no more than a window is held for each direction of a circuit, and a
circuit under a cap slows down as one does whose receiver is slow.

Of the quota that is left when nobody waits, a stream gets a little ahead (``stream.budget``), and while it has that its
frames pass without coming here.  What streams have ahead is still unspent: :meth:`Meter.collect` takes it back.

Those that wait share what comes by the weights of their circuits, and what one does not need goes to the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from protocol.yamux import INITIAL_WINDOW, Stream

if TYPE_CHECKING:
    from protocol.switching import Circuit

#: Most bytes that a stream gets ahead: a few large frames, so that one in some passes through here.
AHEAD: Final = 256 * 1024

#: Of the quota that is left a stream gets at most this part ahead: the next stream finds some too.
AHEAD_SHARE: Final = 8

#: Bytes that a stream is given at least when several wait: less would be all headers.
QUANTUM: Final = 1024

#: Bytes held in all at which the circuit that most is held for ends: what a flood may cost.  New circuits are refused
#: long before, so it takes 128 that were quiet and send all that they may at once.
MOST_OWED: Final = 64 * 1024 * 1024

#: Seconds of the node's rate that one circuit's window covers: no circuit is faster than the node, nor are many round
#: trips longer.
ROUND_TRIP: Final = 0.25


def window(rate: float, most: int) -> int:
    """Bytes that a sender may have under way on a circuit, at ``rate`` bytes a second of the whole node: not less than
    it may send unasked."""
    return min(most, max(INITIAL_WINDOW, int(rate * ROUND_TRIP)))


class Meter:
    """The quota of one forwarder.

    ``on``: there is a cap.  ``tokens``: bytes that may pass; below 0 when bytes came that were thrown away, for they
    count too.  ``owed``: bytes that are held.  ``waiting``: the streams that they are for, in the order of their turns.
    ``hungry``: there should be more quota; ``low``: below so many tokens there should.
    """

    __slots__ = ("_prepaid", "hungry", "low", "on", "owed", "tokens", "waiting")

    def __init__(self) -> None:
        self.on = False
        self.tokens = 0
        self.owed = 0
        self.waiting: dict[Stream, None] = {}
        self.hungry = False
        self.low = 0
        self._prepaid: set[Stream] = set()

    # Circuits.

    def join(self, circuit: Circuit) -> None:
        """A circuit begins, or goes on here.  One that another forwarder brings (its number is negative) is that
        one's to pay for."""
        if circuit.id <= 0:
            return
        for stream, out in _directions(circuit):
            if self.on:
                stream.beyond += stream.budget
                stream.budget = 0
            if out.owed:
                # It comes with what was held for it, and that goes first, cap or none.
                self.owed += 0 if out in self.waiting else out.owed
                self.waiting[out] = None
                self.hungry = True
            elif not self.on:
                stream.budget += stream.beyond
                stream.beyond = 0

    def leave(self, circuit: Circuit) -> None:
        """It has ended.  What was held and never passed on is paid for: it came over the owner's line."""
        for stream, out in _directions(circuit):
            self._take_back(stream)
            if out.owed:
                self.tokens -= out.owed
                stream.beyond += out.owed
                self._forget(out)
                out.owed = 0
                self.hungry = self.hungry or self.tokens < 0

    def let_go(self, circuit: Circuit) -> None:
        """It goes on in another process, with what is held."""
        for stream, out in _directions(circuit):
            self._take_back(stream)
            self._forget(out)

    def start(self, circuits: Iterable[Circuit]) -> None:
        """There is a cap now, and no quota yet."""
        self.on = True
        self.tokens = self.low = 0
        for circuit in circuits:
            self.join(circuit)

    def stop(self, circuits: Iterable[Circuit]) -> None:
        """There is no cap any more: the next :meth:`share_out` pays for all that waits."""
        self.on = False
        self._prepaid.clear()
        for circuit in circuits:
            self.join(circuit)

    # Bytes.

    def pay(self, stream: Stream, size: int) -> None:
        """``size`` bytes came from ``stream``, more than its budget: raise that as far as quota is there."""
        if not self.on:
            if not self.waiting:
                stream.budget += stream.beyond
                stream.beyond = 0
            return
        tokens = self.tokens
        if tokens > 0 and not self.waiting:
            ahead = min(tokens // AHEAD_SHARE, AHEAD)
            amount = min(size - stream.budget + ahead, tokens, stream.beyond)
            stream.budget += amount
            stream.beyond -= amount
            self.tokens = tokens - amount
            self._prepaid.add(stream)
        if self.tokens < self.low:
            self.hungry = True

    def owe(self, stream: Stream, out: Stream, data: memoryview) -> None:
        """Hold ``data`` from ``stream``, within its limit, until there is quota for it."""
        if out.held is None:
            out.held = bytearray()
        out.held += data
        stream.beyond -= len(data)
        out.owed += len(data)
        self.owed += len(data)
        self.waiting[out] = None
        self.hungry = True

    def share_out(self, amount: int) -> list[Stream]:
        """There is quota for ``amount`` bytes more.  The streams of whose held bytes some are paid for, each once."""
        paid: dict[Stream, None] = {}
        self.tokens += amount
        weight = 0  # of those whose turn is still to come; each has one before anybody has a second
        while self.waiting and (self.tokens > 0 or not self.on):
            out = next(iter(self.waiting))
            size = out.owed
            if self.on:
                own = _weight(out)
                weight = weight or self.weight()
                share = max(self.tokens * own // weight, QUANTUM * own)
                size = min(size, share, self.tokens)
                self.tokens -= size
                weight -= own
            del self.waiting[out]
            out.owed -= size
            self.owed -= size
            if out.owed:
                self.waiting[out] = None
            paid[out] = None
        if not self.on:
            self.tokens = 0
        return list(paid)

    def weight(self) -> int:
        """Of those that wait, together."""
        return sum(map(_weight, self.waiting))

    def collect(self) -> int:
        """Take back what streams have ahead; the quota that is not spent."""
        for stream in list(self._prepaid):
            self._take_back(stream)
        return self.tokens

    def forfeit(self) -> None:
        """Whoever gave the quota is gone: what is left of it counts as spent."""
        self.tokens = min(self.collect(), 0)
        self.hungry = bool(self.waiting) or self.tokens < 0

    def worst(self) -> Circuit:
        """The circuit for which most is held in one direction; there is one when something is held."""
        circuit = max(self.waiting, key=lambda out: out.owed).circuit
        assert circuit is not None
        return circuit

    def _take_back(self, stream: Stream) -> None:
        if stream in self._prepaid:
            self._prepaid.discard(stream)
            self.tokens += stream.budget
            stream.beyond += stream.budget
            stream.budget = 0

    def _forget(self, out: Stream) -> None:
        if out in self.waiting:
            del self.waiting[out]
            self.owed -= out.owed


def _weight(out: Stream) -> int:
    return out.circuit.weight if out.circuit is not None else 1


def _directions(circuit: Circuit) -> tuple[tuple[Stream, Stream], tuple[Stream, Stream]]:
    return (circuit.source, circuit.target), (circuit.target, circuit.source)
