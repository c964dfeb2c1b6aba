"""Where two processes of one node meet to pass something on: a unix socket that only the node's user can reach."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import tempfile
from typing import Final

from actors.runtime.janitor import MARK

#: Seconds that the other process may take to come: it is there already, and on this host.
PATIENCE: Final = 10.0

_CREDENTIALS: Final = struct.Struct("3i")


class MeetingPoint:
    """One process waits here for one other.  ``path``: where.  OSError when there is no place for it."""

    def __init__(self) -> None:
        # Within the run folder, which goes with the node; on other hosts of a cluster there is none.
        self._folder = tempfile.mkdtemp(prefix="meet-", dir=os.environ.get(MARK) or None)
        self.path = os.path.join(self._folder, "here")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._waiting: asyncio.Task[socket.socket] | None = None
        try:
            self._listener.setblocking(False)
            self._listener.bind(self.path)
            self._listener.listen(1)
        except OSError:
            self.close()
            raise

    async def accept(self) -> socket.socket:
        """The socket that leads to the other.  ConnectionError: it did not come, or is somebody else's; CancelledError:
        closed meanwhile."""
        self._waiting = asyncio.get_running_loop().create_task(self._accept())
        try:
            return await asyncio.wait_for(self._waiting, PATIENCE)
        except TimeoutError as error:
            raise ConnectionError(f"the other process did not come within {PATIENCE:g} s") from error
        finally:
            self._waiting = None

    async def _accept(self) -> socket.socket:
        sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.geteuid():
            sock.close()
            raise ConnectionError(f"a process of user {uid} came in place of the other")
        return sock

    def close(self) -> None:
        """Wait for nobody any more."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


async def meet_at(path: str) -> socket.socket:
    """The socket that leads to who waits at ``path``; OSError when nobody does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock
