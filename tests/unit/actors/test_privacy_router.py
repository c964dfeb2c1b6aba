"""A level is what was asked for or an error: which ways PrivacyRouter finds, and which it never gives."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from actors.privacy_levels import GOOD_SCORE, paths, select_relays, tier
from actors.privacy_router import MAX_WAITING, PrivacyRouter
from protocol.addresses import decode_tcp
from protocol.discovery_messages import BestRelays, BestRelaysWanted, FoundRelay
from protocol.identity import Identity
from protocol.messages import ActorDown, CountsAsked, CountsTold, Undeliverable
from protocol.privacy_messages import (
    Level,
    Path,
    PathsTold,
    PathsWanted,
    RelayAt,
    RelaysChosen,
    RelaysChosenWanted,
)
from tests.support.peers import seeded

NOW = 0.0
BOB = Identity.from_seed(seeded("bob")).peer_id
OTHER = Identity.from_seed(seeded("other")).peer_id
R1, R2, R3 = (Identity.from_seed(seeded(name)).peer_id for name in ("r1", "r2", "r3"))
ONION = Multiaddr("/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234").to_bytes()
OWN = Multiaddr("/ip4/203.0.113.42/tcp/4001").to_bytes()
NAMED = Multiaddr("/dns4/bob.example/tcp/4001").to_bytes()
AT = {one: Multiaddr(f"/ip4/8.8.4.{number}/tcp/4001").to_bytes() for number, one in enumerate((R1, R2, R3), 1)}
CIRCUIT = {
    one: Multiaddr(f"/ip4/8.8.4.{number}/tcp/4001/p2p/{one}/p2p-circuit").to_bytes()
    for number, one in enumerate((R1, R2, R3), 1)
}


def relay(
    peer: object,
    score: float | None = 80.0,
    latency: float | None = 0.05,
    answer: str = "reserves",
    load: float | None = 0.1,
    sources: tuple[str, ...] = ("dht",),
) -> FoundRelay:
    return FoundRelay(peer.bytes, (AT[peer],), sources, latency, load, score, answer)  # type: ignore[attr-defined,index]


def first(_: int = 0) -> float:
    return 0.0


def test_a_persons_good_relay_goes_before_public_ones_and_those_before_unknown_ones() -> None:
    good, public, unrated = relay(R1), relay(R2, None, sources=("public",)), relay(R3, None)
    for order in ((unrated, public, good), (public, good, unrated)):
        assert select_relays(order, first) == [good, public, unrated]


@pytest.mark.parametrize(
    "bad",
    [
        relay(R1, GOOD_SCORE),
        relay(R1, 12.0),
        relay(R1, answer="full"),
        relay(R1, answer="refuses"),
        relay(R1, answer="unreachable"),
        relay(R1, load=1.0),
        relay(R1, None, answer="unprobed"),
        relay(R1, None, answer="full", sources=("public",)),
    ],
)
def test_a_relay_that_is_bad_or_full_is_never_chosen(bad: FoundRelay) -> None:
    assert tier(bad) is None and select_relays([bad], first) == []


def test_the_fastest_are_first_but_those_that_are_as_fast_share() -> None:
    slow, one, other = relay(R3, latency=0.4), relay(R1, latency=0.040), relay(R2, latency=0.060)
    draws = iter(Identity.from_seed(seeded("lot")).peer_id.bytes * 1000)
    chosen = Counter(select_relays([slow, one, other], lambda: next(draws) / 256)[0].peer for _ in range(200))
    assert set(chosen) == {R1.bytes, R2.bytes} and min(chosen.values()) > 60
    assert select_relays([slow, one, other], first)[-1] == slow
    assert select_relays([slow, one], first, avoid=[R1.bytes]) == [slow]


def test_high_goes_through_the_peers_relays_the_best_first() -> None:
    known = [relay(R2, 90.0, 0.01), relay(R3, 30.0)]
    found, problem = paths(Level.HIGH, BOB.bytes, [*CIRCUIT.values(), OWN, ONION], known, first)
    assert problem == ""
    assert found == [Path((RelayAt(R2.bytes, (AT[R2],)),))], "R3 was bad, and that R1 is a relay only bob says"
    found, problem = paths(Level.HIGH, BOB.bytes, [*CIRCUIT.values(), OWN, ONION], known, first, chosen=True)
    assert found == [Path((RelayAt(R2.bytes, (AT[R2],)),)), Path((RelayAt(R1.bytes, (AT[R1],)),))]


def test_a_peer_cannot_pass_its_own_machine_off_as_a_relay() -> None:
    found, problem = paths(Level.HIGH, BOB.bytes, [CIRCUIT[R1]], [relay(R2)], first)
    assert found == [] and "nothing is known" in problem


@pytest.mark.parametrize("hops", [1, 2])
def test_a_peer_does_not_say_where_a_relay_is_that_is_known(hops: int) -> None:
    """Or it would have its caller dial a host of its own under a good relay's name."""
    lies = [
        Multiaddr(f"{where}/p2p/{R1}/p2p-circuit").to_bytes()
        for where in ("/ip4/203.0.113.42/tcp/4001", "/dns4/tracker.example/tcp/4001")
    ]
    found, problem = paths(Level.HIGH, BOB.bytes, lies, [relay(R1, 90.0), far_relay()], first, hops=hops)
    assert [path.relays[-1] for path in found] == [RelayAt(R1.bytes, (AT[R1],))], problem


