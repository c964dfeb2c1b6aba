"""Low is direct: from a relayed start, through two NATs that let nobody in, shown by what passes between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import StartPeer
from tests.interop.peer import Peer as Other
from tests.privacy.packets import Packet, packets
from tests.privacy.requirements import require
from tests.privacy.test_high import REPOSITORY, line_of
from tests.support.lan import require_namespaces
from tests.support.two_nats import OUTER, RELAY, TwoNats, two_nats


class Scene:
    """A relay of ours between the NATs, and a capture of what the eastern one sends and gets."""

    def __init__(self, nats: TwoNats, folder: Path, stack: ExitStack) -> None:
        self._nats, self.folder, self._stack = nats, folder, stack
        node = self.start("relay", "actors.node", "--json", "--data-dir", str(folder / "relay"),
                          "--listen", f"/ip4/{RELAY}/tcp/4001", "--assume-reachable", "on", "--mdns", "off",
                          "--port-mapping", "off")  # fmt: skip
        ready = line_of(node)
        self.relay: str = ready["addresses"][0]
        self.relay_id: str = ready["peer_id"]

    def start(self, host: str, module: str, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "XDG_CONFIG_HOME": str(self.folder)}
        process = subprocess.Popen(
            self._nats.command(host, [sys.executable, "-m", module, *words]), cwd=REPOSITORY, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(self.folder / f"{host}.log").open("wb"), bufsize=0,
        )  # fmt: skip
        self._stack.callback(process.wait, 20)
        self._stack.callback(process.terminate)
        return process

    def ours(self, host: str) -> Ours:
        return Ours(self.start(host, "tests.privacy.low_peer", "--name", host, "--folder", str(self.folder / host),
                               "--relay", self.relay))  # fmt: skip

    def within(self, host: str) -> list[str]:
        return self._nats.command(host, [])

    def between(self) -> list[Packet]:
        """Packets between the two NATs, seen at the eastern one."""
        return [
            one
            for one in packets(self.folder / "east.pcap")
            if {one.source, one.destination} == set(OUTER.values()) and one.protocol == "tcp"
        ]


class Ours:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.peer_id: str = line_of(process)["peer_id"]

    def ask(self, *words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        return line_of(self._process)


@contextmanager
def scene(folder: Path, *, symmetric: bool = False) -> Iterator[Scene]:
    require_namespaces()
    require("tcpdump", "nft")
    with two_nats(symmetric=symmetric) as nats, nats.capture("east", folder / "east.pcap"), ExitStack() as stack:
        yield Scene(nats, folder, stack)


def test_between_two_of_ours(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        bob, alice = here.ours("bob"), here.ours("alice")
        (address, *_) = bob.ask("listen", "low")["addresses"]
        said = alice.ask("direct", address)
        print(json.dumps(said))
        assert said.get("punched") is True and said["relay"] is None and said["echoed"], said
    between = here.between()
    assert {one.source for one in between if one.opens} == set(OUTER.values()), "both dialled"
    assert sum(len(one.data) for one in between) > 600_000, "what was said went between the NATs"


#: Those of the others that punch holes over TCP: js dials from another port than the one at which it is seen, so no NAT
#: that drops what it does not expect lets it through; py-libp2p does so too.
PUNCHING = ("go", "rust")


def punching(other: Other, relay: str) -> None:
    """It listens, and is told by the relay where it is seen: then it can punch holes."""
    other.call("listen", addr="/ip4/0.0.0.0/tcp/4002")
    other.call("reserve", relay=relay)
    if other.implementation == "go":  # it needs a while to offer it
        other.call("punching")


@pytest.mark.parametrize("implementation", PUNCHING)
def test_ours_dials_another(
    implementation: str, tmp_path: Path, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESCORD_PEER_HOLE_PUNCHING", "on")
    with scene(tmp_path) as here:
        bob = start_peer(implementation, within=here.within("bob"))
        punching(bob, here.relay)
        alice = here.ours("alice")
        said = alice.ask("direct", f"{here.relay}/p2p-circuit/p2p/{bob.peer_id}")
        assert said.get("punched") is True and said["relay"] is None and said["echoed"], said
        found = [one for one in bob.call("connections")["connections"] if one["peer"] == alice.peer_id]
        assert OUTER["alice"] in json.dumps([one for one in found if not one["relayed"]]), found
    between = here.between()
    assert {one.source for one in between if one.opens} == set(OUTER.values()), "both dialled"
    assert sum(len(one.data) for one in between) > 600_000, "what was said went between the NATs"


@pytest.mark.parametrize("implementation", PUNCHING)
def test_another_dials_ours(
    implementation: str, tmp_path: Path, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESCORD_PEER_HOLE_PUNCHING", "on")
    with scene(tmp_path) as here:
        bob = here.ours("bob")
        (address, *_) = bob.ask("listen", "low")["addresses"]
        alice = start_peer(implementation, within=here.within("alice"))
        punching(alice, here.relay)
        alice.call("connect", addr=address)
        alice.wait_for("connection", lambda one: one["peer"] == bob.peer_id and not one["relayed"])
        assert alice.call("echo_half_close", peer=bob.peer_id, bytes=300_000)["equal"] is True
    between = here.between()
    assert {one.source for one in between if one.opens} == set(OUTER.values()), "both dialled"
    # rust keeps the relayed connection beside the direct one, and opens streams on either.
    said = sum(len(one.data) for one in between)
    assert said > (600_000 if implementation == "go" else 1000), "what was said went between the NATs"


def test_a_peer_at_high_is_not_asked_where_it_is(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        bob, alice = here.ours("bob"), here.ours("alice")
        (address, *_) = bob.ask("listen", "high")["addresses"]
        said = alice.ask("direct", address)
        assert "does not punch holes" in said.get("error", ""), said
        said = alice.ask("relayed", address)
        assert said["relay"] == here.relay_id and not said["punched"] and said["echoed"]
    assert here.between() == []


def test_at_high_neither_is_it_answered_nor_begun(
    tmp_path: Path, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """go at the other end would punch: it is refused when it asks ours, and not asked when it has dialled ours."""
    monkeypatch.setenv("DESCORD_PEER_HOLE_PUNCHING", "on")
    with scene(tmp_path) as here:
        alice, bob = here.ours("alice"), start_peer("go", within=here.within("bob"))
        bob.call("listen", addr="/ip4/0.0.0.0/tcp/4002")
        bob.call("reserve", relay=here.relay)
        bob.call("punching")
        said = alice.ask("high", f"{here.relay}/p2p-circuit/p2p/{bob.peer_id}")
        assert said["relay"] == here.relay_id and said["echoed"], said
        assert "/libp2p/dcutr" not in bob.call("identify", peer=alice.peer_id)["protocols"]
        (address, *_) = alice.ask("listen", "high")["addresses"]
        bob.call("disconnect", peer=alice.peer_id)
        bob.call("connect", addr=address)
        assert bob.call("echo_half_close", peer=alice.peer_id, bytes=300_000)["equal"] is True
        assert all(one["relayed"] for one in bob.call("connections")["connections"] if one["peer"] == alice.peer_id)
    assert here.between() == []


def test_the_command_line_tells_the_way(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        bob = here.ours("bob")
        (address, *_) = bob.ask("listen", "low")["addresses"]
        command = [sys.executable, "-m", "actors.cli", "ping", address, "--privacy", "low", "--relayed", "--count", "1"]
        environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
        done = subprocess.run(
            [*here.within("alice"), *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert ", directly (hole punched)" in done.stdout, done.stdout + done.stderr


def test_where_nats_allow_no_hole_it_is_said_or_the_relay_serves(tmp_path: Path) -> None:
    with scene(tmp_path, symmetric=True) as here:
        bob, alice = here.ours("bob"), here.ours("alice")
        (address, *_) = bob.ask("listen", "low")["addresses"]
        said = alice.ask("direct", address)
        assert "no hole could be punched" in said.get("error", ""), said
        said = alice.ask("relayed", address)
        assert said["relay"] == here.relay_id and said["echoed"], said
