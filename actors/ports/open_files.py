"""How many files a process may have open: each connection is one."""

from __future__ import annotations

import logging
import resource
from typing import Final

from actors.settings import Settings, SettingsError

# It is the node that says so.
log = logging.getLogger("actors.node")

#: A relay between fewer is none.
LEAST_CONNECTIONS: Final = 2


def raise_open_files() -> int:
    """Take as many file descriptors as the system allows this process; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 20)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def check_open_files(settings: Settings) -> None:
    """Say so when they are fewer than the connections that the settings allow.  SettingsError when there is no relaying
    with so few."""
    files, reserved = raise_open_files(), settings.max_open_files_reserve
    left = (files - reserved) * settings.forwarders
    told = f"this process may open {files} files and keeps {reserved} of them (max_open_files_reserve)"
    if left < LEAST_CONNECTIONS:
        raise SettingsError(f"{told}: none are left for connections; raise the limit (LimitNOFILE=, ulimit -n)")
    if left < settings.max_connections:
        log.warning(
            "%s, so that there can be %d connections and not %d (max_connections); raise the limit "
            "(LimitNOFILE=, ulimit -n) or lower the setting",
            told,
            left,
            settings.max_connections,
        )
