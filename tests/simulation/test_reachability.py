"""Many nodes that ask each other whether they are reached, with liars among them, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors.actor import Send
from actors.reachability import CONFIRMED_LIFE, GRACE, Reachability, ReachabilityPolicy
from protocol import autonat
from protocol.autonat import DialDataRequest, DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.discovery_messages import DhtModeChanged, ReachabilityChanged, RelayFound, RelaysWanted
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from tests.simulation.network import Host, Network, Weather

POLICY = ReachabilityPolicy()


def honest(host: Host, **more: Any) -> Reachability:
    return Reachability(
        "reachability", host.peer.bytes, ["issuer"], "dht", ["dht"], host.random_bytes, ReachabilityPolicy(**more)
    )


class Server:
    """A server that answers every request with ``answer``; None: with silence.  It dials nobody, unless ``dials``
    another address than the one that it was asked about."""

    def __init__(self, answer: DialResponse | DialDataRequest | None, dials: bytes = b"") -> None:
        self.answer = answer
        self.dials = dials
        self.asked = 0
        self.data = 0

    def handle(self, message: Any, now: float) -> list[Send]:
        match message:
            case ForwarderReady(forwarder=forwarder):
                return [Send(forwarder, ProtocolsServed("autonat", (autonat.DIAL_REQUEST,)))]
            case StreamMessage(request_id=0, forwarder=forwarder, stream=stream, payload=payload, peer=peer):
                request = autonat.decode(payload)
                if not isinstance(request, DialRequest):
                    self.data += 1
                    return [Send(forwarder, StreamAnswer(stream, None))]
                self.asked += 1
                sends = []
                if self.dials:
                    back = autonat.encode_dial_back(request.nonce)
                    wanted = StreamWanted(1, "a", peer, (self.dials,), autonat.DIAL_BACK, back, finish=True, fresh=True)
                    sends.append(Send(forwarder, wanted))
                if self.answer is not None:
                    sends.append(Send(forwarder, StreamAnswer(stream, autonat.encode(self.answer))))
                return sends
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


def denier(host: Host) -> Server:
    return Server(DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_ERROR))


def flatterer(host: Host) -> Server:
    return Server(DialResponse(ResponseStatus.OK, 0, DialStatus.OK))


class Deaf:
    """A peer that speaks another protocol."""

    def handle(self, message: Any, now: float) -> list[Send]:
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


class World:
    """``alice``: whom it is about."""

    def __init__(
        self, *, reachable: bool = True, ip: str = "20.1.0.1", seed: int = 11, loss: float = 0.0, **more: Any
    ) -> None:
        self.network = Network(seed, Weather(loss=loss))
        self.others: list[Host] = []
        self.alice = self.network.add("alice", ip, lambda host: honest(host, **more), reachable=reachable)

    def add(self, count: int, make: Callable[[Host], Any] = honest, *, network: int | None = None) -> list[Host]:
        made = []
        for _ in range(count):
            number = len(self.others)
            ip = f"30.{number if network is None else network}.{number}.1"
            host = self.network.add(f"server {number}", ip, make)
            self.others.append(host)
            made.append(host)
        return made

    def tell(self, *hosts: Host) -> None:
        for host in hosts or self.others:
            self.alice.post(RelayFound("dht", host.peer.bytes, (host.address,)))

    @property
    def reached(self) -> list[tuple[bytes, ...]]:
        return [message.addresses for message in self.alice.heard(ReachabilityChanged)]

    @property
    def modes(self) -> list[bool]:
        return [message.server for message in self.alice.heard(DhtModeChanged)]


def test_an_address_that_others_reach_is_confirmed() -> None:
    world = World()
    world.add(5)
    world.tell()
    world.network.run(30.0)
    assert world.reached == [(world.alice.address,)]
    assert world.modes == [True]


def test_an_address_that_nobody_reaches_is_denied_and_the_dht_is_told() -> None:
    world = World(reachable=False)
    world.add(5)
    world.tell()
    world.network.run(60.0)
    assert world.reached == []
    assert world.modes == [False]


def test_what_was_confirmed_is_withdrawn_when_that_ends_and_comes_back() -> None:
    world = World()
    world.add(5)
    world.tell()
    world.network.run(30.0)
    world.alice.reachable = False
    world.network.run(POLICY.certain * 1.2 + 60.0)
    assert world.reached == [(world.alice.address,), ()]
    world.alice.reachable = True
    world.network.run(POLICY.certain * 1.2 + 60.0)
    assert world.reached == [(world.alice.address,), (), (world.alice.address,)]
    assert world.modes == [True, False, True]


@pytest.mark.parametrize("make", [honest, denier, flatterer])
def test_one_server_alone_neither_confirms_nor_denies(make: Callable[[Host], Any]) -> None:
    world = World()
    world.add(1, make)
    world.tell()
    world.network.run(4 * 3600.0)
    assert world.reached == []
    assert world.modes == []


def test_many_servers_of_one_network_are_one_voice() -> None:
    world = World(reachable=False)
    world.add(10, denier, network=7)
    world.tell()
    world.network.run(4 * 3600.0)
    assert world.modes == []


def test_what_is_beside_us_does_not_speak_for_the_world() -> None:
    world = World(ip="30.7.0.200")
    world.add(4, network=7)
    world.tell()
    world.network.run(4 * 3600.0)
    assert world.reached == []


def test_one_liar_does_not_outvote_two() -> None:
    world = World()
    world.add(1, denier)
    world.add(2)
    world.tell()
    world.network.run(3600.0)
    assert world.reached == [(world.alice.address,)]


def test_a_quarter_of_liars_seldom_withdraws_and_not_for_long() -> None:
    """Each round meets others of them, and one message in fifty is lost: on one day in twenty enough of it comes
    together, and the next round sets it right."""
    withdrawn = 0
    for seed in range(30):
        world = World(seed=seed, loss=0.02)
        world.add(9)
        world.add(3, denier)
        world.tell()
        world.network.run(86_400.0)
        assert world.reached[0] == world.reached[-1] == (world.alice.address,), seed
        withdrawn += world.reached.count(())
    assert withdrawn <= 5


@pytest.mark.parametrize("seed", range(8))
def test_a_quarter_of_liars_does_not_confirm(seed: int) -> None:
    """For a day."""
    alone = World(seed=seed, loss=0.02, reachable=False)
    alone.add(9)
    alone.add(3, flatterer)
    alone.tell()
    alone.network.run(86_400.0)
    assert alone.reached == [] and alone.modes == [False]


def test_those_who_say_yes_without_dialling_are_not_believed() -> None:
    world = World(reachable=False)
    liars = world.add(10, flatterer)
    world.tell()
    world.network.run(5 * 3600.0)
    assert world.reached == []
    assert all(host.core.asked <= 5 for host in liars if isinstance(host.core, Server))
    assert isinstance(world.alice.core, Reachability)
    assert set(world.alice.core.counts) == {"asked: odd"}


def test_peers_that_do_not_speak_it_are_passed_over() -> None:
    world = World()
    world.add(6, lambda host: Deaf())
    world.add(2)
    world.tell()
    world.network.run(60.0)
    assert world.reached == [(world.alice.address,)]


def test_servers_that_say_nothing_cost_time_and_no_more() -> None:
    world = World()
    world.add(4, lambda host: Server(None))
    world.add(2)
    world.tell()
    world.network.run(600.0)
    assert world.reached == [(world.alice.address,)]


def test_who_wants_more_data_than_is_honest_gets_none() -> None:
    world = World()
    (greedy,) = world.add(1, lambda host: Server(DialDataRequest(0, autonat.MOST_DATA + 1)))
    (hungry,) = world.add(1, lambda host: Server(DialDataRequest(0, autonat.MOST_DATA)))
    world.tell()
    world.network.run(120.0)
    assert isinstance(greedy.core, Server) and isinstance(hungry.core, Server)
    assert greedy.core.asked == 1 and greedy.core.data == 0
    assert hungry.core.data == 25 and autonat.MOST_DATA == 100_000


def test_an_address_is_not_confirmed_for_ever_without_anybody_to_ask() -> None:
    world = World()
    world.add(4)
    world.tell()
    world.network.run(30.0)
    for host in world.others:
        world.network.stop(host)
    world.network.run(CONFIRMED_LIFE + 2 * POLICY.certain)
    assert world.reached == [(world.alice.address,), ()]


def test_servers_are_searched_for_when_there_are_too_few_and_late_ones_are_asked_soon() -> None:
    world = World()
    world.network.run(30.0)
    assert [message.asker for message in world.alice.heard(RelaysWanted)] == ["reachability"]
    world.add(2)
    world.tell()
    world.network.run(60.0)
    assert world.reached == [(world.alice.address,)]


def test_a_node_without_a_public_address_is_no_server_of_the_dht() -> None:
    world = World(ip="192.168.1.7")
    world.network.run(GRACE - 1)
    assert world.modes == []
    world.network.run(2)
    assert world.modes == [False]
    assert world.alice.heard(RelaysWanted) == []


def test_in_a_private_network_one_word_will_do() -> None:
    world = World(ip="192.168.1.7", private=True, quorum=1)
    bob = world.network.add("bob", "192.168.1.8", lambda host: honest(host, private=True, quorum=1))
    world.tell(bob)
    world.network.run(30.0)
    assert world.reached == [(world.alice.address,)]


def test_nobody_is_confirmed_at_an_address_of_another() -> None:
    """Alice says that she is at bob's address; servers dial it, after she has paid, and meet bob."""
    world = World()
    world.add(3)
    bob = world.network.add("bob", "40.1.1.1", honest)
    world.tell()
    world.alice.post(ForwarderReady("forwarder/0", (bob.address,)))
    world.network.run(120.0)
    assert world.reached == []
    assert world.modes == [False]
    assert world.network.counts["dial met another"] >= 2


def test_a_second_forwarder_takes_the_place_of_the_first() -> None:
    world = World()
    world.add(3)
    world.tell()
    world.network.run(30.0)
    core = world.alice.core
    assert isinstance(core, Reachability)
    now = world.network.now
    sends = core.handle(ForwarderReady("forwarder/1", (world.alice.address,), "forwarder/0"), now)
    assert [send.receiver for send in sends] == ["forwarder/1"]
    assert core.addresses == (world.alice.address,)
    assert core.handle(StreamOver("forwarder/0", 5, b"", autonat.DIAL_REQUEST, "gone"), now) == []
