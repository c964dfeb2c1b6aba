"""A network of actor cores in one process: virtual time, latency, loss, peers that come and go.

Each :class:`Host` has a service's core (or a liar that looks like one) and the part of a forwarder that services see
(protocol/service_messages.py): it dials, opens streams, passes messages on one at a time, and ends what is silent.
Everything that is random comes from one seed, so that a run is repeated by giving its seed again.

    network = Network(seed=7)
    alice = network.add("alice", "198.51.100.1", lambda host: DHTAdvertiser("dht", host.peer, ...))
    network.run(60.0)          # so many seconds pass
    alice.post(RelaysWanted(1, "directory", 10.0))
    network.run_until(lambda: alice.heard(RelaysSearched), 30.0)
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from actors.actor import Actor, Send
from protocol import identify
from protocol.addresses import encode_tcp
from protocol.identity import Identity, PeerId
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from protocol.wire import FrameReader
from tests.support.peers import START, seeded

FORWARDER: Final = "forwarder/0"
SERVICE: Final = "dht"

#: Seconds after which a forwarder ends a stream that says nothing.
IDLE: Final = 60.0

#: Seconds until a dial to nobody fails.
DIAL_TIMEOUT: Final = 5.0

M = TypeVar("M")


@dataclass(frozen=True)
class Weather:
    """``latency``: seconds one way, from and to.  ``loss``: the part of messages whose stream never brings them."""

    latency: tuple[float, float] = (0.01, 0.15)
    loss: float = 0.0


@dataclass(eq=False)
class End:
    """One side of a stream.  ``due``: its service waits for the next message; those that came wait in ``inbox``.
    ``arrives``: when the last of them did, or will; ``lost``: nothing more does.  ``finished``: it says no more."""

    host: Host
    number: int
    protocol: str
    request_id: int = 0
    due: bool = True
    inbox: deque[bytes | None] = field(default_factory=deque)
    other: End | None = None
    last: float = 0.0
    arrives: float = 0.0
    lost: bool = False
    finished: bool = False
    over: bool = False


class Host:
    """``peer``: its id; ``ip``, ``address``: where it is; ``reachable``: whether others can dial it.

    ``heard``: what its service said to actors other than the forwarder.  ``kept``: peers whose connection is not given
    up when its service asks for that, as something else uses it.  ``parted``: is told of peers that gave theirs up."""

    def __init__(self, network: Network, identity: Identity, ip: str, port: int, *, reachable: bool = True) -> None:
        self.network = network
        self.identity = identity
        self.peer: PeerId = identity.peer_id
        self.ip = ip
        self.port = port
        self.address = encode_tcp(ip_address(ip), port)
        self.reachable = reachable
        self.online = False
        self.core: Actor | None = None
        self.protocols: tuple[str, ...] = ()
        self.said: list[tuple[float, Any]] = []
        self.ends: dict[int, End] = {}
        #: Whether we dialled, by the peer that is connected.
        self.links: dict[PeerId, bool] = {}
        self.kept: set[PeerId] = set()
        self.parted: Callable[[PeerId], None] | None = None

    def post(self, message: Any) -> None:
        """Put ``message`` into the service's inbox."""
        self.network.post(self, message)

    def heard(self, kind: type[M]) -> list[M]:
        """What the service said of ``kind``, in order."""
        return [message for _, message in self.said if isinstance(message, kind)]

    def random_bytes(self, count: int) -> bytes:
        return self.network.random.randbytes(count)


