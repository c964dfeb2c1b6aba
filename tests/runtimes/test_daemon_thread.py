"""A call that blocks is answered when it ends, and holds up no process that ends before it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from actors.ports.daemon_thread import in_daemon_thread
from tests.support.process import PATIENCE, REPOSITORY

#: A program whose call never returns, and that ends nevertheless.
BLOCKED = """
import asyncio, threading
from actors.ports.daemon_thread import in_daemon_thread

async def main():
    begun = threading.Event()
    task = asyncio.create_task(in_daemon_thread(lambda: begun.set() or threading.Event().wait()))
    while not begun.is_set():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

asyncio.run(main())
print("ended")
"""


async def test_what_it_returns_and_raises_is_had() -> None:
    assert await in_daemon_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(divmod, 7, 0)


async def test_the_loop_goes_on_meanwhile() -> None:
    go_on = threading.Event()
    task = asyncio.create_task(in_daemon_thread(go_on.wait))
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    assert await task


def test_a_process_does_not_wait_for_a_call_that_never_returns() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert run.stdout == "ended\n"
