"""From a relayed connection to a direct one, at the privacy level Low and at no other (DCUtR, protocol/dcutr.py).

    A ── dials ──► relay ◄── reservation ── B         A asked for a peer, B was asked: the spec's names
    B ──► CONNECT, SYNC ──► A                         within that connection: begin() is B's part, answer() A's
    A ◄═══ both dial, each from the port from which it reached the relay ═══► B

What is dialled is the other's word: only what may be dialled (actors/dial_policy.py), on the port where it is seen.
Where the two agree on nothing, the relayed connection goes on as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from weakref import WeakKeyDictionary

from actors.dial_policy import dialable
from actors.ports.client import Client
from actors.ports.connections import ClientError, DialError, PeerConnection, PeerStream, StreamError, reason_of
from actors.ports.diallers import PortDialler
from protocol.addresses import decode_tcp
from protocol.dcutr import (
    ATTEMPTS,
    MAX_ADDRESSES,
    PROTOCOL,
    PeerSeenAt,
    PunchInitiator,
    PunchResponder,
    Synchronised,
)
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId

log = logging.getLogger(__name__)

#: Seconds for the messages of one attempt: some round trips through a relay, which may be slow (go has 60).
TALK_TIMEOUT: Final = 10.0

#: Seconds for the dials of one attempt, as go has it: a SYN that came too early is sent again after 1 and 3.
DIAL_TIMEOUT: Final = 5.0

#: Seconds between dials of an attempt while they are refused: a SYN of ours came before the other had dialled, and no
#: NAT kept it out.  Doubled each time, so that an attempt is six dials of each address at most.
AGAIN: Final = 0.1

#: Seconds in which the other has begun: it asks us first who we are, through the relay.
BEGIN_TIMEOUT: Final = 10.0

#: Peers that may have us punch at a time: each has us dial MAX_ADDRESSES.
MAX_PUNCHING: Final = 16

#: Hosts of a peer's addresses that are dialled: enough for one of IPv4 and one of IPv6.  All are its word, and a
#: stranger could name others': to MAX_ADDRESSES ports of these two go six dials in each of three attempts.
MAX_HOSTS: Final = 2

#: Connections that are taken of a peer in one attempt.
MAX_TAKEN: Final = 4


@dataclass(slots=True)
class _Awaited:
    """A peer that is dialled now, from where it may come, and how often still."""

    peer: PeerId
    server: bool
    ends: frozenset[tuple[str, int]]
    left: int = MAX_TAKEN


class HolePuncher:
    """``private``: whether private addresses are dialled and told, as on a network of one's own.  ``allowed``: whom
    who calls must be to be told where we are.  ``client`` is set once it is made: it has the handler from here."""

    client: Client

    def __init__(
        self, dialler: PortDialler, *, private: bool, allowed: Callable[[PeerId], bool] = lambda _: True
    ) -> None:
        self._dialler = dialler
        self._private = private
        self._allowed = allowed
        self._awaited: list[_Awaited] = []
        self._punching: set[PeerId] = set()
        #: Attempts that the other end of a connection has begun.
        self._answered: WeakKeyDictionary[PeerConnection, int] = WeakKeyDictionary()
        #: By peer, those who wait for what comes of it, and why it failed last.
        self._waiting: dict[PeerId, set[asyncio.Future[str]]] = {}
        self._upgrading: dict[PeerId, asyncio.Task[None]] = {}

    def seen_at(self) -> tuple[bytes, ...]:
        """Where a hole to us could be punched."""
        return dialable(self.client.seen_at(self._dialler.port), private=self._private, most=MAX_ADDRESSES)

    def accepted(self, connection: PeerConnection) -> None:
        """Somebody has reached us: if by a relay, a direct connection is tried from now on."""
        peer = connection.peer
        if connection.relay is None or not connection.link.inbound or self._direct(peer) is not None:
            return
        if peer in self._upgrading or not self._allowed(peer):
            return
        if len(self._upgrading) >= MAX_PUNCHING:
            log.info("no direct connection to %s: %d others are being tried", peer, MAX_PUNCHING)
            return
        task = self._upgrading[peer] = asyncio.get_running_loop().create_task(self._upgrade(connection))
        task.add_done_callback(lambda _: self._upgrading.pop(peer, None))

    async def close(self) -> None:
        tasks = list(self._upgrading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # B.

    async def _upgrade(self, connection: PeerConnection) -> None:
        peer = connection.peer
        try:
            for _ in range(ATTEMPTS):
                try:
                    await self.begin(connection)
                except DialError as error:
                    log.info("no hole to %s yet: %s", peer, error)
                else:
                    return
                if not connection.usable or self._direct(peer) is not None:
                    return
        except ClientError as error:
            log.info("no direct connection to %s: %s", peer, error)

    async def begin(self, connection: PeerConnection) -> None:
        """One attempt as B.  DialError: no hole; ClientError: the other does not speak it, or not rightly."""
        if not (own := self.seen_at()):
            raise ClientError("no relay says where this peer is seen: there is nothing to tell the other")
        try:
            async with asyncio.timeout(TALK_TIMEOUT):
                stream = await connection.open(PROTOCOL, padded=False)
                machine = PunchInitiator(own, self.client.now())
                try:
                    told = await _next(machine, stream)
                    delay = machine.synchronise(self.client.now())
                    await stream.write(machine.data_to_send())
                    await stream.finish()
                except BaseException:
                    stream.reset()
                    raise
        except TimeoutError:
            raise DialError(f"the peer did not say where it is seen within {TALK_TIMEOUT:g} s") from None
        assert isinstance(told, PeerSeenAt)
        # "starts a timer for half the RTT": this wait is the protocol's.
        await asyncio.sleep(delay)
        await self._punch(told.addresses, connection.peer, server=True)

    # A.

    async def answer(self, connection: PeerConnection, stream: PeerStream) -> None:
        """One attempt as A, of a peer that we dialled through a relay.  Anybody else's stream is reset."""
        peer = connection.peer
        if connection.relay is None or connection.link.inbound:
            raise StreamError("a hole is punched only to a peer that was dialled through a relay")
        if self._answered.get(connection, 0) >= ATTEMPTS:
            raise StreamError(f"{ATTEMPTS} attempts were made to punch a hole to this peer")
        if peer in self._punching or len(self._punching) >= MAX_PUNCHING:
            raise StreamError("a hole to this peer, or to too many others, is being punched")
        if not (own := self.seen_at()):
            self._told(peer, "no relay says where this peer is seen")
            raise StreamError("no relay says where this peer is seen")
        self._punching.add(peer)
        self._answered[connection] = self._answered.get(connection, 0) + 1
        try:
            machine = PunchResponder(own)
            async with asyncio.timeout(TALK_TIMEOUT):
                told = await _next(machine, stream)
                assert isinstance(told, PeerSeenAt)
                synchronised = await _next(machine, stream)
                assert isinstance(synchronised, Synchronised)
            await self._punch(told.addresses, peer, server=False)
            self._told(peer, "")
        except TimeoutError:
            self._told(peer, f"the peer did not say when to dial within {TALK_TIMEOUT:g} s")
        except ClientError as error:
            self._told(peer, str(error))
        finally:
            self._punching.discard(peer)

    async def direct(self, relayed: PeerConnection) -> PeerConnection:
        """The direct connection to the peer that ``relayed`` leads to, once there is one.  DialError: none comes."""
        peer = relayed.peer
        failure = "the peer began no hole punching"
        for _ in range(ATTEMPTS):
            if (found := self._direct(peer)) is not None:
                return found
            waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(peer, set()).add(waiting)
            try:
                async with asyncio.timeout(BEGIN_TIMEOUT + DIAL_TIMEOUT):
                    failure = await waiting
            except TimeoutError:
                break
            finally:
                self._waiting[peer].discard(waiting)
                if not self._waiting[peer]:
                    del self._waiting[peer]
        if (found := self._direct(peer)) is not None:
            return found
        raise DialError(f"no hole could be punched to {peer}: {failure or 'the direct connection was lost at once'}")

    # Both.

    async def _punch(self, told: tuple[bytes, ...], peer: PeerId, *, server: bool) -> PeerConnection:
        addresses = _of_few_hosts(dialable(told, private=self._private, most=MAX_ADDRESSES))
        if not addresses:
            raise DialError("the peer named no address that may be dialled")
        awaited = _Awaited(peer, server, frozenset(end for one in addresses if (end := decode_tcp(one)) is not None))
        self._awaited.append(awaited)
        try:
            return await self._dial(addresses, peer, server=server)
        finally:
            self._awaited.remove(awaited)

    async def _dial(self, addresses: Sequence[bytes], peer: PeerId, *, server: bool) -> PeerConnection:
        failure: DialError | None = None
        again = AGAIN
        wire = partial(self.client.taken, self._who)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DIAL_TIMEOUT), self._listening(wire):
                while (found := self._direct(peer)) is None:
                    try:
                        return await self.client.dial_at_once(addresses, peer, server=server)
                    except DialError as error:
                        failure = error
                        await asyncio.sleep(again)
                        again *= 2
                return found
        if (found := self._direct(peer)) is not None:
            return found
        raise failure or DialError(f"no answer within {DIAL_TIMEOUT:g} s from any of the peer's addresses")

    @contextlib.asynccontextmanager
    async def _listening(self, wire: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._dialler.listening(wire))
            except OSError as error:
                raise DialError(f"no port to punch a hole from: {reason_of(error)}") from error
            yield

    def _who(self, ip: IPv4Address | IPv6Address, port: int) -> tuple[PeerId, bool] | None:
        """Who of those that are dialled now comes from there: it is told at which port, but a NAT may show another."""
        host = str(ip)
        waiting = [one for one in self._awaited if one.left]
        exactly = [one for one in waiting if (host, port) in one.ends]
        nearly = [one for one in waiting if any(host == end[0] for end in one.ends)]
        if not exactly and len(nearly) != 1:
            return None
        found = (exactly or nearly)[0]
        found.left -= 1
        return found.peer, found.server

    def _direct(self, peer: PeerId) -> PeerConnection | None:
        return next((one for one in self.client.open_to(peer, relayed=False) if one.relay is None), None)

    def _told(self, peer: PeerId, failure: str) -> None:
        for waiting in self._waiting.get(peer, ()):
            if not waiting.done():
                waiting.set_result(failure)


def _of_few_hosts(addresses: Sequence[bytes]) -> tuple[bytes, ...]:
    hosts: list[str] = []
    kept = []
    for address in addresses:
        end = decode_tcp(address)
        if end is None:
            continue
        if end[0] not in hosts and len(hosts) < MAX_HOSTS:
            hosts.append(end[0])
        if end[0] in hosts:
            kept.append(address)
    return tuple(kept)


async def _next(machine: PunchInitiator | PunchResponder, stream: PeerStream) -> PeerSeenAt | Synchronised:
    """The machine's next event.  StreamError: the other ended the stream, or broke the protocol."""
    try:
        while True:
            if data := machine.data_to_send():
                await stream.write(data)
            if (event := machine.next_event()) is not None:
                if data := machine.data_to_send():
                    await stream.write(data)
                return event
            if not (part := await stream.read()):
                machine.receive_eof()
            machine.receive_data(part)
    except RemoteProtocolError as error:
        raise StreamError(f"hole punching: {error}") from error
