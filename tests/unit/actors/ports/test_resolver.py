"""Names resolve, within bounds, against a real DNS server; what that says may be anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from actors.ports.resolver import ResolveError, Resolver, ResolverPolicy
from protocol.identity import Identity
from tests.support.dns import NameServer
from tests.support.peers import seeded

ALICE, BOB = (str(Identity.from_seed(seeded(name)).peer_id) for name in ("alice", "bob"))
POLICY = ResolverPolicy(timeout=2.0)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer() as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def resolver(server: NameServer, clock: Clock) -> AsyncIterator[Resolver]:
    made = Resolver(POLICY, nameservers=[server.address], now=clock)
    yield made
    await made.close()


def dnsaddr(*addresses: str) -> list[str]:
    return [f"dnsaddr={address}" for address in addresses]


async def test_an_address_without_a_name_is_itself(resolver: Resolver, server: NameServer) -> None:
    address = f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}"
    assert await resolver.resolve(address) == [address]
    assert not server.asked


async def test_each_kind_of_name_asks_for_its_family(resolver: Resolver, server: NameServer) -> None:
    server.zone["relay.example", "A"] = ["192.0.2.1", "192.0.2.2"]
    server.zone["relay.example", "AAAA"] = ["2001:db8::1"]
    four = [f"/ip4/192.0.2.{last}/tcp/4001/p2p/{ALICE}" for last in (1, 2)]
    six = [f"/ip6/2001:db8::1/tcp/4001/p2p/{ALICE}"]
    assert sorted(await resolver.resolve(f"/dns4/relay.example/tcp/4001/p2p/{ALICE}")) == four
    assert await resolver.resolve(f"/dns6/relay.example/tcp/4001/p2p/{ALICE}") == six
    assert sorted(await resolver.resolve(f"/dns/relay.example/tcp/4001/p2p/{ALICE}")) == four + six


async def test_a_name_of_one_family_is_enough_for_dns(resolver: Resolver, server: NameServer) -> None:
    server.zone["relay.example", "AAAA"] = ["2001:db8::1"]
    assert await resolver.resolve("/dns/relay.example/tcp/1") == ["/ip6/2001:db8::1/tcp/1"]


async def test_localhost_is_this_host(resolver: Resolver, server: NameServer) -> None:
    assert await resolver.resolve("/dns4/localhost/tcp/4001") == ["/ip4/127.0.0.1/tcp/4001"]
    assert not server.asked


async def test_dnsaddr_leads_on_and_keeps_to_the_peer_that_was_asked_for(
    resolver: Resolver, server: NameServer
) -> None:
    server.zone["_dnsaddr.example", "TXT"] = [
        *dnsaddr(
            f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}",
            f"/ip4/192.0.2.2/tcp/4001/p2p/{BOB}",
            f"/dnsaddr/eu.example/p2p/{ALICE}",
            f"/dns4/host.example/tcp/4003/p2p/{ALICE}",
        ),
        "v=spf1 -all",
    ]
    server.zone["_dnsaddr.eu.example", "TXT"] = dnsaddr(f"/ip6/2001:db8::1/tcp/4001/p2p/{ALICE}")
    server.zone["host.example", "A"] = ["192.0.2.3"]
    assert await resolver.resolve(f"/dnsaddr/example/p2p/{ALICE}") == [
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}",
        f"/ip6/2001:db8::1/tcp/4001/p2p/{ALICE}",
        f"/ip4/192.0.2.3/tcp/4003/p2p/{ALICE}",
    ]
    assert f"/ip4/192.0.2.2/tcp/4001/p2p/{BOB}" in await resolver.resolve("/dnsaddr/example")


async def test_what_cannot_be_dialled_is_left_out(resolver: Resolver, server: NameServer) -> None:
    server.zone["_dnsaddr.example", "TXT"] = dnsaddr(
        f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{ALICE}",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{BOB}/p2p-circuit/p2p/{ALICE}",
        "garbage",
        "/ip4/999.0.2.1/tcp/1",
        "",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}",
    )
    assert await resolver.resolve("/dnsaddr/example") == [f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}"]


async def test_a_record_longer_than_one_string(resolver: Resolver, server: NameServer) -> None:
    host = ".".join(["a" * 60] * 4)
    server.zone["_dnsaddr.example", "TXT"] = dnsaddr(f"/dns4/{host}/tcp/4001/p2p/{ALICE}")
    server.zone[host, "A"] = ["192.0.2.1"]
    assert await resolver.resolve("/dnsaddr/example") == [f"/ip4/192.0.2.1/tcp/4001/p2p/{ALICE}"]


# Bounds.


async def test_a_circle_ends(resolver: Resolver, server: NameServer) -> None:
    server.zone["_dnsaddr.a.example", "TXT"] = dnsaddr("/dnsaddr/b.example")
    server.zone["_dnsaddr.b.example", "TXT"] = dnsaddr("/dnsaddr/a.example", "/dnsaddr/b.example")
    with pytest.raises(ResolveError, match=r"cannot resolve a\.example"):
        await resolver.resolve("/dnsaddr/a.example")
    assert server.asked.total() == 2


async def test_depth_is_bounded(resolver: Resolver, server: NameServer) -> None:
    for level in range(10):
        server.zone[f"_dnsaddr.n{level}.example", "TXT"] = dnsaddr(f"/dnsaddr/n{level + 1}.example")
    with pytest.raises(ResolveError, match=r"more than 4 names deep"):
        await resolver.resolve("/dnsaddr/n0.example")
    assert server.asked.total() == 4


async def test_queries_are_bounded(resolver: Resolver, server: NameServer) -> None:
    """A tree whose every record leads to more names that no record names an address for."""

    def grow(name: str, _: str) -> list[str]:
        return dnsaddr(*(f"/dnsaddr/{branch}.{name.removeprefix('_dnsaddr.')}" for branch in "abcdef"))

    server.answers = grow
    with pytest.raises(ResolveError, match="more than 16 queries"):
        await resolver.resolve("/dnsaddr/tree.example")
    assert server.asked.total() == POLICY.max_queries


async def test_a_tree_of_one_remembered_name_is_bounded(resolver: Resolver, server: NameServer) -> None:
    """Each record leads to the same name at another port: one query, and branches at each level."""
    branches = [f"/dnsaddr/tree.example/tcp/{port}" for port in range(1, 30)]
    server.zone["_dnsaddr.tree.example", "TXT"] = dnsaddr(*branches)
    with pytest.raises(ResolveError, match="its owner must fix it"):
        await resolver.resolve("/dnsaddr/tree.example")
    assert server.asked.total() == 1


async def test_answers_are_bounded(server: NameServer, clock: Clock) -> None:
    policy = replace(POLICY, max_answers=8)
    resolver = Resolver(policy, nameservers=[server.address], now=clock)
    server.zone["flood.example", "A"] = [f"192.0.2.{last}" for last in range(1, 25)]
    server.zone["_dnsaddr.flood.example", "TXT"] = dnsaddr(*(f"/dns4/flood.example/tcp/{port}" for port in range(1, 6)))
    assert len(await resolver.resolve("/dns4/flood.example/tcp/1")) == 8
    assert len(await resolver.resolve("/dnsaddr/flood.example")) == 8
    await resolver.close()


async def test_silence_ends(server: NameServer) -> None:
    server.silent = True
    resolver = Resolver(replace(POLICY, timeout=0.3), nameservers=[server.address])
    with pytest.raises(ResolveError, match=r"quiet\.example .*(longer than 0\.3 s|did not answer)"):
        await resolver.resolve("/dns4/quiet.example/tcp/4001")
    await resolver.close()


async def test_what_was_found_before_silence_is_not_lost(server: NameServer) -> None:
    server.zone["_dnsaddr.example", "TXT"] = dnsaddr("/ip4/192.0.2.1/tcp/1", "/dns4/quiet.example/tcp/1")
    resolver = Resolver(replace(POLICY, timeout=0.5), nameservers=[server.address])

    def answers(name: str, kind: str) -> list[str]:
        server.silent = True
        return server.zone.get((name, kind), [])

    server.answers = answers
    assert await resolver.resolve("/dnsaddr/example") == ["/ip4/192.0.2.1/tcp/1"]
    await resolver.close()


@pytest.mark.parametrize("raw", [b"", b"\xff" * 40, b"\x81\x80" + b"\0\1\xff\xff\0\0\0\0" + b"\xc0\x0c" * 40])
async def test_garbage_is_an_error_that_names_the_name(server: NameServer, raw: bytes) -> None:
    server.raw = raw
    resolver = Resolver(replace(POLICY, timeout=0.4), nameservers=[server.address])
    with pytest.raises(ResolveError, match=r"cannot resolve bad\.example \(/dns4\): "):
        await resolver.resolve("/dns4/bad.example/tcp/4001")
    await resolver.close()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/dns4/none.example/tcp/1", r"none\.example.*no such name; check its spelling"),
        ("/dnsaddr/none.example", r"_dnsaddr\.none\.example: there is no such name"),
        ("/dns6/four.example/tcp/1", r"four\.example.*no such record"),
        (f"/dnsaddr/other.example/p2p/{ALICE}", r"other\.example.*no TCP address that can be dialled"),
        ("/dns4/relay.example", "cannot be dialled"),
        ("garbage", "is no multiaddr"),
    ],
)
async def test_errors_say_which_name_and_what_to_do(
    resolver: Resolver, server: NameServer, address: str, told: str
) -> None:
    server.zone["four.example", "A"] = ["192.0.2.1"]
    server.zone["_dnsaddr.other.example", "TXT"] = dnsaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{BOB}")
    with pytest.raises(ResolveError, match=told):
        await resolver.resolve(address)


# What is remembered.


async def test_records_are_remembered_for_their_time(resolver: Resolver, server: NameServer, clock: Clock) -> None:
    server.ttl = 60
    server.zone["relay.example", "A"] = ["192.0.2.1"]
    for _ in range(3):
        await resolver.resolve("/dns4/relay.example/tcp/1")
        await resolver.close()  # the library's own memory goes with its channel
    assert server.asked["relay.example", "A"] == 1
    server.zone["relay.example", "A"] = ["192.0.2.2"]
    clock.now += 61
    assert await resolver.resolve("/dns4/relay.example/tcp/1") == ["/ip4/192.0.2.2/tcp/1"]


async def test_a_name_that_is_not_there_is_not_asked_for_again_at_once(
    resolver: Resolver, server: NameServer, clock: Clock
) -> None:
    for _ in range(3):
        with pytest.raises(ResolveError, match="no such name"):
            await resolver.resolve("/dnsaddr/late.example")
        await resolver.close()
    assert server.asked["_dnsaddr.late.example", "TXT"] == 1
    server.zone["_dnsaddr.late.example", "TXT"] = dnsaddr("/ip4/192.0.2.1/tcp/1")
    clock.now += 11
    assert await resolver.resolve("/dnsaddr/late.example") == ["/ip4/192.0.2.1/tcp/1"]


async def test_what_lives_no_time_is_not_remembered(resolver: Resolver, server: NameServer) -> None:
    server.ttl = 0
    server.zone["brief.example", "A"] = ["192.0.2.1"]
    for _ in range(2):
        await resolver.resolve("/dns4/brief.example/tcp/1")
        await resolver.close()
    assert server.asked["brief.example", "A"] == 2


async def test_memory_is_bounded(server: NameServer, clock: Clock) -> None:
    resolver = Resolver(replace(POLICY, max_cached=4), nameservers=[server.address], now=clock)
    for number in range(6):
        server.zone[f"n{number}.example", "A"] = ["192.0.2.1"]
        await resolver.resolve(f"/dns4/n{number}.example/tcp/1")
    assert len(resolver._cache) == 4
    await resolver.close()
