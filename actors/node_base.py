"""What every node does, wherever its actors run: it watches its addresses, says how it is, and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from actors.ports.addresses import announced, reachable
from actors.self_description import AGENT
from actors.settings import Settings
from protocol.identity import Identity

log = logging.getLogger("actors.node")

#: Exit codes: a wrong setting or identity (another start will not cure it), a port that cannot be had now, and an actor
#: that keeps failing or a part of the node that is lost.
EXIT_SETTINGS: Final = 2
EXIT_UNAVAILABLE: Final = 69
EXIT_FAILED: Final = 70
EXIT_REFUSED: Final = 75


class NodeBase:
    """See the module.  ``report``: tells whoever started the node, an event at a time."""

    def __init__(self, settings: Settings, identity: Identity, report: Callable[[dict[str, Any]], None]) -> None:
        self.settings = settings
        self.identity = identity
        self.failure: str | None = None
        self.stopping = asyncio.Event()
        self.addresses: list[str] = []
        self._report = report
        self._bound: list[tuple[str, int]] = []
        self._own_addresses: list[bytes] = []
        self._last_bytes = 0

    # What differs.

    async def start(self) -> None:
        """Bind the ports, start the actors.  BindError when a port cannot be had."""
        raise NotImplementedError

    async def status(self, interval: float) -> dict[str, Any]:
        """What the node does, after ``interval`` seconds without a report."""
        raise NotImplementedError

    def processes(self) -> dict[str, Any]:
        """For `ready`: the pid of the node, and of each actor by its name."""
        raise NotImplementedError

    async def close(self) -> None:
        """Say good-bye to peers and end the actors."""
        raise NotImplementedError

    def tell_addresses(self) -> None:
        """Have the forwarders tell peers that the addresses are others now."""
        raise NotImplementedError

    async def begin(self) -> dict[str, Any]:
        """Everything is started: what to tell of that."""
        return self.ready()

    async def upgrade(self) -> None:
        """Have a new process take over."""
        log.warning("not upgrading: only a node of one process takes over from itself (SIGUSR2)")

    def handed_over(self) -> bool:
        """A signal to stop has come; True: another process runs the node by now, and was told."""
        return False

    @property
    def kept(self) -> bool:
        """Whether signals come through a keeper (actors/keeper.py)."""
        return False

    # What does not.

    def find_addresses(self) -> bool:
        """Look at what the interfaces have, unless addresses were given; True when that changed."""
        own = announced(self.settings.announce) or reachable(self._bound)
        known, self._own_addresses = self._own_addresses, [address.binary for address in own]
        self.addresses = [f"{address.text}/p2p/{self.identity.peer_id}" for address in own]
        return known != self._own_addresses

    def look_at_addresses(self) -> None:
        """Tell peers, and whoever started the node, when the addresses have changed: a laptop moved, a lease ended."""
        if self.stopping.is_set():
            return
        if self.find_addresses():
            self.tell_addresses()
            self._report({"event": "addresses", "addresses": self.addresses})
        self._watch_addresses()

    def _watch_addresses(self) -> None:
        interval = self.settings.address_interval
        if interval and not self.settings.announce:
            asyncio.get_running_loop().call_later(interval, self.look_at_addresses)

    async def run(self) -> int:
        """Until a signal or a failure; the exit code."""
        self._watch_addresses()
        interval = self.settings.status_interval
        while not self.stopping.is_set():
            try:
                await asyncio.wait_for(self.stopping.wait(), interval or None)
            except TimeoutError:
                self._report(await self.status(interval))
        await self.close()
        if self.failure is not None:
            log.error("%s", self.failure)
            return EXIT_FAILED
        return 0

    def rate(self, total: int, interval: float) -> int:
        """Bytes a second since the status before."""
        rate = (total - self._last_bytes) / interval if interval else 0.0
        self._last_bytes = total
        return max(round(rate), 0)

    def ready(self) -> dict[str, Any]:
        return {
            "event": "ready",
            "peer_id": str(self.identity.peer_id),
            "addresses": self.addresses,
            **self.processes(),
            "version": AGENT,
        }

    def failed(self, error: BaseException | str) -> None:
        """The node cannot go on: it says so, and ends."""
        if self.failure is None:
            self.failure = str(error)
        self.stopping.set()
