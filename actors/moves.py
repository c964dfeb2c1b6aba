"""A dialler's connection moves to its target's forwarder, and the circuit is a local one there.

A bridge (actors/bridges.py) costs every byte two copies and a turn more.  So when the dialler's connection carries
nothing yet that binds it to its forwarder, RelayServer proposes a place to move to instead, and the forwarder sends the
connection there: its state as plain data, as in a hand-over (actors/handover.py), and its socket.  The target's
forwarder takes it up with the admission on it, and asks the target as it asks for any circuit of its own.  It costs
what a bridge costs to set up; the bytes cost what they cost on one forwarder.

What RelayServer says of the bridge is said of the move: :class:`~protocol.messages.BridgeExpected`, with the token.  A
connection that cannot be sent stays, and is bridged.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from actors import handover
from actors.extensions import Extension
from actors.handover_state import GroupState
from actors.links import Link
from actors.relay_streams import HopStream
from actors.services import ServiceProposal, ServiceStream
from protocol import messages
from protocol.codec import decode_untrusted
from protocol.connection import State
from protocol.errors import LocalProtocolError
from protocol.handover import VERSION

if TYPE_CHECKING:
    from actors.circuit_forwarder import CircuitForwarder

#: Where a forwarder takes moved connections, in what it reports of its bridges.
MOVES: Final = "/moves/"

#: Bytes of a moved connection's state: one datagram on a unix socket, whose buffers are this large by default.  A
#: connection without circuits has a few hundred.
MAX_STATE: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Move:
    """The host is to send ``link`` to the forwarder at ``address``, or to say that it stays.

    ``admitted``: the circuits that it wants there."""

    link: Link
    address: str
    admitted: list[messages.ConnectAdmitted]

    @property
    def possible(self) -> bool:
        """Whether nothing binds the connection to where it is."""
        return may_move(self.link, {admitted.circuit for admitted in self.admitted})


class MoveState(msgspec.Struct, frozen=True, array_like=True):
    """``clock``: the sender's, now.  ``tokens``: of RelayServer's words of the circuits that it wants."""

    version: int
    clock: float
    tokens: tuple[bytes, ...]
    group: GroupState


def may_move(link: Link, circuits: Collection[int]) -> bool:
    """Nothing binds it: no circuit, no reservation, no stream of a service, and no circuit that is being made but
    ``circuits``."""
    if link.bridge or link.may_hold or link.circuits or link.connection.state is not State.MULTIPLEXED:
        return False
    owners = [stream.owner for stream in link.connection.session.streams.values()]
    if link.dial is not None or any(isinstance(owner, ServiceStream | ServiceProposal | Extension) for owner in owners):
        return False
    admissions = (owner.admission for owner in owners if isinstance(owner, HopStream))
    return all(admission is None or admission.circuit in circuits for admission in admissions)


def release(forwarder: CircuitForwarder, move: Move, now: float) -> MoveState:
    """Take the connection out of ``forwarder``.  Between turns: what it had to write was written."""
    group = handover.release(forwarder, [move.link])
    return MoveState(VERSION, now, tuple(admitted.token for admitted in move.admitted), group)


def take_back(forwarder: CircuitForwarder, state: MoveState, now: float) -> Link:
    """It could not be sent."""
    return handover.adopt(forwarder, state.group, now, static=forwarder.static, shift=now - state.clock)[0]


def decode(data: bytes) -> MoveState:
    """CodecError, LocalProtocolError when it comes from another version of this program."""
    state = decode_untrusted(data, MoveState, MAX_STATE)
    if state.version != VERSION:
        raise LocalProtocolError(f"a connection of version {state.version}, this is {VERSION}")
    return state
