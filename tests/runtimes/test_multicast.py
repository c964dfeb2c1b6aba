"""Multicast DNS on real sockets, on the loopback interface: two that answer and hear."""

from __future__ import annotations

import asyncio

from actors.actor import Send
from actors.mdns_discovery import MdnsDiscovery
from actors.ports.host import random_bytes
from actors.ports.multicast import Multicast, interfaces
from protocol.identity import Identity
from protocol.mdns import read_txt
from protocol.mdns_messages import TxtHeard
from protocol.messages import AddressesChanged
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

PATIENCE = 10.0
LOOP = multiaddr("127.0.0.1", 4001)


class Member:
    """An actor on its port, by hand; ``heard``: what it was told of others."""

    def __init__(self, name: str, *addresses: bytes) -> None:
        self.peer = Identity.from_seed(seeded(name)).peer_id
        self.heard: asyncio.Queue[TxtHeard] = asyncio.Queue()
        self.actor = MdnsDiscovery("mdns", self.peer, ["directory"], random_bytes, addresses, loopback=True)
        self.port = Multicast(self.actor, self._said, name="mdns")
        self.port.start()

    def _said(self, send: Send) -> None:
        if not send.message.name.startswith(self.actor.instance):
            self.heard.put_nowait(send.message)

    async def hears(self, other: Member, *addresses: bytes, gone: bool = False) -> None:
        """Until it hears that from ``other``."""
        while True:
            said = await asyncio.wait_for(self.heard.get(), PATIENCE)
            told = read_txt(said.record)
            if told.peer == other.peer and told.addresses == addresses and (said.ttl == 0) == gone:
                return


async def scenario() -> None:
    alice = Member("alice", LOOP)
    bob = Member("bob", LOOP)
    await alice.hears(bob, LOOP)
    await bob.hears(alice, LOOP)
    moved = multiaddr("127.0.0.1", 5001)
    alice.actor.handle(AddressesChanged((moved,)), 0.0)
    alice.port.sync()
    await bob.hears(alice, moved)
    # One that is on no network says and hears nothing.
    bob.actor.handle(AddressesChanged(()), 0.0)
    bob.port.sync()
    await alice.hears(bob, LOOP, gone=True)
    await asyncio.gather(*bob.port._tasks)
    while not bob.heard.empty():
        bob.heard.get_nowait()  # from before it left
    await alice.port.close()
    assert bob.heard.empty()
    await bob.port.close()


def test_they_hear_each_other_and_good_byes() -> None:
    assert interfaces(["127.0.0.1", "192.0.2.1"]) == ["127.0.0.1"]
    asyncio.run(scenario())
