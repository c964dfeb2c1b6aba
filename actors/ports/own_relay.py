"""The relay that runs on this machine, asked at its control socket by a peer that talks for its owner."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from actors.ports.control import CommandFailed, NoNode, ask
from actors.ports.daemon_thread import in_daemon_thread
from actors.ports.receipts_client import OwnPass, OwnRelay
from protocol.identity import PeerId

#: Seconds for its answer: it is on this machine, and a peer waits.
PATIENCE: Final = 2.0


def own_relay(folder: Path, holder: PeerId) -> OwnRelay:
    """``folder``: its data folder; that there is none there is no fault.  ``holder``: who is to be served as it."""

    async def give_pass() -> OwnPass | None:
        try:
            told = await in_daemon_thread(ask, folder, {"command": "pass", "peer": str(holder)}, PATIENCE)
        except (NoNode, CommandFailed):
            return None
        return OwnPass(bytes.fromhex(told["pass"]), tuple(map(bytes.fromhex, told["receipts"])))

    async def spent(size: int) -> None:
        try:
            await in_daemon_thread(ask, folder, {"command": "used", "bytes": size}, PATIENCE)
        except (NoNode, CommandFailed):
            pass  # nobody counts

    return OwnRelay(give_pass, spent)
