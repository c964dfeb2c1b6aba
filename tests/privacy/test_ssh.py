"""ssh and scp between two machines that reach only the relay: what people would use this for."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.privacy.machines import Machine, said
from tests.privacy.requirements import require
from tests.support.lan import require_namespaces
from tests.support.netlab import NetLab

#: sshd on a port of bob's own loopback, for one key and without his system's files.
SSHD = """Port 2022
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
KbdInteractiveAuthentication no
"""

RELAY = ".venv/bin/descord-relay run --assume-reachable on --mdns off --port-mapping off"


@pytest.fixture
def lab() -> Iterator[NetLab]:
    require_namespaces()
    require("nft", "ssh", "scp", "ssh-keygen", "sshd")
    with NetLab(prefix=f"ssh{os.getpid()}-") as made:
        yield made


def key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def test_ssh_and_scp_through_the_relay(lab: NetLab, tmp_path: Path) -> None:
    vps, alice, bob = (Machine(lab, name, tmp_path / name) for name in ("relay", "alice", "bob"))
    key(bob.folder / "host_key")
    key(alice.folder / "key")
    (bob.folder / "authorized_keys").write_bytes((alice.folder / "key.pub").read_bytes())
    (bob.folder / "sshd_config").write_text(SSHD.format(folder=bob.folder))
    host_key = (bob.folder / "host_key.pub").read_text()
    (alice.folder / "known_hosts").write_text(f"[127.0.0.1]:2222 {host_key}")
    os.makedirs("/run/sshd", exist_ok=True)  # where sshd wants to live, whatever its configuration says
    bob.start(f"{shutil.which('sshd')} -D -e -f sshd_config")

    address = said(vps.start(RELAY), r"(/ip4/1\.2\.3\.4/tcp/4001/p2p/\w+)")
    relays = f"export DESCORD_RELAY_PUBLIC_RELAYS={address}\n"
    # Who alice is has to be known to bob before he lets her in: her first run tells.
    who = said(alice.start(relays + ".venv/bin/descord-relay socks"), r"this peer is (\w+)")
    reached = said(
        bob.start(relays + f".venv/bin/descord-relay expose ssh 127.0.0.1:2022 --allow {who}"), r"is reached as (\w+)"
    )
    said(alice.start(relays + f".venv/bin/descord-relay forward 127.0.0.1:2222 {reached} ssh"), r"(2222)")

    options = "-F none -i key -o UserKnownHostsFile=known_hosts -o IdentitiesOnly=yes -o BatchMode=yes"
    asked = alice.run(f"ssh {options} -p 2222 root@127.0.0.1 'hostname -I; echo $SSH_CONNECTION'")
    assert "203.0.113.42" in asked, "it is bob's machine"
    assert asked.splitlines()[-1].startswith("127.0.0.1 "), "bob's sshd sees nobody but his own loopback"
    data = random.Random(5).randbytes(5 << 20)
    (alice.folder / "there").write_bytes(data)
    back = f"scp {options} -P 2222 there root@127.0.0.1:{bob.folder}/kept"
    alice.run(f"{back} && scp {options} -P 2222 root@127.0.0.1:{bob.folder}/kept back")
    for path in (bob.folder / "kept", alice.folder / "back"):
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    for machine, other in ((alice, "203.0.113.42"), (bob, "192.168.1.5")):
        assert other not in machine.run("ss -tn")
