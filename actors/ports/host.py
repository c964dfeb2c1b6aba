"""The sockets of one forwarder: accept, receive into the arena, write from it.

Sockets are non-blocking and watched with the loop's ``add_reader`` and ``add_writer``; there is no transport between
them and the arena, so nothing is queued where it is neither seen nor bounded, and a connection is at every moment
plain data and a file descriptor.

A turn is: something became readable (or a message or a deadline came); the forwarder acts; credit is settled; what is
to be written is written, straight from the arena; what a socket does not take is copied to that socket's backlog, and
until it drains the senders whose bytes go there get no more credit.

Cost of a turn that moves bytes: two system calls and about 10 us beside the ciphers (tests/benchmarks).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from actors.actor import Send
from actors.circuit_forwarder import CircuitForwarder
from actors.links import Link
from actors.ports.backlog import Backlog, send_views, worst
from actors.ports.endpoint import Endpoint, HostPolicy
from actors.ports.extension_sockets import ExtensionSockets
from actors.ports.fairness import Fairness
from actors.ports.neighbours import Neighbours
from actors.ports.open_files import raise_open_files
from actors.ports.outgoing import Outgoing
from protocol.addresses import encode_tcp
from protocol.connection import Connection, State

log = logging.getLogger(__name__)

#: A backlog up to this size is ordinary scheduling; above it the receiver is slower than its senders.
LOW_WATER: Final = 64 * 1024

#: Connections taken in one turn, so that a burst of arrivals does not hold up traffic.
ACCEPT_BATCH: Final = 32

#: Pause after the system refused to give another file descriptor.
ACCEPT_PAUSE: Final = 1.0

#: Seconds that a closed connection has to take its last bytes.
CLOSE_GRACE: Final = 2.0

#: Seconds after which sockets that were read are read once more.  uvloop (libuv's uv_poll) ends its watch on a socket
#: whose poll reports an error, and says so by calling the reader once: if data came with the error that call reads the
#: data, and the error would never be seen.
SECOND_LOOK: Final = 0.2

_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Host:
    """Runs a forwarder on real sockets.

    ``post``: hands a message to its receiver.  ``wake``: the forwarder's deadlines may have changed.  ``now``: the
    runtime's clock.
    """

    def __init__(
        self,
        policy: HostPolicy,
        *,
        post: Callable[[Send], None],
        wake: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._post = post
        self._wake = wake
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._forwarder: CircuitForwarder | None = None
        self._endpoints: dict[Connection, Endpoint] = {}
        #: Listening sockets, each with what is called when a connection waits.
        self.listeners: dict[socket.socket, Callable[[socket.socket], None]] = {}
        self._max_connections = raise_open_files() - policy.reserved_files
        self._backlog_total = 0
        self._read_lately: set[Endpoint] = set()
        self._empty: asyncio.Event | None = None
        rate = policy.frame_rate_per_ip
        self._fairness = Fairness(self, self._loop, rate) if rate else None
        self.neighbours = Neighbours(self)
        self._outgoing = Outgoing(self)
        self._extensions = ExtensionSockets(self)

    @property
    def full(self) -> bool:
        """Whether there are no more files for connections."""
        return len(self._endpoints) + self._extensions.files >= self._max_connections

    def has(self, endpoint: Endpoint) -> bool:
        """Whether its socket is read and written here."""
        return self._endpoints.get(endpoint.connection) is endpoint

    # Life.

    def attach(self, forwarder: CircuitForwarder) -> None:
        """Run ``forwarder``, in place of one that failed: that one's connections are closed, for nobody owns them."""
        for endpoint in list(self._endpoints.values()):
            self._close_socket(endpoint)
        self._extensions.close()
        self._forwarder = forwarder

    def listen(self, address: str, port: int, *, reuse_port: bool = False) -> tuple[str, int]:
        """Listen on an IP address and TCP port (0: any); returns what was bound.  OSError when it cannot be had."""
        sock = self.bind(address, port, reuse_port=reuse_port)
        self.take_listener(sock)
        bound = sock.getsockname()
        return bound[0], bound[1]

    def bind(self, address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
        """A listening socket, of which nothing is accepted yet; OSError."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # /ip4 and /ip6 are asked for one by one, so [::] must not take the IPv4 port too.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen(self._policy.listen_backlog)
        except OSError:
            sock.close()
            raise
        return sock

    def take_listener(self, sock: socket.socket, *, accept: bool = True) -> None:
        """Accept peers' connections at ``sock``, which is the host's from now on; or later, when it is told to."""
        self.listeners[sock] = self._acceptable
        if accept:
            self._loop.add_reader(sock, self._acceptable, sock)

    async def close(self, grace: float) -> None:
        """Accept no more, say good-bye to every peer, and end within ``grace`` seconds."""
        self._close_listeners()
        forwarder = self._forwarder
        if forwarder is None:
            return
        forwarder.close_all()
        self.end_turn()
        self._empty = asyncio.Event()
        if self._endpoints:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)
        for endpoint in list(self._endpoints.values()):
            self._close_socket(endpoint)

    def abandon(self) -> None:
        """Close every socket at once: the forwarder fell, and another process takes its place."""
        self._close_listeners()
        self._forwarder = None
        for endpoint in list(self._endpoints.values()):
            self._close_socket(endpoint)

    def _close_listeners(self) -> None:
        self.neighbours.close()
        self._outgoing.close()
        self._extensions.close()
        for sock in list(self.listeners):
            self.close_listener(sock)

    def close_listener(self, sock: socket.socket) -> None:
        """Accept no more there."""
        del self.listeners[sock]
        self._loop.remove_reader(sock)
        if sock.family == socket.AF_UNIX:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(sock.getsockname())
        sock.close()

    # Turns.

    def end_turn(self) -> None:
        """Settle credit, write what is to be written, post what is to be sent.  After every turn of the forwarder."""
        forwarder = self._forwarder
        if forwarder is None:
            return
        arena = forwarder.arena
        while True:
            for dial in forwarder.take_dials():
                self.neighbours.dial(forwarder, dial)
            for attempt in forwarder.take_attempts():
                self._outgoing.connect(attempt)
            for extension in forwarder.services.extensions.take():
                self._extensions.connect(extension)
            dirty, arena.dirty = arena.dirty, []
            for connection in dirty:
                endpoint = self._endpoints.get(connection)
                if endpoint is None:
                    connection.take_output()
                    continue
                try:
                    self._write(endpoint)
                except Exception:
                    # A fault of ours must not leave the others' bytes unwritten.
                    log.exception("a connection is closed because writing to it failed")
                    self._lost_later(endpoint, "internal error")
            # Credit is given when bytes have left: only then is it known whose socket is full.
            forwarder.settle()
            if arena.dirty:
                continue
            arena.reset()
            if not forwarder.has_moves:
                break
            self.neighbours.move(forwarder)
        for send in forwarder.take_sends():
            self._post(send)

    def _acceptable(self, listener: socket.socket) -> None:
        forwarder = self._forwarder
        if forwarder is None:
            return
        for _ in range(ACCEPT_BATCH):
            try:
                sock, remote = listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause_accepting(listener, error)
                    break
                continue  # the connection went away before it was accepted
            self._accept(forwarder, sock, remote)
        self.end_turn()
        self._wake()

    def accept_from(self, listener: socket.socket) -> socket.socket | None:
        """The next connection of another forwarder; None when there is none now, or no file for it: then it waits."""
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self._pause_accepting(listener, error)
            return None
        sock.setblocking(False)
        return sock

    def give_up(self, link: Link) -> socket.socket | None:
        """The socket of ``link``, which is no longer ours; None when it is not to be had now: there is something to be
        written to it, or it is closing."""
        endpoint = self._endpoints.get(link.connection)
        if endpoint is None or endpoint.closing or endpoint.backlog is not None:
            return None
        del self._endpoints[link.connection]
        self._loop.remove_reader(endpoint.descriptor)
        return endpoint.sock

    def _pause_accepting(self, listener: socket.socket, error: OSError) -> None:
        log.error("cannot accept: %s; pausing %g s (raise the limit of open files)", error, ACCEPT_PAUSE)
        self._loop.remove_reader(listener)
        self._loop.call_later(ACCEPT_PAUSE, self._accept_again, listener)

    def _accept_again(self, listener: socket.socket) -> None:
        accept = self.listeners.get(listener)
        if accept is not None:
            self._loop.add_reader(listener, accept, listener)

    def _accept(self, forwarder: CircuitForwarder, sock: socket.socket, remote: tuple[str, int]) -> None:
        now = self._now()
        address, port = remote[0].partition("%")[0], remote[1]
        if self.full:
            refused = "open_files"
            forwarder.refusals[refused] += 1
        else:
            refused = forwarder.admit(address, now)
        if refused:
            # Reset instead of closing in order, so that a flood leaves no socket waiting in the kernel.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sock.close()
            log.debug("connection refused: %s", refused)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = sock.getsockname()
        link = forwarder.accept(
            address,
            encode_tcp(ipaddress.ip_address(address), port),
            encode_tcp(ipaddress.ip_address(local[0].partition("%")[0]), local[1]),
            now,
        )
        self.take(sock, link)

    def take(self, sock: socket.socket, link: Link) -> Endpoint:
        """Read from ``sock``, and write to it, for ``link``."""
        endpoint = Endpoint(sock, link)
        self._endpoints[link.connection] = endpoint
        self._loop.add_reader(sock, self._readable, endpoint)
        return endpoint

    def _readable(self, endpoint: Endpoint) -> None:
        connection = endpoint.connection
        forwarder = self._forwarder
        if forwarder is None or connection.state is State.CLOSED:
            self._discard(endpoint)
            return
        buffer = connection.receive_buffer()
        try:
            size = endpoint.sock.recv_into(buffer[: endpoint.receive_size] if endpoint.receive_size else buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(endpoint, f"connection lost: {error.strerror}")
            return
        if size == 0:
            connection.receive_eof()
            self._lost(endpoint, "connection closed by the peer")
            return
        if not self._read_lately:
            self._loop.call_later(SECOND_LOOK, self._look_again)
        self._read_lately.add(endpoint)
        now = self._now()
        try:
            connection.buffer_filled(size, now)
            if connection.session.events or connection.events or connection.error or forwarder.switch.ended:
                forwarder.received(endpoint.link, now)
                self._wake()
            self.end_turn()
            if connection.session.dear:
                self._account(endpoint, now)
        except Exception:
            # A fault of ours, met by what this peer sent: it must cost this connection and no other.
            log.exception("a connection is closed because handling its bytes failed")
            self._lost(endpoint, "internal error")

    def _account(self, endpoint: Endpoint, now: float) -> None:
        session = endpoint.connection.session
        frames, session.dear = session.dear, 0
        if self._fairness is not None and not endpoint.link.bridge:
            self._fairness.spent(endpoint, frames, now)

    def _look_again(self) -> None:
        """Read what was read lately; nearly always there is nothing (about 1 us), and an error is found late at worst.

        A socket that still has data is looked at again, by the set that its reading begins.
        """
        lately, self._read_lately = self._read_lately, set()
        for endpoint in lately:
            if self.has(endpoint) and not endpoint.paused:
                self._readable(endpoint)

    def _discard(self, endpoint: Endpoint) -> None:
        """A closed connection is read only to see its end."""
        try:
            if endpoint.sock.recv(65536):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._lost(endpoint, "closed")

    def _write(self, endpoint: Endpoint) -> None:
        connection = endpoint.connection
        views = connection.take_output()
        if endpoint.backlog is None:
            try:
                views = send_views(endpoint.sock, views)
            except OSError as error:
                self._lost_later(endpoint, f"connection lost: {error.strerror}")
                return
        if views:
            # The arena is needed for the next turn.
            self.keep(endpoint, views)
        if connection.state is State.CLOSED:
            self._close_when_written(endpoint)

    def keep(self, endpoint: Endpoint, views: Sequence[memoryview | bytes]) -> None:
        """Write ``views``, or nothing but what is kept already, once the socket takes more."""
        backlog, policy = endpoint.backlog, self._policy
        if backlog is None:
            backlog = endpoint.backlog = Backlog(self._now())
            self._loop.add_writer(endpoint.descriptor, self._writable, endpoint)
            self._loop.call_later(policy.write_timeout, self._look_at_backlog, endpoint, backlog)
        self._backlog_total += backlog.keep(views)
        endpoint.connection.blocked = backlog.size > LOW_WATER
        if backlog.size > policy.max_backlog:
            self._lost_later(endpoint, f"the peer left {backlog.size} bytes unread (max_backlog)")
        if self._backlog_total > policy.max_backlog_total:
            self._lost_later(worst(self._endpoints.values()), "the peer left most bytes unread (max_backlog_total)")

    def _look_at_backlog(self, endpoint: Endpoint, backlog: Backlog) -> None:
        """A peer that takes nothing holds what is kept for it as long as it likes: its pings say that it lives."""
        if endpoint.backlog is not backlog:
            return
        left = backlog.moved_at + self._policy.write_timeout - self._now()
        if left > 0:
            self._loop.call_later(left, self._look_at_backlog, endpoint, backlog)
        else:
            self._lost(endpoint, f"the peer took none of {backlog.size} bytes (write_timeout)")

    def _writable(self, endpoint: Endpoint) -> None:
        backlog = endpoint.backlog
        assert backlog is not None
        try:
            self._backlog_total -= backlog.send(endpoint.sock, self._now())
        except OSError as error:
            self._lost(endpoint, f"connection lost: {error.strerror}")
            return
        connection = endpoint.connection
        if not backlog.size:
            endpoint.backlog = None
            self._loop.remove_writer(endpoint.descriptor)
            if connection.state is State.CLOSED:
                self._close_when_written(endpoint)
                return
        if connection.blocked and backlog.size <= LOW_WATER:
            connection.blocked = False
            if self._forwarder is not None:
                self._forwarder.drained(endpoint.link)
            self._wake()
            self.end_turn()

    # Ends.

    def _close_when_written(self, endpoint: Endpoint) -> None:
        """The connection is over for us.  Its last bytes leave, then the socket is closed."""
        if not endpoint.closing:
            endpoint.closing = True
            if self._forwarder is not None:
                self._forwarder.lost(endpoint.link, "connection closed", self._now())
            self._loop.call_later(CLOSE_GRACE, self._close_socket, endpoint)
        if endpoint.backlog is None and not endpoint.finished:
            endpoint.finished = True
            try:
                # Closing now would reset the connection if the peer is still sending, and our last words with it.
                endpoint.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._close_socket(endpoint)

    def _lost_later(self, endpoint: Endpoint, reason: str) -> None:
        """As :meth:`_lost`, but not from within the turn that found it out: others may be writing."""
        endpoint.connection.state = State.CLOSED
        self._loop.call_soon(self._lost, endpoint, reason)

    def _lost(self, endpoint: Endpoint, reason: str) -> None:
        if self._endpoints.get(endpoint.connection) is not endpoint:
            return
        self._close_socket(endpoint)
        if self._forwarder is not None and not endpoint.closing:
            self._forwarder.lost(endpoint.link, reason, self._now())
            self._wake()
        self.end_turn()

    def _close_socket(self, endpoint: Endpoint) -> None:
        if self._endpoints.pop(endpoint.connection, None) is None:
            return
        self._loop.remove_reader(endpoint.descriptor)
        if endpoint.backlog is not None:
            self._loop.remove_writer(endpoint.descriptor)
            self._backlog_total -= endpoint.backlog.size
            endpoint.backlog = None
        endpoint.connection.state = State.CLOSED
        endpoint.sock.close()
        if self._empty is not None and not self._endpoints:
            self._empty.set()


def random_bytes(size: int) -> bytes:
    return os.urandom(size)
