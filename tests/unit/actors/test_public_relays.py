"""Configured relays: told at the start, to whoever searches, and by name."""

from __future__ import annotations

from actors.actor import Send
from actors.public_relays import FRESH, RETRY, PublicRelays
from protocol.discovery_messages import NameResolved, RelayFound, RelaysSearched, RelaysWanted
from protocol.identity import Identity
from protocol.messages import ActorUp
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

NOW = 1_800_000_000.0
ALICE, BOB = (Identity.from_seed(seeded(name)).peer_id for name in ("alice", "bob"))
AT_8 = f"/ip4/8.8.8.8/tcp/4001/p2p/{ALICE}"
AT_9 = f"/ip4/9.9.9.9/tcp/4001/p2p/{ALICE}"
NAME = "/dnsaddr/relays.example"
BOBS = f"/ip4/7.7.7.7/tcp/4001/p2p/{BOB}"
WANTED = RelaysWanted(5, "asker", 10.0)
TO_ALICE = RelayFound("public", ALICE.bytes, (multiaddr("8.8.8.8"), multiaddr("9.9.9.9")))


def test_addresses_are_told_at_the_start_and_to_who_searches() -> None:
    actor = PublicRelays([AT_8, AT_9], ["dht"])
    assert actor.next_deadline() == 0.0
    assert actor.handle_deadline(NOW) == [Send("dht", TO_ALICE)]
    assert actor.next_deadline() is None
    found, over = actor.handle(WANTED, NOW)
    assert found.message.addresses == TO_ALICE.addresses and found.message.request_id == 5
    assert over == Send("asker", RelaysSearched("public", 5))
    assert actor.handle(ActorUp("dht"), NOW) == [Send("dht", TO_ALICE)]
    assert not actor.wanted


def started(*relays: str) -> PublicRelays:
    actor = PublicRelays(relays, ["dht"])
    actor.handle_deadline(NOW)
    return actor


def test_a_name_is_resolved_at_the_start() -> None:
    actor = started(NAME)
    assert actor.wanted == [NAME]
    assert actor.handle(NameResolved(NAME, (BOBS,)), NOW) == [
        Send("dht", RelayFound("public", BOB.bytes, (multiaddr("7.7.7.7"),)))
    ]


def test_who_searches_waits_for_names_but_not_for_ever() -> None:
    actor = started(AT_8, NAME)
    actor.wanted.clear()
    (told,) = actor.handle(WANTED, NOW)
    assert told.message.peer == ALICE.bytes and not actor.wanted, "it is being resolved already"
    *told, over = actor.handle(NameResolved(NAME, (BOBS,)), NOW + 1)
    assert [(send.receiver, send.message.request_id) for send in told] == [("dht", 0), ("asker", 5)]
    assert over.message == RelaysSearched("public", 5)
    late = started(NAME)
    assert not late.handle(WANTED, NOW)
    assert late.handle_deadline(NOW + 10) == [Send("asker", RelaysSearched("public", 5))]


def test_what_was_resolved_is_used_again_for_a_while() -> None:
    actor = started(NAME)
    actor.handle(NameResolved(NAME, (BOBS,)), NOW)
    actor.wanted.clear()
    assert len(actor.handle(WANTED, NOW + FRESH)) == 2 and not actor.wanted
    assert len(actor.handle(WANTED, NOW + FRESH + 1)) == 1 and actor.wanted == [NAME]


def test_one_that_leads_nowhere_is_said_and_tried_again() -> None:
    actor = started(NAME)
    actor.wanted.clear()
    actor.handle(WANTED, NOW)
    (over,) = actor.handle(NameResolved(NAME, (), "no DNS server can be reached"), NOW)
    assert over.message == RelaysSearched("public", 5, "no DNS server can be reached")
    assert actor.next_deadline() == NOW + RETRY
    actor.handle_deadline(NOW + RETRY)
    assert actor.wanted == [NAME]
    actor.handle(NameResolved(NAME, (BOBS,)), NOW + RETRY)
    actor.handle(WANTED, NOW + 10 * FRESH)
    (over,) = actor.handle(NameResolved(NAME, (), "gone"), NOW + 10 * FRESH)
    assert over.message.problem == "gone"
    (known,) = actor.handle(RelaysWanted(6, "asker", 10.0), NOW + 10 * FRESH)
    assert known.message.peer == BOB.bytes, "what it stood for before is worth a try"


def test_one_of_whom_it_is_not_known_who_he_is_is_none() -> None:
    actor = started(NAME)
    assert actor.handle(NameResolved(NAME, ("/ip4/7.7.7.7/tcp/4001",)), NOW) == []
    assert actor.handle(NameResolved("/dnsaddr/another.example", (BOBS,)), NOW) == []
