"""A client's sockets (actors/ports/client.py): what carries a connection that is not within another."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, cast

from actors.peer_link import PeerLink
from actors.ports.connections import reason_of
from protocol.addresses import encode_tcp

if TYPE_CHECKING:
    from actors.ports.client import Client
    from protocol.identity import PeerId

log = logging.getLogger(__name__)

#: Into which is read what nobody will.
_NOWHERE: Final = memoryview(bytearray(64))


class Refused(asyncio.Protocol):
    """One connection too many: it is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


class Socket(asyncio.BufferedProtocol):
    """The wire of one connection that is not within another.  ``inbound``: the peer opened it, or both did and it is
    the client of the two."""

    def __init__(self, client: Client, expected: PeerId | None, *, inbound: bool = False) -> None:
        self._client = client
        self._inbound = inbound
        self._expected = expected
        self._transport: asyncio.Transport | None = None
        self.local_port = 0
        self.family = socket.AF_INET
        #: None: the peer was gone before we knew that it was there.
        self.link: PeerLink | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if not peer or not here:  # reset already: the system does not say any more who it was
            self.abort()
            return
        self._client.socket_opened(self)
        self.family, self.local_port = transport.get_extra_info("socket").family, here[1]
        observed = b""
        if self._client.observes:
            host, port, *_ = peer
            observed = encode_tcp(plain(host), port)
        self.link = self._client.core.attach(
            self, self._expected, self._client.now(), observed=observed, inbound=self._inbound
        )
        self._client.turn()

    def get_buffer(self, sizehint: int) -> memoryview:
        # The arena's, as every connection's: it is filled and read before anything else happens.
        return _NOWHERE if self.link is None else self.link.connection.receive_buffer()

    def buffer_updated(self, size: int) -> None:
        client = self._client
        if self.link is None:
            return
        try:
            client.core.filled(self.link, size, client.now())
        except Exception:
            # A fault of ours, met by what this peer sent: it must cost this connection and no other.
            log.exception("a connection is closed because handling its bytes failed")
            client.core.close(self.link, client.now())
        client.turn()

    def pause_writing(self) -> None:
        if self.link is not None:
            self.link.connection.blocked = True

    def resume_writing(self) -> None:
        if self.link is None:
            return
        self.link.connection.blocked = False
        self._client.core.drained(self.link)
        self._client.turn()

    def connection_lost(self, error: Exception | None) -> None:
        if self.link is None:
            return
        reason = f"connection lost: {reason_of(error)}" if error is not None else "the peer closed the connection"
        self._client.core.lost(self.link, reason, self._client.now())
        self._client.socket_closed(self)
        self._client.turn()

    # Wire.

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


#: Who a connection from an IP and a port must prove to be, and whether it is the client of the two; None: nobody.
Awaited = Callable[[IPv4Address | IPv6Address, int], "tuple[PeerId, bool] | None"]


class Crossed(Socket):
    """A dial of a peer's that came before ours, while both were dialling.  Whoever else comes is told nothing."""

    def __init__(self, client: Client, awaited: Awaited) -> None:
        super().__init__(client, None)
        self._awaited = awaited

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        found = self._awaited(plain(peer[0]), peer[1]) if peer else None
        if found is None:
            cast(asyncio.Transport, transport).abort()
            return
        self._expected, self._inbound = found
        super().connection_made(transport)
        if self.link is not None:
            self._client.crossed(self.link)


def plain(host: str) -> IPv4Address | IPv6Address:
    """An IP as sockets show it, without its zone; one of IPv4 that an IPv6 socket shows is one of IPv4."""
    found = ipaddress.ip_address(host.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found
