"""Programs that know nothing of libp2p, through real relays, by the commands that a person gives."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from python_socks import ProxyError
from python_socks.sync import Proxy

from tests.support.process import PATIENCE, REPOSITORY, NodeProcess, readable

BODY = hashlib.shake_128(b"what is served").digest(3_000_000)


class Served(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[NodeProcess]:
    process = NodeProcess(tmp_path / "relay", "--private-network", "on", "--mdns", "off")
    yield process
    process.stop()


class Command:
    """``descord-relay`` with ``arguments``, and the events that it prints."""

    def __init__(self, folder: Path, relay: NodeProcess, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
        environment |= {
            "DESCORD_RELAY_PUBLIC_RELAYS": relay.ready["addresses"][0],
            "DESCORD_RELAY_PRIVATE_NETWORK": "on",
            "DESCORD_RELAY_MDNS": "off",
            "XDG_CONFIG_HOME": str(folder),
            "XDG_STATE_HOME": str(folder),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "actors.cli", *arguments, "--json"],
            bufsize=0,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert readable(PATIENCE, self.process.stdout), "it said nothing"
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        return dict(json.loads(line))


@contextmanager
def command(folder: Path, relay: NodeProcess, *arguments: str) -> Iterator[Command]:
    made = Command(folder, relay, *arguments)
    yield made
    made.process.send_signal(signal.SIGINT)
    assert made.process.wait(PATIENCE) == 0


def test_a_web_page_through_a_relay_for_those_who_are_allowed(tmp_path: Path, relay: NodeProcess, service: int) -> None:
    alice, bob = tmp_path / "alice", tmp_path / "bob"
    with command(alice, relay, "socks", "127.0.0.1:0") as socks:
        listening = socks.event()
        with command(bob, relay, "expose", "80", f"127.0.0.1:{service}", "--allow", listening["peer_id"]) as expose:
            exposed = expose.event()
            assert exposed["published"] and len(exposed["addresses"]) >= 1
            with command(alice, relay, "forward", "0", exposed["peer_id"], "80") as forward:
                port = forward.event()["port"]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
                    assert answer.read() == BODY
            with command(alice, relay, "forward", "0", exposed["peer_id"], "80", "--padded") as forward:
                port = forward.event()["port"]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
                    assert answer.read() == BODY
            # A SOCKS client of somebody else's.
            proxy = Proxy.from_url(f"socks5://{listening['host']}:{listening['port']}", rdns=True)
            connection = proxy.connect(f"{exposed['peer_id']}.high.descord", 80, timeout=PATIENCE)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            received = b""
            while data := connection.recv(65536):
                received += data
            connection.close()
            assert received.endswith(BODY)
            for host in ("example.org", f"{exposed['peer_id']}.none.descord", f"{exposed['peer_id']}.low.descord"):
                with pytest.raises(ProxyError):
                    proxy.connect(host, 80, timeout=PATIENCE)
                assert socks.event()["event"] == "refused"
            with command(tmp_path / "mallory", relay, "forward", "0", exposed["peer_id"], "80") as foreign:
                port = foreign.event()["port"]
                with pytest.raises(OSError, match=r".+"):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE).read()
                assert "--allow" in expose.event()["error"]


def test_ping_shows_the_way_and_nothing_less_than_was_asked_for(
    tmp_path: Path, relay: NodeProcess, service: int
) -> None:
    with command(tmp_path / "bob", relay, "expose", "80", f"127.0.0.1:{service}") as expose:
        exposed = expose.event()
        assert "nobody may connect" in expose.event()["error"]
        ping = Command(tmp_path / "alice", relay, "ping", exposed["peer_id"], "--privacy", "high", "--count", "1")
        connected = ping.event()
        assert connected["peer"] == exposed["peer_id"] and connected["relay"] == relay.ready["peer_id"]
        assert ping.event()["event"] == "pong"
        assert ping.process.wait(PATIENCE) == 0
        for level in ("low", "maximum"):
            refused = Command(tmp_path / "alice", relay, "ping", exposed["addresses"][0], "--privacy", level)
            assert refused.process.wait(PATIENCE) == 1
