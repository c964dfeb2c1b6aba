"""A local network of its own for a test: network namespaces on a virtual bridge, with no link to any other.

Root's, with iproute2.  What is missing is said, and the test is skipped; in CI that fails it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def inside(namespace: str, *command: str) -> None:
    run("ip", "netns", "exec", namespace, *command)


def require_namespaces() -> None:
    """Skip, loudly, where there can be none."""
    missing = "iproute2" if shutil.which("ip") is None else "root" if os.geteuid() != 0 else ""
    if not missing:
        return
    told = f"no network namespaces here: needs {missing}"
    if os.environ.get("CI") == "true":
        pytest.fail(told, pytrace=False)
    pytest.skip(told)


class Lan:
    """``inside(host)``: what to put before a command for it to run on that host."""

    def __init__(self, name: str) -> None:
        self._name = name

    def inside(self, host: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", f"{self._name}-{host}")


@contextmanager
def lan(bits: int = 24, **hosts: str) -> Iterator[Lan]:
    """Hosts by name, each with an address of 192.168.77.0/24, or of whatever network of so many ``bits``: it is cut off
    from all others, so public addresses are nobody's there."""
    require_namespaces()
    name = f"descord{os.getpid()}"
    switch = f"{name}-switch"
    made = []
    try:
        run("ip", "netns", "add", switch)
        made.append(switch)
        inside(switch, "ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        inside(switch, "ip", "link", "set", "bridge", "up")
        for number, (host, address) in enumerate(hosts.items()):
            namespace = f"{name}-{host}"
            run("ip", "netns", "add", namespace)
            made.append(namespace)
            port = f"port{number}"
            inside(switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            inside(switch, "ip", "link", "set", port, "master", "bridge", "up")
            inside(namespace, "ip", "address", "add", f"{address}/{bits}", "dev", "eth0")
            for device in ("lo", "eth0"):
                inside(namespace, "ip", "link", "set", device, "up")
            inside(namespace, "ip", "route", "add", "default", "dev", "eth0")  # multicast wants a way out
        yield Lan(name)
    finally:
        for namespace in reversed(made):
            run("ip", "netns", "delete", namespace)
