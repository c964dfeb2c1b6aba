"""RelayServer's part in whom it serves first: of which class a peer is, and what is left for it.

A peer is *trusted* when this relay's owner lists it, and an *operator* while RelayDirectory knows it as a working
relay, tried of late; else it is of the *public*.  A circuit has the better class of its two ends.  What a class is
given when the relay is full is in actors/shares.py; a class that nobody is of has nothing kept for it.  Operators
share their circuits by standing (actors/operator_shares.py): beyond its part an operator is one of the public.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from actors.admission import Asked, Refusal, refused
from actors.operator_shares import OperatorShares
from actors.shares import CEILING, OPERATOR, PUBLIC, TRUSTED, Shares, best
from protocol import messages
from protocol.discovery_messages import ClassTold

#: Operators that are remembered.  Each costs some 200 bytes; a network has no more relays that one node has tried.
MAX_OPERATORS: Final = 4096


class Standing:
    """``trusted``: ids of peers.  ``reservations``, ``circuits``: slots in all.  ``now``: of what is told without a
    time."""

    def __init__(self, trusted: Collection[bytes], reservations: int, circuits: int) -> None:
        self.now = 0.0
        expected = (PUBLIC, TRUSTED) if trusted else (PUBLIC,)
        self.reservations = Shares(reservations, expected)
        self.circuits = Shares(circuits, expected)
        self._trusted = frozenset(trusted)
        self._operators: dict[bytes, ClassTold] = {}
        self._reserved: dict[bytes, str] = {}
        self._operator_shares = OperatorShares(0)
        #: Of each circuit its class, and the operator whose part it is of.
        self._circuits: dict[int, tuple[str, bytes | None]] = {}

    def class_of(self, peer: bytes, now: float) -> str:
        told = self._operators.get(peer)
        if told is not None and told.until > now:
            return OPERATOR
        return TRUSTED if peer in self._trusted else PUBLIC

    def told(self, message: ClassTold, now: float) -> None:
        """A peer is an operator until then, or no longer; what it holds counts for its class from now on."""
        if message.until > now:
            if message.peer not in self._operators and len(self._operators) >= MAX_OPERATORS:
                del self._operators[min(self._operators, key=lambda peer: self._operators[peer].until)]
            self._operators[message.peer] = message
            self.reservations.expect(OPERATOR)
            self.circuits.expect(OPERATOR)
        else:
            self._operators.pop(message.peer, None)
        before = self._reserved.get(message.peer)
        if before is not None and (after := self.class_of(message.peer, now)) != before:
            self.reservations.left(before)
            self.reservations.came(after)
            self._reserved[message.peer] = after

    def refusal(self, asked: Asked, retry_after: int, now: float) -> Refusal | None:
        """Why there is no slot for ``asked`` although there are free ones; None: there is one."""
        if isinstance(asked, messages.ReserveAsked):
            if asked.peer in self._reserved or self.reservations.admits(self.class_of(asked.peer, now), now):
                return None
        elif self.circuits.admits(self._circuit_class(asked.source, asked.target, now)[0], now):
            return None
        reason = "what is free is kept for those who relay for others"
        return refused(asked, "reserved_slots", reason, retry_after)

    def _circuit_class(self, source: bytes, target: bytes, now: float) -> tuple[str, bytes | None]:
        """And the operator whose part it is of."""
        self._operator_shares.slots = int(CEILING[OPERATOR] * self.circuits.limit)
        name = PUBLIC
        for peer in (source, target):
            told = self._operators.get(peer)
            if told is not None and told.until > now:
                operator = told.operator or peer
                if self._operator_shares.asked(operator, told.standing, now):
                    return OPERATOR, operator
            name = best(name, TRUSTED if peer in self._trusted else PUBLIC)
        return name, None

    # What is held.

    def peer_reserved(self, peer: bytes, now: float) -> None:
        """It has a reservation, its first or another."""
        name, before = self.class_of(peer, now), self._reserved.get(peer)
        if name == before:
            return
        if before is not None:  # it is asked for again, and is of another class by now
            self.reservations.left(before)
        self._reserved[peer] = name
        self.reservations.came(name)

    def peer_left(self, peer: bytes) -> None:
        """Its last reservation has ended."""
        if (name := self._reserved.pop(peer, None)) is not None:
            self.reservations.left(name)

    def circuit_began(self, number: int, source: bytes, target: bytes, now: float) -> None:
        self._circuits[number] = name, operator = self._circuit_class(source, target, now)
        self.circuits.came(name)
        if operator is not None:
            self._operator_shares.came(operator, now)

    def class_of_circuit(self, number: int) -> str:
        """As which it was admitted."""
        return self._circuits[number][0] if number in self._circuits else PUBLIC

    def circuit_ended(self, number: int) -> None:
        name, operator = self._circuits.pop(number, ("", None))
        if name:
            self.circuits.left(name)
        if operator is not None:
            self._operator_shares.left(operator, self.now)
