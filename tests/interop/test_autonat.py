"""AutoNAT v2 with go-libp2p, which has it: its servers confirm us to ourselves, and ours tell it the truth."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.lan import lan

from .conftest import StartNode, StartPeer
from .test_discovery import NAME, PREFIX, wait_for

# Nothing here has a public address; nobody's word but that of others makes a relay known.
HERE = {"private_network": "on", "assume_reachable": "off", "mdns": "off"}


@pytest.mark.parametrize("ours", ["127.0.0.1", "127.0.0.2"], ids=["where it is seen", "elsewhere, for data"])
def test_what_a_go_server_confirms_is_published(
    ours: str, start_peer: StartPeer, start_node: StartNode, tmp_path: Path
) -> None:
    """The relay is told of one peer, and is found by others only once that has dialled it."""
    server = start_peer("go")
    (address,) = server.call("listen", addr="/ip4/127.0.0.1/tcp/0")["addrs"][:1]
    known = address if "/p2p/" in address else f"{address}/p2p/{server.peer_id}"
    server.call("dht_join", prefix=PREFIX, server=True, addrs=[])
    server.call("autonat")
    relay = start_node(tmp_path / "relay", listen=f"/ip4/{ours}/tcp/0", public_relays=known, **HERE)

    other = start_peer("go")
    other.call("dht_join", prefix=PREFIX, server=False, addrs=[known])
    found = wait_for(lambda: other.call("find", name=NAME)["peers"].get(relay.peer_id))
    assert relay.addresses[0].split("/p2p/")[0] in [one.split("/p2p/")[0] for one in found]


def test_a_go_client_is_told_the_truth(start_peer: StartPeer, start_node: StartNode, tmp_path: Path) -> None:
    """Of where it listens, by way of data of where else it listens, and of where nobody does."""
    relay = start_node(tmp_path / "relay", **HERE)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: what connects is refused
        silent = f"/ip4/127.0.0.1/tcp/{nobody.getsockname()[1]}"
        for host, reached in (("127.0.0.1", True), ("127.0.0.2", True), ("", False)):
            peer = start_peer("go")
            (address,) = peer.call("listen", addr=f"/ip4/{host or '127.0.0.1'}/tcp/0")["addrs"][:1]
            peer.call("autonat")
            peer.call("connect", addr=relay.addresses[0])
            asked = address.split("/p2p/")[0] if reached else silent
            told = peer.call("reach", addr=asked)
            assert (told["reached"], told["refused"]) == (reached, False)


def test_two_servers_on_the_internet_are_enough(start_peer: StartPeer, start_node: StartNode, tmp_path: Path) -> None:
    """With public addresses, of different networks, and no setting that helps."""
    hosts = {"relay": "1.2.3.1", "first": "1.3.3.1", "second": "1.4.3.1", "seeker": "1.5.3.1"}
    with lan(8, **hosts) as network:
        known: list[str] = []
        for name in ("first", "second"):
            server = start_peer("go", within=network.inside(name))
            server.call("listen", addr=f"/ip4/{hosts[name]}/tcp/4001")
            server.call("autonat")
            server.call("dht_join", prefix=PREFIX, server=True, addrs=known[:])
            known.append(f"/ip4/{hosts[name]}/tcp/4001/p2p/{server.peer_id}")
        listen = "/ip4/0.0.0.0/tcp/4001"
        within = network.inside("relay")
        relay = start_node(tmp_path / "relay", listen=listen, public_relays=known, mdns="off", within=within)
        seeker = start_peer("go", within=network.inside("seeker"))
        seeker.call("dht_join", prefix=PREFIX, server=False, addrs=known)
        found = wait_for(lambda: seeker.call("find", name=NAME)["peers"].get(relay.peer_id))
        assert [one.split("/p2p/")[0] for one in found] == ["/ip4/1.2.3.1/tcp/4001"]
        relay.stop()
