"""The short way to a binary multiaddr gives what the multiaddr package gives."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from protocol.addresses import encode_tcp, with_peer
from protocol.identity import Identity


@given(st.ip_addresses(), st.integers(0, 65535))
def test_it_agrees_with_the_multiaddr_package(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    assert encode_tcp(ip, port) == Multiaddr(f"/ip{ip.version}/{ip}/tcp/{port}").to_bytes()


@pytest.mark.parametrize(
    ("text", "expected"), [("::ffff:192.0.2.1", "04c000020106" + "0fa1"), ("192.0.2.1", "04c0000201060fa1")]
)
def test_an_ipv4_address_within_ipv6_is_written_as_what_it_is(text: str, expected: str) -> None:
    assert encode_tcp(ipaddress.ip_address(text), 4001).hex() == expected


def test_a_peer_is_appended_as_the_multiaddr_package_does_it() -> None:
    peer = Identity.from_seed(bytes(32)).peer_id
    address = encode_tcp(ipaddress.ip_address("192.0.2.1"), 4001)
    assert with_peer(address, peer.bytes) == Multiaddr(f"/ip4/192.0.2.1/tcp/4001/p2p/{peer}").to_bytes()
