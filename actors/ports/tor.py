"""Onion services, by Tor's control port.

Tor is a program of its own that somebody else looks after: it is asked to pass an onion's port on to a port of ours,
and forgets that when this connection to it ends.  stem is blocking, so it has a thread.

Source: https://spec.torproject.org/control-spec (ADD_ONION, GETINFO status/bootstrap-phase).
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actors.ports.connections import ClientError
from actors.ports.daemon_thread import in_daemon_thread

if TYPE_CHECKING:
    from stem.control import Controller

#: The port of our onions: nobody else is at such an address, so it need tell nothing.
ONION_PORT: Final = 4001

#: Seconds for an onion's descriptor to be published.
PUBLISH_TIMEOUT: Final = 120.0

HOW: Final = "start Tor (on Debian: apt-get install tor) with ControlPort 9051 and CookieAuthentication 1 in its torrc"


class TorError(ClientError):
    """Tor is not there, not ready, or refused; the message says what to do."""


class TorControl:
    """``address``: HOST:PORT of Tor's control port.  ``lost``: set while there is no connection to it."""

    def __init__(self, address: str = "127.0.0.1:9051") -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise TorError(f"{address!r} is no HOST:PORT of Tor's control port (tor_control)")
        self._address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._controller: Controller | None = None
        self._closed = False
        self.lost = asyncio.Event()

    async def publish(self, port: int, key: str = "") -> tuple[str, str]:
        """An onion whose port ONION_PORT leads to ``port`` of 127.0.0.1, once others can find it.
        (its name without .onion, its key: the same key is the same name).  TorError."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            if not self._closed:
                loop.call_soon_threadsafe(self.lost.set)

        given_up = threading.Event()
        try:
            made = await in_daemon_thread(self._publish, port, key, gone, given_up)
        except BaseException:
            # Whether the onion was made or not: Tor would pass it on to a port that is somebody else's soon.
            given_up.set()
            await self._hang_up()
            raise
        self.lost.clear()
        if self._controller is None or not self._controller.is_alive():
            self.lost.set()
        return made

    async def close(self) -> None:
        """The onion is gone with it."""
        self._closed = True
        await self._hang_up()

    async def _hang_up(self) -> None:
        controller, self._controller = self._controller, None
        if controller is not None:
            await in_daemon_thread(controller.close)

    def _publish(self, port: int, key: str, gone: Callable[[], None], given_up: threading.Event) -> tuple[str, str]:
        controller = self._connected(gone)
        if given_up.is_set():  # by who saw no controller yet
            controller.close()
            raise TorError("nobody waits for the onion any more")
        import stem

        kind, _, content = key.partition(":") if key else ("NEW", "", "ED25519-V3")
        try:
            made: Any = controller.create_ephemeral_hidden_service(
                {ONION_PORT: f"127.0.0.1:{port}"},
                key_type=kind,
                key_content=content,
                await_publication=True,
                timeout=PUBLISH_TIMEOUT,
            )
        except (stem.ControllerError, stem.Timeout, ValueError) as error:
            raise TorError(f"Tor made no onion service: {error}") from error
        return made.service_id, key or f"{made.private_key_type}:{made.private_key}"

    def _connected(self, gone: Callable[[], None]) -> Controller:
        if self._controller is not None and self._controller.is_alive():
            return self._controller
        try:
            import stem
            import stem.connection
            from stem.control import Controller, State
        except ImportError:
            raise TorError("the privacy level maximum needs the extra tor: pip install 'descord-relay[tor]'") from None
        try:
            controller = Controller.from_port(self._host, self._port)
        except stem.SocketError as error:
            raise TorError(f"Tor's control port {self._address} does not answer: {HOW} ({error})") from error
        try:
            controller.authenticate()
            phase = str(controller.get_info("status/bootstrap-phase"))
        except (stem.ControllerError, stem.connection.AuthenticationFailure) as error:
            controller.close()
            raise TorError(f"Tor's control port {self._address} lets nobody in: {HOW} ({error})") from error
        progress = re.search(r"PROGRESS=(\d+)", phase)
        if progress is None or progress[1] != "100":
            controller.close()
            done = progress[1] if progress else "?"
            raise TorError(f"Tor has not joined its network yet ({done}%): wait, or look at its log")
        if self._closed:
            controller.close()
            raise TorError("this peer was closed meanwhile")

        def changed(_: Controller, state: str, __: float) -> None:
            if state == State.CLOSED:
                gone()

        controller.add_status_listener(changed)
        self._controller = controller
        return controller
