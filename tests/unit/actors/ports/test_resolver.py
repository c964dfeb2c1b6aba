"""Names are resolved by real questions to a DNS server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from multiaddr import Multiaddr

from actors.ports.resolver import ResolveError, Resolver, ResolverPolicy
from tests.unit.actors.ports.dns_server import DnsServer, dns_server

ALICE = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
BOB = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3"

ZONE = f"""
relay.test. 300 A 192.0.2.1
relay.test. 300 A 192.0.2.2
relay.test. 300 AAAA 2001:db8::1
brief.test. 0 A 192.0.2.9
_dnsaddr.relay.test. 300 TXT "dnsaddr=/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}"
_dnsaddr.relay.test. 300 TXT "dnsaddr=/dns6/relay.test/tcp/4001/p2p/{BOB}"
_dnsaddr.relay.test. 300 TXT "dnsaddr=/no/such/protocol"
_dnsaddr.relay.test. 300 TXT "dnsaddr="
_dnsaddr.relay.test. 300 TXT "v=spf1 -all"
_dnsaddr.outer.test. 300 TXT "dnsaddr=/dnsaddr/relay.test/p2p/{ALICE}"
_dnsaddr.split.test. 300 TXT "dnsaddr=/ip4/192.0.2.7" "/tcp/4001"
_dnsaddr.loop.test. 300 TXT "dnsaddr=/dnsaddr/loop.test"
_dnsaddr.tree.test. 300 TXT "dnsaddr=/dnsaddr/tree.test"
_dnsaddr.tree.test. 300 TXT "dnsaddr=/dnsaddr/TREE.test"
_dnsaddr.mixed.test. 300 TXT "dnsaddr=/ip4/192.0.2.8/tcp/1"
_dnsaddr.mixed.test. 300 TXT "dnsaddr=/dns4/silent.test/tcp/1"
silent.test. 300 A 192.0.2.3
""" + "".join(f"many.test. 300 A 198.51.100.{last}\n" for last in range(1, 25))


@asynccontextmanager
async def resolving(policy: ResolverPolicy | None = None) -> AsyncIterator[tuple[Resolver, DnsServer]]:
    async with dns_server(ZONE, silent=frozenset({"silent.test"})) as server:
        resolver = Resolver(policy, nameservers=[server.address])
        try:
            yield resolver, server
        finally:
            await resolver.close()


async def texts(resolver: Resolver, address: str) -> list[str]:
    return sorted(str(found) for found in await resolver.resolve(Multiaddr(address)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/dns4/relay.test/tcp/4001", ["/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.2/tcp/4001"]),
        ("/dns6/relay.test/tcp/4001", ["/ip6/2001:db8::1/tcp/4001"]),
        (
            "/dns/relay.test/tcp/1",
            ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1", "/ip6/2001:db8::1/tcp/1"],
        ),
        ("/dns4/RELAY.test/tcp/9", ["/ip4/192.0.2.1/tcp/9", "/ip4/192.0.2.2/tcp/9"]),
        (
            "/dnsaddr/relay.test",
            [f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}", f"/ip6/2001:db8::1/tcp/4001/p2p/{BOB}"],
        ),
        (f"/dnsaddr/relay.test/p2p/{BOB}", [f"/ip6/2001:db8::1/tcp/4001/p2p/{BOB}"]),
        (f"/dnsaddr/outer.test/p2p/{ALICE}", [f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}"]),
        ("/dnsaddr/split.test", ["/ip4/192.0.2.7/tcp/4001"]),
        ("/ip4/203.0.113.1/tcp/4001", ["/ip4/203.0.113.1/tcp/4001"]),
        (f"/dns6/relay.test/tcp/1/p2p/{ALICE}/p2p-circuit", [f"/ip6/2001:db8::1/tcp/1/p2p/{ALICE}/p2p-circuit"]),
    ],
)
async def test_names_become_addresses(address: str, expected: Sequence[str]) -> None:
    async with resolving() as (resolver, _):
        assert await texts(resolver, address) == sorted(expected)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/dns4/absent.test/tcp/1", "absent.test has no A record"),
        ("/dns6/many.test/tcp/1", "many.test has no AAAA record"),
        ("/dnsaddr/absent.test", "absent.test has no TXT record"),
        ("/dnsaddr/loop.test", "nested more than 4 deep"),
    ],
)
async def test_no_address_is_an_error_that_says_why(address: str, reason: str) -> None:
    async with resolving() as (resolver, _):
        with pytest.raises(ResolveError, match=reason):
            await resolver.resolve(Multiaddr(address))


async def test_a_silent_server_costs_a_bounded_time() -> None:
    async with resolving(ResolverPolicy(timeout=0.3)) as (resolver, _):
        with pytest.raises(ResolveError, match=r"silent\.test"):
            await resolver.resolve(Multiaddr("/dns4/silent.test/tcp/1"))


async def test_what_was_found_before_a_name_failed_is_the_answer() -> None:
    async with resolving(ResolverPolicy(timeout=0.3)) as (resolver, _):
        assert await texts(resolver, "/dnsaddr/mixed.test") == ["/ip4/192.0.2.8/tcp/1"]


async def test_the_number_of_addresses_is_bounded() -> None:
    async with resolving(ResolverPolicy(max_addresses=5)) as (resolver, _):
        assert len(await resolver.resolve(Multiaddr("/dns4/many.test/tcp/1"))) == 5


async def test_the_number_of_questions_is_bounded_however_names_branch() -> None:
    async with resolving(ResolverPolicy(max_depth=1000, max_questions=7)) as (resolver, server):
        with pytest.raises(ResolveError, match="more than 7 questions"):
            await resolver.resolve(Multiaddr("/dnsaddr/tree.test"))
        assert server.asked["_dnsaddr.tree.test", "TXT"] <= 7


async def test_an_answer_is_kept_for_its_time_to_live() -> None:
    async with resolving() as (resolver, server):
        first = await texts(resolver, "/dns4/relay.test/tcp/1")
        assert await texts(resolver, "/dns4/relay.test/tcp/1") == first
        assert server.asked["relay.test", "A"] == 1


async def test_a_name_without_the_record_is_not_asked_for_again_at_once() -> None:
    async with resolving() as (resolver, server):
        for _ in range(3):
            with pytest.raises(ResolveError):
                await resolver.resolve(Multiaddr("/dnsaddr/absent.test"))
        assert server.asked["_dnsaddr.absent.test", "TXT"] == 1


async def test_a_time_to_live_of_zero_is_not_kept() -> None:
    async with resolving() as (resolver, server):
        for _ in range(2):
            await resolver.resolve(Multiaddr("/dns4/brief.test/tcp/1"))
        assert server.asked["brief.test", "A"] == 2


async def test_the_cache_is_bounded() -> None:
    async with resolving(ResolverPolicy(max_cached=1)) as (resolver, _):
        for name in ("relay.test", "many.test", "brief.test"):
            await resolver.resolve(Multiaddr(f"/dns4/{name}/tcp/1"))
        assert len(resolver._cache) == 1
