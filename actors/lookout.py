"""`descord-relay relays` where no node runs: one that listens to nobody looks for relays, and ends.

It has a new identity, so that nobody sees again who looked.  What it saw is kept in the folder of a node that was run
before, and the next begins with it; a folder without one stays as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from actors.node import Node
from actors.ports import storage
from actors.ports.host import random_bytes
from actors.relay_mode import CLIENT_ONLY
from actors.relay_table import to_json
from actors.settings import Settings, SettingsError, load_settings
from protocol.discovery_messages import BestRelays
from protocol.identity import Identity

#: Where nobody but this host could reach it.
NOWHERE: Final = "/ip4/127.0.0.1/tcp/0"


def settings_to_look(environment: Mapping[str, str], folder: Path) -> Settings:
    """As a node of ``folder`` has them, but it relays for nobody.  SettingsError."""
    settings = load_settings(["--listen", NOWHERE, "--mode", CLIENT_ONLY, "--metrics-port", "0"], environment)
    if not settings.discovery:
        raise SettingsError("discovery is off: there is nobody to ask for relays")
    return replace(settings, data_dir=folder, runtime="local", forwarders=1, announce=())


@contextmanager
def folder_to_look_in(folder: Path) -> Iterator[Path]:
    """``folder`` if a node has its identity there, else one that is gone afterwards."""
    if (folder / storage.FILE).exists():
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="descord-relay-") as place:
            yield Path(place)


async def look(settings: Settings, count: int, within: float, *, search: bool) -> dict[str, Any]:
    """What :func:`actors.relay_table.to_json` makes of the best that were found ``within`` seconds.  BindError."""
    node = Node(settings, Identity.from_seed(random_bytes(32)), lambda event: None)
    await node.start()
    try:
        best: BestRelays = await node.discover_relays(count, within, search=search)
        return to_json(best)
    finally:
        await node.close()
