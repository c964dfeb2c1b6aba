"""A relay behind a home router (a real one: tests/support/home_router.py) is reached from outside, and says where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from protocol.mapping_messages import MappingWanted
from tests.support.home_router import HOME, OUTER, OUTSIDE, HomeNetwork, home_network
from tests.support.process import PATIENCE, REPOSITORY

from .conftest import StartNode, StartPeer
from .test_discovery import NAME, PREFIX, wait_for

PORT = 4001


def ping(network: HomeNetwork, host: str, address: str) -> subprocess.CompletedProcess[str]:
    """From outside, with our own client."""
    command = [*network.within(host), sys.executable, "-m", "actors.cli", "ping", address, "--count", "1"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("way", ["pcp", "upnp"])
def test_a_relay_at_home_is_reached_confirmed_and_published(
    way: str, start_peer: StartPeer, start_node: StartNode, tmp_path: Path, cache: Path
) -> None:
    with home_network(tmp_path, cache) as network:
        network.start_router(pcp=way == "pcp", upnp=way == "upnp")
        known: list[str] = []
        for name in ("first", "second"):
            server = start_peer("go", within=network.within(name))
            server.call("listen", addr=f"/ip4/{OUTSIDE[name]}/tcp/4001")
            server.call("autonat")
            server.call("dht_join", prefix=PREFIX, server=True, addrs=known[:])
            known.append(f"/ip4/{OUTSIDE[name]}/tcp/4001/p2p/{server.peer_id}")
        listen = f"/ip4/{HOME}/tcp/{PORT}"
        relay = start_node(
            tmp_path / "relay", listen=listen, public_relays=known, mdns="off", within=network.within("home")
        )
        network.until_rules(mapped=True, port=PORT)
        outer = f"/ip4/{OUTER}/tcp/{PORT}"
        assert ping(network, "first", f"{outer}/p2p/{relay.peer_id}").returncode == 0

        # Nobody is told of it before both have dialled it, and then everybody: the DHT, and who reserves.
        found = wait_for(lambda: server.call("find", name=NAME)["peers"].get(relay.peer_id))
        assert [one.split("/p2p/")[0] for one in found] == [outer]
        reserver = start_peer("go", within=network.within("second"))
        reserved = reserver.call("reserve", relay=f"{outer}/p2p/{relay.peer_id}")
        assert any(one.startswith(outer) for one in reserved["addrs"]), reserved

        relay.stop()
        network.until_rules(mapped=False, port=PORT)


ASK = """
import asyncio
from actors.port_mapper import PortMapper
from actors.ports.gateway import Gateway
gateway = Gateway(PortMapper("reachability"), print, "port_mapper", b"secret")
print(asyncio.run(gateway._{way}(4003, 4004, {lease})))
"""


def test_each_way_by_itself(tmp_path: Path, cache: Path) -> None:
    """NAT-PMP is asked only where there is no PCP, which this router has: so here it is asked alone."""
    with home_network(tmp_path, cache) as network:
        network.start_router(pcp=True, upnp=True)
        for way, method in (("pcp", "PCP"), ("pmp", "NAT-PMP"), ("upnp", "UPnP")):
            for lease in (120, 0):
                script = ASK.format(way=way, lease=lease)
                command = [*network.within("home"), sys.executable, "-c", script]
                done = subprocess.run(
                    command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False
                )
                assert done.returncode == 0, done.stderr + network.log()
                assert f"method='{method}'" in done.stdout
                if lease:
                    assert f"external_port=4004, address='{OUTER}', lifetime=120" in done.stdout
                assert ("4003" in network.rules()) == bool(lease)


def test_a_network_without_such_a_router_says_why(tmp_path: Path, cache: Path) -> None:
    script = (
        "import asyncio; from actors.port_mapper import PortMapper; from actors.ports.gateway import Gateway\n"
        "told = []\n"
        "gateway = Gateway(PortMapper('reachability'), told.append, 'port_mapper', b'secret')\n"
        f"asyncio.run(gateway._do({MappingWanted(1, ((4001, 4001),), 60)!r}))\n"
        "print(told[0].message.problem)"
    ).replace("MappingWanted(", "__import__('protocol.mapping_messages').mapping_messages.MappingWanted(")
    with home_network(tmp_path, cache) as network:
        command = [*network.within("home"), sys.executable, "-c", script]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "speaks neither PCP nor NAT-PMP" in done.stdout and "no router answers by UPnP" in done.stdout, done.stderr
