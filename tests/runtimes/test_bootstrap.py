"""A node that relays for nobody, when there are relays and when there are none; and looking for some without a node."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, readable

ALONE = ("--mdns", "off", "--private-network", "on", "--status-interval", "0")
CLIENT = (*ALONE, "--mode", "client-only")

Start = Callable[..., NodeProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(folder: Path, *flags: str) -> NodeProcess:
        nodes.append(NodeProcess(folder, *flags))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def command(folder: Path, *words: str, **variables: str) -> dict[str, Any]:
    line = [sys.executable, "-m", "actors.cli", *words, "--json", "--data-dir", str(folder)]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "no-config"), **variables}
    done = subprocess.run(
        line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_client_that_finds_no_relay_says_so(start: Start, tmp_path: Path) -> None:
    node = start(tmp_path / "node", *CLIENT)
    told = node.event()
    assert told["event"] == "no_relays"
    assert command(tmp_path / "node", "status")["relays"] == "none"


def test_a_client_that_finds_one_says_which(start: Start, tmp_path: Path) -> None:
    relay = start(tmp_path / "relay", *ALONE)
    node = start(tmp_path / "node", *CLIENT, "--public-relays", relay.ready["addresses"][0])
    assert node.event() == {"event": "relays_found", "relays": 1, "best": relay.ready["peer_id"]}
    assert command(tmp_path / "node", "status")["relays"] == "found"


class Terminal:
    """A node on a terminal of its own, as somebody starts it by hand."""

    def __init__(self, folder: Path, *flags: str) -> None:
        line = [sys.executable, "-m", "actors.node", "--data-dir", str(folder), "--listen", "/ip4/127.0.0.1/tcp/0"]
        environment = {**os.environ, "XDG_CONFIG_HOME": str(folder.parent)}
        self.pid, self.screen = pty.fork()
        if not self.pid:  # the child: nothing but exec
            os.chdir(REPOSITORY)
            os.execve(sys.executable, [*line, *flags], environment)
        self.shown = ""

    def until(self, text: str) -> None:
        end = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < end and readable(PATIENCE, self.screen), self.shown
            try:
                self.shown += os.read(self.screen, 65_536).decode()
            except OSError:  # the node has ended
                raise AssertionError(self.shown) from None

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def stop(self) -> int:
        os.write(self.screen, b"\x03")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize(("answer", "mode"), [("y", "cooperative"), ("n", "client-only")])
def test_somebody_at_the_terminal_is_asked_once(tmp_path: Path, answer: str, mode: str) -> None:
    # The mode is in the file: a flag would win over what is answered.
    folder = tmp_path / "node"
    file = tmp_path / "settings.toml"
    file.write_text('# mine\nmode = "client-only"\n')
    terminal = Terminal(folder, *ALONE, "--config", str(file))
    terminal.until("relays for nobody")
    terminal.until("Enable relay mode to help the network? [y/N] ")
    terminal.type(answer + "\n")
    if answer == "y":
        terminal.until("relays for others from now on")
    assert command(folder, "status")["mode"] == mode
    assert tomllib.loads(file.read_text())["mode"] == mode and file.read_text().startswith("# mine\n")
    assert terminal.shown.count("Enable relay mode") == 1
    assert terminal.stop() == 0


def test_relays_are_found_without_a_node(start: Start, tmp_path: Path) -> None:
    relay = start(tmp_path / "relay", *ALONE)
    variables = {
        "DESCORD_RELAY_PUBLIC_RELAYS": relay.ready["addresses"][0],
        "DESCORD_RELAY_PRIVATE_NETWORK": "on",
        "DESCORD_RELAY_MDNS": "off",
    }
    folder = tmp_path / "nobody"
    start(tmp_path / "former", *ALONE).stop()
    (one,) = command(folder, "relays", "--timeout", "5", **variables)["relays"]
    assert (one["peer_id"], one["answer"]) == (relay.ready["peer_id"], "reserves")
    assert not folder.exists()
    # Where a node was, what was seen is there the next time, although nobody can be asked any more.
    assert command(tmp_path / "former", "relays", "--timeout", "5", **variables)["relays"]
    relay.stop()
    del variables["DESCORD_RELAY_PUBLIC_RELAYS"]
    known = command(tmp_path / "former", "relays", "--known", **variables)["relays"]
    assert [one["peer_id"] for one in known] == [relay.ready["peer_id"]]