def far_relay() -> FoundRelay:
    at = Multiaddr("/ip4/9.9.9.9/tcp/4001").to_bytes()
    return FoundRelay(R2.bytes, (at,), ("dht",), 0.05, 0.1, 80.0, "reserves", agent="descord-relay/0.1.0")


@pytest.mark.parametrize(
    "stranger", [relay(R1, None), relay(R1, None, answer="full"), relay(R1, None, answer="unprobed")]
)
def test_a_stranger_that_the_peer_chose_is_not_used_unless_the_caller_did_too(stranger: FoundRelay) -> None:
    """Anybody can be found as a relay: a second peer id of the target's own machine, too."""
    assert paths(Level.HIGH, BOB.bytes, [CIRCUIT[R1]], [stranger], first)[0] == []
    assert len(paths(Level.HIGH, BOB.bytes, [CIRCUIT[R1]], [stranger], first, chosen=True)[0]) == 1


def test_a_relay_that_takes_nobody_new_still_serves_those_who_are_there() -> None:
    for one in (relay(R1, None, answer="full", sources=("public",)), relay(R1, 90.0, load=1.0)):
        assert len(paths(Level.HIGH, BOB.bytes, [CIRCUIT[R1]], [one], first)[0]) == 1


def test_low_is_direct_and_falls_to_a_relay_only_when_that_is_allowed() -> None:
    offered = [CIRCUIT[R1], OWN, NAMED, ONION]
    assert paths(Level.LOW, BOB.bytes, offered, [], first)[0] == [Path((), OWN), Path((), NAMED)]
    chosen = paths(Level.LOW, BOB.bytes, offered, [], first, relayed=True, chosen=True)[0]
    assert chosen[-1].relays[0].peer == R1.bytes
    # Where bob says that he is behind, nobody here having chosen it: only if it is known, and where.
    assert paths(Level.LOW, BOB.bytes, [CIRCUIT[R1]], [], first, relayed=True)[0] == []
    (known,) = paths(Level.LOW, BOB.bytes, [CIRCUIT[R1]], [relay(R1)], first, relayed=True)[0]
    assert known.relays == (RelayAt(R1.bytes, relay(R1).addresses),)
    assert paths(Level.LOW, BOB.bytes, [CIRCUIT[R1]], [], first) == (
        [],
        "no address of the peer itself is known, and a relay was not allowed",
    )


def test_maximum_is_an_onion_or_nothing() -> None:
    assert paths(Level.MAXIMUM, BOB.bytes, [OWN, CIRCUIT[R1], ONION], [], first) == ([Path((), ONION)], "")
    found, problem = paths(Level.MAXIMUM, BOB.bytes, [OWN, NAMED, CIRCUIT[R1]], [relay(R1)], first, relayed=True)
    assert found == [] and "onion" in problem


def test_a_peer_is_not_its_own_relay() -> None:
    assert paths(Level.HIGH, R1.bytes, [CIRCUIT[R1]], [], first)[0] == []


