"""Relays are found, by the discovery that other implementations have, and by ours: nobody is told an address but the
one peer by which he joins the DHT."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.lan import lan

from .conftest import StartNode, StartPeer
from .node import LOOPBACK, REPOSITORY

NAME = "relays/available"
PREFIX = "/descord"
# What all need on one machine: nothing here has a public address, and nobody is there to confirm one.
HERE = {"private_network": "on", "assume_reachable": "on", "address_interval": 0, "mdns": "off"}
PATIENCE = 30.0


def relays(data_dir: Path, *flags: str) -> dict[str, Any]:
    """`descord-relay relays`, as a person asks the node."""
    command = [sys.executable, "-m", "actors.cli", "relays", "--data-dir", str(data_dir), "--json", *flags]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


@pytest.mark.parametrize("implementation", ["go", "js"])
def test_a_relay_is_found_and_finds(
    implementation: str, start_peer: StartPeer, start_node: StartNode, tmp_path: Path
) -> None:
    """A DHT server of another implementation stands between: our relay publishes there, their peer finds it by its own
    routing, reserves and is dialled through it; and another relay of ours finds it too."""
    server = start_peer(implementation)
    (address,) = server.call("listen", addr=LOOPBACK)["addrs"][:1]
    known = address if "/p2p/" in address else f"{address}/p2p/{server.peer_id}"
    server.call("dht_join", prefix=PREFIX, server=True, addrs=[])
    first = start_node(tmp_path / "first", public_relays=known, **HERE)

    peer = start_peer(implementation)
    peer.call("dht_join", prefix=PREFIX, server=False, addrs=[known])
    found = wait_for(lambda: peer.call("find", name=NAME)["peers"].get(first.peer_id))
    assert first.transport_address in [one.split("/p2p/")[0] for one in found]
    told = peer.call("reserve", relay=f"{found[0].split('/p2p/')[0]}/p2p/{first.peer_id}")
    assert told["addrs"]

    second = start_node(tmp_path / "second", public_relays=known, **HERE)
    best = wait_for(lambda: [one for one in relays(tmp_path / "second")["relays"] if one["answer"] == "reserves"])
    (one,) = best
    assert one["peer_id"] == first.peer_id and one["sources"] == ["dht"] and one["load"] is not None
    assert one["latency_ms"] > 0
    assert {found["peer_id"] for found in relays(tmp_path / "first")["relays"]} == {second.peer_id}


@pytest.mark.parametrize("implementation", ["go", "js"])
def test_neighbours_hear_each_other(
    implementation: str, start_peer: StartPeer, start_node: StartNode, tmp_path: Path
) -> None:
    """On one network, with nothing configured: their discovery finds our relay, ours finds our other relay, and their
    peer, which it tries and which is none."""
    with lan(relay="192.168.77.1", peer="192.168.77.2", other="192.168.77.3") as network:
        listen = "/ip4/0.0.0.0/tcp/4001"
        relay = start_node(tmp_path / "relay", listen=listen, within=network.inside("relay"))
        peer = start_peer(implementation, within=network.inside("peer"))
        peer.call("listen", addr="/ip4/192.168.77.2/tcp/4001")
        peer.call("mdns")
        told = peer.wait_for("mdns_peer", lambda event: event["peer"] == relay.peer_id, timeout=PATIENCE)
        address = next(one for one in told["addrs"] if one.startswith("/ip4/192.168.77.1/tcp/4001"))
        assert peer.call("reserve", relay=f"{address.split('/p2p/')[0]}/p2p/{relay.peer_id}")["addrs"]

        other = start_node(tmp_path / "other", listen=listen, within=network.inside("other"))
        (found,) = wait_for(lambda: relays(tmp_path / "relay")["relays"])
        assert (found["peer_id"], found["sources"], found["answer"]) == (other.peer_id, ["mdns"], "reserves")
        assert [one["peer_id"] for one in relays(tmp_path / "other")["relays"]] == [relay.peer_id]
        peer.wait_for("connection", lambda event: event["peer"] == other.peer_id, timeout=PATIENCE)
        for node in (relay, other):
            node.stop()


def wait_for(look: Any) -> Any:
    """What ``look`` gives, once it gives something: what is published takes its time, and nobody tells when it is."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, "nothing was found"
        time.sleep(0.2)
    return found
