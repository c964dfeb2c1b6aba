"""What is written down: log lines of the relay and of both peers' commands, at debug, and the spans that they export.

Two machines that reach only the relay talk through it; then the relay is killed, about which everybody has something to
say.  In none of it is the address or the peer id of anybody else: keyed hashes stand there.  With the hashes taken out,
as a slip in the code would, the same checks fail.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocol.identity import PeerId
from tests.privacy.requirements import require
from tests.privacy.test_high import line_of
from tests.support.lan import require_namespaces
from tests.support.netlab import NetLab
from tests.support.otlp import OtlpReceiver
from tests.support.process import PATIENCE, REPOSITORY, readable

HOSTS = ("alice", "relay", "bob")

#: The command, but that its log lines are not gone over.
CLEAR_LINES = """
import logging, runpy
from actors.logs import LogfmtFormatter
def clear(self, scrub=str):
    logging.Formatter.__init__(self)
    self._scrub = str
LogfmtFormatter.__init__ = clear
"""

#: The command, but that its spans show who and where.
CLEAR_SPANS = """
import runpy
from tracing.redaction import Redactor
begin = Redactor.__init__
Redactor.__init__ = lambda self, key, rotation, *, clear=False: begin(self, key, rotation, clear=True)
"""

#: The command, but that the node beside a peer exports spans, and has one for each path.
CLIENT_SPANS = """
import os, runpy, time
from actors import node
from actors.private_node import PrivateNode
from tracing.spans import Secret
config, paths = node.telemetry_config, PrivateNode.paths
node.telemetry_config = lambda settings, _: config(settings, os.environ)
async def told(self, level, target, *offered, **named):
    span = self._node.telemetry.tracer.begin("path", time.time())
    span.set("peer", Secret("peer", target.bytes))
    span.end(time.time())
    return await paths(self, level, target, *offered, **named)
PrivateNode.paths = told
"""


@dataclass
class Written:
    """``logs``, ``spans``: by host, all that was written.  ``peers``: who is on it."""

    lab: NetLab
    logs: dict[str, bytes] = field(default_factory=dict)
    spans: dict[str, bytes] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    def named(self, by: str, data: bytes) -> set[str]:
        """Of the others' addresses and peer ids, those that stand in ``data``, in any form."""
        found = set()
        for host in HOSTS:
            if host == by:
                continue
            peer = PeerId.parse(self.peers[host])
            forms = (str(peer).encode(), peer.bytes, peer.bytes.hex().encode())
            if any(form in data for form in forms):
                found.add(f"peer {host}")
            if self.lab.ip(host).encode() in data:
                found.add(f"address {host}")
        return found


