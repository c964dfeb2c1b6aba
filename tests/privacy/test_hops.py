"""Two and three relays in a row: no relay's captures, and no relay's memory, name both ends.

Hosts of different networks, a capture at each.  The target is go-libp2p, which reserves at the last relay: so no relay
before that one has any reason to have heard of it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from protocol.identity import PeerId
from tests.interop.peer import Peer as Other
from tests.privacy.packets import packets
from tests.privacy.requirements import require
from tests.privacy.test_high import Ours, line_of
from tests.support.lan import require_namespaces
from tests.support.netlab import NetLab
from tests.support.process import REPOSITORY

HOSTS = {
    "alice": ("192.168.171.55", "192.168.171.1", 24),  # stands in no source, which is in the relays' memory too
    "first": ("1.2.3.4", "1.2.3.1", 24),
    "second": ("5.6.7.8", "5.6.7.1", 24),
    "third": ("9.8.7.6", "9.8.7.1", 24),
    "bob": ("203.0.113.42", "203.0.113.1", 24),
}


def memory(pid: int) -> bytes:
    """All that a process has written to its memory."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None:
                continue
            start, end = (int(text, 16) for text in area.groups())
            try:
                mem.seek(start)
                found.append(mem.read(end - start))
            except (OSError, ValueError, OverflowError):
                continue  # a page of the kernel's
    return b"".join(found)


def names_host(host: str, data: bytes) -> bool:
    address = HOSTS[host][0]
    return address.encode() in data or b"\x04" + socket.inet_aton(address) + b"\x06" in data


def names_peer(peer_id: str, data: bytes) -> bool:
    return peer_id.encode() in data or PeerId.parse(peer_id).bytes in data


class Relay:
    """A node on a host of the lab, that knows ``others``."""

    def __init__(self, lab: NetLab, name: str, folder: Path, others: list[str]) -> None:
        self._lab, self._name = lab, name
        self._environment = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
        self._command = [sys.executable, "-m", "actors.node", "--json", "--data-dir", str(folder), "--listen",
                         f"/ip4/{lab.ip(name)}/tcp/4001", "--assume-reachable", "on", "--mdns", "off",
                         "--port-mapping", "off"]  # fmt: skip
        for address in others:
            self._command += ["--public-relays", address]
        self._start()

    def _start(self) -> None:
        self.process = self._lab.popen(
            self._name, self._command, cwd=REPOSITORY, stdout=subprocess.PIPE, bufsize=0, env=self._environment
        )
        ready = line_of(self.process)
        self.address, self.peer_id = ready["addresses"][0], ready["peer_id"]

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self._start()


#: What each leak that is planted shows: alice tells the last relay and bob where she is; or is the same to all.
PLANTED = {"": set(), "context": {"bob knows where alice is"}, "same": {"who alice is", "who alice is to bob"}}


@pytest.mark.parametrize(("hops", "leak"), [(2, ""), (3, ""), (2, "context"), (2, "same")])
def test_no_relay_names_both_ends(hops: int, leak: str, tmp_path: Path, start_peer: Callable[..., Other]) -> None:
    require_namespaces()
    require("tcpdump", "nft")
    with ExitStack() as stack:
        lab = stack.enter_context(NetLab(hosts=HOSTS, isolate=False, prefix=f"hops{os.getpid()}-"))
        names = ("first", "second", "third")[-hops:]
        nodes: dict[str, Relay] = {}
        for name in reversed(names):  # each knows those that are further from alice
            nodes[name] = Relay(lab, name, tmp_path / name, [one.address for one in nodes.values()])
        relays = ",".join(one.address for one in nodes.values())
        alice = Ours(lab, "alice", tmp_path / "alice", relays, "bob", leak, curious=False)
        # Whoever looks for relays is seen by all that are tried, as somebody who looks.  What they know of that is gone
        # with the processes: from here on alice reaches the first relay alone, and bob the last.
        alice.ask("look", str(hops))
        entry = names[0]
        reset = "meta l4proto tcp reject with tcp reset"
        rules = [
            "table ip apart {",
            "chain forward { type filter hook forward priority 1;",
            f'iifname "to-alice" oifname != "to-{entry}" {reset}',
            f'iifname "to-bob" oifname != "to-third" {reset}',
            "}",
            "}",
        ]
        lab.nft("\n".join(rules))
        for name in reversed(names):
            nodes[name].restart()
        for host in (*names, "bob"):
            stack.enter_context(lab.capture(host, path=tmp_path / f"{host}.pcap"))
        last = nodes["third"]
        bob = start_peer("go", within=lab.command("bob", []))
        bob.call("reserve", relay=last.address)
        said = alice.ask("dial", f"{last.address}/p2p-circuit/p2p/{bob.peer_id}", str(hops))
        known = bob.call("identify", peer=said["chain"][-1]["as"])
        where = bob.call("connections")
        by_id = {one.peer_id: name for name, one in nodes.items()}
        chain = [(by_id[one["relay"]], one["as"]) for one in said["chain"]]
        seen = {name: memory(nodes[name].process.pid) for name in names}
        alice.end()
    assert said["echoed"] and len(chain) == hops and chain[-1][0] == "third"
    assert chain[0][0] == entry and (len({who for _, who in chain}) == hops) == (leak != "same")
    as_last = chain[-1][1]
    assert names_host("alice", seen[entry]), "the first relay does see who is there"
    assert names_peer(bob.peer_id, seen["third"]) and names_host("bob", seen["third"])
    found = set()
    for name, _ in chain[1:]:
        found |= {"where alice is"} if names_host("alice", seen[name]) else set()
        found |= {"who alice is"} if names_peer(chain[0][1], seen[name]) else set()
    for name, _ in chain[:-1]:
        found |= {"bob"} if names_host("bob", seen[name]) or names_peer(bob.peer_id, seen[name]) else set()
        found |= {"who alice is to bob"} if names_peer(as_last, seen[name]) else set()
    for host, other in ((entry, "bob"), *((name, "alice") for name, _ in chain[1:]), ("bob", "alice")):
        captured = packets(tmp_path / f"{host}.pcap")
        assert len(captured) > 50
        # Of the processes that were killed the kernel may still say good-bye: that is nobody's knowledge any more.
        assert not [one for one in captured if one.source == HOSTS[other][0]]
        assert not [one for one in captured if one.destination == HOSTS[other][0] and one.opens]
    if names_host("alice", repr([known, where]).encode()):
        found.add("bob knows where alice is")
    # Where she is may be in the last relay's memory too, which asks as bob does.
    assert found - {"where alice is"} == PLANTED[leak] and ("where alice is" not in found or leak == "context")