def test_relays_in_a_row_are_of_different_networks_and_the_last_is_the_peers() -> None:
    near, far, third = (
        FoundRelay(one.bytes, (Multiaddr(f"/ip4/{ip}/tcp/4001").to_bytes(),), ("dht",), 0.05, 0.1, 80.0, "reserves",
                   agent=agent)
        for one, ip, agent in ((R2, "8.8.9.9", "descord-relay/0.1.0"), (R3, "9.9.9.9", "descord-relay/0.1.0"),
                               (BOB, "7.7.7.7", "go-libp2p"))
    )  # fmt: skip
    found, problem = paths(Level.HIGH, BOB.bytes, [CIRCUIT[R1], OWN], [near, far, third], first, hops=2)
    assert [[one.peer for one in path.relays] for path in found] == [[R3.bytes, R1.bytes]], problem
    for hops in (3, 4):
        found, problem = paths(Level.HIGH, BOB.bytes, [CIRCUIT[R1], OWN], [near, far, third], first, hops=hops)
        assert found == [] and "in a row" in problem
    assert paths(Level.HIGH, BOB.bytes, [OWN], [near, far], first, hops=2)[0] == []


def test_relays_in_a_row_are_of_different_providers_where_that_is_known() -> None:
    """R1's provider has another network block, in which R2 is."""
    systems = {"8.8.8.8": "AS64500", "9.9.9.9": "AS64500", "7.7.7.7": "AS64501"}

    def system_of(address: bytes) -> str:
        end = decode_tcp(address)
        return "" if end is None else systems.get(end[0], "")

    last = Multiaddr(f"/ip4/8.8.8.8/tcp/4001/p2p/{R1}/p2p-circuit").to_bytes()
    same, other, unknown = (
        FoundRelay(one.bytes, (Multiaddr(f"/ip4/{ip}/tcp/4001").to_bytes(),), ("dht",), 0.05, 0.1, 80.0, "reserves",
                   agent="descord-relay/0.1.0")
        for one, ip in ((R2, "9.9.9.9"), (R3, "7.7.7.7"), (OTHER, "6.6.6.6"))
    )  # fmt: skip

    def firsts(*known: FoundRelay, hops: int = 2) -> list[list[bytes]]:
        found, _ = paths(Level.HIGH, BOB.bytes, [last], list(known), first, hops=hops, system_of=system_of)
        return [[one.peer for one in path.relays[:-1]] for path in found]

    assert firsts(same) == []
    assert firsts(same, other) == [[R3.bytes]]
    assert firsts(same, unknown) == [[OTHER.bytes]], "by its network alone"
    assert sorted(firsts(same, other, unknown, hops=3)[0]) == sorted([R3.bytes, OTHER.bytes])
    assert len(paths(Level.HIGH, BOB.bytes, [last], [same], first, hops=2)[0]) == 1, "without a database"


OFFERED = st.lists(
    st.one_of(st.sampled_from([OWN, NAMED, ONION, *CIRCUIT.values()]), st.binary(max_size=40)), max_size=12
)
KNOWN = st.lists(
    st.builds(
        relay,
        st.sampled_from([R1, R2, R3]),
        st.one_of(st.none(), st.floats(0, 100)),
        st.one_of(st.none(), st.floats(0, 3)),
        st.sampled_from(["reserves", "full", "refuses", "unreachable", "unprobed"]),
        st.one_of(st.none(), st.floats(0, 1)),
        st.sampled_from([("dht",), ("public",), ("mdns", "public")]),
    ),
    max_size=6,
)


@given(
    level=st.sampled_from(Level), offered=OFFERED, known=KNOWN, relayed=st.booleans(), hops=st.sampled_from([1, 2, 3])
)
def test_no_level_is_ever_weakened(
    level: Level, offered: list[bytes], known: list[FoundRelay], relayed: bool, hops: int
) -> None:
    found, problem = paths(level, BOB.bytes, offered, known, first, relayed=relayed, hops=hops)
    assert bool(found) is not bool(problem)
    for path in found:
        match level:
            case Level.MAXIMUM:
                assert path == Path((), ONION)
            case Level.HIGH:
                assert len({one.peer for one in path.relays} - {BOB.bytes}) == len(path.relays) == hops
                assert path.address == b""
                dialled = path.relays[0]
                assert any(one.peer == dialled.peer and one.addresses == dialled.addresses for one in known)
                assert {one.peer for one in path.relays[: max(hops - 1, 1)]} <= {one.peer for one in known}
            case Level.LOW:
                assert relayed or not path.relays
                assert path.address in (OWN, NAMED, b"")


