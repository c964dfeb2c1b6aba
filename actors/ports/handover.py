"""From one process to another: listening sockets, then group after group of connections, each with its state.

:class:`Departure` is the side that leaves, :class:`Arrival` the one that takes over; each has a host and a forwarder,
there is a socket between them, and they know of nothing else.  While one group moves, all others are served by one
side or the other.  Until the successor has said that it is ready nothing is given up.  When it fails later, what it has
taken is lost with it, and the old one goes on with the rest: a group whose receipt did not come is the old one's still.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from actors import handover
from actors.circuit_forwarder import CircuitForwarder
from actors.handover_state import GroupState
from actors.links import Link
from actors.ports import socket_handover
from actors.ports.channel import Channel, ChannelClosed
from actors.ports.endpoint import Endpoint
from actors.ports.handover_frames import Begin, Complete, Done, Frame, Go, Group, Hello, Ready, Refused, Taken
from actors.ports.host import Host
from protocol.connection import State
from protocol.errors import LocalProtocolError
from protocol.handover import VERSION
from protocol.identity import Identity, PeerId
from protocol.noise import StaticKey

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Frame)

#: Versions of the state that this code can read.
READS: Final = (VERSION,)

#: Connections that move together when they need not.  All of them pause for as long as the move of each takes, about
#: 0.3 ms, and for an exchange between the processes; those without a circuit have less to lose by that.
BATCH: Final = 8
LONE_BATCH: Final = 32


#: Steps of niceness by which processes are ahead of others while they hand over (RLIMIT_NICE allows it, or not).
AHEAD: Final = 10

#: Pauses that are reported one by one.
REPORTED: Final = 1000


@contextlib.contextmanager
def hurry() -> Iterator[None]:
    """While connections pause: ahead of other processes where that is allowed, and without looking through the objects
    that come and go by the ten thousand."""
    collecting, niceness = gc.isenabled(), os.getpriority(os.PRIO_PROCESS, 0)
    gc.disable()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness - AHEAD)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
        if collecting:
            gc.enable()


class HandoverRefused(Exception):
    """Nothing was given up: everything is as before."""


class HandoverBroken(Exception):
    """It ended midway: what was taken is the successor's, and lost if that is gone; the rest is as before."""


@dataclass(slots=True)
class Moved:
    """What was handed over.  ``pauses``: seconds in which nobody read the connections of a group, one for each.
    ``broken``: why it ended midway, "": it did not."""

    connections: int = 0
    circuits: int = 0
    pauses: list[float] = field(default_factory=list)
    broken: str = ""

    def pause(self, share: float) -> float:
        """The pause, in seconds, that ``share`` of the groups did not exceed."""
        ordered = sorted(self.pauses)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def figures(self) -> dict[str, Any]:
        """For a program.  Pauses in milliseconds, each and as p50, p99, worst."""
        return {
            "connections": self.connections,
            "circuits": self.circuits,
            "groups": len(self.pauses),
            "pause_ms": [round(self.pause(share) * 1e3, 2) for share in (0.5, 0.99, 1.0)],
            "pauses_ms": [round(pause * 1e3, 2) for pause in self.pauses[-REPORTED:]],
        }

    def __str__(self) -> str:
        worst = max(self.pauses, default=0.0)
        return (
            f"{self.connections} connections and {self.circuits} circuits in {len(self.pauses)} groups; paused for "
            f"{self.pause(0.5) * 1e3:.1f} ms (p50), {self.pause(0.99) * 1e3:.1f} ms (p99), {worst * 1e3:.1f} ms (worst)"
        )


def hello(peer_id: PeerId, agent: str) -> Hello:
    return Hello(VERSION, READS, peer_id.bytes, os.getpid(), agent)


def objection(old: Hello, new: Hello) -> str:
    """Why ``new`` cannot take over from ``old``; "": it can."""
    if old.writes not in new.reads:
        return f"state of version {old.writes} cannot be read by {new.agent}, which reads {list(new.reads)}"
    if old.peer_id != new.peer_id:
        return f"the new process has another identity: {PeerId(new.peer_id)}, not {PeerId(old.peer_id)}"
    return ""


def clock_offset(now: Callable[[], float]) -> float:
    """Our clock less the monotonic one, which all processes of a host share."""
    return now() - time.monotonic()


