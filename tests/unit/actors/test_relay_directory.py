"""Looking for relays: sources, probes, ratings, and what happens when any of them does not do its part."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from actors.actor import Send
from actors.relay_directory import (
    EARLY,
    FRESH,
    LOOK_INTERVAL,
    LOOKED_AT,
    MAX_PROBED,
    MAX_PROBES,
    RATING_TIME,
    SAVE_INTERVAL,
    CachedRelay,
    RelayDirectory,
)
from protocol import ping, relay_hop
from protocol.descriptor import Capacity, seal_descriptor
from protocol.discovery_messages import (
    BestRelays,
    BestRelaysWanted,
    Observed,
    Rating,
    Ratings,
    RatingsWanted,
    RelayFound,
    RelaysSearched,
    RelaysWanted,
)
from protocol.identity import Identity
from protocol.messages import ActorDown, ActorUp, Undeliverable
from protocol.relay_hop import HopServer, Status
from protocol.service_messages import ForwarderReady, StreamAnswer, StreamMessage, StreamOver, StreamWanted
from protocol.wire import FrameReader, frame
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded
from tests.unit.protocol.test_descriptor import GOOD

NOW = 1_800_000_000.0
FORWARDER = "forwarder/0"


@dataclass
class Relay:
    """``answer``: grant, full, denied, silent (it never answers RESERVE), gone (nobody is there), odd (junk), none (it
    does not speak HOP)."""

    number: int
    latency: float = 0.05
    answer: str = "grant"
    load: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.identity = Identity.from_seed(seeded(f"relay {self.number}"))
        self.peer = self.identity.peer_id.bytes
        self.address = multiaddr(f"{30 + self.number // 250}.{self.number % 250}.1.1")

    def found(self, source: str, number: int = 0, *, signed: bool = True) -> RelayFound:
        descriptor = msgspec.structs.replace(
            GOOD, peer_id=self.peer, addresses=(self.address,), capacity=Capacity(10, 10, None, self.load)
        )
        envelope = seal_descriptor(descriptor, self.identity) if signed else b""
        return RelayFound(source, self.peer, () if signed else (self.address,), envelope, number)


class Town:
    """A directory among sources, a tracker and a forwarder that the test plays, in virtual time.

    ``sources``: by name, what each finds and after how long; None: it never says that it has finished."""

    def __init__(
        self,
        relays: Sequence[Relay] = (),
        sources: dict[str, tuple[Sequence[RelayFound], float | None]] | None = None,
        cache: Any = None,
        ratings: dict[bytes, Rating] | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        self.now = NOW
        self.relays = {relay.peer: relay for relay in relays}
        self.sources = sources or {}
        self.ratings = ratings
        self.later: list[tuple[float, int, Callable[[], list[Send]]]] = []
        self.order = itertools.count()
        self.streams = itertools.count(1)
        self.speaking: dict[int, StreamWanted] = {}
        self.observed: list[Observed] = []
        self.answers: dict[int, BestRelays] = {}
        self.most_at_once = 0
        drawn = itertools.count()
        tracker = "reputation" if ratings is not None else ""
        self.directory = RelayDirectory(
            "directory",
            b"own",
            list(self.sources),
            tracker,
            lambda n: seeded(f"{seed} {next(drawn)}")[:n],
            cache,
            **more,
        )
        self.say(ForwarderReady(FORWARDER, ()))

    def say(self, message: Any) -> None:
        self.post(self.directory.handle(message, self.now))

    def ask(self, number: int = 1, count: int = 5, timeout: float = 10.0, *, search: bool = True) -> None:
        self.say(BestRelaysWanted(number, "asker", count, timeout, search))

    def after(self, seconds: float, what: Callable[[], list[Send]]) -> None:
        self.later.append((self.now + seconds, next(self.order), what))

    def post(self, sends: list[Send]) -> None:
        for send in sends:
            match send.message:
                case RelaysWanted(request_id=number):
                    self._search(send.receiver, number)
                case StreamWanted() as wanted:
                    self._open(wanted)
                case StreamAnswer(stream=stream, reset=reset):
                    if reset:
                        self.speaking.pop(stream, None)
                    elif stream in self.speaking:
                        self._talk(stream, self.speaking[stream])
                case RatingsWanted(request_id=number, peers=peers) if self.ratings is not None:
                    ratings = tuple(self.ratings.get(peer) or Rating(peer, None, None, None, 0, 0, 0) for peer in peers)
                    self.after(0.01, lambda n=number, r=ratings: self._hear(Ratings(n, r)))  # type: ignore[misc]
                case Observed() as observed:
                    self.observed.append(observed)
                case BestRelays(request_id=number) as best:
                    assert number not in self.answers and send.receiver == "asker"
                    self.answers[number] = best

    def _hear(self, message: Any) -> list[Send]:
        return self.directory.handle(message, self.now)

    def _search(self, source: str, number: int) -> None:
        found, seconds = self.sources[source]
        for one in found:
            told = msgspec.structs.replace(one, request_id=number)
            self.after((seconds or 1.0) / 2, lambda told=told: self._hear(told))  # type: ignore[misc]
        if seconds is not None:
            self.after(seconds, lambda: self._hear(RelaysSearched(source, number)))

    def _open(self, wanted: StreamWanted) -> None:
        self.most_at_once = max(self.most_at_once, len(self.directory._probes))
        relay = self.relays.get(wanted.peer)
        if relay is None or relay.answer == "gone":
            over = StreamOver(FORWARDER, 0, wanted.peer, wanted.protocol, "dial", "nobody", wanted.request_id)
            self.after(0.2, lambda: self._hear(over))
            return
        relay.asked[wanted.protocol] += 1
        stream = next(self.streams)
        self.speaking[stream] = wanted
        if relay.answer == "none" and wanted.protocol == relay_hop.PROTOCOL:
            no = StreamOver(FORWARDER, 0, wanted.peer, wanted.protocol, "protocol", "na", wanted.request_id)
            self.after(relay.latency, lambda: self._hear(no))
            return
        if relay.answer == "silent" and wanted.protocol == relay_hop.PROTOCOL:
            late = StreamOver(FORWARDER, stream, wanted.peer, wanted.protocol, "timeout", "late", wanted.request_id)
            self.after(wanted.timeout, lambda: self._hear(late))
            return
        self._talk(stream, wanted)

    def _talk(self, stream: int, wanted: StreamWanted) -> None:
        relay = self.relays[wanted.peer]
        payload = bytes(ping.SIZE)
        if wanted.protocol == relay_hop.PROTOCOL:
            server = HopServer()
            server.receive_data(frame(wanted.payload or b""))
            assert server.next_event() is not None
            match relay.answer:
                case "full":
                    server.refuse(Status.RESOURCE_LIMIT_EXCEEDED, "no room", 120)
                case "denied":
                    server.refuse(Status.PERMISSION_DENIED, "not you")
                case _:
                    server.grant_reservation(int(self.now) + 3600, (), b"", None)
            reader = FrameReader(4096)
            reader.receive_data(server.data_to_send())
            payload = (reader.next_frame() or b"") if relay.answer != "odd" else b"\xff\xff"
        message = StreamMessage(
            FORWARDER, stream, relay.peer, "", wanted.protocol, payload, wanted.request_id, dialled=True
        )
        self.after(relay.latency, lambda: self._hear(message) if stream in self.speaking else [])

    def run(self, seconds: float = 60.0) -> None:
        """Let time pass, from one thing that is due to the next."""
        end = self.now + seconds
        for _ in range(100_000):
            due = self.directory.next_deadline()
            times = [when for when, _, _ in self.later] + ([due] if due is not None else [])
            if not times or min(times) > end:
                self.now = end
                return
            self.now = max(self.now, min(times))
            ready = sorted(one for one in self.later if one[0] <= self.now)
            self.later = [one for one in self.later if one[0] > self.now]
            for _, _, what in ready:
                self.post(what())
            if due is not None and due <= self.now:
                self.post(self.directory.handle_deadline(self.now))
        raise AssertionError("it spins")

    def best(self, number: int = 1) -> list[tuple[int, str]]:
        """What was answered: relays by their number, and what they said."""
        return [(self.relays[one.peer].number, one.answer) for one in self.answers[number].relays]


def test_all_sources_are_asked_and_the_best_come_first() -> None:
    relays = [
        Relay(0, 0.9), Relay(1, 0.05), Relay(2, 0.05, "full"), Relay(3, 0.05, "denied"), Relay(4, answer="gone"),
        Relay(5, 0.3, "odd"), Relay(6, 0.02, load=1.0),
    ]  # fmt: skip
    ratings = {
        relays[0].peer: Rating(relays[0].peer, 95.0, 0.9, 0.9, 50, 0, 0),
        relays[1].peer: Rating(relays[1].peer, 40.0, 0.4, 0.05, 2, 8, 0),
    }
    town = Town(
        relays,
        {
            "dht": ([relay.found("dht") for relay in relays[:5]], 2.0),
            "mdns": ([relay.found("mdns", signed=False) for relay in relays[4:6]], 0.5),
            "public": ([relays[6].found("public"), relays[1].found("public")], 0.1),
        },
        ratings=ratings,
    )
    town.ask()
    town.run(9.0)
    answer = town.answers[1]
    assert town.best()[:3] == [(0, "reserves"), (6, "reserves"), (1, "reserves")]
    assert set(town.best()[3:]) < {(2, "full"), (3, "refuses"), (5, "refuses")} and len(answer.relays) == 5
    first, third = answer.relays[0], answer.relays[2]
    assert (first.score, first.sources, first.load) == (95.0, ("dht",), 0.0) and first.latency == pytest.approx(0.9)
    assert third.sources == ("dht", "public") and third.agent == GOOD.agent
    assert not answer.problems
    kinds = {(town.relays[one.peer].number, one.kind) for one in town.observed if one.peer in town.relays}
    assert kinds == {(n, "probe") for n in (0, 1, 2, 3, 5, 6)} | {(4, "unreachable")}


def test_one_that_drops_circuits_comes_after_those_that_nobody_has_tried() -> None:
    """Its score, 70, is more than a stranger's: it is always there, and fast."""
    relays = [Relay(number) for number in range(3)]
    dropper, tried, seldom = (relay.peer for relay in relays)
    ratings = {
        dropper: Rating(dropper, 70.0, 1.0, 0.05, 0, 8, 0),
        tried: Rating(tried, 100.0, 1.0, 0.05, 8, 0, 0),
        seldom: Rating(seldom, None, 0.3, 0.05, 0, 0, 0),
    }
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.1)}, ratings=ratings)
    town.ask()
    town.run(10)
    assert [number for number, _ in town.best()] == [1, 2, 0]


