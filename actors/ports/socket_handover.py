"""A host's sockets when its forwarder hands over: off the loop without a word to their peers, and on another loop.

The host's own (actors/ports/host.py), in a file of their own.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from actors.links import Link
from actors.ports.endpoint import Endpoint
from actors.ports.host import Host


def stop_accepting(host: Host) -> None:
    """New connections wait in the kernel, for whoever has the listening sockets."""
    for listener in host.listeners:
        host._loop.remove_reader(listener)


def go_on_accepting(host: Host) -> None:
    for listener, accept in host.listeners.items():
        host._loop.add_reader(listener, accept, listener)


def give_up_listeners(host: Host) -> None:
    """They are another process' now: closed here, and where they are bound they stay."""
    stop_accepting(host)
    for listener in host.listeners:
        listener.close()
    host.listeners.clear()


def has_socket(host: Host, link: Link) -> bool:
    return link.connection in host._endpoints


def detach(host: Host, links: Sequence[Link]) -> list[Endpoint]:
    """The sockets of ``links``, which nobody reads or writes from now on."""
    endpoints = [host._endpoints.pop(link.connection) for link in links]
    for endpoint in endpoints:
        host._loop.remove_reader(endpoint.descriptor)
        if endpoint.backlog is not None:
            host._loop.remove_writer(endpoint.descriptor)
            host._backlog_total -= endpoint.backlog.size
    return endpoints


def backlog(endpoint: Endpoint) -> bytes | None:
    """What the socket did not take; None while it takes more."""
    return None if endpoint.backlog is None else endpoint.backlog.unsent()


def attach(host: Host, sock: socket.socket, link: Link, unsent: bytes | None) -> Endpoint:
    """Go on with a socket.  What came meanwhile is found by :func:`read`."""
    endpoint = host.take(sock, link)
    link.connection.blocked = False
    if unsent is not None:
        host.keep(endpoint, (unsent,))
    if not link.connection.blocked and host._forwarder is not None:
        host._forwarder.drained(link)
    return endpoint


def read(host: Host, endpoint: Endpoint) -> None:
    """Look at once for what came while nobody read."""
    if host._endpoints.get(endpoint.connection) is endpoint:
        host._readable(endpoint)


def close(endpoints: Sequence[Endpoint]) -> None:
    """They are another process': no good-bye, no shutdown."""
    for endpoint in endpoints:
        endpoint.sock.close()