class Departure:
    """The side that leaves.  ``flush``: a turn ends: what host and forwarder have to say leaves.  ``timeout``: seconds
    for each step of the successor's."""

    def __init__(
        self,
        channel: Channel,
        host: Host,
        forwarder: CircuitForwarder,
        static: StaticKey,
        now: Callable[[], float],
        *,
        agent: str,
        timeout: float,
        flush: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._host = host
        self._forwarder = forwarder
        self._static = static
        self._now = now
        self._agent = agent
        self._timeout = timeout
        self._flush = flush

    async def agree(
        self,
        listening: Sequence[tuple[str, socket.socket]],
        addresses: Sequence[bytes],
        keeper: int = 0,
        keeper_socket: socket.socket | None = None,
    ) -> None:
        """Everything that can be refused.  HandoverRefused.  ``listening``: what each of the host's listening sockets
        was asked for.  ``keeper``: see Begin, with the socket that leads to it."""
        try:
            ours = hello(self._static.identity.peer_id, self._agent)
            await self._channel.send(ours)
            theirs = await self._expect(Hello)
            if reason := objection(ours, theirs):
                await self._channel.send(Refused(reason))
                raise HandoverRefused(reason)
            begin = Begin(
                listening=tuple(text for text, _ in listening),
                static=self._static.secret(),
                clock=clock_offset(self._now),
                counts=self._forwarder.connection_counts(),
                addresses=tuple(addresses),
                keeper=keeper,
            )
            sockets = [sock for _, sock in listening] + ([] if keeper_socket is None else [keeper_socket])
            await self._channel.send(begin, [sock.fileno() for sock in sockets])
            await self._expect(Ready)
        except (ChannelClosed, TimeoutError) as error:
            raise HandoverRefused(str(error) or f"the new process was not ready within {self._timeout:g} s") from error

    async def hand_over(self, successor: str = "") -> tuple[float, ...]:
        """Everything else; the pauses.  HandoverBroken: then this side is as it was, but for what was taken.

        ``successor``: the name of the forwarder that takes over, "": it has another RelayServer.
        """
        with hurry():
            return await self._hand_over(successor)

    async def _hand_over(self, successor: str) -> tuple[float, ...]:
        host, forwarder = self._host, self._forwarder
        may_release = asyncio.Event()
        socket_handover.stop_accepting(host)
        forwarder.begin_handover(successor, may_release.set)
        self._flush()
        try:
            async with asyncio.timeout(self._timeout):
                await may_release.wait()
            await self._channel.send(Go())
            number = 0
            waiting: list[list[Link]] = []
            left: set[Link] = set()
            while (batch := self._next_batch(waiting, left)) or host.neighbours.quiet():
                if batch:
                    await self._move(number, batch, left)
                    number += 1
            senders = [sender.fileno() for sender in host.neighbours.senders]
            await self._channel.send(Done(handover.totals(forwarder)), senders)
            complete = await self._expect(Complete)
        except Exception as error:
            forwarder.handover_failed()
            host.neighbours.go_on()
            socket_handover.go_on_accepting(host)
            self._flush()
            raise HandoverBroken(str(error) or f"nothing was heard for {self._timeout:g} s") from error
        forwarder.retire()
        socket_handover.give_up_listeners(host)
        return complete.pauses

    def _next_batch(self, waiting: list[list[Link]], left: set[Link]) -> list[Link]:
        """Groups of together a few connections, or one larger one; [] when there are none.  ``waiting``: groups
        found before; ``left``: connections that cannot be handed over."""
        for fresh in (False, True):
            if fresh:
                waiting[:] = reversed(handover.groups(self._forwarder))  # the smallest is the last
            batch: list[Link] = []
            most = LONE_BATCH if waiting and len(waiting[-1]) == 1 else BATCH
            while waiting and (not batch or len(batch) + len(waiting[-1]) <= most):
                group = [link for link in waiting.pop() if self._movable(link) and link not in left]
                if not handover.complete(self._forwarder, group):
                    waiting.clear()  # circuits have come since: look again
                    break
                batch += group
            if batch:
                return batch
        return []

    def _movable(self, link: Link) -> bool:
        return (
            self._forwarder.links.get(link.id) is link
            and link.connection.state is not State.CLOSED
            and socket_handover.has_socket(self._host, link)
        )

    async def _move(self, number: int, links: list[Link], left: set[Link]) -> None:
        host, forwarder = self._host, self._forwarder
        self._flush()
        try:
            state = handover.release(forwarder, links)
        except LocalProtocolError as error:
            log.error("connections stay behind and will be closed: %s", error)
            left.update(links)
            return
        endpoints = socket_handover.detach(host, links)
        released_at = time.monotonic()
        frame = Group(number, state, tuple(map(socket_handover.backlog, endpoints)), released_at)
        try:
            async with asyncio.timeout(self._timeout):
                await self._channel.send(frame, [endpoint.descriptor for endpoint in endpoints])
            taken = await self._expect(Taken)
            if taken.number != number:
                raise ChannelClosed("a receipt for another group")
        except BaseException:
            if Taken(number) not in self._channel.last_words():
                self._take_back(state, endpoints, frame.backlogs)
            else:
                socket_handover.close(endpoints)
            raise
        socket_handover.close(endpoints)

    def _take_back(self, state: GroupState, endpoints: Sequence[Endpoint], backlogs: Sequence[bytes | None]) -> None:
        links = handover.adopt(self._forwarder, state, self._now(), static=self._static)
        for link, endpoint, unsent in zip(links, endpoints, backlogs, strict=True):
            socket_handover.attach(self._host, endpoint.sock, link, unsent)

    async def _expect(self, kind: type[F]) -> F:
        async with asyncio.timeout(self._timeout):
            return await _expect(self._channel, kind)


class Arrival:
    """The side that takes over: :meth:`greet`, then host and forwarder are made, then :meth:`take_over`.

    ``listening``: the sockets that came, by what they were asked for; those that are taken out are wanted, the others
    are closed.  ``keeper``:
    the socket that leads to the keeper, if there is one.
    """

    def __init__(self, channel: Channel, identity: Identity, agent: str) -> None:
        self._channel = channel
        self._identity = identity
        self._hello = hello(identity.peer_id, agent)
        self._begin: Begin | None = None
        self.listening: dict[str, socket.socket] = {}
        self.keeper: socket.socket | None = None

    async def greet(self) -> Begin:
        """HandoverRefused when this process cannot take over from the other; that one is told."""
        try:
            await self._channel.send(self._hello)
            theirs = await _expect(self._channel, Hello)
            if reason := objection(theirs, self._hello):
                await self._channel.send(Refused(reason))
                raise HandoverRefused(reason)
            begin, descriptors = await self._channel.receive()
        except ChannelClosed as error:
            raise HandoverRefused(str(error)) from error
        if not isinstance(begin, Begin):
            raise HandoverRefused(begin.reason if isinstance(begin, Refused) else "the old process made no sense")
        self._begin = begin
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        self.listening = dict(zip(begin.listening, sockets, strict=False))
        self.keeper = sockets[-1] if len(sockets) > len(begin.listening) else None
        return begin

    def listener(self, wanted: str) -> socket.socket | None:
        """The socket that listens there already."""
        return self.listening.pop(wanted, None)

    async def refuse(self, reason: str) -> None:
        """It cannot be done here after all."""
        with contextlib.suppress(ChannelClosed):
            await self._channel.send(Refused(reason))

    async def take_over(
        self,
        host: Host,
        forwarder: CircuitForwarder,
        now: Callable[[], float],
        *,
        flush: Callable[[], None],
        predecessor: str = "",
    ) -> Moved:
        """Be ready, accept connections when told to, and go on with all that comes.  HandoverRefused: it never began.

        ``predecessor``: the name of the forwarder that hands over, as RelayServer knows it, "": not at all.
        """
        with hurry():
            return await self._take_over(host, forwarder, now, flush, predecessor)

    async def _take_over(
        self,
        host: Host,
        forwarder: CircuitForwarder,
        now: Callable[[], float],
        flush: Callable[[], None],
        predecessor: str,
    ) -> Moved:
        begin = self._begin
        assert begin is not None
        static = StaticKey(self._identity, begin.static)
        shift = clock_offset(now) - begin.clock
        forwarder.expect(begin.counts)
        try:
            await self._channel.send(Ready())
            await _expect(self._channel, Go)
        except ChannelClosed as error:
            raise HandoverRefused(str(error)) from error
        for sock in self.listening.values():
            sock.close()  # what the settings no longer ask for
        socket_handover.go_on_accepting(host)
        moved = Moved()
        try:
            while True:
                frame, descriptors = await self._channel.receive()
                if isinstance(frame, Group):
                    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                    await self._take(frame, sockets, host, forwarder, now, static, shift, moved)
                    flush()
                elif isinstance(frame, Done):
                    handover.add_totals(forwarder, frame.totals)
                    host.neighbours.inherit([socket.socket(fileno=descriptor) for descriptor in descriptors])
                    break
                else:
                    raise ChannelClosed(f"a {type(frame).__name__} where a Group was due")
            await self._channel.send(Complete(tuple(moved.pauses)))
        except ChannelClosed as error:
            moved.broken = str(error)
        forwarder.adopted(predecessor)
        flush()
        return moved

    async def _take(
        self,
        frame: Group,
        sockets: Sequence[socket.socket],
        host: Host,
        forwarder: CircuitForwarder,
        now: Callable[[], float],
        static: StaticKey,
        shift: float,
        moved: Moved,
    ) -> None:
        links: list[Link] = []
        try:
            if len(sockets) != len(frame.state.links):
                raise LocalProtocolError(f"{len(sockets)} sockets for {len(frame.state.links)} connections")
            links = handover.adopt(forwarder, frame.state, now(), static=static, shift=shift)
        except LocalProtocolError as error:
            log.error("%d connections are lost: %s", len(sockets), error)
            for sock in sockets:
                sock.close()
        try:
            # Before anything is read or written: whoever does not hear of this goes on with the sockets itself.
            await self._channel.send(Taken(frame.number))
        except ChannelClosed:
            handover.discard(forwarder, links)
            for sock in sockets:
                sock.close()
            raise
        endpoints = [
            socket_handover.attach(host, sock, link, unsent)
            for sock, link, unsent in zip(sockets, links, frame.backlogs, strict=False)
        ]
        moved.pauses.append(time.monotonic() - frame.released_at)
        moved.connections += len(links)
        moved.circuits += len(frame.state.circuits)
        for endpoint in endpoints:
            socket_handover.read(host, endpoint)


async def _expect(channel: Channel, kind: type[F]) -> F:
    frame, descriptors = await channel.receive()
    for descriptor in descriptors:
        os.close(descriptor)
    if isinstance(frame, Refused):
        raise HandoverRefused(frame.reason)
    if not isinstance(frame, kind):
        raise ChannelClosed(f"a {type(frame).__name__} where a {kind.__name__} was due")
    return frame
