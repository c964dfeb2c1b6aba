"""Three hosts and a router in network namespaces, for tests (root, iproute2).

    alice 192.168.1.5/24 --- router --- relay 1.2.3.4/24
                               |
                             bob 203.0.113.42/24

The router forwards; nftables on it lets alice and bob reach only the relay
(and be answered), not each other.  With nat=True alice's packets leave the
router with its address 1.2.3.1, so the relay never sees 192.168.1.5, and
nobody can open a connection to her.  These addresses exist only inside the
namespaces: no namespace has a link to the machine's own network.

    with NetLab(nat=True) as lab:
        srv = lab.popen("relay", ["python3", "-m", "http.server", "8000"])
        lab.run("alice", ["curl", "http://1.2.3.4:8000/"])
        with lab.capture("relay") as cap: ...
        sock = lab.socket("alice")      # a socket of alice's in this process
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HOSTS = {
    "alice": ("192.168.1.5", "192.168.1.1", 24),
    "relay": ("1.2.3.4", "1.2.3.1", 24),
    "bob": ("203.0.113.42", "203.0.113.1", 24),
}
CLONE_NEWNET = 0x40000000


class NetLabError(RuntimeError):
    pass


def _sh(*cmd: str, stdin: str | None = None) -> str:
    r = subprocess.run(cmd, input=stdin, capture_output=True, text=True, check=False)
    if r.returncode:
        raise NetLabError(f"{' '.join(cmd)}: {(r.stderr or r.stdout).strip()}")
    return r.stdout


class NetLab:
    def __init__(
        self,
        *,
        nat: bool = False,
        isolate: bool = True,
        hosts: dict[str, tuple[str, str, int]] | None = None,
        prefix: str | None = None,
    ):
        self.nat, self.isolate = nat, isolate
        self.hosts = dict(hosts or HOSTS)
        self.prefix = prefix or f"lab{os.getpid()}-"
        self._procs: list[subprocess.Popen[Any]] = []

    def ns(self, host: str) -> str:
        return self.prefix + host

    def ip(self, host: str) -> str:
        return self.hosts[host][0]

    # -- build and destroy

    def __enter__(self) -> NetLab:
        try:
            self.build()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    def build(self) -> None:
        for h in ["router", *self.hosts]:
            _sh("ip", "netns", "add", self.ns(h))
            _sh("ip", "-n", self.ns(h), "link", "set", "lo", "up")
        r = self.ns("router")
        for h, (ip, gw, bits) in self.hosts.items():
            n = self.ns(h)
            # both ends are made inside the namespaces, never in the machine's own
            _sh("ip", "-n", r, "link", "add", f"to-{h}", "type", "veth", "peer", "name", "eth0", "netns", n)
            _sh("ip", "-n", r, "addr", "add", f"{gw}/{bits}", "dev", f"to-{h}")
            _sh("ip", "-n", r, "link", "set", f"to-{h}", "up")
            _sh("ip", "-n", n, "addr", "add", f"{ip}/{bits}", "dev", "eth0")
            _sh("ip", "-n", n, "link", "set", "eth0", "up")
            _sh("ip", "-n", n, "route", "add", "default", "via", gw)
        _sh("ip", "netns", "exec", r, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        rules = [
            "table ip lab {",
            "chain loss { type filter hook forward priority -10; policy accept; }",
            "chain reach { type filter hook forward priority 0; policy accept;",
        ]
        if self.isolate or self.nat:
            rules.append("ct state established,related accept")
        if self.nat:
            rules.append('oifname "to-alice" drop')
        if self.isolate:
            rules += ['oifname "to-relay" accept', 'iifname "to-relay" accept', "drop"]
        rules.append("}")
        if self.nat:
            rules += [
                "chain post { type nat hook postrouting priority 100;",
                'iifname "to-alice" oifname != "to-alice" masquerade',
                "}",
            ]
        rules.append("}")
        self.nft("\n".join(rules))

    def destroy(self) -> None:
        for p in self._procs:
            if p.poll() is None:
                p.terminate()
        for p in self._procs:
            try:
                p.wait(3)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        self._procs.clear()
        for h in ["router", *self.hosts]:
            subprocess.run(["ip", "netns", "del", self.ns(h)], capture_output=True, check=False)

    # -- use

    def command(self, host: str, cmd: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.ns(host), *cmd]

    def run(self, host: str, cmd: Sequence[str], **kw: Any) -> subprocess.CompletedProcess[Any]:
        kw.setdefault("capture_output", True)
        kw.setdefault("text", True)
        return subprocess.run(self.command(host, cmd), **kw, check=False)

    def popen(self, host: str, cmd: Sequence[str], **kw: Any) -> subprocess.Popen[Any]:
        p = subprocess.Popen(self.command(host, cmd), **kw)  # exec: its pid is cmd's pid
        self._procs.append(p)
        return p

    def nft(self, rules: str) -> None:
        _sh("ip", "netns", "exec", self.ns("router"), "nft", "-f", "-", stdin=rules)

    @contextlib.contextmanager
    def enter(self, host: str) -> Iterator[None]:
        """The calling thread is inside the host's namespace for a while: sockets
        it makes there stay the host's.  (Other threads are not moved.)"""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.ns(host)}") as ns:
            if libc.setns(ns.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                if libc.setns(home.fileno(), CLONE_NEWNET):
                    os._exit(70)

    def socket(self, host: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with self.enter(host):
            return socket.socket(family, kind)

    @contextlib.contextmanager
    def capture(
        self, host: str, interface: str = "any", what: str = "", path: str | os.PathLike[str] | None = None
    ) -> Iterator[Path]:
        """tcpdump inside the host; the pcap file is whole once the block ends."""
        out = Path(path) if path else Path(tempfile.mkstemp(suffix=".pcap")[1])
        p = subprocess.Popen(
            self.command(
                host,
                [
                    "tcpdump",
                    "-i",
                    interface,
                    "-U",
                    "-n",
                    "-Z",
                    "root",
                    "--immediate-mode",
                    "-w",
                    str(out),
                    *what.split(),
                ],
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert p.stderr
        line = p.stderr.readline()
        while line and "listening on" not in line:
            line = p.stderr.readline()
        try:
            yield out
        finally:
            time.sleep(0.2)
            p.send_signal(signal.SIGINT)
            p.communicate(timeout=5)
