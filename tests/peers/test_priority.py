"""Whoever helps is served first: a peer whose owner runs a relay, at another relay that has seen that one work.

Real nodes and real peers.  carol relays, and alice talks for her; dave is the relay that is used; bob is who is called.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.ports.own_relay import own_relay
from actors.ports.peer import Peer, PeerPolicy
from actors.private_node import PrivateNode
from protocol.identity import Identity
from protocol.privacy_messages import Level
from tests.peers.test_peer import ECHO, echo, echoed
from tests.runtimes.test_contribution import command
from tests.runtimes.test_metrics import free_port
from tests.support.peers import seeded
from tests.support.process import PATIENCE, NodeProcess

SIZE = 300_000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    nodes: list[NodeProcess] = []

    def run(name: str, *flags: str) -> NodeProcess:
        number = len(nodes) + 1
        nodes.append(NodeProcess(tmp_path / name, "--private-network", "on", "--mdns", "off", "--assume-reachable",
                                 "on", "--listen", f"/ip4/127.{number}.0.1/tcp/0", *flags))  # fmt: skip
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def contribution(node: NodeProcess) -> dict[str, Any]:
    return dict(json.loads(command(node, "contribution", "--json")))


async def until(found: Callable[[], bool]) -> None:
    """Asks other processes, again and again: they tell nobody."""

    def look() -> None:
        end = time.monotonic() + PATIENCE
        while not found():
            assert time.monotonic() < end
            time.sleep(0.1)

    await asyncio.to_thread(look)


def bytes_of_operators(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(one.split()[-1]) for one in lines if one.startswith('descord_relay_relayed_bytes_total{class="operator"')
    )


async def meet(tmp_path: Path, name: str, relay: NodeProcess, own: NodeProcess | None, receipts: str = "kept") -> int:
    """What a peer of that name, who talks for ``own``, says to bob through ``relay``; bytes."""
    from actors.lookout import settings_to_look

    environment = {
        "DESCORD_RELAY_PUBLIC_RELAYS": relay.ready["addresses"][0],
        "DESCORD_RELAY_PRIVATE_NETWORK": "on",
        "DESCORD_RELAY_MDNS": "off",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    for one in (name, f"{name}'s bob"):
        (tmp_path / one).mkdir()
    identities = [Identity.from_seed(seeded(one)) for one in (name, f"{name}'s bob")]
    policy = PeerPolicy(relays=1, receipts=receipts)
    async with (
        asyncio.timeout(60),
        PrivateNode.start(settings_to_look(environment, tmp_path / name)) as node,
        PrivateNode.start(settings_to_look(environment, tmp_path / f"{name}'s bob")) as other,
        Peer(identities[1], other, handlers={ECHO: echo}, policy=PeerPolicy(relays=1, receipts="off")) as bob,
    ):
        (address, *_) = await bob.listen(Level.HIGH)
        mine = None if own is None else own_relay(own.data_dir, identities[0].peer_id)
        async with Peer(identities[0], node, policy=policy, own=mine) as peer:
            await echoed(await peer.open(address, ECHO, level=Level.HIGH), SIZE)
    return 2 * SIZE


async def test_who_helps_is_served_first_and_signs_for_what_it_used(
    start: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    port = free_port()
    carol = await asyncio.to_thread(start, "carol")
    command(carol, "mode", "--incentive", "priority")
    known = ("--public-relays", carol.ready["addresses"][0])
    dave = await asyncio.to_thread(start, "dave", "--metrics-port", str(port), *known)
    relays = ("relays", "--json")
    # dave has tried carol's relay, and it worked.
    await until(lambda: any(one["answer"] == "reserves" for one in json.loads(command(dave, *relays))["relays"]))

    carried = await meet(tmp_path, "alice", dave, carol)
    await until(lambda: contribution(dave)["receipts"] == 1)
    served = contribution(dave)
    assert 0 < served["months"][0]["confirmed"] <= served["bytes"], "alice has signed for it"
    # A receipt is of steps of two: more than half of what it was, and no more than was counted.
    assert served["months"][0]["confirmed"] > carried / 4
    assert 70 < served["score"] <= 100 and served["stars"], "it has looked at carol's relay, and relayed"
    await until(lambda: contribution(carol)["months"][0]["used"] >= carried)
    await until(lambda: bytes_of_operators(port) >= carried)

    # Who talks for nobody, or for a relay that wants nothing, is one of the public; and none signs who will not.
    before = bytes_of_operators(port)
    await meet(tmp_path, "mallory", dave, None, receipts="off")
    command(carol, "mode", "--incentive", "volunteer")
    await meet(tmp_path, "erin", dave, carol)
    await until(lambda: contribution(dave)["receipts"] == 2)
    assert bytes_of_operators(port) == before
