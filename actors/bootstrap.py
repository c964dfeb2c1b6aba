"""A node that relays for nobody needs the relays of others: it looks for some when it starts.

    those that are known, then all sources ─► found
                                           └► none: asks at the terminal whether to help, or says so, and looks again

"Enable relay mode to help the network?" is asked once, and only where somebody can answer; yes is kept in the settings
file as `descord-relay mode` keeps it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actors.node_mode import change_mode
from actors.ports import terminal
from actors.ports.settings_file import SettingsFileError
from actors.relay_mode import CLIENT_ONLY, COOPERATIVE
from actors.relay_table import to_json
from actors.settings import Settings, SettingsError

if TYPE_CHECKING:
    from actors.node_base import NodeBase

log = logging.getLogger("actors.node")

#: Relays that are enough to begin with, and seconds for finding them.
ENOUGH: Final = 3
WITHIN: Final = 15.0

#: Seconds until it looks again when there were none, at first and at most.
RETRY: Final = 30.0
MAX_RETRY: Final = 600.0

QUESTION: Final = "No relay was found. Enable relay mode to help the network? [y/N] "

#: Answers of relays that are of no use.
_USELESS: Final = ("unreachable", "refuses")


class Bootstrap:
    """``state``: ``searching``, ``found`` or ``none``; "": the node relays itself, or looks for none."""

    def __init__(
        self, node: NodeBase, reload: Callable[[], Settings], report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.state = ""
        self._node = node
        self._reload = reload
        self._report = report

    async def run(self) -> None:
        """Until there is one, or the node relays itself."""
        settings = self._node.settings
        asked = settings.json
        pause = RETRY
        while self._wanted():
            self.state = self.state or "searching"
            best = await self._node.discover_relays(ENOUGH, WITHIN)
            usable = [one for one in to_json(best)["relays"] if one["answer"] not in _USELESS]
            if usable:
                self.state = "found"
                self._report({"event": "relays_found", "relays": len(usable), "best": usable[0]["peer_id"]})
                return
            if self.state != "none":
                self.state = "none"
                log.warning("no relay was found: `descord-relay mode cooperative` makes this node one")
                self._report({"event": "no_relays", "problems": [str(one) for one in best.problems]})
            if not asked:
                asked = True
                if await self._helps():
                    break
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY)
        self.state = ""

    def _wanted(self) -> bool:
        return self._node.settings.mode == CLIENT_ONLY and self._node.settings.discovery

    async def _helps(self) -> bool:
        """Whether whoever is at the terminal wants the node to relay; then it does."""
        answer = await terminal.ask(QUESTION)
        if answer is None or answer.strip().lower() not in ("y", "yes"):
            return False
        try:
            told = await change_mode(self._node, {"mode": COOPERATIVE}, self._reload)
        except (SettingsError, SettingsFileError) as error:
            log.error("the mode stays as it is: %s", error)
            return False
        if self._node.settings.mode == CLIENT_ONLY:  # a flag or the environment says so, and wins
            log.error("the mode is kept in %s, but was given by %s, which wins", told["file"], told["origin"]["mode"])
            return False
        self._report({"event": "helping", "file": told["file"], "mode": self._node.settings.mode})
        return True
