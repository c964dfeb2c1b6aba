"""A host's part in what goes on between forwarders: bridges (actors/bridges.py) and moves (actors/moves.py).

The host's own (actors/ports/host.py), in a file of their own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from actors import moves
from actors.bridges import Dial
from actors.circuit_forwarder import CircuitForwarder
from actors.ports import bridge_sockets, move_sockets
from protocol.codec import CodecError
from protocol.connection import State
from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from actors.ports.host import Host

log = logging.getLogger(__name__)

#: Bridges, or connections that move, taken in one turn, so that many that come do not hold up traffic: each costs
#: about 0.2 ms.
BATCH: Final = 16

#: Seconds for which a forwarder hears what was meant for its predecessor.  Whoever was told of that one connects, or
#: sends, as soon as it is told.
KNOWN_WITHIN: Final = 10.0


class Neighbours:
    """The other forwarders of a host's node.  ``moved_out``, ``moved_in``: connections that left and came."""

    __slots__ = ("_host", "_movers", "moved_in", "moved_out", "senders")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._movers = move_sockets.Movers()
        #: Other forwarders, that may send connections.
        self.senders: set[socket.socket] = set()
        self.moved_out = 0
        self.moved_in = 0

    def listen(self, listener: socket.socket) -> None:
        """Take bridges at ``listener``, or connections that move (ports/bridge_sockets.py, ports/move_sockets.py); it
        is the host's from now on."""
        taken = self._mover_comes if move_sockets.takes(listener) else self._bridge_comes
        self._host.listeners[listener] = taken
        self._host._loop.add_reader(listener, taken, listener)

    # Handing over (ports/handover.py): what others were told of the old one reaches the new one.

    def quiet(self) -> bool:
        """Hear no more of those that send connections; True: some had come, and are here now."""
        before = self.moved_in
        for sender in self.senders:
            self._host._loop.remove_reader(sender)
        for sender in list(self.senders):
            while self._take_next(sender):
                pass
        return self.moved_in > before

    def go_on(self) -> None:
        """Nothing came of it."""
        for sender in self.senders:
            self._host._loop.add_reader(sender, self._move_comes, sender)

    def inherit(self, senders: Iterable[socket.socket]) -> None:
        """Hear those that send connections to our predecessor, until they know of us."""
        loop = self._host._loop
        for sender in senders:
            sender.setblocking(False)
            self.senders.add(sender)
            loop.add_reader(sender, self._move_comes, sender)
            loop.call_later(KNOWN_WITHIN, self._last_call, sender)

    def _last_call(self, sender: socket.socket) -> None:
        """What it has sent is read, and then the end."""
        if sender in self.senders:
            with contextlib.suppress(OSError):
                sender.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._movers.close()
        for sender in self.senders:
            self._host._loop.remove_reader(sender)
            sender.close()
        self.senders.clear()

    # Bridges.

    def _bridge_comes(self, listener: socket.socket) -> None:
        host, forwarder = self._host, self._host._forwarder
        if forwarder is None:
            return
        for _ in range(BATCH):
            sock = host.accept_from(listener)
            if sock is None:
                break
            bridge_sockets.prepare(sock)
            host.take(sock, forwarder.accept_bridge(host._now(), plain=sock.family == socket.AF_UNIX))
        host.end_turn()
        host._wake()

    def dial(self, forwarder: CircuitForwarder, dial: Dial) -> None:
        """Connect a bridge; if it cannot be, its link is lost."""
        host, link = self._host, dial.link
        if link.connection.state is State.CLOSED:
            forwarder.lost(link, "given up before it was connected", host._now())
            return
        try:
            if host.full:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            sock = bridge_sockets.connect(dial.address)
        except OSError as error:
            log.warning("no bridge to another forwarder: %s", error.strerror or error)
            forwarder.lost(link, "the other forwarder cannot be reached", host._now())
            return
        endpoint = host.take(sock, link)
        if sock.family != socket.AF_UNIX:
            # Nothing is written before it is connected, which is when it is writable.
            host.keep(endpoint, ())

    # Moves.

    def move(self, forwarder: CircuitForwarder) -> None:
        """Send what is to move; what cannot be sent stays.  Between turns: what is to be written was written."""
        host = self._host
        now = host._now()
        for move in forwarder.take_moves(now):
            sock = host.give_up(move.link)
            if sock is None:
                forwarder.stays(move, now)
                continue
            state = forwarder.move_out(move, now)
            if self._movers.send(move.address, msgspec.msgpack.encode(state), sock.fileno()):
                self.moved_out += 1
                sock.close()  # the other forwarder has a descriptor of its own
            else:
                host.take(sock, forwarder.stays(move, now, state))

    def _mover_comes(self, listener: socket.socket) -> None:
        sender = self._host.accept_from(listener)
        if sender is not None:
            self.senders.add(sender)
            self._host._loop.add_reader(sender, self._move_comes, sender)

    def _move_comes(self, sender: socket.socket) -> None:
        for _ in range(BATCH):
            if not self._take_next(sender):
                break
        self._host.end_turn()
        self._host._wake()

    def _take_next(self, sender: socket.socket) -> bool:
        """False: there is no more now."""
        try:
            came = move_sockets.receive(sender)
        except EOFError:
            self._host._loop.remove_reader(sender)
            self.senders.discard(sender)
            sender.close()
            return False
        except OSError as error:
            log.error("a connection that moved here is lost: %s (raise the limit of open files)", error)
            return True
        if came is not None:
            self._take(*came)
        return came is not None

    def _take(self, data: bytes, sock: socket.socket) -> None:
        host, forwarder = self._host, self._host._forwarder
        try:
            if forwarder is None:
                raise LocalProtocolError("there is no forwarder for it")
            link = forwarder.move_in(moves.decode(data), host._now())
        except (CodecError, LocalProtocolError) as error:
            # Closing it tells the peer, which comes again.
            log.error("a connection that moved here is closed: %s", error)
            sock.close()
            return
        self.moved_in += 1
        sock.setblocking(False)
        host.take(sock, link)
