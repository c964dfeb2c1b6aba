"""Who is on this network: what is announced, believed, told and forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from actors.actor import Send
from actors.mdns_discovery import MAX_PEERS, MAX_TTL, RECORDS_AT_ONCE, SEARCH_TIME, MdnsDiscovery
from protocol.discovery_messages import RelayFound, RelaysSearched, RelaysWanted
from protocol.identity import Identity, PeerId
from protocol.mdns import SERVICE, read_txt, txt_of
from protocol.mdns_messages import TxtHeard
from protocol.messages import ActorUp, AddressesChanged
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

NOW = 1_800_000_000.0
OWN = Identity.from_seed(seeded("own")).peer_id
HOME, HERE, PUBLIC, LOOP = (multiaddr(ip) for ip in ("192.168.1.5", "192.168.1.6", "8.8.8.8", "127.0.0.1"))


def peer(number: int) -> PeerId:
    return Identity.from_seed(seeded(f"peer {number}")).peer_id


def discovery(*addresses: bytes, **more: Any) -> MdnsDiscovery:
    return MdnsDiscovery("mdns", OWN, ["directory"], lambda n: (seeded("name") * 2)[:n], addresses, **more)


def heard(number: int, *addresses: bytes, ttl: float = 120.0) -> TxtHeard:
    return TxtHeard(f"somebody{number}.{SERVICE}", txt_of(addresses, peer(number)), ttl)


def test_addresses_of_local_networks_are_announced() -> None:
    actor = discovery(HOME, LOOP, multiaddr("fe80::1"))
    assert read_txt(actor.announcement).addresses == (HOME,)
    assert 32 <= len(actor.instance) <= 63 and actor.instance.isalnum()
    actor.handle(AddressesChanged((HERE,)), NOW)
    assert read_txt(actor.announcement).addresses == (HERE,)
    actor.handle(AddressesChanged((LOOP,)), NOW)
    assert actor.announcement == b""


def test_one_that_does_not_relay_says_nothing() -> None:
    assert discovery(HOME, relaying=False).announcement == b""


def test_loopback_is_a_network_for_tests() -> None:
    assert read_txt(discovery(LOOP, loopback=True).announcement).addresses == (LOOP,)


def test_whoever_answers_is_told_once() -> None:
    actor = discovery(HOME)
    assert actor.handle(heard(1, HERE, LOOP), NOW) == [Send("directory", RelayFound("mdns", peer(1).bytes, (HERE,)))]
    assert actor.handle(heard(1, HERE), NOW + 60) == []
    assert len(actor.handle(heard(1, HERE, HOME), NOW + 61)) == 1, "it moved"


@pytest.mark.parametrize(
    "message",
    [
        TxtHeard(f"x.{SERVICE}", b"\x05cut", 120.0),
        TxtHeard(f"x.{SERVICE}", txt_of([LOOP], peer(1)), 120.0),
        TxtHeard(f"x.{SERVICE}", txt_of([HERE], OWN), 120.0),
        TxtHeard(discovery().instance + "." + SERVICE, txt_of([HERE], peer(1)), 120.0),
    ],
)
def test_what_is_not_believed(message: TxtHeard) -> None:
    assert discovery(HOME).handle(message, NOW) == []


def test_a_search_tells_who_is_known_and_who_answers() -> None:
    actor = discovery(HOME)
    actor.handle(heard(1, HERE), NOW)
    wanted = RelaysWanted(7, "asker", 10.0)
    assert actor.handle(wanted, NOW) == [Send("asker", RelayFound("mdns", peer(1).bytes, (HERE,), b"", 7))]
    sends = actor.handle(heard(2, HOME), NOW + 0.5)
    assert [(send.receiver, send.message.request_id) for send in sends] == [("directory", 0), ("asker", 7)]
    assert actor.next_deadline() == NOW + SEARCH_TIME
    assert actor.handle_deadline(NOW + SEARCH_TIME) == [Send("asker", RelaysSearched("mdns", 7))]
    assert actor.next_deadline() is None


def test_who_says_good_bye_or_nothing_is_forgotten() -> None:
    actor = discovery(HOME)
    for number in range(3):
        actor.handle(heard(number, HERE, ttl=[120.0, 1e9, 120.0][number]), NOW)
    actor.handle(heard(2, HERE, ttl=0.0), NOW + 1)
    known = actor.handle(RelaysWanted(1, "asker", 10.0), NOW + 121)
    assert [send.message.peer for send in known] == [peer(1).bytes]
    assert not actor.handle(RelaysWanted(2, "asker", 10.0), NOW + MAX_TTL + 1)


def test_a_flood_is_bounded() -> None:
    actor = discovery(HOME)
    told = 0
    for number in range(2000):
        told += len(actor.handle(heard(number % 400, multiaddr(f"10.0.{number % 250}.{1 + number // 250}")), NOW))
    assert told == RECORDS_AT_ONCE and actor.refused == 2000 - RECORDS_AT_ONCE
    for number in range(400):
        actor.handle(heard(number, HERE), NOW + number + 10)
    assert len(actor._peers) == len(actor._names) == MAX_PEERS


def test_a_directory_that_starts_anew_is_told() -> None:
    actor = discovery(HOME)
    actor.handle(heard(1, HERE), NOW)
    assert [send.message.peer for send in actor.handle(ActorUp("directory"), NOW)] == [peer(1).bytes]
    assert actor.handle(ActorUp("dht"), NOW) == []
