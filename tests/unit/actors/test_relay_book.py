"""What is remembered of relays: nobody pushes out what others told or what served."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from actors import relay_book
from actors.relay_book import MAX_OF_NETWORK, MAX_OF_SOURCE, RelayBook
from protocol.descriptor import RelayDescriptor
from tests.support.forwarders import multiaddr
from tests.unit.protocol.test_descriptor import GOOD

NOW = 1_800_000_000.0
OWN = b"own"


def ip(number: int) -> bytes:
    """An address in a network of its own, for each number below 40,000."""
    return multiaddr(f"{20 + number // 256}.{number % 256}.1.1")


def flood(book: RelayBook, source: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        book.learn(source, b"%s%d" % (source.encode(), number), (ip(number),), NOW + number)


def told(book: RelayBook, source: str) -> int:
    return sum(one.origin == source for one in book.relays.values())


def test_a_flood_from_one_source_leaves_the_others() -> None:
    book = RelayBook(OWN)
    flood(book, "mdns", 3, first=5000)
    flood(book, "public", 3, first=6000)
    flood(book, "dht", 10)
    book.reached(b"dht3", 0.05, NOW)
    flood(book, "dht", 4 * MAX_OF_SOURCE, first=10)
    assert told(book, "dht") == MAX_OF_SOURCE
    assert told(book, "mdns") == told(book, "public") == 3
    assert b"dht3" in book.relays, "it served"
    assert b"dht4" not in book.relays and b"dht%d" % (4 * MAX_OF_SOURCE + 9) in book.relays


def test_when_all_served_a_new_one_is_not_taken() -> None:
    book = RelayBook(OWN)
    flood(book, "dht", MAX_OF_SOURCE)
    for peer in list(book.relays):
        book.reached(peer, 0.05, NOW)
    assert book.learn("dht", b"new", (ip(9000),), NOW) is None
    assert book.refused["source"] == 1
    assert book.learn("mdns", b"new", (ip(9000),), NOW) is not None


def test_one_that_was_tried_in_vain_goes_first() -> None:
    book = RelayBook(OWN)
    flood(book, "dht", MAX_OF_SOURCE)
    book.answered(b"dht200", "unreachable", 0, NOW)
    flood(book, "dht", 1, first=MAX_OF_SOURCE)
    assert b"dht200" not in book.relays and b"dht0" in book.relays


def test_one_network_has_its_part() -> None:
    book = RelayBook(OWN)
    for number in range(100):
        book.learn("dht", b"sybil%d" % number, (multiaddr(f"20.1.{number}.1"),), NOW + number)
    assert len(book) == MAX_OF_NETWORK
    for number in range(100):
        book.learn("mdns", b"neighbour%d" % number, (multiaddr(f"192.168.{number}.1"),), NOW + number)
    assert told(book, "mdns") == 100, "they are all of one network there"


def test_private_addresses_are_for_those_who_may_tell_them() -> None:
    home = multiaddr("192.168.1.5")
    assert RelayBook(OWN).learn("dht", b"a", (home,), NOW) is None
    assert RelayBook(OWN).learn("mdns", b"a", (home,), NOW) is not None
    assert RelayBook(OWN, private=True).learn("dht", b"a", (home,), NOW) is not None
    assert RelayBook(OWN).learn("mdns", OWN, (home,), NOW) is None, "that is this node"


def signed(sequence: int, *addresses: bytes, expires: float = NOW + 3600) -> RelayDescriptor:
    return msgspec.structs.replace(GOOD, sequence=sequence, addresses=addresses, expires_at=int(expires))


def test_a_relays_own_word_counts_and_the_latest_of_them() -> None:
    book = RelayBook(OWN)
    book.learn("dht", b"a", (ip(1), ip(2)), NOW)
    known = book.learn("dht", b"a", (), NOW, signed(5, ip(3)), b"five")
    assert known is not None and known.addresses == (ip(3),) and known.load == 0.25
    book.learn("mdns", b"a", (ip(4),), NOW)
    assert known.addresses == (ip(3),), "what others say does not move it"
    book.learn("dht", b"a", (), NOW, signed(4, ip(6)), b"four")
    assert (known.envelope, known.addresses) == (b"five", (ip(3),))
    book.learn("dht", b"a", (), NOW, signed(6, ip(7)), b"six")
    assert (known.envelope, known.addresses) == (b"six", (ip(7),))
    assert set(known.sources) == {"dht", "mdns"} and known.origin == "dht"
    known.forget_stale(NOW + 3600)
    assert known.descriptor is None and known.load is None


@given(st.permutations(range(5)))
def test_whatever_comes_first_the_same_is_known(order: list[int]) -> None:
    words = [
        lambda book: book.learn("dht", b"a", (), NOW, signed(1, ip(1)), b"1"),
        lambda book: book.learn("mdns", b"a", (), NOW, signed(3, ip(3)), b"3"),
        lambda book: book.learn("public", b"a", (), NOW, signed(2, ip(2)), b"2"),
        lambda book: book.learn("dht", b"b", (ip(8),), NOW),
        lambda book: book.learn("mdns", b"b", (ip(8),), NOW),
    ]
    book = RelayBook(OWN)
    for place in order:
        words[place](book)
    assert {peer: (one.addresses, one.envelope, set(one.sources)) for peer, one in book.relays.items()} == {
        b"a": ((ip(3),), b"3", {"dht", "mdns", "public"}),
        b"b": ((ip(8),), b"", {"dht", "mdns"}),
    }


@given(
    st.lists(
        st.tuples(st.sampled_from(["dht", "mdns", "public"]), st.integers(0, 60), st.integers(0, 8), st.booleans()),
        max_size=120,
    )
)
def test_it_is_bounded_whatever_comes(steps: list[tuple[str, int, int, bool]]) -> None:
    most, relay_book.MAX_OF_SOURCE = relay_book.MAX_OF_SOURCE, 10
    try:
        book = RelayBook(OWN)
        for number, (source, peer, network, reached) in enumerate(steps):
            before = set(book.relays)
            book.learn(source, b"%d" % peer, (multiaddr(f"{20 + network}.1.1.{peer + 1}"),), NOW + number)
            lost = before - set(book.relays)
            assert len(lost) <= 1
            if reached:
                book.reached(b"%d" % peer, 0.1, NOW)
        assert all(told(book, source) <= 10 for source in ("dht", "mdns", "public"))
    finally:
        relay_book.MAX_OF_SOURCE = most
