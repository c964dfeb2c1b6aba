"""A connection between two forwarders of one host: yamux frames on a unix socket, without negotiation or Noise.

It has the face of a :class:`~protocol.connection.Connection`, so that the switch joins a circuit to it as to any other,
with its credit, half-close and reset.  Who may connect is the affair of the socket's folder and of the token that
comes first (actors/bridges.py).

Bytes are received where opened ones would lie, and leave from there: nothing is copied but what a full socket leaves
over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arena import HEADROOM, Arena
from protocol.connection import Connection, ConnectionLimits, State

if TYPE_CHECKING:
    from protocol.switching import Switch


class Unsealed:
    """Takes the place of a :class:`protocol.noise.Sealer`."""

    __slots__ = ()

    def seal(self, arena: Arena, plain: memoryview) -> tuple[memoryview, int, int]:
        """``plain`` as it is: what lies in the arena stays there until the turn's bytes are written, anything else is
        copied."""
        if plain.obj is not arena.plain:
            plain = memoryview(bytes(plain))
        return plain, 0, len(plain)


class PlainConnection(Connection):
    """See the module.  ``initiator``: we connected to the other forwarder."""

    __slots__ = ()

    def __init__(self, switch: Switch, now: float, *, initiator: bool, limits: ConnectionLimits) -> None:
        self._prepare(switch, now, initiator=initiator, limits=limits)
        self._sealer = Unsealed()
        self.state = State.MULTIPLEXED

    def receive_buffer(self) -> memoryview:
        return self.arena.plain_view[HEADROOM:]

    def _receive_frames(self, end: int) -> None:
        self.switch.forward(self.session, HEADROOM, HEADROOM + end)
