"""Hashes in place of names, and free text without them."""

from __future__ import annotations

import json

import pytest

from protocol.identity import Identity
from tests.support.peers import seeded
from tracing.redaction import RedactionKey, Redactor, Scrubber
from tracing.spans import address, peer

ALICE = Identity.from_seed(seeded("alice")).peer_id
HOUR = 3600.0


def redactor(name: str = "key", *, clear: bool = False) -> Redactor:
    return Redactor(RedactionKey(seeded(name), 1000.0), HOUR, clear=clear)


def test_one_peer_has_one_hash_while_the_key_lasts() -> None:
    one = redactor()
    first = one.show(peer(ALICE.bytes), 1000.0)
    assert first.startswith("peer-") and len(first) == len("peer-") + 16
    assert one.show(peer(ALICE.bytes), 1000.0 + HOUR - 1) == first
    assert one.show(peer(ALICE.bytes), 1000.0 + HOUR) != first


def test_processes_of_one_node_agree_whenever_they_began() -> None:
    one = redactor()
    late = Redactor(one.key(1000.0 + 5.5 * HOUR), HOUR)
    assert late.key(0.0).since == 1000.0 + 5 * HOUR
    now = 1000.0 + 9 * HOUR
    assert late.show(address("203.0.113.42"), now) == one.show(address("203.0.113.42"), now)


def test_a_later_key_tells_nothing_of_an_earlier_one() -> None:
    """It is a hash of it: there is nothing in the state to go back to."""
    one = redactor()
    before = one.key(1000.0).key
    one.key(1000.0 + HOUR)
    assert one.key(1000.0).key != before  # gone, for us too


def test_nodes_have_keys_of_their_own() -> None:
    assert redactor("one").show(peer(ALICE.bytes), 1000.0) != redactor("two").show(peer(ALICE.bytes), 1000.0)


def test_kinds_do_not_mix() -> None:
    one = redactor()
    same = b"203.0.113.42"
    assert one.show(address("203.0.113.42"), 0).split("-")[1] != one.show(peer(same), 0).split("-")[1]


def test_in_clear_when_asked() -> None:
    one = redactor(clear=True)
    assert one.show(peer(ALICE.bytes), 0) == str(ALICE)
    assert one.show(address("2001:db8::7"), 0) == "2001:db8::7"
    assert one.show(peer(b"junk"), 0) == b"junk".hex()


SECRET = [
    str(ALICE),
    "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "16Uiu2HAm7YT3fFd6qzWqg5cTQM7qCQ6bWzTzVXGzJpRWGgc7qPKW",
    "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l",
    ALICE.bytes.hex(),
    repr(ALICE.bytes)[2:-1],
    "203.0.113.42",
    "2001:db8::1:7",
    "::ffff:203.0.113.42",
    "fe80::1",
    "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd",
]
FORMS = [
    "{}",
    "peer {} left",
    "/ip4/{}/tcp/4001",
    "/p2p/{}/p2p-circuit",
    "({}:4001)",
    "['{}']",
    "to {}.",
    "/onion3/{}:4001",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", SECRET)
def test_free_text_loses_peers_and_addresses(secret: str, form: str) -> None:
    text = form.format(secret)
    scrubbed = Scrubber(redactor(), lambda: 1000.0).scrub(text)
    assert secret not in scrubbed and "-" in scrubbed
    assert secret.split(":")[-1] not in scrubbed or len(secret.split(":")[-1]) < 4


def test_names_in_addresses_too() -> None:
    scrubber = Scrubber(redactor(), lambda: 1000.0, own=("relay.example",))
    assert "alice.example" not in scrubber.scrub("cannot dial /dns4/alice.example/tcp/4001")
    assert scrubber.scrub("/dnsaddr/relay.example/tcp/4001") == "/dnsaddr/relay.example/tcp/4001"


def test_a_peer_is_the_same_in_text_as_in_a_span() -> None:
    one = redactor()
    assert Scrubber(one, lambda: 1000.0).scrub(f"{ALICE}") == one.show(peer(ALICE.bytes), 1000.0)
    assert Scrubber(one, lambda: 1000.0).scrub("203.0.113.42") == one.show(address("203.0.113.42"), 1000.0)


@pytest.mark.parametrize(
    "text",
    [
        "the mailbox of forwarder/0 is full: 100000 messages (mailbox_capacity)",
        "time=2026-01-31T12:00:00.000Z at 12:30:45, version 1.2.3, 10.5 s",
        "not listening on /ip6/::/tcp/4001: Address family not supported",
        "not listening on /ip4/0.0.0.0/tcp/4001",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        'File "actors/node.py", line 12, in x::y',
    ],
)
def test_other_text_stays(text: str) -> None:
    assert Scrubber(redactor(), lambda: 1000.0).scrub(text) == text


def test_what_is_the_nodes_own_stays() -> None:
    scrubber = Scrubber(redactor(), lambda: 1000.0, own=("192.0.2.1", str(ALICE)))
    text = f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE} and 192.0.2.10"
    assert scrubber.scrub(text).startswith(f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE} and address-")


def test_nothing_is_changed_in_clear() -> None:
    text = json.dumps(SECRET)
    assert Scrubber(redactor(clear=True), lambda: 1000.0).scrub(text) == text