class Talk:
    """The commands.  ``planted``: by host, code that runs before its command."""

    def __init__(self, stack: ExitStack, lab: NetLab, folder: Path, planted: dict[str, str]) -> None:
        self.written = Written(lab)
        self._stack, self._lab, self._folder, self._planted = stack, lab, folder, planted
        self._receivers: dict[str, OtlpReceiver] = {}
        for host in HOSTS:
            with lab.enter(host):  # its socket is that host's from now on
                self._receivers[host] = stack.enter_context(OtlpReceiver("http/protobuf"))

    def start(self, host: str, number: int, module: str, *words: str, **settings: str) -> subprocess.Popen[bytes]:
        place = self._folder / host
        place.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
        environment |= {"XDG_CONFIG_HOME": str(place), "XDG_STATE_HOME": str(place), "DESCORD_RELAY_LOG_LEVEL": "debug",
                        **self._receivers[host].environment, **settings}  # fmt: skip
        program = ["-m", module]
        if code := self._planted.get(host):
            program = ["-c", f"{code}\nrunpy.run_module({module!r}, run_name='__main__', alter_sys=True)"]
        log = self._stack.enter_context((place / f"log-{number}").open("wb"))
        return self._lab.popen(host, [sys.executable, *program, *words], cwd=REPOSITORY, env=environment,
                               stdout=subprocess.PIPE, stderr=log, bufsize=0)  # fmt: skip

    def run(self) -> Written:
        lab, written = self._lab, self.written
        relay = self.start(
            "relay", 0, "actors.node", "--json", "--listen", "/ip4/1.2.3.4/tcp/4001", "--assume-reachable", "on",
            "--mdns", "off", "--port-mapping", "off",
        )  # fmt: skip
        ready = line_of(relay)
        written.peers["relay"] = ready["peer_id"]
        settings = {"DESCORD_RELAY_PUBLIC_RELAYS": ready["addresses"][0]}
        identified = self.start("alice", 0, "actors.cli", "socks", "--json", "0", **settings)
        written.peers["alice"] = line_of(identified)["peer_id"]
        identified.terminate()
        identified.wait(PATIENCE)
        served = lab.popen("bob", [sys.executable, "-u", "-m", "http.server", "-b", "127.0.0.1", "8000"],
                           cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)  # fmt: skip
        assert served.stdout is not None and readable(PATIENCE, served.stdout), "the service is up"
        expose = ("expose", "--json", "web", "127.0.0.1:8000", "--allow", written.peers["alice"])
        bob = self.start("bob", 0, "actors.cli", *expose, **settings)
        written.peers["bob"] = line_of(bob)["peer_id"]
        forward = ("forward", "--json", "0", written.peers["bob"], "web")
        for number in (1, 2):
            alice = self.start("alice", number, "actors.cli", *forward, **settings)
            url = f"http://127.0.0.1:{line_of(alice)['port']}/"
            assert lab.run("alice", ["curl", "-sf", url], timeout=PATIENCE).returncode == 0
            if number == 1:  # the span of a circuit is exported when it ends
                alice.terminate()
                alice.wait(PATIENCE)
                self._receivers["relay"].until(lambda spans: {"circuit", "reservation"} <= {one.name for one in spans})
        relay.kill()
        relay.wait()
        while line_of(bob).get("addresses"):
            pass  # until he is not reached any more
        assert lab.run("alice", ["curl", "-sf", url], timeout=PATIENCE * 3).returncode != 0
        for process in (alice, bob):
            process.terminate()
            process.wait(PATIENCE)
        for host in HOSTS:
            logs = sorted((self._folder / host).glob("log-*"))
            written.logs[host] = b"".join(one.read_bytes() for one in logs)
            receiver = self._receivers[host]
            shown = json.dumps([[span.name, span.message, span.attributes, span.events] for span in receiver.spans],
                               default=repr).encode()  # fmt: skip
            written.spans[host] = b"".join(receiver.raw) + shown
        return written


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Written]]:
    require_namespaces()
    require("nft", "curl")
    with ExitStack() as stack:
        lab = stack.enter_context(NetLab(prefix=f"written{os.getpid()}-"))
        yield lambda planted: Talk(stack, lab, tmp_path, planted).run()


def test_hashes_stand_in_logs_and_spans(talk: Callable[[dict[str, str]], Written]) -> None:
    written = talk({})
    assert {host: written.named(host, data) for host, data in written.logs.items()} == {host: set() for host in HOSTS}
    for host in ("alice", "bob"):
        assert re.search(rb"peer-[0-9a-f]{16}", written.logs[host]), "of somebody it does speak"
    assert b'"circuit"' in written.spans["relay"] and b"peer-" in written.spans["relay"]
    assert written.named("relay", written.spans["relay"]) == set()
    assert written.spans["alice"] == written.spans["bob"] == b"[]", (
        "peers export nothing, whatever the environment says"
    )


def test_log_lines_that_are_planted_are_seen(talk: Callable[[dict[str, str]], Written]) -> None:
    written = talk({"bob": CLEAR_LINES})
    assert "peer relay" in written.named("bob", written.logs["bob"])


def test_spans_that_are_planted_are_seen(talk: Callable[[dict[str, str]], Written]) -> None:
    written = talk({"relay": CLEAR_SPANS, "alice": CLIENT_SPANS + CLEAR_SPANS})
    everybody = {"peer alice", "peer bob", "address alice"}
    assert everybody <= written.named("relay", written.spans["relay"])
    assert "peer bob" in written.named("alice", written.spans["alice"])
