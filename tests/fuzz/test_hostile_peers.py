"""Peers that speak HOP, STOP, identify, ping and perf in any order and measure, beside an honest circuit.

Whatever they do costs their own streams and connections: no exception comes out of the forwarder, the honest circuit
carries what it carried, and when all have gone nothing of them is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.links import ForwarderPolicy
from actors.relay_server import RelayServerPolicy
from protocol import identify, perf, ping, relay_hop, relay_stop
from protocol.connection import ConnectionLimits, State
from protocol.multistream import HEADER as MULTISTREAM
from protocol.multistream import encode_line
from protocol.proto import circuit_pb2
from protocol.wire import frame
from protocol.yamux import ACK, DATA, FIN, HEADER, RST, SYN, WINDOW_UPDATE, YamuxLimits
from tests.support.bridged import BridgedRelay
from tests.support.peers import MemoryPeer, MemoryRelay

HOP, STOP = circuit_pb2.HopMessage, circuit_pb2.StopMessage

#: Sizes that end before, at and behind every bound on the way.
SIZES = st.sampled_from([0, 1, 32, 500, 4096, 5000, 30_000, 66_000])
FLAGS = st.sampled_from([0, 0, 0, ACK, FIN, RST, FIN | RST])
PEERS = st.integers(0, 3)


@dataclass(frozen=True)
class Opens:
    """A stream: ``protocol``, its first message, ``behind`` bytes more, and flags beside SYN."""

    protocol: str
    message: bytes
    target: int | None
    behind: int
    flags: int


@dataclass(frozen=True)
class Sends:
    """A frame on stream number ``which`` of its own or of the relay's: ``length`` is a body's or a window's."""

    which: int
    own: bool
    kind: int
    flags: int
    length: int
    answer: bytes


@dataclass(frozen=True)
class Waits:
    seconds: float


@dataclass(frozen=True)
class Leaves:
    pass


Step = Opens | Sends | Waits | Leaves

HOPS = [
    frame(HOP(type=HOP.RESERVE).SerializeToString()),
    frame(HOP(type=HOP.STATUS, status=circuit_pb2.OK).SerializeToString()),
    frame(b"\xff\xff"),
]
ANSWERS = st.sampled_from(
    [
        b"",
        encode_line(MULTISTREAM) + encode_line(relay_stop.PROTOCOL),
        encode_line(MULTISTREAM) + encode_line("na"),
        encode_line(MULTISTREAM)
        + encode_line(relay_stop.PROTOCOL)
        + frame(STOP(type=STOP.STATUS, status=circuit_pb2.OK).SerializeToString()),
        frame(STOP(type=STOP.STATUS, status=circuit_pb2.PERMISSION_DENIED).SerializeToString()),
        b"\xff" * 12,
    ]
)


def opens() -> st.SearchStrategy[Opens]:
    flags = st.sampled_from([0, 0, 0, FIN, RST])
    asks = st.builds(Opens, st.just(relay_hop.PROTOCOL), st.sampled_from(HOPS), st.none(), SIZES, flags)
    connects = st.builds(Opens, st.just(relay_hop.PROTOCOL), st.just(b""), PEERS, SIZES, flags)
    other = st.builds(
        Opens,
        protocol=st.sampled_from([identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL, perf.PROTOCOL]),
        message=st.sampled_from([b"", frame(b""), (1 << 40).to_bytes(8, "big")]),
        target=st.none(),
        behind=SIZES,
        flags=st.sampled_from([0, 0, FIN, RST]),
    )
    return st.one_of(asks, connects, connects, other)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            opens(),
            opens(),
            st.builds(
                Sends,
                which=st.integers(0, 5),
                own=st.booleans(),
                kind=st.sampled_from([DATA, DATA, WINDOW_UPDATE]),
                flags=FLAGS,
                length=SIZES,
                answer=ANSWERS,
            ),
            st.builds(Waits, st.sampled_from([1.0, 6.0, 16.0, 31.0])),
            st.builds(Leaves),
        ),
    ),
    max_size=14,
)


