"""A node from its start to its end: what it reports, which signals it heeds, who may command it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TextIO

from actors.bootstrap import Bootstrap
from actors.node_base import EXIT_REFUSED, EXIT_SETTINGS, EXIT_UNAVAILABLE, NodeBase
from actors.node_commands import Restarts, commands
from actors.ports.addresses import BindError
from actors.ports.control import ControlServer
from actors.ports.handover import HandoverRefused
from actors.reports import line
from actors.settings import Settings, SettingsError

log = logging.getLogger("actors.node")

#: Seconds between two signals up to which the second is an echo of the first, in a node whose keeper passes signals on:
#: whoever signals a whole group of processes is heard twice.
ECHO: Final = 0.5


async def serve(
    settings: Settings,
    make: Callable[[Callable[[dict[str, Any]], None]], NodeBase],
    out: TextIO,
    reload: Callable[[], Settings],
) -> int:
    """Run the node that ``make`` makes until it is told to stop; the exit code.  Its reports go to ``out``.
    ``reload``: reads the settings as they are now; SettingsError."""

    listening = True

    def report(event: dict[str, Any]) -> None:
        nonlocal listening
        if not listening:
            return
        try:
            print(json.dumps(event) if settings.json else line(event), file=out, flush=True)
        except OSError as error:
            # Whoever started the node stopped reading.  Its peers did not.
            listening = False
            log.warning("stdout is gone (%s): reporting stops, relaying goes on", error.strerror)

    node = make(report)
    bootstrap = node.bootstrap = Bootstrap(node, reload, report)
    loop = asyncio.get_running_loop()
    stopped_at: float | None = None

    def stop() -> None:
        nonlocal stopped_at
        if node.handed_over():
            return
        if stopped_at is None:
            stopped_at = loop.time()
        elif not node.kept or loop.time() > stopped_at + ECHO:
            os._exit(130)  # the second signal ends at once
        node.stopping.set()

    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    restarts = Restarts(node, reload, report)
    terminal = os.isatty(0)

    def hang_up() -> None:
        if terminal and not os.isatty(0):
            stop()  # the terminal that it ran in is gone
        else:
            spawn(restarts.at_signal())

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR2, lambda: spawn(node.upgrade()))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        await node.start()
        began = await node.begin()
        node.control = ControlServer(settings.data_dir, commands(node, restarts, reload))
        await node.control.start(successor=node.kept)
        report(began)
        spawn(bootstrap.run())
    except SettingsError as error:  # one that only its actor can judge
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    except BindError as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except HandoverRefused as error:
        print(f"descord-relay: cannot take over: {error}", file=sys.stderr)
        return EXIT_REFUSED
    try:
        return await node.run()
    finally:
        for task in tasks:
            task.cancel()


def run_loop(serving: Coroutine[Any, Any, int]) -> int:
    """On uvloop if it is there."""
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop serves, at a fifth more CPU
        return asyncio.run(serving)
    return uvloop.run(serving)
