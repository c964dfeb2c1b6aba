"""What a running node is asked to do: at its control socket, by `descord-relay`, and by SIGHUP."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.ports import control
from protocol.relay_hop import ReservationGranted
from tests.support import tree
from tests.support.peers import MemoryStream
from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, SocketPeer

Start = Callable[..., NodeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes: list[NodeProcess] = []

    def run(*flags: str, data_dir: Path | None = None, **options: Any) -> NodeProcess:
        nodes.append(NodeProcess(data_dir or tmp_path / "node", "--status-interval", "0", *flags, **options))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()


def command(node: NodeProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """`descord-relay`, to that node."""
    line = [sys.executable, "-m", "actors.cli", *words, "--data-dir", str(node.data_dir)]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)


class Talk:
    """A circuit over a node."""

    def __init__(self, node: NodeProcess) -> None:
        self.alice, self.bob = SocketPeer(node, "alice"), SocketPeer(node, "bob")
        assert isinstance(self.bob.reserve(), ReservationGranted)
        self.here, self.there = self.alice.circuit(self.bob)

    def goes_on(self) -> None:
        for one, other in ((self.here, self.there), (self.there, self.here)):
            self._passes(one, other)

    def _passes(self, one: MemoryStream, other: MemoryStream) -> None:
        one.send(b"x" * 100_000)
        self.alice.pass_on(self.bob, lambda: len(other.received) == 100_000)
        other.take()


def test_status_is_told(start: Start) -> None:
    node = start()
    talk = Talk(node)
    talk.goes_on()
    told = command(node, "status")
    assert told.returncode == 0, told.stderr
    assert "1 circuits, 1 reservations, 2 connections" in told.stdout and node.ready["addresses"][0] in told.stdout
    status = json.loads(command(node, "status", "--json").stdout)
    assert (status["circuits"], status["bytes"], status["pid"]) == (1, 200_000, node.process.pid)


def test_a_node_of_one_process_is_replaced_whole(start: Start) -> None:
    """By command, by signal, and again: the circuit lives, and the number stays."""
    node = start()
    talk = Talk(node)
    told = json.loads(command(node, "restart-forwarders", "--json").stdout)
    assert (told["connections"], told["circuits"], told["groups"]) == (2, 1, 1)
    event = node.event()
    assert (event["event"], event["pid"]) == ("upgraded", told["pid"])
    talk.goes_on()
    node.process.send_signal(signal.SIGHUP)
    assert node.event()["event"] == "upgraded"
    talk.goes_on()
    told = command(node, "restart-forwarders").stdout
    assert told.startswith("A new process took over, with 2 connections and 1 circuits, which paused for ")
    assert node.event()["event"] == "upgraded"
    talk.goes_on()
    assert node.process.poll() is None and node.stop() == 0
    assert not (node.data_dir / control.SOCKET).exists()


def test_settings_are_read_anew(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("max_circuits_per_peer = 1\n")
    node = start("--config", str(file))
    talk = Talk(node)
    assert type(talk.alice.connect(talk.bob)[1]).__name__ == "RequestRefused"
    file.write_text("max_circuits_per_peer = 2\n")
    node.process.send_signal(signal.SIGHUP)
    assert node.event()["event"] == "upgraded"
    talk.goes_on()
    talk.alice.circuit(talk.bob)


def test_settings_that_are_wrong_by_now_change_nothing(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    node = start("--config", str(file))
    talk = Talk(node)
    file.write_text("max_circuits = -1\n")
    node.process.send_signal(signal.SIGHUP)
    event = node.event()
    assert event["event"] == "restart_failed" and "max_circuits = -1" in event["reason"]
    told = command(node, "restart-forwarders")
    assert told.returncode == 1 and "max_circuits = -1" in told.stderr
    talk.goes_on()


def test_asked_again_meanwhile(start: Start) -> None:
    """Nobody who asks is forgotten, and nothing is lost."""
    node = start()
    talk = Talk(node)
    asked = [
        subprocess.Popen(
            [sys.executable, "-m", "actors.cli", "restart-forwarders", "--json", "--data-dir", str(node.data_dir)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    node.process.send_signal(signal.SIGHUP)
    for one in asked:
        out, _ = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0 and json.loads(out)["pid"]
    assert node.event()["event"] == "upgraded"
    talk.goes_on()


def test_no_node_is_there(tmp_path: Path) -> None:
    for words in ("status", "restart-forwarders"):
        line = [sys.executable, "-m", "actors.cli", words, "--data-dir", str(tmp_path)]
        ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert ended.returncode == 1 and "no node runs with the data folder" in ended.stderr


def ask(node: NodeProcess, data: bytes) -> dict[str, Any]:
    """What it answers to these bytes."""
    with control._connect(node.data_dir) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        answer = sock.makefile("rb").readline()
    return dict(json.loads(answer)) if answer else {}


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"hello\n", b"[]\n", b"{}\n", b'{"command": []}\n', b"\xff\n", b"[" * 10_000 + b"\n", b"x" * 200_000],
)
def test_what_is_no_question_is_answered_so(start: Start, data: bytes) -> None:
    node = start()
    answer = ask(node, data)
    assert answer["event"] == "failed"
    assert "JSON object with a command" in answer["reason"] or "restart-forwarders, status" in answer["reason"]
    assert ask(node, b'{"command": "status"}\n')["event"] == "done"


def test_those_that_ask_nothing_are_few(start: Start) -> None:
    node = start()
    silent = [control._connect(node.data_dir) for _ in range(control.MAX_CLIENTS)]
    # Each is known to have been taken when one more is turned away.
    tree.until(lambda: not ask(node, b'{"command": "status"}\n'), PATIENCE, "one more than allowed is answered")
    silent.pop().close()
    tree.until(lambda: bool(ask(node, b'{"command": "status"}\n')), PATIENCE, "a place that is free is not given")
    for one in silent:
        one.close()


def test_it_is_the_users_own(start: Start) -> None:
    node = start()
    path = node.data_dir / control.SOCKET
    assert (path.lstat().st_mode & 0o777, node.data_dir.stat().st_mode & 0o777) == (0o600, 0o700)
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    # Even where somebody opened it to others.
    for place in [node.data_dir, *node.data_dir.parents][:-2]:
        place.chmod(0o755)
    path.chmod(0o777)
    code = (
        "import os, sys; from pathlib import Path; from actors.ports.control import ask\n"
        "os.setuid(65534)\n"
        "try: ask(Path(sys.argv[1]), {'command': 'status'})\n"
        "except Exception as error: print(error)"
    )
    line = [sys.executable, "-c", code, str(node.data_dir)]
    told = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert told.stdout == "user 65534 is neither the node's nor root\n"


def test_what_a_killed_node_left_is_replaced(start: Start) -> None:
    node = start()
    node.process.kill()
    node.process.wait()
    assert (node.data_dir / control.SOCKET).exists()
    second = start(data_dir=node.data_dir)
    assert command(second, "status").returncode == 0


def test_a_left_socket_is_no_lost_identity(start: Start, tmp_path: Path) -> None:
    node = start()
    node.process.kill()
    node.process.wait()
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    shutil.move(node.data_dir / control.SOCKET, empty)
    assert start(data_dir=empty).ready["peer_id"] != node.ready["peer_id"]


def test_another_node_with_the_folder_keeps_the_socket(start: Start, tmp_path: Path) -> None:
    node = start()
    with open(tmp_path / "log", "wb") as log:
        second = start(data_dir=node.data_dir, stderr=log.fileno())
    assert "another node runs with" in (tmp_path / "log").read_text()
    assert json.loads(command(node, "status", "--json").stdout)["pid"] == node.process.pid
    assert second.stop() == 0
    assert command(node, "status").returncode == 0


def test_a_folder_with_a_long_name(start: Start, tmp_path: Path) -> None:
    node = start(data_dir=tmp_path / ("long" * 40))
    assert command(node, "status").returncode == 0


def test_under_nohup_a_hang_up_is_nothing(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does for what it starts
    try:
        node = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert ignored & 1 << signal.SIGHUP - 1
    assert command(node, "restart-forwarders").returncode == 0


def test_a_terminal_that_is_closed_ends_its_node(tmp_path: Path) -> None:
    """A window is closed: the node in it gets the same signal, and is not to live on unseen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        flags = ["--data-dir", str(tmp_path / "node"), "--listen", "/ip4/127.0.0.1/tcp/0"]
        os.execv(sys.executable, [sys.executable, "-m", "actors.node", *flags])
    told = b""
    end = time.monotonic() + PATIENCE
    while b"is ready" not in told:
        assert time.monotonic() < end
        told += os.read(terminal, 4096)
    # Told by somebody while the terminal is there: it goes on.
    os.kill(pid, signal.SIGHUP)
    while b"took over" not in told.partition(b"is ready")[2].replace(b"took over 0", b""):
        assert time.monotonic() < end
        told += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