def test_what_is_known_without_a_search_is_rated_too() -> None:
    relays = [Relay(0), Relay(1)]
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.1)}, ratings={})
    town.ask(1)
    town.run(10)
    assert town.ratings is not None
    for number, relay in enumerate(relays):
        town.ratings = {relay.peer: Rating(relay.peer, 100.0, 1.0, 0.05, 8, 0, 0)}
        town.ask(2 + number, search=False)
        town.run(1)
        assert town.best(2 + number)[0] == (number, "reserves")
    town.ratings = None  # it does not answer any more
    town.ask(4, search=False)
    town.run(RATING_TIME + 0.1)
    assert len(town.best(4)) == 2
    town.ask(5, search=False)
    town.say(ActorDown("reputation"))
    assert len(town.best(5)) == 2


def test_a_relay_that_says_that_it_is_idle_is_chosen_no_more_than_twice_as_often() -> None:
    """It may lie."""
    firsts: Counter[int] = Counter()
    relays = [Relay(number, load=float(number > 0)) for number in range(4)]
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.1)})
    for number in range(2000):
        town.ask(number)
        town.run(0.2 if number else 10.0)
        firsts[town.best(number)[0][0]] += 1
    others = [firsts[number] for number in (1, 2, 3)]
    assert firsts[0] / (sum(others) / 3) == pytest.approx(2.0, rel=0.15)
    assert min(others) / max(others) > 0.75


