"""Which addresses can be dialled, and what is said of those that cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.dial_address import DialAddressError, parse_dial_address
from protocol.identity import Identity
from tests.support.peers import seeded

RELAY, PEER = (Identity.from_seed(seeded(name)).peer_id for name in ("relay", "peer"))


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/tcp/4001",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}",
        f"/ip6/2001:db8::1/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        f"/ip4/192.0.2.1/tcp/4001/p2p-circuit/p2p/{PEER}",
        f"/dns/relay.example/tcp/443/p2p/{RELAY}",
        f"/dns4/relay.example/tcp/443/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        "/dns6/relay.example/tcp/443",
        f"/dnsaddr/relay.example/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        "/dnsaddr/relay.example/tcp/443",
    ],
)
def test_read_and_written_the_same(text: str) -> None:
    assert str(parse_dial_address(text)) == text


ONION = "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234"


def test_an_onion_is_dialled_only_where_it_may_be() -> None:
    for text in (ONION, f"{ONION}/p2p/{PEER}"):
        assert str(parse_dial_address(text, onion=True)) == text
        with pytest.raises(DialAddressError, match="Tor"):
            parse_dial_address(text)
    assert parse_dial_address(f"{ONION}/p2p/{PEER}", onion=True).port == 1234
    for text in (f"{ONION}/tcp/80", f"{ONION}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", ONION.replace(":1234", ":0")):
        with pytest.raises(DialAddressError):
            parse_dial_address(text, onion=True)


def test_the_parts() -> None:
    address = parse_dial_address(f"/dns4/relay.example/tcp/443/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    assert (address.host, address.value, address.port) == ("dns4", "relay.example", 443)
    assert (address.peer, address.target) == (RELAY, PEER)
    assert address.named
    assert address.transport == "/dns4/relay.example/tcp/443"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "relay.example:4001",
        "/ip4/192.0.2.1",
        "/ip4/192.0.2.1/tcp/0",
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "/ip4/192.0.2.1/tcp/4001/ws",
        f"/p2p/{RELAY}",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p/{PEER}",
        "/ip4/192.0.2.1/tcp/4001/p2p/nonsense",
        "/ip4/192.0.2.1/tcp/4001" * 100,
        "/dns4/\x1b[31mred/tcp/4001",
        "/dns4/" + "a" * 254 + "/tcp/4001",
        "/dns4/m\u00fcnchen.example/tcp/4001",
    ],
)
def test_what_cannot_be_dialled_is_refused(text: str) -> None:
    with pytest.raises(DialAddressError):
        parse_dial_address(text)


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["ip4", "1.2.3.4", "tcp", "1", "p2p", "dnsaddr", "p2p-circuit", str(RELAY), ""]))
    .map("/".join)
    .map("/".__add__)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        address = parse_dial_address(text)
    except DialAddressError:
        return
    assert parse_dial_address(str(address)) == address