class Hostile:
    """A peer whose own session knows nothing of what it sends, and which hears nothing."""

    def __init__(self, relay: MemoryRelay, name: str, forwarder: int) -> None:
        self.peer = MemoryPeer(name)
        self.relay = relay
        attach(relay, self.peer, forwarder)
        relay.reserve(self.peer)
        self.peer.receive = lambda data, now: None  # type: ignore[method-assign]
        self.next_id = 1001
        self.streams: list[int] = []

    @property
    def gone(self) -> bool:
        link = self.relay.links.get(self.peer)
        return link is None or link.connection.state is State.CLOSED

    def take(self, step: Step, targets: list[MemoryPeer]) -> None:
        match step:
            case Waits(seconds):
                self.relay.advance(seconds)
            case Leaves() if self.peer in self.relay.links:
                self.relay.detach(self.peer)
            case Opens() if not self.gone:
                message = step.message
                if step.target is not None:
                    peer = circuit_pb2.Peer(id=targets[step.target].peer_id.bytes)
                    message = frame(HOP(type=HOP.CONNECT, peer=peer).SerializeToString())
                body = encode_line(MULTISTREAM) + encode_line(step.protocol) + message + bytes(step.behind)
                self._raw(HEADER.pack(SYN | step.flags, self.next_id, len(body)) + body)
                self.streams.append(self.next_id)
                self.next_id += 2
            case Sends() if not self.gone:
                number = 2 * step.which + 2
                if step.own:
                    number = self.streams[step.which % len(self.streams)] if self.streams else 1
                if step.kind == WINDOW_UPDATE:
                    self._raw(HEADER.pack(WINDOW_UPDATE << 16 | step.flags, number, step.length))
                else:
                    body = step.answer + bytes(step.length)
                    self._raw(HEADER.pack(step.flags, number, len(body)) + body)
            case _:
                pass
        self.relay.run()

    def _raw(self, frames: bytes) -> None:
        self.peer.connection.session.control += frames
        self.peer.connection.mark_dirty()


def attach(relay: MemoryRelay, peer: MemoryPeer, forwarder: int) -> None:
    if isinstance(relay, BridgedRelay):
        relay.attach(peer, forwarder=forwarder)
    else:
        relay.attach(peer)


MAKES: dict[str, dict[str, Any] | None] = {
    "local": None,
    "bridged": {},
    "two hosts": {"plain": False},
    "moves": {"moves": True},
}
LIMITS = st.tuples(st.sampled_from([0, 0, 50, 300_000]), st.sampled_from([0.0, 0.0, 5.0]))


@pytest.mark.parametrize("make", MAKES)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, limits=LIMITS, piece=st.sampled_from([0, 1000]))
def test_they_harm_nobody_else(make: str, steps: list[tuple[int, Step]], limits: tuple[int, float], piece: int) -> None:
    data, duration = limits
    policy = RelayServerPolicy(rate_limits=False, circuit_data=data, circuit_duration=duration)
    unlimited = ConnectionLimits(keepalive_interval=0, yamux=YamuxLimits(pings_per_second=0, streams_per_second=0))
    forwarder_policy = ForwarderPolicy(
        rate_limits=False, max_connections_per_ip=10_000, idle_timeout=1e9, serve_perf=True, connection=unlimited
    )
    options = MAKES[make]
    relay: MemoryRelay
    if options is None:
        relay = MemoryRelay(policy, forwarder_policy, piece=piece)
    else:
        relay = BridgedRelay(policy, forwarder_policy, piece=piece, **options)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    attach(relay, alice, 0)
    attach(relay, bob, 1)
    here, there = relay.circuit(alice, bob)
    hostile = [Hostile(relay, "mallory", 0), Hostile(relay, "trudy", 1)]
    targets = [alice, bob, *(one.peer for one in hostile)]
    for who, step in steps:
        hostile[who].take(step, targets)
    relay.advance(35)
    for peer in (alice, bob):
        assert peer.error is None and relay.links[peer].connection.state is State.MULTIPLEXED
    if not data and not duration:
        there.take()
        here.send(b"unharmed" * 1000)
        relay.run()
        assert there.take() == b"unharmed" * 1000
    for peer in list(relay.links):
        relay.detach(peer)
    relay.advance(35)
    forwarders = relay.forwarders.values() if isinstance(relay, BridgedRelay) else [relay.forwarder]
    for forwarder in forwarders:
        assert not forwarder._setup.asked and not forwarder._setup.opening and not forwarder.circuits
        assert not forwarder.own.producers and not forwarder.links
    assert relay.relay_server.circuits_in_all == relay.relay_server.reservations_in_all == 0
