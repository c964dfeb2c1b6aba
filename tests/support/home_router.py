"""A home network behind a real router: network namespaces, nftables, and miniupnpd as most home routers have it.

                      1.0.0.0/8, cut off from everything
    home 192.168.77.10 ── 192.168.77.1 router 1.2.3.1 ──┬── first 1.3.3.1
                                                        └── second 1.4.3.1

Debian's packages nftables and miniupnpd-nftables; where they are not installed, they are unpacked into a cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.lan import Lan, inside, lan, run

PACKAGES = (
    "miniupnpd-nftables", "nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libedit2",
    "libxtables12",
)  # fmt: skip

HOME = "192.168.77.10"
ROUTER = "192.168.77.1"
OUTER = "1.2.3.1"
OUTSIDE = {"router": OUTER, "first": "1.3.3.1", "second": "1.4.3.1"}

PATIENCE = 20.0

#: Names that miniupnpd is told below.
_RULES = """
table inet upnp {
    chain upnp_forward { }
    chain forward { type filter hook forward priority 0; policy accept; jump upnp_forward; }
    chain upnp_in { }
    chain prerouting { type nat hook prerouting priority -100; policy accept; jump upnp_in; }
    chain upnp_out { }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept; jump upnp_out; oifname "eth0" masquerade;
    }
}
"""


@dataclass(frozen=True)
class Tools:
    nft: str
    miniupnpd: str
    environment: Mapping[str, str]


def require_tools(cache: Path) -> Tools:
    """Skip, loudly, where they are not to be had."""
    found = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in ("nft", "miniupnpd")}
    if all(found.values()):
        return Tools(str(found["nft"]), str(found["miniupnpd"]), dict(os.environ))
    place = cache / "home-router"
    if not (place / "usr/sbin/miniupnpd").exists():
        place.mkdir(parents=True, exist_ok=True)
        command = f"apt-get download -qq {' '.join(PACKAGES)} && for one in *.deb; do dpkg -x $one . || exit 1; done"
        for first in ("", "apt-get update -qq && "):
            done = subprocess.run(["bash", "-c", first + command], cwd=place, capture_output=True, check=False)
            if not done.returncode:
                break
        else:
            told = "no home router here: install Debian's nftables and miniupnpd-nftables"
            if os.environ.get("CI") == "true":
                pytest.fail(told, pytrace=False)
            pytest.skip(told)
    libraries = sorted({str(path.parent) for path in place.rglob("*.so.*")})
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
    return Tools(str(place / "usr/sbin/nft"), str(place / "usr/sbin/miniupnpd"), environment)


class HomeNetwork:
    """``pcp``, ``upnp``: what the router speaks beside routing."""

    def __init__(self, outside: Lan, home: str, tools: Tools, folder: Path) -> None:
        self.outside = outside
        self._home = home
        self._tools = tools
        self._folder = folder
        self._daemon: subprocess.Popen[bytes] | None = None

    def within(self, host: str) -> tuple[str, ...]:
        """What to put before a command for it to run there."""
        return ("ip", "netns", "exec", self._home) if host == "home" else self.outside.inside(host)

    def start_router(self, *, pcp: bool, upnp: bool) -> None:
        """Its daemon, which is begun anew when it was there."""
        self.stop_router()
        config = self._folder / "miniupnpd.conf"
        config.write_text(
            f"""ext_ifname=eth0
listening_ip=lan0
port=0
enable_natpmp={"yes" if pcp else "no"}
enable_upnp={"yes" if upnp else "no"}
secure_mode=yes
system_uptime=yes
uuid=9c3e9ff1-6f4c-4f3f-9a5b-1f1d6f3f6c57
min_lifetime=60
max_lifetime=86400
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=upnp_forward
upnp_nat_chain=upnp_in
upnp_nat_postrouting_chain=upnp_out
lease_file={self._folder}/leases
allow 1024-65535 192.168.77.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
        )
        command = [*self.within("router"), self._tools.miniupnpd, "-d", "-f", str(config), "-P", f"{self._folder}/pid"]
        with (self._folder / "miniupnpd.log").open("wb") as log:
            self._daemon = subprocess.Popen(command, env=self._tools.environment, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        ready = "listening on" if upnp else "Listening for NAT-PMP/PCP traffic"
        while ready.lower() not in self.log().lower():
            assert self._daemon.poll() is None and time.monotonic() < end, self.log()

    def stop_router(self) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(PATIENCE)
            self._daemon = None

    def log(self) -> str:
        return (self._folder / "miniupnpd.log").read_text(errors="replace")

    def rules(self) -> str:
        """What the router passes on."""
        command = [*self.within("router"), self._tools.nft, "list", "chain", "inet", "upnp", "upnp_in"]
        done = subprocess.run(command, env=self._tools.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def until_rules(self, *, mapped: bool, port: int) -> None:
        end = time.monotonic() + PATIENCE
        while (f"dnat ip to {HOME}:{port}" in self.rules()) != mapped:
            assert time.monotonic() < end, self.rules() + self.log()


@contextmanager
def home_network(folder: Path, cache: Path) -> Iterator[HomeNetwork]:
    tools = require_tools(cache)
    with lan(8, **OUTSIDE) as outside:
        router = outside.inside("router")[-1]
        home = f"{router.removesuffix('-router')}-home"
        run("ip", "netns", "add", home)
        try:
            inside(router, "ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", home)
            inside(router, "ip", "address", "add", f"{ROUTER}/24", "dev", "lan0")
            inside(router, "ip", "link", "set", "lan0", "up")
            inside(router, "bash", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            inside(home, "ip", "address", "add", f"{HOME}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                inside(home, "ip", "link", "set", device, "up")
            inside(home, "ip", "route", "add", "default", "via", ROUTER)
            rules = folder / "rules.nft"
            rules.write_text(_RULES)
            command = ["ip", "netns", "exec", router, tools.nft, "-f", str(rules)]
            subprocess.run(command, env=tools.environment, check=True)
            network = HomeNetwork(outside, home, tools, folder)
            try:
                yield network
            finally:
                network.stop_router()
        finally:
            run("ip", "netns", "delete", home)