def test_a_relay_that_says_that_it_is_idle_is_tried_no_more_than_twice_as_often() -> None:
    tries: Counter[int] = Counter()
    for number in range(150):
        relays = [Relay(number * 40 + which, load=float(which > 0)) for which in range(40)]
        town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.1)}, seed=number)
        town.ask()
        town.run(1.0)
        tries.update(which for which, relay in enumerate(relays) if relay.asked)
    others = sum(tries[which] for which in range(1, 40)) / 39
    assert 1.0 < tries[0] / others <= 2.2, "it is 1.75 by the arithmetic of the draw"


def test_a_peer_that_does_not_relay_is_not_told() -> None:
    """Whoever answers mDNS is a peer; only some are relays."""
    disk, relays = Disk(), [Relay(0, answer="none"), Relay(1)]
    town = Town(relays, {"mdns": ([relay.found("mdns", signed=False) for relay in relays], 0.2)}, disk)
    town.ask()
    town.run(SAVE_INTERVAL * 2)
    assert town.best() == [(1, "reserves")]
    assert [one.peer for one in disk.kept] == [relays[1].peer]


def test_a_full_relay_is_left_alone_until_it_said() -> None:
    relay = Relay(0, answer="full")
    town = Town([relay], {"dht": ([relay.found("dht")], 0.1)})
    town.ask(1)
    town.run(FRESH + 1)
    town.ask(2)
    town.run(10)
    assert relay.asked[relay_hop.PROTOCOL] == 1
    assert town.best(2) == [(0, "full")] and 0 < town.answers[2].relays[0].retry_after <= 120
    relay.answer = "grant"
    town.run(120)
    town.ask(3)
    town.run(10)
    assert town.best(3) == [(0, "reserves")]


