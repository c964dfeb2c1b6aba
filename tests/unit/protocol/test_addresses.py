"""The short way to a binary multiaddr gives what the multiaddr package gives."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from protocol.addresses import encode_tcp


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
