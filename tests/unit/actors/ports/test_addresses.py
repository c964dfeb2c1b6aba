"""What is bound, what is done without, and what peers are told of it."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable

import pytest

from actors.ports import addresses
from actors.ports.addresses import BindError, bind_all, reachable, told

BOTH = ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001")


def refusing(host: str, number: int) -> Callable[[str, int], tuple[str, int]]:
    def bind(address: str, port: int) -> tuple[str, int]:
        if address == host:
            raise OSError(number, os.strerror(number))
        return address, port

    return bind


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_host_without_ipv6_relays_without(number: int) -> None:
    assert bind_all(BOTH, refusing("::", number)) == [("0.0.0.0", 4001)]
    with pytest.raises(BindError, match="/ip6/::/tcp/4001"):
        bind_all(BOTH[1:], refusing("::", number))


@pytest.mark.parametrize("number", [errno.EADDRINUSE, errno.EACCES])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_port_that_another_has_is_not_done_without(host: str, number: int) -> None:
    with pytest.raises(BindError, match=os.strerror(number)):
        bind_all(BOTH, refusing(host, number))


INTERFACES = ("127.0.0.1", "192.168.1.5", "100.64.3.4", "1.2.3.4", "::1", "fd00::5", "2600::5")


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        (INTERFACES, ("1.2.3.4", "2600::5")),
        (("127.0.0.1", "192.168.1.5", "2600::5"), ("2600::5",)),
        (("127.0.0.1", "192.168.1.5"), ("192.168.1.5", "127.0.0.1")),
        (("127.0.0.1",), ("127.0.0.1",)),
    ],
)
def test_beside_public_addresses_peers_are_told_no_other(
    have: tuple[str, ...], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dials would try each of them first."""
    ips = [ipaddress.ip_address(text) for text in have]
    monkeypatch.setattr(addresses, "_interfaces", lambda version: [ip for ip in ips if ip.version == version])
    found = reachable([("0.0.0.0", 4001), ("::", 4001)])
    assert len(found) == len(have)
    assert [address.text.split("/")[2] for address in told(found)] == list(expected)