def test_a_relay_that_was_not_reached_is_tried_again_soon() -> None:
    """It may have been restarted, and who lost it may know no other."""
    relay = Relay(0, answer="gone")
    town = Town([relay], {"dht": ([relay.found("dht")], 0.1)})
    town.ask(1)
    town.run(15.0)
    assert town.best(1) == [] and FRESH > 30
    relay.answer = "grant"
    town.ask(2)
    town.run(10.0)
    assert town.best(2) == [(0, "reserves")]


def test_a_source_that_never_ends_does_not_hold_the_answer() -> None:
    relays = [Relay(n) for n in range(6)]
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.2), "mdns": ((), None)})
    town.ask(timeout=10.0)
    town.run(10.0 * EARLY - 1)
    assert not town.answers, "more might come"
    town.run(1.5)
    assert len(town.answers[1].relays) == 5 and town.answers[1].problems == ("mdns did not finish in time",)


def test_at_the_deadline_what_there_is_is_told() -> None:
    relay = Relay(0)
    town = Town([relay], {"dht": ([relay.found("dht")], 0.2), "mdns": ((), None)})
    town.ask(timeout=4.0)
    town.run(4.1)
    assert town.best() == [(0, "reserves")]


def test_nobody_knows_a_relay() -> None:
    town = Town((), {"dht": ((), 0.3)})
    town.ask()
    town.run(1.0)
    assert town.answers[1] == BestRelays(1, (), ())


@pytest.mark.parametrize("end", [ActorDown("dht"), Undeliverable("dht", 1)])
def test_a_source_that_falls_is_named(end: Any) -> None:
    relay = Relay(0)
    town = Town([relay], {"dht": ((), None), "mdns": ([relay.found("mdns")], 0.2)})
    town.ask()
    town.run(1.0)
    assert not town.answers
    town.say(end)
    assert town.best() == [(0, "reserves")]
    assert town.answers[1].problems == ("dht fell while it was searching",)
    if isinstance(end, ActorDown):
        town.ask(2)
        town.run(1.0)
        assert town.answers[2].problems == ("dht is being restarted",)
        town.say(ActorUp("dht"))
        town.sources["dht"] = ((), 0.1)
        town.ask(3)
        town.run(1.0)
        assert not town.answers[3].problems


def test_without_the_tracker_relays_are_unrated() -> None:
    relay = Relay(0)
    town = Town([relay], {"dht": ([relay.found("dht")], 0.2)}, ratings={})
    town.ratings = None  # it does not answer
    town.ask()
    town.run(0.2 + RATING_TIME)
    assert not town.answers
    town.run(0.5)
    assert town.answers[1].relays[0].score is None


def test_those_who_ask_together_share_a_search() -> None:
    relays = [Relay(n) for n in range(3)]
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.2)})
    for number in range(1, 5):
        town.ask(number, count=number)
    town.run(2.0)
    assert [len(town.answers[number].relays) for number in range(1, 5)] == [1, 2, 3, 3]
    assert all(relay.asked[relay_hop.PROTOCOL] == 1 for relay in relays)
    town.ask(9)
    town.run(2.0)
    assert len(town.answers[9].relays) == 3
    assert all(relay.asked[relay_hop.PROTOCOL] == 1 for relay in relays), "they said a moment ago"


