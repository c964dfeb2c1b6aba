"""The mode of a running node: it looks at the machine, tells RelayServer when the terms are others, and changes them.

What is changed is kept in the settings file, and read from there again with flags and environment, so that the node
does now what it will do after its next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from actors.policies import mode_policy
from actors.ports.settings_file import change
from actors.relay_mode import CLIENT_ONLY, MEGABYTE, ModePolicy, RelayMode
from actors.settings import Settings, SettingsError, convert
from protocol.quota_messages import TermsSet

if TYPE_CHECKING:
    from actors.node_base import NodeBase
    from actors.ports.machine_state import MachineWatch

log = logging.getLogger("actors.node")

#: Seconds between two looks at the machine.  Whoever unplugs it does not wait longer for it to take on nothing more.
INTERVAL: Final = 30.0

#: What `descord-relay mode` changes.
NAMES: Final = tuple(field.name for field in fields(ModePolicy))

#: What a status says of it.
STATUS: Final = ("mode", "max_bandwidth", "bytes_last_hour", "paused", "uptime", "below_target")


class ModeKeeper:
    """See the module.  ``tell``: takes the terms whenever they are others."""

    def __init__(self, settings: Settings, now: Callable[[], float], tell: Callable[[TermsSet], None]) -> None:
        self._now = now
        self._tell = tell
        self._mode = RelayMode(mode_policy(settings), now())
        self._watch: MachineWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._observe()
        self._told = self.terms()

    def terms(self) -> TermsSet:
        """As they are now."""
        return self._mode.terms(self._now())

    def start(self) -> None:
        """Look at the machine from now on, when the mode depends on it."""
        self.stop()
        if self._mode.policy.conditional:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def choose(self, settings: Settings) -> None:
        """The settings are others."""
        self._mode.choose(mode_policy(settings), self._now())
        self._observe()
        self._say()
        self.start()

    def report(self, bytes_last_hour: int) -> dict[str, Any]:
        """For the status.  ``paused``: why nothing new is taken on, "": it is."""
        now, policy = self._now(), self._mode.policy
        return {
            "mode": policy.mode,
            "max_bandwidth": policy.max_bandwidth,
            "bytes_last_hour": bytes_last_hour,
            "paused": self.terms().refusal,
            "uptime": round(self._mode.uptime(now), 4),
            "below_target": self._mode.below_target(now),
        }

    def _look(self) -> None:
        self._observe()
        self._say()
        self.start()

    def _observe(self) -> None:
        if not self._mode.policy.conditional:
            self._watch = None
            return
        if self._watch is None:
            # Only now: what it imports is not needed otherwise.
            from actors.ports.machine_state import MachineWatch

            self._watch = MachineWatch()
        self._mode.observe(self._watch.look(), self._now())

    def _say(self) -> None:
        terms = self.terms()
        if terms == self._told:
            return
        if terms.refusal != self._told.refusal:
            log.info("%s", f"nothing new is relayed: {terms.refusal}" if terms.refusal else "relaying again")
        self._told = terms
        self._tell(terms)


async def change_mode(node: NodeBase, wanted: Mapping[str, Any], reload: Callable[[], Settings]) -> dict[str, Any]:
    """Change settings of the mode, in the file and in the node; what holds from now on.  One at a time.

    SettingsError, SettingsFileError: nothing was changed.
    """
    if unknown := sorted(set(wanted) - set(NAMES)):
        raise SettingsError(f"{', '.join(unknown)}: not of the mode, which is {', '.join(NAMES)}")
    settings = reload()
    values = {name: convert(name, value, "mode") for name, value in wanted.items()}
    if values:
        # Aside: circuits do not wait for a disk.
        await asyncio.to_thread(change, settings.config, values)
        settings = reload()
    node.choose_mode(settings)
    stronger = {name: settings.origin[name] for name, value in values.items() if getattr(settings, name) != value}
    return {
        "settings": {name: getattr(settings, name) for name in NAMES},
        "origin": {name: settings.origin[name] for name in NAMES},
        "file": str(settings.config),
        "overruled": stronger,
    }


def with_mode_of(settings: Settings, other: Settings) -> Settings:
    """``settings`` with the mode that ``other`` has."""
    return replace(
        settings,
        **{name: getattr(other, name) for name in NAMES},
        origin={**settings.origin, **{name: other.origin[name] for name in NAMES}},
    )


def mode_words(report: Mapping[str, Any]) -> str:
    """The mode as a person reads it, out of a status."""
    if "mode" not in report:
        return ""
    mode, cap, relayed = report["mode"], report["max_bandwidth"], report["bytes_last_hour"] / MEGABYTE
    words = f"{mode}: {relayed:.1f} MB in the last hour"
    if cap:
        words += f" of at most {cap}"
    if report["paused"] and mode != CLIENT_ONLY:
        words += f"; nothing new now: {report['paused']}"
    if report["below_target"]:
        words += f"; it relayed {report['uptime']:.0%} of the last day, below uptime_target because of run_when"
    return words
