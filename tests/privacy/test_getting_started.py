"""deploy/GETTING_STARTED.md, its commands word for word, on three hosts of which two reach only the third."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.privacy.machines import Machine, said
from tests.privacy.requirements import require
from tests.support.lan import require_namespaces
from tests.support.netlab import NetLab
from tests.support.process import REPOSITORY

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q .\n"


@pytest.fixture
def lab() -> Iterator[NetLab]:
    require_namespaces()
    require("nft", "curl", "ss")
    with NetLab(prefix=f"start{os.getpid()}-") as made:
        yield made


def test_word_for_word(lab: NetLab, tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy" / "GETTING_STARTED.md").read_text("utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    install, relay, socks, serve, expose, read, ping, whom = blocks
    assert install == INSTALL, "what every machine here has already"
    vps, alice, bob = (Machine(lab, name, tmp_path / name) for name in ("relay", "alice", "bob"))
    (bob.folder / "index.html").write_text("<p>hello from bob</p>")

    address = said(vps.start(relay), r"(/ip4/1\.2\.3\.4/tcp/4001/p2p/\w+)")

    def put(commands: str, **names: str) -> str:
        filled = commands.replace("/ip4/1.2.3.4/tcp/4001/p2p/RELAY", address)
        for name, value in names.items():
            assert name in filled
            filled = filled.replace(name, value)
        return filled

    who = said(alice.start(put(socks)), r"this peer is (\w+)")
    bob.start(serve)
    reached = said(bob.start(put(expose, ALICE=who)), r"is reached as (\w+)")
    assert "hello from bob" in alice.run(put(read, BOB=reached))
    environment = put(socks).splitlines()[0]
    assert "through relay" in alice.run(f"{environment}\n{put(ping, BOB=reached)}")
    for machine, other in ((alice, "203.0.113.42"), (bob, "192.168.1.5")):
        connections = machine.run(whom)
        assert "1.2.3.4:4001" in connections and other not in connections