def test_what_is_known_is_told_at_once() -> None:
    relay = Relay(0)
    town = Town([relay], {"dht": ((), 0.2)})
    town.say(relay.found("dht"))
    town.ask(search=False)
    assert town.best() == [(0, "unprobed")]


def test_probes_are_bounded() -> None:
    relays = [Relay(n, 0.3, "full") for n in range(100)]
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.2)})
    town.ask(timeout=60.0)
    town.run(70.0)
    assert sum(bool(relay.asked) for relay in relays) == MAX_PROBED
    assert town.most_at_once == MAX_PROBES
    assert len(town.answers[1].relays) == 5


def test_lies_are_not_believed() -> None:
    honest, liar = Relay(0), Relay(1)
    descriptor = msgspec.structs.replace(GOOD, peer_id=honest.peer, addresses=(liar.address,))
    forged = RelayFound("dht", honest.peer, (), seal_descriptor(descriptor, liar.identity))
    swapped = msgspec.structs.replace(liar.found("dht"), peer=honest.peer)
    junk = RelayFound("dht", honest.peer, (), b"junk")
    town = Town([honest, liar], {"dht": ([forged, swapped, junk], 0.2)})
    town.ask()
    town.run(2.0)
    assert town.answers[1].relays == () and not honest.asked and not liar.asked
    assert sum(town.directory.book.refused.values()) == 3


def test_a_forwarder_that_falls_is_no_fault_of_the_relays() -> None:
    relay = Relay(0, latency=1.0)
    town = Town([relay], {"dht": ([relay.found("dht")], 0.2)})
    town.ask()
    town.run(0.5)
    town.say(ActorDown(FORWARDER))
    assert town.best() == [(0, "unprobed")] and not town.observed
    town.later.clear()
    town.say(ForwarderReady(FORWARDER, ()))
    town.ask(2)
    town.run(9.0)
    assert town.best(2) == [(0, "reserves")]


def test_relays_are_looked_at_over_time() -> None:
    relays = [Relay(n) for n in range(10)]
    town = Town(relays)
    for relay in relays:
        town.say(relay.found("dht"))
    town.run(LOOK_INTERVAL * 8)
    assert all(relay.asked[ping.PROTOCOL] >= 1 for relay in relays)
    assert sum(relay.asked[ping.PROTOCOL] for relay in relays) <= LOOKED_AT * 16


class Disk:
    def __init__(self) -> None:
        self.kept: Sequence[CachedRelay] = ()
        self.saves = 0

    def load(self) -> Sequence[CachedRelay]:
        return self.kept

    def save(self, relays: Sequence[CachedRelay]) -> None:
        self.kept = list(relays)
        self.saves += 1


def test_the_next_start_needs_no_source() -> None:
    disk, relays = Disk(), [Relay(0), Relay(1, answer="gone")]
    town = Town(relays, {"dht": ([relay.found("dht") for relay in relays], 0.2)}, disk)
    town.ask()
    town.run(SAVE_INTERVAL * 2)
    assert [one.peer for one in disk.kept] == [relays[0].peer] and disk.saves == 1
    again = Town(relays, {"dht": ((), None)}, disk)
    again.ask(timeout=2.0)
    again.run(2.1)
    assert again.best() == [(0, "reserves")]
    assert again.answers[1].relays[0].sources == ("cache",)


def test_what_changed_is_kept_at_the_end() -> None:
    disk, relay = Disk(), Relay(0)
    town = Town([relay], {"dht": ([relay.found("dht")], 0.2)}, disk)
    town.ask()
    town.run(2.0)
    assert not disk.saves
    town.directory.close()
    assert disk.saves == 1


def test_equals_are_spread() -> None:
    """Not all choose the same of many that are as good."""
    relays = [Relay(n) for n in range(8)]
    first: Counter[int] = Counter()
    for seed in range(60):
        town = Town(relays)
        drawn = itertools.count(seed * 1000)
        town.directory._randomness = lambda n, drawn=drawn: seeded(f"{next(drawn)}")[:n]  # type: ignore[misc]
        for relay in relays:
            town.say(relay.found("dht"))
        town.ask(search=False)
        first[town.best()[0][0]] += 1
    assert len(first) == 8 and max(first.values()) < 25
