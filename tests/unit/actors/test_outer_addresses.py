"""Where routers and peers say that we are."""

from __future__ import annotations

from ipaddress import ip_address

from actors.outer_addresses import LIFE, MAX_OBSERVED, OuterAddresses
from protocol.addresses import encode_tcp

NOW = 1_800_000_000.0


def at(host: str, port: int = 4001) -> bytes:
    return encode_tcp(ip_address(host), port)


OWN = (at("192.168.1.5"), at("10.0.0.5"))


def test_two_networks_must_say_the_same_and_the_port_is_ours() -> None:
    outer = OuterAddresses()
    outer.observed(at("1.2.3.4", 50_123), "0808", NOW)
    outer.observed(at("1.2.3.4", 50_124), "0808", NOW)
    assert outer.all(OWN, NOW) == ()
    outer.observed(at("1.2.3.4", 50_125), "0909", NOW)
    assert outer.all(OWN, NOW) == (at("1.2.3.4"),)
    assert outer.all((), NOW) == ()
    assert outer.all(OWN, NOW + LIFE) == (), "a word does not count for ever"


def test_what_the_router_says_comes_first() -> None:
    outer = OuterAddresses(voices=1)
    outer.mapped = (at("1.2.3.4", 4100),)
    outer.observed(at("5.6.7.8", 50_123), "0808", NOW)
    assert outer.all(OWN, NOW) == (at("1.2.3.4", 4100), at("5.6.7.8"))


def test_a_flood_of_words_is_bounded() -> None:
    outer = OuterAddresses(voices=1)
    outer.observed(b"no address", "0808", NOW)
    for number in range(1000):
        outer.observed(at(f"1.2.{number // 250}.{number % 250}", 5), f"{number % 7:04}", NOW)
    assert len(outer.all(OWN, NOW)) == MAX_OBSERVED
