"""A real node of several processes, and on which of them a peer is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support import tree
from tests.support.process import NodeProcess, SocketPeer

#: Seconds in which everything of a node that died must be gone.
CLEAN = 5.0


class RayNode(NodeProcess):
    """A node with two forwarders, unless a settings file says otherwise, and where it keeps itself."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        stderr: Path | None = None,
        module: str = "actors.node",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.memory = tree.shared_memory()
        if "--config" not in flags:
            flags = ("--forwarders", "2", *flags)
        flags = ("--rate-limits", "off", "--max-connections-per-ip", "4000", *flags)
        with open(stderr or os.devnull, "wb") as file:
            super().__init__(data_dir, *flags, stderr=file.fileno(), module=module, variables=variables)
        self.folder = str(self.ready["run_folder"])
        self.now = self.ready

    def pid(self, name: str) -> int:
        """Of an actor, a spare, or a process of Ray's."""
        return int({**self.now["actors"], **self.now["processes"]}[name])

    def until_event(self, true: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        while not true(event := self.event()):
            if event["event"] == "actors":
                self.now = event
        if event["event"] == "actors":
            self.now = event
        return event

    def replaced(self, name: str) -> str:
        """Until an actor is up again, or another in its place; its name."""
        slot = name.partition(".")[0]

        def is_up(event: dict[str, Any]) -> bool:
            return event["event"] == "actors" and str(event["actor"]).partition(".")[0] == slot

        return str(self.until_event(is_up)["actor"])

    def spares(self) -> list[int]:
        """Workers without an actor."""
        workers = [pid for pid, title in tree.processes(self.folder).items() if title.startswith("ray::Worker")]
        return [pid for pid in workers if pid not in self.now["actors"].values() and tree.alive(pid)]

    @property
    def tree(self) -> set[int]:
        return {self.process.pid, self.pid("janitor"), *tree.processes(self.folder)}

    def nothing_is_left(self, known: set[int]) -> None:
        tree.until(lambda: not any(tree.alive(pid) for pid in known), CLEAN, "a process was left behind")
        tree.until(lambda: not os.path.exists(self.folder), CLEAN, "the run folder was left behind")
        assert not tree.processes(self.folder)
        assert tree.shared_memory() <= self.memory
        assert not any(self.port in ports for ports in tree.listening(known).values())


def forwarder_of(node: RayNode, peer: SocketPeer) -> int:
    """The pid of the process that has the other end of the peer's connection."""
    here, there = peer.sock.getsockname()[1], peer.sock.getpeername()[1]
    for name, pid in node.now["actors"].items():
        if name.startswith("forwarder/") and tree.has_connection(pid, there, here):
            return int(pid)
    raise AssertionError("nobody has it")


def peers(node: RayNode, count: int) -> dict[int, list[SocketPeer]]:
    """Peers by the forwarder that they are on, until each has ``count``."""
    found: dict[int, list[SocketPeer]] = {
        pid: [] for name, pid in node.now["actors"].items() if name.startswith("forwarder/")
    }
    number = 0
    while any(len(there) < count for there in found.values()):
        peer = SocketPeer(node, f"peer {number} of {node.process.pid}")
        number += 1
        found[forwarder_of(node, peer)].append(peer)
        assert number < 200, "one forwarder gets no connections"
    return found
