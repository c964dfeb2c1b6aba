"""Multiaddrs as bytes: those that are well-formed, and where they lead, as the libp2p project's own package sees it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from protocol.errors import RemoteProtocolError
from protocol.multiaddr_form import MAX_ADDRESS, ip_of, is_multiaddr, is_relayed, is_tcp, parts

PEER = "12D3KooWGC9STmMQ6RWNLYyEQeMnAeTLxkHJ5jGuFzXbwjFFQYTM"
HASH = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g"

GOOD = (
    "/ip4/1.2.3.4/tcp/4001",
    f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}",
    "/ip6/2001:db8::1/tcp/4001",
    "/ip4/1.2.3.4/udp/4001/quic-v1",
    f"/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/{HASH}/certhash/{HASH}",
    f"/ip4/1.2.3.4/udp/4001/webrtc-direct/certhash/{HASH}",
    "/dns4/relay.example/tcp/4001",
    "/dnsaddr/relay.example",
    "/dns/relay.example/tcp/443/wss",
    "/ip4/1.2.3.4/tcp/443/tls/sni/relay.example/ws",
    f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/p2p-circuit",
)


@pytest.mark.parametrize("text", GOOD)
def test_addresses_of_the_network_are_well_formed(text: str) -> None:
    address = Multiaddr(text)
    assert [(code, value) for code, value in parts(address.to_bytes())] != []
    assert [protocol.code for protocol in address.protocols()] == [code for code, _ in parts(address.to_bytes())]


@pytest.mark.parametrize("text", GOOD)
def test_a_cut_address_is_none_or_its_own_beginning(text: str) -> None:
    data = Multiaddr(text).to_bytes()
    for end in range(len(data)):
        if is_multiaddr(data[:end]):
            assert str(Multiaddr(data[:end])) and text.startswith(str(Multiaddr(data[:end])))


@given(st.binary(max_size=80))
def test_what_is_well_formed_is_so_for_others_too(data: bytes) -> None:
    try:
        found = parts(data)
    except RemoteProtocolError:
        return
    assert [protocol.code for protocol in Multiaddr(data).protocols()] == [code for code, _ in found]


@pytest.mark.parametrize(
    "data",
    (
        b"",
        b"\x06\x0f\xa1",  # no host
        b"\x04\x01\x02\x03",
        b"\x04\x01\x02\x03\x04\x7f",  # an unknown protocol
        b"\x36\x00\x06\x0f\xa1",  # no name
        b"\x36\x03a/b\x06\x0f\xa1",
        b"\x36\x02\xc3\xa4\x06\x0f\xa1",
        b"\x36\x03a\nb\x06\x0f\xa1",
        b"\x04\x01\x02\x03\x04\xa5\x03\x04oops",  # a peer id that is none
        b"\x04\x01\x02\x03\x04" + b"\x06\x0f\xa1" * 100,
    ),
)
def test_what_is_no_address(data: bytes) -> None:
    assert not is_multiaddr(data)
    assert ip_of(data) is None and not is_tcp(data) and not is_relayed(data)


def test_length_is_bounded() -> None:
    long = b"\x36\xff\x01" + b"a" * 255
    assert len(long) > MAX_ADDRESS and not is_multiaddr(long)


@pytest.mark.parametrize(
    ("text", "tcp", "ip"),
    (
        ("/ip4/1.2.3.4/tcp/4001", True, "1.2.3.4"),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}", True, "1.2.3.4"),
        ("/ip4/1.2.3.4/tcp/0", False, "1.2.3.4"),
        ("/ip4/1.2.3.4/tcp/4001/ws", False, "1.2.3.4"),
        ("/ip4/1.2.3.4/udp/4001/quic-v1", False, "1.2.3.4"),
        ("/ip6/::ffff:1.2.3.4/tcp/4001", True, "1.2.3.4"),
        ("/ip6/2001:db8::1/tcp/1", True, "2001:db8::1"),
        ("/dns4/relay.example/tcp/4001", True, None),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}/p2p-circuit", False, "1.2.3.4"),
    ),
)
def test_where_it_leads(text: str, tcp: bool, ip: str | None) -> None:
    address = Multiaddr(text).to_bytes()
    assert is_tcp(address) is tcp
    assert ip_of(address) == (None if ip is None else ip_address(ip))
    assert is_relayed(address) is ("p2p-circuit" in text)