class Network:
    """See the module.  ``counts``: messages and dials, by what they were."""

    def __init__(self, seed: int, weather: Weather | None = None, now: float = START) -> None:
        self.now = now
        self.random = random.Random(seed)
        self.weather = weather or Weather()
        self.hosts: dict[PeerId, Host] = {}
        self.counts: Counter[str] = Counter()
        self._at: dict[bytes, Host] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._stream = 0
        #: Whether nothing passes between two hosts.
        self._cut: Callable[[Host, Host], bool] = lambda one, other: False
        self._wakes: dict[PeerId, float] = {}

    # Who is there.

    def add(
        self, name: str, ip: str, make: Callable[[Host], Actor], *, port: int = 4001, reachable: bool = True
    ) -> Host:
        """A host that is online, with the core that ``make`` builds."""
        return self.add_identity(Identity.from_seed(seeded(name)), ip, make, port=port, reachable=reachable)

    def add_identity(
        self, identity: Identity, ip: str, make: Callable[[Host], Actor], *, port: int = 4001, reachable: bool = True
    ) -> Host:
        """The same, of an id that is chosen."""
        host = Host(self, identity, ip, port, reachable=reachable)
        self.hosts[host.peer] = self._at[host.address] = host
        self.start(host, make)
        return host

    def start(self, host: Host, make: Callable[[Host], Actor]) -> None:
        """(Again) with a core that knows nothing but what its store tells it."""
        host.core = make(host)
        host.online = True
        host.protocols = ()
        self.post(host, ForwarderReady(FORWARDER, (host.address,)))

    def stop(self, host: Host) -> None:
        """Without a good-bye, as when the power goes."""
        host.online = False
        host.core = None
        for peer in list(host.links):
            self.hosts[peer].links.pop(host.peer, None)
        host.links.clear()
        for end in list(host.ends.values()):
            end.over = True
            if end.other is not None:
                self._later(0.0, self._over, end.other, "gone")
        host.ends.clear()

    def cut(self, apart: Callable[[Host, Host], bool] | None) -> None:
        """From now on nothing passes between hosts that are ``apart``; None: everything does again."""
        self._cut = apart or (lambda one, other: False)
        for host in self.hosts.values():
            for peer in [peer for peer in host.links if self._cut(host, self.hosts[peer])]:
                del host.links[peer]

    # Time.

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Until ``condition()`` is true, at most so long; whether it is."""
        end = self.now + seconds
        while not (met := bool(condition())) and self._events and self._events[0][0] <= end:
            when, _, action = heappop(self._events)
            self.now = max(self.now, when)
            action()
        if not met:
            self.now = end
        return met

    def post(self, host: Host, message: Any) -> None:
        if host.core is not None:
            self._do(host, host.core.handle(message, self.now))

    def _later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self._sequence += 1
        heappush(self._events, (self.now + seconds, self._sequence, lambda: action(*arguments)))

    def _do(self, host: Host, sends: list[Send]) -> None:
        for send in sends:
            if send.receiver == FORWARDER:
                self._forward(host, send.message)
            else:
                host.said.append((self.now, send.message))
        core = host.core
        if core is None:
            return
        deadline = core.next_deadline()
        if deadline is not None and self._wakes.get(host.peer) != deadline:
            self._wakes[host.peer] = deadline
            self._later(max(deadline - self.now, 0.0), self._wake, host, core, deadline)

    def _wake(self, host: Host, core: Actor, deadline: float) -> None:
        if host.core is not core or self._wakes.get(host.peer) != deadline:
            return
        del self._wakes[host.peer]
        due = core.next_deadline()
        if due is not None and due <= self.now:
            self._do(host, core.handle_deadline(self.now))
        else:
            self._do(host, [])

    # The forwarder's part.

    def _forward(self, host: Host, message: Any) -> None:
        match message:
            case ProtocolsServed(protocols=protocols):
                host.protocols = protocols
            case StreamWanted():
                self._open(host, message)
            case StreamAnswer(stream=number):
                if (end := host.ends.get(number)) is not None:
                    self._answer(end, message)

    def _open(self, host: Host, wanted: StreamWanted) -> None:
        latency = self._latency()
        target = self._linked(host, wanted)
        if target is None:
            target = next((one for address in wanted.addresses if (one := self._dial(host, address))), None)
            self.counts["dial"] += 1
            latency *= 5  # TCP, multistream, Noise
            if target is None:
                self.counts["dial failed"] += 1
                self._later(DIAL_TIMEOUT, self._failed, host, wanted, "dial")
                return
            if wanted.peer and target.peer.bytes != wanted.peer:
                self.counts["dial met another"] += 1
                self._later(latency, self._failed, host, wanted, "peer")
                return
            host.links[target.peer], target.links[host.peer] = True, False
        self._later(latency, self._begin, host, target, wanted)

    def _linked(self, host: Host, wanted: StreamWanted) -> Host | None:
        if not wanted.peer or wanted.fresh:
            return None
        peer = PeerId(wanted.peer)
        return self.hosts[peer] if peer in host.links else None

    def _dial(self, host: Host, address: bytes) -> Host | None:
        one = self._at.get(address)
        if one is None or not one.online or not one.reachable or one is host or self._cut(host, one):
            return None
        return one

    def _begin(self, host: Host, target: Host, wanted: StreamWanted) -> None:
        if not host.online:
            return
        if not target.online:
            self._failed(host, wanted, "gone")
        elif wanted.protocol == identify.PROTOCOL:
            ours, theirs = self._ends(host, target, wanted)
            self._carry(theirs, _identify(target))
        elif wanted.protocol not in target.protocols:
            self._failed(host, wanted, "protocol")
        else:
            ours, theirs = self._ends(host, target, wanted)
            self._later(wanted.timeout, self._silent, ours, wanted.timeout)
            self._later(IDLE, self._silent, theirs, IDLE)
            if wanted.payload is not None:
                self._carry(ours, wanted.payload)
            if wanted.finish:
                self._carry(ours, None)

    def _ends(self, host: Host, target: Host, wanted: StreamWanted) -> tuple[End, End]:
        self._stream += 2
        ours = End(host, self._stream, wanted.protocol, wanted.request_id, last=self.now)
        theirs = End(target, self._stream + 1, wanted.protocol, other=ours, last=self.now)
        ours.other = theirs
        host.ends[ours.number] = ours
        target.ends[theirs.number] = theirs
        return ours, theirs

    def _failed(self, host: Host, wanted: StreamWanted, code: str) -> None:
        self.post(host, StreamOver(FORWARDER, 0, wanted.peer, wanted.protocol, code, code, wanted.request_id))

    def _answer(self, end: End, answer: StreamAnswer) -> None:
        if answer.reset:
            self._end(end)
            if end.other is not None:
                self._later(self._latency(), self._over, end.other, "reset")
                if answer.release:
                    self._release(end.host, end.other.host)
            return
        if answer.payload is not None:
            self._carry(end, answer.payload)
        if answer.finish:
            self._carry(end, None)
        end.due = True
        end.last = self.now
        self._pass_on(end)

    def _release(self, host: Host, other: Host) -> None:
        used = any(end.other is not None and end.other.host is other for end in host.ends.values())
        if used or other.peer in host.kept or not host.links.get(other.peer):
            return
        del host.links[other.peer]
        other.links.pop(host.peer, None)
        if other.parted is not None:
            self._later(self._latency(), other.parted, host.peer)

    def _carry(self, end: End, payload: bytes | None) -> None:
        """``payload``, or the end of what ``end`` says, to the other side."""
        other = end.other
        if other is None or other.lost or end.finished:
            return
        end.finished = payload is None
        lost = payload is not None and self.random.random() < self.weather.loss
        if lost or self._cut(end.host, other.host):
            other.lost = True
            return
        self.counts["message"] += payload is not None
        other.arrives = max(other.arrives, self.now + self._latency())
        self._later(other.arrives - self.now, self._arrive, other, payload)

    def _arrive(self, end: End, payload: bytes | None) -> None:
        if not end.over:
            end.inbox.append(payload)
            self._pass_on(end)

    def _pass_on(self, end: End) -> None:
        if not end.due or not end.inbox or end.over:
            return
        payload = end.inbox.popleft()
        if payload is None:
            self._over(end, "finished")
            self._carry(end, None)
            return
        end.due = False
        end.last = self.now
        other = end.other.host if end.other is not None else end.host
        self.post(
            end.host,
            StreamMessage(
                FORWARDER,
                end.number,
                other.peer.bytes,
                other.ip,
                end.protocol,
                payload,
                end.request_id,
                other.address if end.host.links.get(other.peer) else encode_tcp(ip_address(other.ip), 50_000),
                end.host.address,
                end.host.links.get(other.peer, False),
            ),
        )

    def _silent(self, end: End, patience: float) -> None:
        if end.over:
            return
        if end.last + patience <= self.now:
            self._over(end, "timeout")
            if end.other is not None:
                self._over(end.other, "reset")
        else:
            self._later(end.last + patience - self.now, self._silent, end, patience)

    def _over(self, end: End, code: str) -> None:
        if not end.over:
            self._end(end)
            peer = end.other.host.peer.bytes if end.other is not None else b""
            self.post(end.host, StreamOver(FORWARDER, end.number, peer, end.protocol, code, code, end.request_id))

    def _end(self, end: End) -> None:
        end.over = True
        end.host.ends.pop(end.number, None)

    def _latency(self) -> float:
        return self.random.uniform(*self.weather.latency)


def _identify(host: Host) -> bytes:
    message = identify.IdentifyMessage(
        listen_addrs=(host.address,), protocols=(*host.protocols, identify.PROTOCOL), agent_version="simulated"
    )
    reader = FrameReader(identify.MAX_RECEIVED)
    reader.receive_data(identify.encode_identify(message))
    payload = reader.next_frame()
    assert payload is not None
    return payload
