"""Configured relays by name, with a DNS server on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.actor import Send
from actors.ports.clock import steady_clock
from actors.ports.names import Names
from actors.ports.resolver import Resolver
from actors.public_relays import PublicRelays
from actors.runtime.local import LocalRuntime
from actors.runtime.spec import ActorSpec, Part, Surroundings
from protocol.discovery_messages import RelayFound, RelaysSearched, RelaysWanted
from protocol.identity import Identity
from tests.support.dns import NameServer
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

PATIENCE = 10.0
PEER = Identity.from_seed(seeded("relay")).peer_id


class Asker:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[Any] = asyncio.Queue()

    def handle(self, message: Any, now: float) -> list[Send]:
        self.heard.put_nowait(message)
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


def public(surroundings: Surroundings, relays: tuple[str, ...], nameserver: str) -> Part:
    actor = PublicRelays(relays, ["asker"])
    names = Names(actor, Resolver(nameservers=[nameserver]), surroundings.post, surroundings.name)

    async def close(grace: float) -> None:
        await names.close()

    return Part(actor, after_handle=names.look, close=close, drop=names.drop)


async def scenario() -> None:
    async with NameServer() as server:
        server.zone["_dnsaddr.relays.example", "TXT"] = [f"dnsaddr=/dns4/one.example/tcp/4001/p2p/{PEER}"]
        server.zone["one.example", "A"] = ["192.0.2.7"]
        runtime = LocalRuntime(steady_clock(), on_fatal=lambda error: None)
        asker = Asker()
        runtime.add("asker", lambda: asker)
        arguments = {"relays": ("/dnsaddr/relays.example", "/dnsaddr/gone.example"), "nameserver": server.address}
        runtime.add("public", ActorSpec("tests.runtimes.test_names:public", arguments))
        await runtime.start()
        found = RelayFound("public", PEER.bytes, (multiaddr("192.0.2.7"),))
        assert await asyncio.wait_for(asker.heard.get(), PATIENCE) == found
        runtime.post("asker", "public", RelaysWanted(3, "asker", 5.0))
        told = [await asyncio.wait_for(asker.heard.get(), PATIENCE) for _ in range(2)]
        assert isinstance(told[0], RelayFound) and told[0].request_id == 3
        assert isinstance(told[1], RelaysSearched) and "gone.example" in told[1].problem
        await runtime.close(1.0)


def test_relays_by_name() -> None:
    asyncio.run(scenario())
