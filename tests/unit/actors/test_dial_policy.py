"""Which addresses of strangers are dialled."""

from __future__ import annotations

import pytest

from actors.dial_policy import dialable, may_dial, network_of
from tests.support.forwarders import multiaddr

PUBLIC = ("203.0.112.1", "2a00:1450::1", "8.8.8.8")
PRIVATE = ("10.1.2.3", "192.168.1.5", "127.0.0.1", "169.254.1.1", "fe80::1", "fd00::1", "::1", "100.64.0.1")
NEVER = ("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255")


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_ones_are(ip: str) -> None:
    assert may_dial(multiaddr(ip), private=False) and may_dial(multiaddr(ip), private=True)


@pytest.mark.parametrize("ip", PRIVATE)
def test_private_ones_only_where_that_is_wanted(ip: str) -> None:
    assert not may_dial(multiaddr(ip), private=False)
    assert may_dial(multiaddr(ip), private=True) == (ip != "100.64.0.1")


@pytest.mark.parametrize("ip", NEVER)
def test_what_is_no_host_is_not(ip: str) -> None:
    assert not may_dial(multiaddr(ip), private=True)


def test_other_kinds_are_not() -> None:
    mapped = b"\x29" + bytes(10) + b"\xff\xff\x08\x08\x08\x08" + b"\x06\x0f\xa1"
    names = b"\x36\x0bexample.org\x06\x0f\xa1"
    for address in (b"", b"junk", mapped, names, multiaddr("8.8.8.8", 0), multiaddr("8.8.8.8") + b"\x01\xbb"):
        assert not may_dial(address, private=True)


def test_each_once_and_so_many() -> None:
    told = [
        multiaddr("10.0.0.1"),
        multiaddr("8.8.8.8"),
        multiaddr("8.8.8.8"),
        multiaddr("8.8.4.4"),
        multiaddr("9.9.9.9"),
    ]
    assert dialable(told, private=False, most=2) == (multiaddr("8.8.8.8"), multiaddr("8.8.4.4"))


def test_networks() -> None:
    assert network_of(multiaddr("8.8.8.8")) == network_of(multiaddr("8.8.200.1")) != network_of(multiaddr("8.9.8.8"))
    assert network_of(multiaddr("2a00:1450::1")) == network_of(multiaddr("2a00:1450:ffff::1"))
    assert network_of(multiaddr("2a00:1450::1")) != network_of(multiaddr("2a00:1451::1"))
    assert network_of(b"junk") == ""
