"""What peers are told of where the relay is reached."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from actors.self_description import SelfDescription
from protocol.addresses import encode_tcp, is_global, with_peer
from protocol.identity import Identity
from tests.support.peers import seeded

PUBLIC, HOME, LOOPBACK = "1.2.3.4", "192.168.1.5", "127.0.0.1"


def tcp(text: str) -> bytes:
    return encode_tcp(ip_address(text), 4001)


@pytest.mark.parametrize(
    ("known", "local", "remote", "expected"),
    [
        # Through a router that forwards the port: nobody else reaches the relay at its private address.
        ([PUBLIC], HOME, "5.6.7.8", [PUBLIC]),
        ([PUBLIC], LOOPBACK, "2600::9", [PUBLIC]),
        # From beside it: those who are there too reach it so.
        ([PUBLIC], HOME, "192.168.1.77", [HOME, PUBLIC]),
        ([PUBLIC], LOOPBACK, LOOPBACK, [LOOPBACK, PUBLIC]),
        # Another public address, of which the interfaces do not know.
        ([PUBLIC], "1.2.3.9", "5.6.7.8", ["1.2.3.9", PUBLIC]),
        ([PUBLIC], PUBLIC, "5.6.7.8", [PUBLIC]),
        # Where there is no public one, anything may be a way.
        ([HOME], "10.0.0.1", "5.6.7.8", ["10.0.0.1", HOME]),
        ([], HOME, "5.6.7.8", [HOME]),
    ],
)
def test_addresses_of_a_reservation(known: list[str], local: str, remote: str, expected: list[str]) -> None:
    identity = Identity.from_seed(seeded("relay"))
    description = SelfDescription(identity, {})
    description.set_addresses([tcp(text) for text in known], 1.0)
    told = description.reservation_addresses(tcp(local), tcp(remote))
    assert told == [with_peer(tcp(text), identity.peer_id.bytes) for text in expected]


def test_a_name_that_is_announced_is_public() -> None:
    identity = Identity.from_seed(seeded("relay"))
    description = SelfDescription(identity, {})
    name = bytes.fromhex("36") + b"\x05relay" + bytes.fromhex("060fa1")  # /dns4/relay/tcp/4001
    description.set_addresses([name], 1.0)
    assert description.reservation_addresses(tcp(HOME), tcp("5.6.7.8")) == [with_peer(name, identity.peer_id.bytes)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(PUBLIC, True), (HOME, False), (LOOPBACK, False), ("2600::1", True), ("fd00::1", False), ("::1", False)],
)
def test_which_addresses_are_public(text: str, expected: bool) -> None:
    assert is_global(tcp(text)) is expected


def test_what_is_no_ip_address_is_not_known_to_be_private() -> None:
    assert is_global(bytes.fromhex("3605") + b"relay")
    assert not is_global(b"") and not is_global(b"\x04\x01")
