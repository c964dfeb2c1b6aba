"""Python in the documentation is run as it stands, through a real relay; what nobody runs is not written there."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.ports.client import Client, PeerConnection, PeerStream
from actors.ports.storage import load_identity
from protocol.identity import Identity
from tests.support.peers import seeded
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, readable

#: By a text that is in them: where each of the examples is run.
RUN = {
    "actors.ports.peer import": "test_hello_in_the_readme",
    "async with Client(identity": "test_the_client_in_the_readme_of_actors",
    "DescordTransport": "tests/interop/test_py_hosts.py",
}


def examples() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    texts = [(REPOSITORY / name).read_text("utf-8") for name in listed.stdout.splitlines()]
    return [block for text in texts for block in re.findall(r"^```py(?:thon)?\n(.*?)^```", text, re.M | re.S)]


def example(mark: str) -> str:
    (found,) = [one for one in examples() if mark in one]
    return found


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[NodeProcess]:
    made = NodeProcess(tmp_path / "relay", "--private-network", "on", "--mdns", "off", "--assume-reachable", "on")
    yield made
    made.stop()


def test_each_example_is_run() -> None:
    for one in examples():
        assert [mark for mark in RUN if mark in one], f"run this, and say so in RUN:\n{one}"


class Hello:
    """hello.py of the README, in folders of its own."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._program = folder / "hello.py"
        self._program.write_text(example("actors.ports.peer import"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
        self._environment = {**kept, "XDG_CONFIG_HOME": str(folder), "PYTHONPATH": str(REPOSITORY), **variables}

    def start(self, who: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(self._program), str(self._folder / who), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self._environment, stdout=pipe, stderr=pipe, bufsize=0)

    def run(self, who: str, *words: str) -> tuple[int, str]:
        """(exit code, what it said)."""
        process = self.start(who, *words)
        out, err = process.communicate(timeout=PATIENCE * 3)
        return process.returncode, (out if process.returncode == 0 else err).decode().strip()


def test_hello_in_the_readme(relay: NodeProcess, tmp_path: Path) -> None:
    hello = Hello(
        tmp_path,
        {"DESCORD_RELAY_PUBLIC_RELAYS": relay.ready["addresses"][0], "DESCORD_RELAY_PRIVATE_NETWORK": "on",
         "DESCORD_RELAY_MDNS": "off", "DESCORD_RELAY_PATH_TIMEOUT": "5"},
    )  # fmt: skip
    bob = hello.start("bob")
    try:
        assert bob.stdout is not None and readable(PATIENCE, bob.stdout)
        peer, address, *_ = bob.stdout.readline().decode().split()
        assert relay.ready["peer_id"] in address
        assert hello.run("alice", peer, "high") == (0, "hello, whoever you are")
        assert hello.run("alice", address) == (0, "hello, whoever you are")
    finally:
        bob.kill()
        bob.communicate()
    nobody = str(Identity.from_seed(seeded("nobody")).peer_id)
    relayed_by = relay.ready["addresses"][0]
    for target, level, why in (
        (nobody, "high", "not reached: "),
        (peer, "maximum", "not reached: "),
        (nobody, "low", "not reached: "),
        (relayed_by, "low", "lost, or not spoken there: "),
    ):
        code, said = hello.run("alice", target, level)
        assert code == 1 and said.startswith(why), (level, said)
    # Whoever sees where alice is, at low, does not learn who she is at high.
    at_high, at_low = (load_identity(tmp_path / "alice" / part).peer_id for part in ("", "low"))
    assert at_high != at_low


def test_hello_at_maximum_asks_nobody_but_tor(relay: NodeProcess, tmp_path: Path) -> None:
    """Not even a relay, and there is one that it would know."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.0)
        named = f"/ip4/127.0.0.1/tcp/{listening.getsockname()[1]}/p2p/{relay.ready['peer_id']}"
        variables = {"DESCORD_RELAY_PUBLIC_RELAYS": named, "DESCORD_RELAY_PRIVATE_NETWORK": "on",
                     "DESCORD_RELAY_TOR_SOCKS": "127.0.0.1:1"}  # fmt: skip
        hello = Hello(tmp_path, variables)
        onion = f"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1/p2p/{relay.ready['peer_id']}"
        code, said = hello.run("alice", onion, "maximum")
        assert code == 1 and "start Tor" in said
        with pytest.raises(BlockingIOError):
            listening.accept()
        # At high it would have been asked.
        hello.run("alice", relay.ready["peer_id"], "high")
        listening.accept()[0].close()


async def test_the_client_in_the_readme_of_actors(relay: NodeProcess) -> None:
    async def echo(_: PeerConnection, stream: PeerStream) -> None:
        while data := await stream.read():
            await stream.write(data)

    address = relay.ready["addresses"][0]
    program = f"async def run():\n{textwrap.indent(example('async with Client(identity'), '    ')}\n    return answer"
    async with (
        asyncio.timeout(PATIENCE),
        Client(Identity.from_seed(seeded("bob")), handlers={"/echo/1.0.0": echo}) as bob,
    ):
        await bob.reserve(address)
        scope: dict[str, Any] = {"Client": Client, "identity": Identity.from_seed(seeded("alice")), "echo": echo,
                                 "relay": address, "other": bob.peer_id}  # fmt: skip
        exec(compile(ast.parse(program), "actors/README.md", "exec"), scope)
        assert await scope["run"]() == b"hello"
