"""`descord-relay` as a person uses it: processes, a real node, and what is printed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.identity import Identity
from tests.support.peers import seeded
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess


def environment(folder: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
    return {**kept, "XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state"), **settings}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "actors.cli", *arguments]


class Cli:
    """Runs the command; ``start`` leaves it running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=REPOSITORY,
            env=environment(self.folder, **settings),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        # Unbuffered: what is read ahead of a line would be hidden from select.
        process = subprocess.Popen(
            command(*arguments), cwd=REPOSITORY, env=environment(self.folder), stdout=subprocess.PIPE, bufsize=0
        )
        self.running.append(process)
        return process


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], PATIENCE)
    assert readable, "it printed nothing"
    return process.stdout.readline().decode()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in text.splitlines()]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    process = NodeProcess(tmp_path_factory.mktemp("cli") / "node", "--rate-limits", "off")
    yield process
    process.stop()


@pytest.fixture
def relay(node: NodeProcess) -> str:
    return str(node.ready["addresses"][0])


def test_ping_a_relay(cli: Cli, node: NodeProcess, relay: str) -> None:
    done = cli("ping", relay, "--count", "2", "--interval", "0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(node.ready["peer_id"])
    assert lines[0].endswith("directly")
    assert lines[-1].startswith("2 answers, 0 lost")


def test_reserve_and_ping_through(cli: Cli, node: NodeProcess, relay: str) -> None:
    held = cli.start("reserve", relay, "--json")
    reserved = json.loads(line(held))
    assert (reserved["event"], reserved["relay"]) == ("reserved", node.ready["peer_id"])
    address = reserved["addresses"][0]
    assert address.startswith(f"{relay}/p2p-circuit/p2p/")
    done = cli("ping", address, "--count", "3", "--interval", "0", "--json")
    assert done.returncode == 0, done.stderr
    connected, *pongs, summary = objects(done.stdout)
    assert connected["relay"] == node.ready["peer_id"]
    assert connected["peer"] == address.rsplit("/", 1)[1]
    assert [pong["number"] for pong in pongs] == [1, 2, 3]
    assert (summary["answers"], summary["lost"]) == (3, 0)
    assert json.loads(line(held))["event"] == "peer"
    held.send_signal(signal.SIGTERM)
    assert held.wait(PATIENCE) == 0


def test_reserve_keeps_its_identity_with_a_data_folder(cli: Cli, relay: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "mine")
    held = cli.start("reserve", relay, "--data-dir", folder)
    assert line(held).startswith("reserved on ")
    assert line(held).strip().endswith(cli("id", "--data-dir", folder).stdout.strip())


def test_id_is_that_of_the_node(cli: Cli, node: NodeProcess) -> None:
    folder = str(node.data_dir)
    assert cli("id", "--data-dir", folder).stdout.strip() == node.ready["peer_id"]
    assert json.loads(cli("id", "--data-dir", folder, "--json").stdout) == {"peer_id": node.ready["peer_id"]}


def test_id_makes_no_identity(cli: Cli, tmp_path: Path) -> None:
    """In the wrong folder it would show a peer id that no node has, and a node started there later would have it."""
    folder = tmp_path / "state" / "descord-relay"
    told = cli("id")
    assert told.returncode == 2 and f"no identity in {folder}" in told.stderr and "first start" in told.stderr
    assert not folder.exists()


def test_run_is_the_node(cli: Cli, tmp_path: Path) -> None:
    told = cli("run", "--print-settings", "--data-dir", str(tmp_path / "run"))
    assert told.returncode == 0
    assert "resolver_timeout" in told.stdout
    assert cli("run", "--help").stdout.startswith("usage: descord-relay run ")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("ping", "/ip4/127.0.0.1/tcp/1"), 1, "connection refused"),
        (("ping", "/dns4/no.such.name.invalid/tcp/1"), 1, "no.such.name.invalid"),
        (("ping", "garbage"), 2, "is no multiaddr"),
        (("ping", "/ip4/127.0.0.1/udp/1/quic-v1"), 2, "cannot be dialled"),
        (("reserve", "/ip4/127.0.0.1/tcp/1"), 1, "connection refused"),
        (("ping", "/ip4/127.0.0.1/tcp/1", "--count", "0"), 2, "at least 1"),
        (("nonsense",), 2, "nonsense"),
        ((), 2, "COMMAND"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(cli: Cli, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = cli(*arguments, DESCORD_RELAY_RESOLVER_TIMEOUT="1")
    assert done.returncode == code
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_refusal_is_told_as_the_relay_told_it(cli: Cli, relay: str) -> None:
    stranger = Identity.from_seed(seeded("stranger")).peer_id
    done = cli("ping", f"{relay}/p2p-circuit/p2p/{stranger}")
    assert done.returncode == 1
    assert "NO_RESERVATION" in done.stderr


def test_a_wrong_setting_is_refused(cli: Cli, relay: str) -> None:
    done = cli("ping", relay, DESCORD_RELAY_RESOLVER_TIMEOUT="soon")
    assert done.returncode == 2
    assert "resolver_timeout = 'soon'" in done.stderr


def test_what_is_wrong_with_a_nodes_settings_is_not_the_clients_affair(cli: Cli, relay: str, tmp_path: Path) -> None:
    (tmp_path / "config" / "descord-relay").mkdir(parents=True)
    (tmp_path / "config" / "descord-relay" / "config.toml").write_text("max_circuits = 0\nof_a_later_version = 1\n")
    done = cli("ping", relay, "--count", "1", DESCORD_RELAY_LISTEN="nowhere", DESCORD_RELAY_FORWARDERS="2")
    assert done.returncode == 0, done.stderr
    assert cli("run", "--print-settings").returncode == 2


def test_a_reader_that_leaves_ends_it_quietly(cli: Cli, relay: str) -> None:
    """As in ``descord-relay ping ... | head -1``."""
    process = subprocess.Popen(
        command("ping", relay, "--interval", "0.1", "--count", "1000"),
        cwd=REPOSITORY,
        env=environment(cli.folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    cli.running.append(process)
    line(process)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(PATIENCE) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["ping", "reserve"])
def test_a_signal_ends_it_while_it_connects(cli: Cli, name: str, number: signal.Signals) -> None:
    """To a host that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = cli.start(name, f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            process.send_signal(number)
            assert process.wait(5.0) == 130


def test_a_signal_ends_ping_between_two_pings(cli: Cli, relay: str) -> None:
    process = cli.start("ping", relay, "--interval", "3600")
    line(process), line(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(5.0) == 130
