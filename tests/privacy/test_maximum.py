"""Maximum: two peers by Tor, on a private Tor network in a network namespace; every packet that leaves is captured."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.privacy.onion_peers import HOST, PADDED, TIMES, TOLD
from tests.privacy.packets import Packet, packets
from tests.privacy.requirements import require
from tests.support.lan import require_namespaces

REPOSITORY = Path(__file__).parents[2]

#: Connections that bob has taken: those of TIMES, and one for each leak that was planted.
MEETINGS = TIMES + len(TOLD)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, object], Path]]:
    """(what the peers in onion_peers.py found, the folder with captures of all packets of their namespace)."""
    require_namespaces()
    require("tor", "tor-gencert", "tcpdump")
    folder = tmp_path_factory.mktemp("maximum")
    namespace = f"descord-tor{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", namespace, "addr", "add", f"{HOST}/32", "dev", "lo"], check=True)
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.privacy.onion_peers", str(folder)],
            cwd=REPOSITORY,
            capture_output=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        yield json.loads(done.stdout.splitlines()[-1]), folder
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def test_a_stream_by_onion(said: tuple[dict[str, object], Path]) -> None:
    found, _ = said
    assert found["echoed"] == 1_000_000
    assert found["padded"] == [number == PADDED for number in range(TIMES)]
    assert sorted(found["seconds"])[TIMES // 2] < 2.0  # type: ignore[call-overload]


def test_each_context_is_another_peer(said: tuple[dict[str, object], Path]) -> None:
    found, _ = said
    seen = found["seen"]
    assert isinstance(seen, list) and len(seen) == len(set(seen)) == MEETINGS
    assert not {found["alice"], found["bob"]} & {*seen, found["onion_peer"]}


def test_identify_tells_the_onion_and_observes_nothing(said: tuple[dict[str, object], Path]) -> None:
    found, _ = said
    assert found["observed"] == [""]
    assert found["listening"] == [found["onion"]]


def tells(decrypted: bytes) -> bool:
    """Whether it says where the host is, in text or in a binary multiaddr, or that Tor came from its loopback."""
    addresses = (HOST, "127.0.0.1")
    return any(one.encode() in decrypted or b"\x04" + ip_address(one).packed in decrypted for one in addresses)


def test_nothing_that_was_decrypted_says_where_anybody_is(said: tuple[dict[str, object], Path]) -> None:
    found, folder = said
    decrypted = (folder / "decrypted").read_bytes()
    assert len(decrypted) > 2_000_000 and not tells(decrypted)
    assert found["spoken"] == [], "who pries is answered nothing"


@pytest.mark.parametrize("leak", TOLD)
def test_a_leak_that_is_told_is_seen(leak: str, said: tuple[dict[str, object], Path]) -> None:
    _, folder = said
    assert tells((folder / f"{leak}.told").read_bytes())


def leaks(pcap: Path, tor_ports: object) -> list[Packet]:
    """Packets that open a connection to anything but Tor, or belong to none: look-ups of names, multicast."""
    ports = set(tor_ports)  # type: ignore[call-overload]
    return [one for one in packets(pcap) if one.protocol != "tcp" or (one.opens and one.destination_port not in ports)]


def test_no_packet_goes_anywhere_but_to_tor(said: tuple[dict[str, object], Path]) -> None:
    found, folder = said
    seen = packets(folder / "all.pcap")
    assert len(seen) > 1000 and len([one for one in seen if one.opens]) >= 5, "the capture has the traffic"
    strays = leaks(folder / "all.pcap", found["tor_ports"])
    # Tor passes each caller on to bob's port, once; more would be somebody who went there without Tor.
    assert [one.destination_port for one in strays if one.opens] == [found["listener"]] * MEETINGS
    assert [one for one in strays if not one.opens] == []


def test_a_leak_that_is_planted_is_seen(said: tuple[dict[str, object], Path]) -> None:
    found, folder = said
    (direct,) = leaks(folder / "DiallingDirectly.pcap", found["tor_ports"])
    assert direct.opens and direct.destination_port == 4001
    names = leaks(folder / "LookingUpNames.pcap", found["tor_ports"])
    assert [one.destination_port for one in names if one.protocol == "udp"] == [53]


def test_an_onion_outlives_its_tor_and_its_process(said: tuple[dict[str, object], Path]) -> None:
    found, _ = said
    assert found["given up"] is True
    assert found["same"] is True, "the same key is the same address, and who is met there"
    seen = found["seen"]
    assert isinstance(seen, list) and len(seen) == MEETINGS, "it was reached again after Tor had been killed"


def test_tor_killed_in_mid_stream_is_an_error_and_no_packet(said: tuple[dict[str, object], Path]) -> None:
    found, _ = said
    assert found["after_kill"] == ["stream", "start Tor"], "the stream broke, and the next said how to start Tor"


async def test_without_tor_the_error_says_how_to_start_it() -> None:
    from actors.ports.peer import NoPath, Peer, PeerPolicy
    from actors.ports.tor import TorError
    from actors.private_node import NoNode
    from protocol.identity import Identity
    from protocol.privacy_messages import Level

    policy = PeerPolicy(tor_socks="127.0.0.1:1", tor_control="127.0.0.1:1")
    other = Identity.from_seed(bytes(31) + b"\1").peer_id
    async with asyncio.timeout(20), Peer(Identity.from_seed(bytes(32)), NoNode(), policy=policy) as peer:
        onion = f"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:4001/p2p/{other}"
        with pytest.raises(NoPath, match="start Tor"):
            await peer.connect(onion, level=Level.MAXIMUM)
        with pytest.raises(TorError, match="start Tor"):
            await peer.listen(Level.MAXIMUM)
