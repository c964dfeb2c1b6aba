"""Maximum with go, rust, js and py-libp2p at the other end, which know no Tor: an onion leads to them, or they to ours.

They run in the namespace of onion_lab.py, as programs that somebody put behind an onion, or in front of one.  Nothing
that they learn of ours says where its host is, whichever of the two has called, and by whatever protocol they ask.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol import identify, ping
from tests.interop.peer import Peer as Other
from tests.privacy.onion_lab import PATIENCE
from tests.privacy.onion_peers import HOST
from tests.privacy.packets import packets
from tests.privacy.requirements import require
from tests.privacy.test_high import IMPLEMENTATIONS, StartPeer, ask_all, line_of
from tests.privacy.test_maximum import leaks, tells
from tests.support.lan import require_namespaces
from tests.support.process import REPOSITORY


class Lab:
    """onion_lab.py, and where else a peer may be started."""

    def __init__(self, namespace: str, process: subprocess.Popen[bytes], pcap: Path) -> None:
        self.within = ["ip", "netns", "exec", namespace]
        self.pcap = pcap
        self._process = process
        self.tor_ports: list[int] = line_of(process)["tor_ports"]
        #: Ports here to which others than Tor connect, and so are no leak.
        self.known: list[int] = []

    def ask(self, *words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        return line_of(self._process, PATIENCE + 10)

    def end(self) -> None:
        """Also of the capture."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        line_of(self._process)
        assert self._process.wait(60) == 0

    def strays(self) -> list[tuple[str, int]]:
        """(protocol, port) of packets that go anywhere but to Tor, or where the test has somebody connect."""
        return [
            (one.protocol, one.destination_port)
            for one in leaks(self.pcap, self.tor_ports)
            if one.destination_port not in self.known
        ]


@contextmanager
def lab_of(folder: Path, leak: str) -> Iterator[Lab]:
    require_namespaces()
    require("tor", "tor-gencert", "tcpdump")
    namespace = f"descord-onion{os.getpid()}{leak[:1]}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", namespace, "addr", "add", f"{HOST}/32", "dev", "lo"], check=True)
        pcap = folder / "all.pcap"
        command = [sys.executable, "-m", "tests.privacy.onion_lab", "--pcap", str(pcap), "--leak", leak]
        with subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        ) as process:
            try:
                yield Lab(namespace, process, pcap)
            finally:
                process.kill()
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


@pytest.fixture(scope="module", params=["", "identify"], ids=["clean", "planted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, bool]]:
    """(the lab, whether a leak is planted)."""
    with lab_of(tmp_path_factory.mktemp("onions"), request.param) as made:
        yield made, bool(request.param)
        made.end()
        # All that was captured of all of them; the kernel looks for IPv6 neighbours by itself.
        assert len(packets(made.pcap)) > 1000
        assert [one for one in made.strays() if one[0] not in ("icmp", "0")] == []


def learned(other: Other, ours: str) -> tuple[list[str], bytes]:
    """(the protocols that ours answers, all that the other was told by it)."""
    known = other.call("identify", peer=ours)
    spoken, said = ask_all(other, ours)
    return sorted(spoken), json.dumps([known["listen_addrs"], known.get("signed_record", "")]).encode() + said


EXPECTED = sorted((identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ours_dials_one_behind_an_onion(implementation: str, lab: tuple[Lab, bool], start_peer: StartPeer) -> None:
    here, planted = lab
    bob = start_peer(implementation, within=here.within)
    (address, *_) = [one for one in bob.call("listen", addr="/ip4/127.0.0.1/tcp/0")["addrs"] if "/tcp/" in one]
    port = address.split("/")[4]
    here.known.append(int(port))  # by Tor
    onion = here.ask("onion", port)["onion"]
    said = here.ask("dial", f"{onion}/p2p/{bob.peer_id}")
    assert said["echoed"]
    spoken, heard = learned(bob, said["as"])
    here.ask("hang", "up")
    assert spoken == EXPECTED
    assert tells(heard) == planted, heard


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ours_is_dialled_at_its_onion(implementation: str, lab: tuple[Lab, bool], start_peer: StartPeer) -> None:
    here, planted = lab
    bob = here.ask("listen")
    onion, _, peer = bob["address"].partition("/p2p/")
    bridge = here.ask("bridge", onion)["port"]
    here.known += [bob["port"], bridge]
    alice = start_peer(implementation, within=here.within)
    alice.call("connect", addr=f"/ip4/127.0.0.1/tcp/{bridge}/p2p/{peer}")
    assert alice.call("echo_half_close", peer=peer, bytes=200_000)["equal"] is True
    spoken, heard = learned(alice, peer)
    here.ask("hang", "up")
    assert spoken == EXPECTED
    assert onion.encode() in heard, "it is told at which onion"
    assert tells(heard) == planted, heard