# The actor.


def router() -> PrivacyRouter:
    return PrivacyRouter("privacy", "directory", bytes)


def wanted(level: Level, *offered: bytes) -> PathsWanted:
    return PathsWanted(7, "me", level, BOB.bytes, offered, chosen=True)


def test_for_a_relay_the_directory_is_asked_what_it_knows_and_nobody_else() -> None:
    made = router()
    (ask,) = made.handle(wanted(Level.HIGH, CIRCUIT[R1], CIRCUIT[R2]), NOW)
    assert ask.receiver == "directory" and isinstance(ask.message, BestRelaysWanted) and not ask.message.search
    (told,) = made.handle(BestRelays(ask.message.request_id, (relay(R2),)), NOW)
    assert told.receiver == "me" and isinstance(told.message, PathsTold)
    assert [path.relays[0].peer for path in told.message.paths] == [R2.bytes, R1.bytes]
    assert made.handle(BestRelays(ask.message.request_id, ()), NOW) == [], "only once"


@pytest.mark.parametrize(("level", "path"), [(Level.LOW, Path((), OWN)), (Level.MAXIMUM, Path((), ONION))])
def test_where_no_relay_is_used_nobody_is_asked(level: Level, path: Path) -> None:
    (told,) = router().handle(wanted(level, OWN, ONION, CIRCUIT[R1]), NOW)
    assert told.message == PathsTold(7, (path,))


def test_more_relays_are_looked_for_once_when_too_few_are_known() -> None:
    made = router()
    (ask,) = made.handle(RelaysChosenWanted(3, "me", Level.HIGH, 2, 5.0), NOW)
    assert isinstance(ask.message, BestRelaysWanted) and not ask.message.search
    (again,) = made.handle(BestRelays(ask.message.request_id, (relay(R1),)), NOW)
    assert isinstance(again.message, BestRelaysWanted) and again.message.search and again.message.timeout == 5.0
    (told,) = made.handle(BestRelays(again.message.request_id, (relay(R1),)), NOW)
    assert told.message == RelaysChosen(3, (RelayAt(R1.bytes, (AT[R1],)),))


def test_no_relay_is_an_error_that_says_why() -> None:
    made = router()
    (ask,) = made.handle(RelaysChosenWanted(3, "me", Level.HIGH, 2, 0.0), NOW)
    assert isinstance(ask.message, BestRelaysWanted)
    (told,) = made.handle(BestRelays(ask.message.request_id, (relay(R1, 5.0),), ("the DHT is empty",)), NOW)
    assert told.message == RelaysChosen(3, (), "the DHT is empty")
    (told,) = made.handle(RelaysChosenWanted(4, "me", Level.MAXIMUM, 2, 5.0), NOW)
    assert isinstance(told.message, RelaysChosen) and "Tor" in told.message.problem


@pytest.mark.parametrize("end", [ActorDown("directory"), Undeliverable("directory", 1)])
def test_without_a_directory_the_peers_own_relays_are_used_and_the_rest_is_an_error(
    end: ActorDown | Undeliverable,
) -> None:
    made = router()
    made.handle(wanted(Level.HIGH, CIRCUIT[R1]), NOW)
    made.handle(RelaysChosenWanted(8, "me", Level.HIGH, 1, 0.0), NOW)
    told, none = made.handle(end, NOW)
    assert isinstance(told.message, PathsTold) and told.message.paths[0].relays[0].peer == R1.bytes
    assert isinstance(none.message, RelaysChosen) and none.message.problem
    assert made.handle(end, NOW) == []


def test_what_waits_is_bounded() -> None:
    made = router()
    for _ in range(MAX_WAITING):
        made.handle(wanted(Level.HIGH), NOW)
    (told,) = made.handle(RelaysChosenWanted(9, "me", Level.HIGH, 1, 0.0), NOW)
    assert told.message == RelaysChosen(9, (), "too many questions at a time")
    (counts,) = made.handle(CountsAsked(1, "metrics"), NOW)
    assert isinstance(counts.message, CountsTold) and counts.message.sizes == {"waiting": MAX_WAITING}
