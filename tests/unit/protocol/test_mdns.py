"""TXT records of libp2p's multicast DNS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.mdns import MAX_ADDRESSES, MAX_SENT, MAX_TXT, read_txt, txt_of
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

ALICE = Identity.from_seed(seeded("alice")).peer_id
BOB = Identity.from_seed(seeded("bob")).peer_id
HOME = (multiaddr("192.168.1.5"), multiaddr("fd00::1"))


def strings(*texts: bytes) -> bytes:
    return b"".join(bytes((len(text),)) + text for text in texts)


def test_it_comes_back() -> None:
    record = txt_of(HOME, ALICE)
    assert record == strings(
        f"dnsaddr=/ip4/192.168.1.5/tcp/4001/p2p/{ALICE}".encode(), f"dnsaddr=/ip6/fd00::1/tcp/4001/p2p/{ALICE}".encode()
    )
    told = read_txt(record)
    assert (told.peer, told.addresses) == (ALICE, HOME)


def test_what_does_not_fit_is_left_out() -> None:
    record = txt_of([multiaddr(f"192.168.1.{n}") for n in range(100)], ALICE)
    assert len(record) <= MAX_SENT and len(read_txt(record).addresses) == 10


def test_what_is_no_address_of_ours_is_skipped() -> None:
    record = strings(
        b"",
        b"txtvers=1",
        b"dnsaddr=junk",
        b"dnsaddr=\xff",
        f"dnsaddr=/ip4/192.168.1.9/udp/4001/quic-v1/p2p/{BOB}".encode(),
        f"dnsaddr=/dns4/evil.example/tcp/4001/p2p/{BOB}".encode(),
        f"dnsaddr=/ip4/192.168.1.9/tcp/4001/p2p/{ALICE}/p2p-circuit/p2p/{BOB}".encode(),
        f"dnsaddr=/ip4/192.168.1.5/tcp/4001/p2p/{ALICE}".encode(),
    )
    told = read_txt(record)
    assert (told.peer, told.addresses) == (ALICE, HOME[:1])


def test_so_many() -> None:
    record = strings(*(f"dnsaddr=/ip4/192.168.1.{n}/tcp/4001/p2p/{ALICE}".encode() for n in range(60)))
    assert len(read_txt(record).addresses) == MAX_ADDRESSES


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\x05cut",
        strings(b"dnsaddr=/ip4/192.168.1.5/tcp/4001"),
        strings(*(f"dnsaddr=/ip4/192.168.1.5/tcp/4001/p2p/{peer}".encode() for peer in (ALICE, BOB))),
        strings(b"x" * 250) * 40,
    ],
)
def test_what_is_none_is_an_error(record: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_txt(record)


@given(st.one_of(st.binary(max_size=400), st.lists(st.binary(max_size=255), max_size=5).map(lambda all: strings(*all))))
def test_nothing_else_is_raised(record: bytes) -> None:
    assert len(record) <= MAX_TXT
    try:
        read_txt(record)
    except RemoteProtocolError:
        pass
