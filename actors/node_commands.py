"""What a running node is asked to do, by signal or at its control socket (actors/ports/control.py)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from actors.desk import DESK
from actors.network_names import REPUTATION
from actors.node_base import ANSWER_PATIENCE, DiscoveryOff, NodeBase, RestartFailed
from actors.node_mode import STATUS, change_mode
from actors.ports.control import Command, CommandFailed
from actors.ports.settings_file import SettingsFileError
from actors.relay_directory import MAX_TIME, MAX_WANTED
from actors.settings import Settings, SettingsError
from protocol.identity import PeerId
from protocol.reputation_messages import BytesUsed, Contribution, ContributionWanted, PassTold, PassWanted

log = logging.getLogger("actors.node")


class Restarts:
    """Restarts of the forwarders, one at a time.  Who asks while one is under way gets another, behind it; those who
    ask meanwhile share that one."""

    def __init__(
        self, node: NodeBase, reload: Callable[[], Settings], report: Callable[[dict[str, Any]], None]
    ) -> None:
        self._node = node
        self._reload = reload
        self._report = report
        self._one_by_one = asyncio.Lock()
        self._next: asyncio.Task[dict[str, Any]] | None = None

    async def ask(self) -> dict[str, Any]:
        """Restart them with the settings as they are now; what there is to tell of it.  RestartFailed."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run())
        return await asyncio.shield(self._next)

    async def at_signal(self) -> None:
        """The same, for somebody who reads what the node reports."""
        try:
            await self.ask()
        except RestartFailed:
            pass  # which was reported

    async def _run(self) -> dict[str, Any]:
        async with self._one_by_one:
            self._next = None  # what changes from here on, this one may not see
            try:
                try:
                    settings = self._reload()
                except SettingsError as error:
                    raise RestartFailed(f"the settings are wrong by now: {error}") from error
                return await self._node.restart_forwarders(settings)
            except RestartFailed as error:
                log.error("the forwarders were not restarted: %s", error)
                self._report({"event": "restart_failed", "reason": str(error)})
                raise


def commands(node: NodeBase, restarts: Restarts, reload: Callable[[], Settings]) -> dict[str, Command]:
    """What can be asked at the control socket.  ``reload``: see actors.serving.serve."""

    async def restart_forwarders(question: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await restarts.ask()
        except RestartFailed as error:
            raise CommandFailed(str(error)) from error

    async def status(question: Mapping[str, Any]) -> Mapping[str, Any]:
        found = {"relays": node.bootstrap.state} if node.bootstrap is not None and node.bootstrap.state else {}
        return {**await node.status(0.0), **found, "addresses": node.addresses, **node.processes()}

    async def relays(question: Mapping[str, Any]) -> Mapping[str, Any]:
        from actors.relay_table import to_json

        count, timeout = _number(question, "count", 5, MAX_WANTED), _number(question, "timeout", 10, MAX_TIME)
        try:
            return to_json(await node.discover_relays(int(count), timeout, search=question.get("known") is not True))
        except DiscoveryOff as error:
            raise CommandFailed(str(error)) from error

    async def contribution(question: Mapping[str, Any]) -> Mapping[str, Any]:
        from actors.contribution import to_json

        if not node.settings.discovery:
            raise CommandFailed("this node does not count what it does for the network (discovery is off)")
        told = await node.desk.ask(REPUTATION, lambda number: ContributionWanted(number, DESK), ANSWER_PATIENCE)
        if not isinstance(told, Contribution):
            raise CommandFailed("the actor that counts it does not answer: ask again in a moment")
        return to_json(told)

    async def give_pass(question: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            holder = PeerId.parse(str(question.get("peer"))).bytes
        except ValueError as error:
            raise CommandFailed(f"peer: {error}") from error
        if not node.settings.discovery:
            raise CommandFailed("this node has no reputation (discovery is off)")
        told = await node.desk.ask(REPUTATION, lambda number: PassWanted(number, DESK, holder), ANSWER_PATIENCE)
        if not isinstance(told, PassTold):
            raise CommandFailed("the actor that keeps receipts does not answer: ask again in a moment")
        if told.problem:
            raise CommandFailed(told.problem)
        return {"pass": told.envelope.hex(), "receipts": [one.hex() for one in told.receipts]}

    async def used(question: Mapping[str, Any]) -> Mapping[str, Any]:
        size = int(_number(question, "bytes", 0, 2**53))
        if node.settings.discovery:
            node.running().post(DESK, REPUTATION, BytesUsed(size))
        return {}

    one_by_one = asyncio.Lock()

    async def mode(question: Mapping[str, Any]) -> Mapping[str, Any]:
        wanted = question.get("set", {})
        if not isinstance(wanted, dict):
            raise CommandFailed('"set" is an object: settings and their values')
        try:
            async with one_by_one:
                holds = await change_mode(node, wanted, reload)
        except (SettingsError, SettingsFileError) as error:
            raise CommandFailed(str(error)) from error
        status = await node.status(0.0)
        return {**{name: status[name] for name in STATUS if name in status}, **holds}

    return {
        "contribution": contribution,
        "mode": mode,
        "pass": give_pass,
        "relays": relays,
        "restart-forwarders": restart_forwarders,
        "status": status,
        "used": used,
    }


def _number(question: Mapping[str, Any], name: str, default: float, most: float) -> float:
    """CommandFailed when it is not one from 0 to ``most``."""
    value = question.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise CommandFailed(f"{name} = {value!r}: a number from 0 to {most:g}")
    return value
