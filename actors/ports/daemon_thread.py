"""Calls of libraries that block, in threads that nobody waits for when the process ends.

``asyncio.to_thread`` is for calls that end soon: a loop that closes, and an interpreter that exits, wait for its
threads, and a node that is told to stop would go on for as long as a router, or Tor, does not answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(function: Callable[..., T], *arguments: object) -> T:
    """What ``function`` returns or raises.  Cancelled, it goes on unheard, to the end of the process at most."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        raised: BaseException | None = None
        try:
            result = function(*arguments)
        except BaseException as error:
            raised = error
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell, result, raised)

    threading.Thread(target=run, name=getattr(function, "__name__", "call"), daemon=True).start()
    return await done
