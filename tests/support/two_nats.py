"""Two home networks behind NATs of their own that let nobody in, and a public host between them (root, nftables).

                                 1.0.0.0/8, cut off from everything
    alice 192.168.78.10 ── west 1.3.3.1 ──┬── relay 1.2.3.4
                                          └── east 1.4.3.1 ── bob 192.168.79.10

A source port stays what it is on its way out, whatever the destination: both NATs map endpoint-independently.  Of what
comes in only answers pass; the rest is dropped in silence, as home routers do.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.lan import Lan, inside, lan, run

RELAY = "1.2.3.4"
OUTER = {"alice": "1.3.3.1", "bob": "1.4.3.1"}
ROUTERS = {"alice": "west", "bob": "east"}
NETWORKS = {"alice": "192.168.78", "bob": "192.168.79"}

_RULES = """
table ip home {
    chain into { type filter hook input priority 0; policy accept; iifname "eth0" ct state new,invalid drop; }
    chain through { type filter hook forward priority 0; policy accept; iifname "eth0" ct state new,invalid drop; }
    chain out { type nat hook postrouting priority 100; oifname "eth0" masquerade%s; }
}
"""


@dataclass(frozen=True)
class TwoNats:
    outside: Lan
    homes: dict[str, str]

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        within = ("ip", "netns", "exec", self.homes[host]) if host in self.homes else self.outside.inside(host)
        return [*within, *command]

    @contextmanager
    def capture(self, host: str, path: Path) -> Iterator[None]:
        """All of ``host``'s packets on the outer side, in ``path`` once the block ends."""
        command = ["tcpdump", "-i", "eth0", "-U", "-n", "-Z", "root", "--immediate-mode", "-w", str(path)]
        process: subprocess.Popen[Any] = subprocess.Popen(
            self.command(host, command), stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        while "listening on" not in (line := process.stderr.readline()):
            assert line, "tcpdump does not run here"
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=5)


@contextmanager
def two_nats(*, symmetric: bool = False) -> Iterator[TwoNats]:
    """``symmetric``: each destination sees another, random port, so that no hole can be punched."""
    with ExitStack() as stack:
        outside = stack.enter_context(lan(8, relay=RELAY, west=OUTER["alice"], east=OUTER["bob"]))
        homes = {}
        for host, network in NETWORKS.items():
            router = outside.inside(ROUTERS[host])[-1]
            home = homes[host] = f"{router}-{host}"
            run("ip", "netns", "add", home)
            stack.callback(run, "ip", "netns", "delete", home)
            inside(router, "ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", home)
            inside(router, "ip", "address", "add", f"{network}.1/24", "dev", "lan0")
            inside(router, "ip", "link", "set", "lan0", "up")
            inside(router, "bash", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            inside(home, "ip", "address", "add", f"{network}.10/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                inside(home, "ip", "link", "set", device, "up")
            inside(home, "ip", "route", "add", "default", "via", f"{network}.1")
            rules = _RULES % (" random,fully-random" if symmetric else "")
            command = ["ip", "netns", "exec", router, "nft", "-f", "-"]
            subprocess.run(command, input=rules, text=True, check=True)
        yield TwoNats(outside, homes)
