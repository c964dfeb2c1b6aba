"""A forwarder of a node with several, when it hands over to another one or takes over from it (ports/handover.py).

A successor that is new takes the ports' listening sockets too, and what waits at them.  At the others, where fellow
forwarders reach each other, it has its own; those of its predecessors it hears out: whoever was told of one comes at
once, so that they close after some seconds (neighbours.KNOWN_WITHIN).  A forwarder that takes over beside
what it has does the same with the ports' sockets, for else it would be given the connections of two.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from actors.circuit_forwarder import CircuitForwarder
from actors.ports.channel import Channel
from actors.ports.handover import Arrival, Departure
from actors.ports.host import Host
from actors.ports.neighbours import KNOWN_WITHIN
from actors.self_description import AGENT
from protocol.noise import StaticKey

log = logging.getLogger(__name__)

#: What a listening socket is called that is only heard out: whose, and until when by the monotonic clock.
_PEERS: Final = "peers until "
_FORWARDERS: Final = "forwarders until "


class Takeover:
    """See the module.  ``listen``: IP address and port of each socket that a new one listens at.  ``timeout``: seconds
    for each step of the other side (handover_timeout)."""

    def __init__(
        self,
        host: Host,
        forwarder: CircuitForwarder,
        static: StaticKey,
        now: Callable[[], float],
        wake: Callable[[], None],
        *,
        listen: Sequence[tuple[str, int]],
        timeout: float,
    ) -> None:
        self._host = host
        self._forwarder = forwarder
        self._static = static
        self._now = now
        self._wake = wake
        self._listen = listen
        self._timeout = timeout
        self._wanted: dict[socket.socket, str] = {}
        self._former: dict[socket.socket, str] = {}

    def bind(self, given: Arrival | None = None) -> None:
        """Listen at the ports, with the sockets of a predecessor if it has given some.  OSError."""
        for address, port in self._listen:
            wanted = f"{address} {port}"
            sock = given.listener(wanted) if given is not None else None
            if sock is None:
                sock = self._host.bind(address, port, reuse_port=True)
            self._host.take_listener(sock, accept=given is None)
            self._wanted[sock] = wanted

    async def hand_over(self, sock: socket.socket, successor: str) -> None:
        """Pass all to the forwarder of that name, at the other end.  HandoverRefused, HandoverBroken."""
        channel = Channel(sock)
        own = f"{_FORWARDERS}{time.monotonic() + KNOWN_WITHIN}"
        listening = [(self._wanted.get(one) or self._former.get(one, own), one) for one in self._host.listeners]
        departure = Departure(
            channel,
            self._host,
            self._forwarder,
            self._static,
            self._now,
            agent=AGENT,
            timeout=self._timeout,
            flush=self._flush,
        )
        try:
            await departure.agree(listening, self._forwarder.description.addresses)
            await departure.hand_over(successor)
        finally:
            channel.close()

    async def take_in(self, sock: socket.socket, predecessor: str) -> dict[str, Any]:
        """Take all from the forwarder of that name, at the other end: what there is to tell of it, "broken" when it
        ended before all had come.  HandoverRefused, OSError."""
        channel = Channel(sock)
        try:
            arrival = Arrival(channel, self._static.identity, AGENT)
            begin = await arrival.greet()
            if self._forwarder.adopting:
                self._forwarder.set_addresses(begin.addresses, self._now())
                self.bind(arrival)
            former = {text: one for text in list(arrival.listening) if (one := arrival.listener(text)) is not None}
            try:
                moved = await arrival.take_over(
                    self._host, self._forwarder, self._now, flush=self._flush, predecessor=predecessor
                )
            except BaseException:
                for listener in former.values():
                    listener.close()
                raise
        finally:
            channel.close()
        for text, listener in former.items():
            self._hear_out(text, listener)
        log.info("took over %s from %s", moved, predecessor)
        return {**moved.figures(), "broken": moved.broken}

    def _hear_out(self, text: str, listener: socket.socket) -> None:
        host, now = self._host, time.monotonic()
        if not text.startswith((_PEERS, _FORWARDERS)):
            text = f"{_PEERS}{now + KNOWN_WITHIN}"
        self._former[listener] = text
        if text.startswith(_PEERS):
            host.take_listener(listener)
        else:
            host.neighbours.listen(listener)
        until = float(text.rpartition(" ")[2])
        asyncio.get_running_loop().call_later(max(until - now, 0.0), self._close, listener)

    def _close(self, listener: socket.socket) -> None:
        if self._former.pop(listener, None) is not None and listener in self._host.listeners:
            self._host.listeners[listener](listener)  # what waits
            self._host.close_listener(listener)

    def _flush(self) -> None:
        self._host.end_turn()
        self._wake()
