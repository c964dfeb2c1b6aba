"""Programs that know nothing of libp2p, through real relays, by the commands that a person gives."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
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

from actors.ports.storage import load_identity
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

    def __init__(self, folder: Path, relay: NodeProcess, *arguments: str, **more: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DESCORD_RELAY_")}
        environment |= {
            "DESCORD_RELAY_PUBLIC_RELAYS": relay.ready["addresses"][0],
            "DESCORD_RELAY_PRIVATE_NETWORK": "on",
            "DESCORD_RELAY_MDNS": "off",
            "XDG_CONFIG_HOME": str(folder),
            "XDG_STATE_HOME": str(folder),
            **more,
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
def command(folder: Path, relay: NodeProcess, *arguments: str, **more: str) -> Iterator[Command]:
    made = Command(folder, relay, *arguments, **more)
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
            who = exposed["peer_id"]
            for host in ("example.org", f"{who}.none.descord", f"{who}.low.descord", f"{who}.maximum.descord"):
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


def page_by(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        return bytes(answer.read())


def page_at(host: str, socks: dict[str, Any]) -> bytes:
    """By a SOCKS client of somebody else's."""
    proxy = Proxy.from_url(f"socks5://{socks['host']}:{socks['port']}", rdns=True)
    with proxy.connect(host, 80, timeout=PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    return received.partition(b"\r\n\r\n")[2]


def test_low_by_a_name_as_somebody_else_than_at_high(tmp_path: Path, relay: NodeProcess, service: int) -> None:
    """bob is called by his peer id alone, and met directly, by those who may know where he is."""
    alice, bob = tmp_path / "alice", tmp_path / "bob"
    with command(alice, relay, "socks", "127.0.0.1:0", "--privacy", "high", "low") as socks:
        high = socks.event()
        low = load_identity(alice / "descord-relay" / "peer" / "low").peer_id
        assert str(low) != high["peer_id"]
        expose = ("expose", "80", f"127.0.0.1:{service}", "--privacy", "low", "--allow", str(low))
        with command(bob, relay, *expose) as exposing:
            exposed = exposing.event()
            assert exposed["published"]
            who = exposed["peer_id"]
            assert page_at(f"{who}.low.descord", high) == BODY
            with pytest.raises(ProxyError):
                page_at(f"{who}.maximum.descord", high)
            assert "was not told to go" in socks.event()["error"]


def test_padded_commands(tmp_path: Path, relay: NodeProcess, service: int) -> None:
    alice, bob = tmp_path / "alice", tmp_path / "bob"
    expose = ("expose", "80", f"127.0.0.1:{service}", "--allow", "any", "--padded")
    with (
        command(bob, relay, *expose) as exposing,
        command(alice, relay, "socks", "127.0.0.1:0", "--padded") as padded,
        command(alice, relay, "socks", "127.0.0.1:0", "--data-dir", str(alice / "plain")) as plain,
    ):
        who = exposing.event()["peer_id"]
        assert page_at(f"{who}.high.descord", padded.event()) == BODY
        with pytest.raises(ProxyError):  # what is not padded is refused
            page_at(f"{who}.high.descord", plain.event())
        assert plain.event()["event"] == "refused"
        ping = Command(alice, relay, "ping", who, "--privacy", "high", "--padded", "--count", "1")
        assert [ping.event()["event"] for _ in range(2)] == ["connected", "pong"]
        assert ping.process.wait(PATIENCE) == 0


def test_at_maximum_a_name_leads_where_it_was_said_to_be(tmp_path: Path, relay: NodeProcess) -> None:
    """And to nobody but Tor, which is not here."""
    with (
        command(tmp_path / "bob", relay, "socks", "127.0.0.1:0") as other,
        socket.create_server(("127.0.0.1", 0)) as tor,
    ):
        who = other.event()["peer_id"]
        onion = f"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:4001/p2p/{who}"
        named = ("socks", "127.0.0.1:0", "--privacy", "maximum", "--peer", onion)
        environment = {"DESCORD_RELAY_TOR_SOCKS": f"127.0.0.1:{tor.getsockname()[1]}", "DESCORD_RELAY_DISCOVERY": "off"}
        with command(tmp_path / "alice", relay, *named, **environment) as socks:
            listening = socks.event()
            asking = threading.Thread(target=lambda: suppress_refusal(f"{who}.maximum.descord", listening))
            asking.start()
            asked, _ = tor.accept()
            with asked:
                assert asked.recv(3)[:1] == b"\x05"
            asking.join()
            assert "Tor" in socks.event()["error"]
            with pytest.raises(ProxyError):
                page_at(f"{relay.ready['peer_id']}.maximum.descord", listening)
            assert "nobody is asked where a peer is" in socks.event()["error"]


def suppress_refusal(host: str, socks: dict[str, Any]) -> None:
    with contextlib.suppress(ProxyError):
        page_at(host, socks)
