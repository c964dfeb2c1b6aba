"""High: alice and bob reach only the relay, and neither learns where the other is.

Three hosts in network namespaces (tests/support/netlab.py), a capture on each.  Of every pair that has one end of ours:
no packet passes between our host and any but the relay, and our address is in nothing that the other end was told or
decrypted.  Each leak that is planted must be seen, or these tests show nothing.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from protocol import identify, ping
from protocol.addresses import encode_tcp
from protocol.proto import identify_pb2
from protocol.wire import frame
from tests.interop.peer import Peer as Other
from tests.privacy.high_peer import CURIOUS, PRY
from tests.privacy.packets import Packet, packets
from tests.privacy.requirements import require
from tests.support.lan import require_namespaces
from tests.support.netlab import NetLab
from tests.support.process import PATIENCE, REPOSITORY, readable

IMPLEMENTATIONS = ("go", "rust", "js", "py")
StartPeer = Callable[..., Other]


class Ours:
    """high_peer.py on a host of the lab."""

    def __init__(self, lab: NetLab, name: str, folder: Path, relay: str, other: str, leak: str, curious: bool) -> None:
        self.folder = folder
        folder.mkdir()
        command = [sys.executable, "-m", "tests.privacy.high_peer", "--name", name, "--folder", str(folder),
                   "--relay", relay, "--own", lab.ip(name), "--other", lab.ip(other), "--leak", leak,
                   *(["--curious"] if curious else [])]  # fmt: skip
        pipe = subprocess.PIPE
        self.process = lab.popen(name, command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, bufsize=0)
        self.peer_id = self.answer()["peer_id"]

    def ask(self, *words: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words).encode() + b"\n")
        return self.answer()

    def answer(self) -> dict[str, Any]:
        return line_of(self.process)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0

    def decrypted(self) -> bytes:
        return (self.folder / "decrypted").read_bytes()


def line_of(process: subprocess.Popen[bytes], within: float = PATIENCE * 2) -> dict[str, Any]:
    assert process.stdout is not None
    assert readable(within, process.stdout), "it said nothing"
    line = process.stdout.readline()
    assert line, f"it ended with {process.wait()}"
    return dict(json.loads(line))


class Scene:
    """A relay, and captures at alice's and bob's."""

    def __init__(self, lab: NetLab, folder: Path, relay: dict[str, Any]) -> None:
        self.lab, self.folder = lab, folder
        self.relay: str = relay["addresses"][0]
        self.relay_id: str = relay["peer_id"]

    def ours(self, name: str, leak: str = "", *, curious: bool = False) -> Ours:
        other = "bob" if name == "alice" else "alice"
        return Ours(self.lab, name, self.folder / name, self.relay, other, leak, curious)

    def strays(self, host: str) -> list[Packet]:
        """Packets between ``host`` and anybody but the relay.  What the kernel says by itself in IPv6 to find its own
        network (ICMP of link-local addresses) is none of ours."""
        own, relay = self.lab.ip(host), self.lab.ip("relay")
        seen = packets(self.folder / f"{host}.pcap")
        assert len([one for one in seen if one.data]) > 50, "the capture has the traffic"
        return [
            one
            for one in seen
            if {one.source, one.destination} not in ({own, relay}, {own}, {"127.0.0.1"})
            and not (one.protocol in ("icmp", "0") and ":" in one.source)
        ]

    def names(self, host: str, data: bytes) -> bool:
        """Whether ``data`` says where ``host`` is: in text, or in a binary multiaddr."""
        address = self.lab.ip(host)
        return address.encode() in data or b"\x04" + socket.inet_aton(address) in data

    def told_on_wire(self, host: str, by: str) -> bool:
        """Whether an address of ``host`` stands in what was captured at ``by``: as an end of a packet, or in clear."""
        address = socket.inet_aton(self.lab.ip(host))
        return any(
            address in one.data[:20] or self.names(host, one.data) for one in packets(self.folder / f"{by}.pcap")
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    require_namespaces()
    require("tcpdump", "nft")

    @contextmanager
    def make(*node: str) -> Iterator[Scene]:
        with ExitStack() as stack:
            lab = stack.enter_context(NetLab(prefix=f"priv{os.getpid()}-"))
            program = node or ("-m", "actors.node")
            command = [sys.executable, *program, "--json", "--data-dir", str(tmp_path / "relay"),
                       "--listen", "/ip4/1.2.3.4/tcp/4001", "--assume-reachable", "on", "--mdns", "off",
                       "--port-mapping", "off"]  # fmt: skip
            environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
            relay = lab.popen("relay", command, cwd=REPOSITORY, stdout=subprocess.PIPE, bufsize=0, env=environment,
                               stderr=stack.enter_context((tmp_path / "relay.log").open("wb")))  # fmt: skip
            made = Scene(lab, tmp_path, line_of(relay))
            for host in ("alice", "bob"):
                stack.enter_context(lab.capture(host, path=tmp_path / f"{host}.pcap"))
            yield made

    yield make


def test_between_two_of_ours(scene: Callable[[], Any]) -> None:
    with scene() as here:
        bob, alice = here.ours("bob", curious=True), here.ours("alice")
        assert here.relay_id in bob.ask("listen")["addresses"][0]
        said = alice.ask("dial", bob.peer_id)
        assert said["relay"] == here.relay_id and said["echoed"]
        assert bob.ask("pry")["speaks"] == [], "alice answers nothing by which she would be found"
        alice.end()
        bob.end()
    # The relay sees both, and writes neither down.
    log = (here.folder / "relay.log").read_bytes()
    for name, secret in (("alice", alice.peer_id), ("bob", bob.peer_id)):
        assert not here.names(name, log) and secret.encode() not in log
    for one, other, peer in (("alice", "bob", bob), ("bob", "alice", alice)):
        assert here.strays(one) == []
        assert not here.told_on_wire(one, by=other)
        assert len(peer.decrypted()) > 300_000 and not here.names(one, peer.decrypted())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ours_dials_and_is_not_seen(implementation: str, scene: Callable[[], Any], start_peer: StartPeer) -> None:
    with scene() as here:
        bob = start_peer(implementation, within=here.lab.command("bob", []))
        bob.call("reserve", relay=here.relay)
        alice = here.ours("alice")
        said = alice.ask("dial", f"{here.relay}/p2p-circuit/p2p/{bob.peer_id}")
        assert said["relay"] == here.relay_id and said["echoed"]
        known = bob.call("identify", peer=alice.peer_id)
        where = bob.call("connections")
        alice.end()
    assert here.strays("alice") == []
    assert not here.told_on_wire("alice", by="bob")
    assert known["protocols"], "bob knows who alice says that she is"
    assert not here.names("alice", json.dumps([known, where]).encode())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ours_is_dialled_and_not_seen(implementation: str, scene: Callable[[], Any], start_peer: StartPeer) -> None:
    with scene() as here:
        bob = here.ours("bob")
        bob.ask("listen")
        alice = start_peer(implementation, within=here.lab.command("alice", []))
        alice.call("connect", addr=f"{here.relay}/p2p-circuit/p2p/{bob.peer_id}")
        assert alice.call("echo_half_close", peer=bob.peer_id, bytes=200_000)["equal"] is True
        known = alice.call("identify", peer=bob.peer_id)
        where = alice.call("connections")
        bob.end()
    assert here.strays("bob") == []
    assert not here.told_on_wire("bob", by="alice")
    assert known["listen_addrs"], "alice knows by which ways bob says that he is reached"
    assert not here.names("bob", json.dumps([known, where]).encode())


#: What a peer is asked who should answer no more than who it is: all by which libp2p tells where somebody is.
ASKED = (identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL, *PRY)


def ask_all(other: Other, ours: str, lure: bytes = b"") -> tuple[set[str], bytes]:
    """(those of ASKED that ours speaks with the other, all that it says by them).  ``lure``: where the other says that
    it is itself, a binary multiaddr: ours is not to go there."""
    push = identify_pb2.Identify(listenAddrs=[lure] if lure else [])
    data = {identify.PUSH_PROTOCOL: frame(push.SerializeToString()), ping.PROTOCOL: bytes(32)}
    spoken, said = set(), b""
    for protocol in ASKED:
        answer = other.call("ask", peer=ours, protocol=protocol, data=data.get(protocol, b"").hex())
        said += bytes.fromhex(answer["said"])
        if answer["spoken"]:
            spoken.add(protocol)
    return spoken, said


@pytest.mark.parametrize("planted", [False, True], ids=["clean", "planted"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_who_pries_is_told_nothing(
    implementation: str, planted: bool, scene: Callable[[], Any], start_peer: StartPeer
) -> None:
    with scene() as here:
        bob = start_peer(implementation, within=here.lab.command("bob", []))
        bob.call("reserve", relay=here.relay)
        alice = here.ours("alice", "identify" if planted else "", curious=planted)
        alice.ask("dial", f"{here.relay}/p2p-circuit/p2p/{bob.peer_id}")
        spoken, said = ask_all(bob, alice.peer_id, encode_tcp(ip_address(here.lab.ip("bob")), 4001))
        alice.end()
    if planted:
        assert set(CURIOUS) < spoken and here.names("alice", said)
        return
    assert spoken == {identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL}
    assert len(said) > 100 and not here.names("alice", said)
    assert here.strays("alice") == []
    assert not here.told_on_wire("alice", by="bob")


#: Told to the other end, sealed; the others are packets of their own.
TOLD = ("identify", "push", "signed record", "dcutr", "autonat", "dht")


@pytest.mark.parametrize("leak", [*TOLD, "direct", "dns", "mdns"])
def test_a_leak_that_is_planted_is_seen(leak: str, scene: Callable[[], Any]) -> None:
    with scene() as here:
        bob, alice = here.ours("bob", curious=True), here.ours("alice", leak)
        bob.ask("listen")
        alice.ask("dial", bob.peer_id)
        alice.end()
        bob.end()
    if leak in TOLD:
        assert here.names("alice", bob.decrypted())
    else:
        assert here.strays("alice") != []


#: The node, but that it writes down from where connections come: in its log, which hides it, and past its log.
TELLS = """
import logging, runpy, sys
from actors.circuit_forwarder import CircuitForwarder
accept = CircuitForwarder.accept
def told(self, address, *more, **named):
    logging.getLogger("actors").warning("a connection from %s", address)
    TOLD
    return accept(self, address, *more, **named)
CircuitForwarder.accept = told
runpy.run_module("actors.node", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("past", [False, True], ids=["in the log", "past it"])
def test_a_log_line_that_is_planted_is_seen(past: bool, scene: Callable[..., Any]) -> None:
    more = 'print("a connection from", address, file=sys.stderr, flush=True)' if past else "pass"
    with scene("-c", TELLS.replace("TOLD", more)) as here:
        bob, alice = here.ours("bob"), here.ours("alice")
        bob.ask("listen")
        alice.ask("dial", bob.peer_id)
        alice.end()
        bob.end()
    log = (here.folder / "relay.log").read_bytes()
    assert b"a connection from address-" in log, "what stands in a line of the log is a hash"
    assert here.names("alice", log) == here.names("bob", log) == past
