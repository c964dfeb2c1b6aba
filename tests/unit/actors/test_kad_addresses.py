"""Addresses of strangers: none leads further inward than the one who tells it."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from actors.kad_addresses import (
    MAX_DIALLED,
    Scope,
    at,
    group_of,
    groups_of,
    scope_of,
    to_dial,
    to_tell,
    without_peer,
)

PEER = "12D3KooWGC9STmMQ6RWNLYyEQeMnAeTLxkHJ5jGuFzXbwjFFQYTM"


def binary(text: str) -> bytes:
    return Multiaddr(text).to_bytes()


GLOBAL = binary("/ip4/1.2.3.4/tcp/4001")
GLOBAL6 = binary("/ip6/2a00::1/tcp/4001")
PRIVATE = binary("/ip4/192.168.1.7/tcp/4001")
PRIVATE6 = binary("/ip6/fd00::1/tcp/4001")
LOOPBACK = binary("/ip4/127.0.0.1/tcp/4001")
LOOPBACK6 = binary("/ip6/::1/tcp/4001")
NOWHERE = tuple(
    binary(f"/{kind}/{ip}/tcp/4001")
    for kind, ip in (
        ("ip4", "0.0.0.0"),
        ("ip4", "169.254.169.254"),
        ("ip4", "224.0.0.1"),
        ("ip4", "255.255.255.255"),
        ("ip6", "::"),
        ("ip6", "fe80::1"),
        ("ip6", "ff02::1"),
        ("ip6", "::ffff:0.0.0.0"),
    )
)
NAME = binary("/dns4/relay.example/tcp/4001")
ALL = (GLOBAL, GLOBAL6, PRIVATE, PRIVATE6, LOOPBACK, LOOPBACK6, *NOWHERE)


@pytest.mark.parametrize(
    ("teller", "dialled"),
    (
        ("8.8.8.8", (GLOBAL, GLOBAL6)),
        ("2a00::8", (GLOBAL, GLOBAL6)),
        ("192.168.1.1", (GLOBAL, GLOBAL6, PRIVATE, PRIVATE6)),
        ("100.64.0.1", (GLOBAL, GLOBAL6, PRIVATE, PRIVATE6)),
        ("127.0.0.1", (GLOBAL, GLOBAL6, PRIVATE, PRIVATE6, LOOPBACK, LOOPBACK6)),
        ("::ffff:8.8.8.8", (GLOBAL, GLOBAL6)),
        ("fe80::1%eth0", ()),
        ("nonsense", ()),
        ("", ()),
    ),
)
def test_who_may_tell_of_what(teller: str, dialled: tuple[bytes, ...]) -> None:
    assert to_dial(ALL, scope_of(teller)) == dialled
    assert to_tell(ALL, scope_of(teller)) == dialled


def test_only_tcp_over_ip_is_dialled_but_more_is_told() -> None:
    others = (NAME, binary("/ip4/1.2.3.4/udp/4001/quic-v1"), binary(f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/p2p-circuit"))
    assert to_dial(others, Scope.HOST) == ()
    assert to_tell(others, Scope.GLOBAL) == others


def test_an_address_is_dialled_without_its_peer_and_once() -> None:
    with_peer = binary(f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}")
    assert without_peer(with_peer) == GLOBAL and without_peer(GLOBAL) == GLOBAL
    assert to_dial((with_peer, GLOBAL), Scope.GLOBAL) == (GLOBAL,)


def test_few_addresses_of_a_peer_are_dialled() -> None:
    many = tuple(binary(f"/ip4/1.2.3.4/tcp/{port}") for port in range(1, 100))
    assert to_dial(many, Scope.GLOBAL) == many[:MAX_DIALLED]


def test_a_peer_is_believed_where_it_was_met() -> None:
    assert at((GLOBAL, GLOBAL6, PRIVATE, NAME), "1.2.3.4") == (GLOBAL,)
    assert at((binary("/ip6/::ffff:1.2.3.4/tcp/1"),), "1.2.3.4") != ()
    assert at((GLOBAL,), "nonsense") == ()


def test_groups_are_what_is_cheap_to_fill() -> None:
    assert group_of("8.8.8.8") == group_of("8.8.200.1") == group_of("::ffff:8.8.1.1") != group_of("8.9.8.8")
    assert group_of("2a00:1:2::1") == group_of("2a00:1:ffff::1") != group_of("2a00:2::1")
    assert group_of("192.168.1.1") == group_of("127.0.0.1") == group_of("nonsense") == ""
    assert groups_of((GLOBAL, PRIVATE, NAME)) == {"1.2.0.0/16"}
