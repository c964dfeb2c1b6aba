"""Who is asked, who is not, and for how long not."""

from __future__ import annotations

import random

import pytest

from actors.autonat_asks import Asked, Outcome
from actors.autonat_servers import DOUBT, MAX_OF_NETWORK, MAX_SERVERS, PAUSE, REST, AutonatServers
from tests.support.forwarders import multiaddr

NOW = 1_800_000_000.0
HERE = multiaddr("20.1.1.1")


def servers(*, private: bool = False) -> AutonatServers:
    return AutonatServers(b"own", random.Random(3).random, private=private)


def learn(book: AutonatServers, *ips: str) -> list[bool]:
    return [book.learn(ip.encode(), (multiaddr(ip),)) for ip in ips]


def chosen(book: AutonatServers, now: float = NOW, address: bytes = HERE) -> set[bytes]:
    """All that would be chosen, of different networks."""
    peers: set[bytes] = set()
    networks: set[str] = set()
    while (one := book.choose(address, networks, peers, now)) is not None:
        peers.add(one[0])
        networks.add(book.network(one[0]))
    return peers


def told(book: AutonatServers, ip: str, outcome: Outcome, at: str = "", now: float = NOW) -> str:
    return book.asked(Asked(ip.encode(), HERE, outcome, at), now)


def test_only_what_may_be_dialled_is_a_server() -> None:
    book = servers()
    assert learn(book, "30.1.1.1", "30.1.1.1", "192.168.1.1", "127.0.0.1") == [True, False, False, False]
    assert not book.learn(b"own", (multiaddr("31.1.1.1"),))
    assert not book.learn(b"nowhere", ())
    assert learn(servers(private=True), "192.168.1.1", "127.0.0.1") == [True, True]


def test_a_network_has_few_places_and_one_voice() -> None:
    book = servers()
    assert sum(learn(book, *(f"30.1.1.{number}" for number in range(20)))) == MAX_OF_NETWORK
    learn(book, "31.1.1.1")
    assert len(chosen(book)) == 2
    private = servers(private=True)
    learn(private, *(f"10.1.1.{number}" for number in range(5)))
    assert len(chosen(private)) == 5


def test_a_neighbour_is_not_asked() -> None:
    book = servers()
    learn(book, "20.1.9.9", "21.1.1.1")
    assert chosen(book) == {b"21.1.1.1"}
    assert book.beside(book.network(b"20.1.9.9"), HERE)


@pytest.mark.parametrize(
    ("outcome", "rest"),
    [("reached", 0.0), ("failed", 0.0), ("ours", 0.0), ("busy", PAUSE), ("refused", PAUSE), ("away", PAUSE),
     ("none", REST), ("odd", DOUBT)],
)  # fmt: skip
def test_who_was_of_no_use_rests(outcome: Outcome, rest: float) -> None:
    book = servers()
    learn(book, "30.1.1.1")
    voted = told(book, "30.1.1.1", outcome, "30.1.1.1")
    assert bool(voted) == (outcome in ("reached", "failed"))
    if rest:
        assert chosen(book, NOW + rest - 1) == set()
    assert chosen(book, NOW + rest) == {b"30.1.1.1"}


def test_who_is_away_again_and_again_rests_longer() -> None:
    book = servers()
    learn(book, "30.1.1.1")
    rests = []
    for _ in range(10):
        told(book, "30.1.1.1", "away")
        rests.append(next(rest for rest in (PAUSE * 2**n for n in range(8)) if chosen(book, NOW + min(rest, REST))))
    assert rests[:3] == [PAUSE, 2 * PAUSE, 4 * PAUSE] and rests[-1] >= REST / 2


def test_the_network_that_counts_is_where_it_was_met() -> None:
    book = servers()
    learn(book, "30.1.1.1")
    before = book.network(b"30.1.1.1")
    assert told(book, "30.1.1.1", "reached", "40.1.1.1") == book.network(b"30.1.1.1") != before
    assert told(book, "30.1.1.1", "reached", "nowhere") == ""


def test_a_flood_of_peers_does_not_push_out_those_that_have_proved_useful() -> None:
    book = servers()
    good = [f"30.{number}.1.1" for number in range(10)]
    learn(book, *good)
    for ip in good:
        told(book, ip, "reached", ip)
    learn(book, *(f"{40 + number // 250}.{number % 250}.1.1" for number in range(1000)))
    assert len(book) == MAX_SERVERS
    assert {ip.encode() for ip in good} <= chosen(book)
    assert book.choose(HERE, (), (), NOW)[0] in {ip.encode() for ip in good}  # type: ignore[index]
