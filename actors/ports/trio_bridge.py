"""An asyncio loop in a thread of its own, asked from trio: our peers run on asyncio, py-libp2p on trio.

    thread = AsyncioThread("name")
    data = await thread.call(stream.read, 4096)     # a coroutine function, run over there; from trio
    await thread.stop()

One call is one task over there, and whoever asks waits for it: so nothing piles up between the two, and a writer waits
here as long as the socket makes it wait there.  A cancelled call cancels its task and waits until it has ended; had it
succeeded meanwhile, its result is given and trio cancels at the next checkpoint: no byte that was read is lost.
Each call costs two wake-ups across threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import outcome
import trio

try:
    from uvloop import new_event_loop
except ImportError:  # as on Windows
    from asyncio import new_event_loop  # type: ignore[assignment]

T = TypeVar("T")

#: Seconds in which a thread that was just started has its loop: far more than it takes, for a machine that swaps.
START_TIMEOUT: Final = 30.0


class BridgeClosed(Exception):
    """The thread has ended: nothing can be asked of it any more."""


class _Call:
    """One call.  ``task``: over there, None until it was begun.  ``raise_cancel``: set when trio cancels it."""

    __slots__ = ("raise_cancel", "task", "waiter")

    def __init__(self, waiter: trio.lowlevel.Task) -> None:
        self.waiter = waiter
        self.task: asyncio.Task[Any] | None = None
        self.raise_cancel: Callable[[], object] | None = None


class AsyncioThread:
    """See the module.  To be made and used within one ``trio.run``."""

    def __init__(self, name: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        #: Belongs to trio's thread: calls that somebody waits for.
        self._waiting: set[_Call] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name=name, daemon=True)
        self._thread.start()
        if not ready.wait(START_TIMEOUT):
            raise BridgeClosed(f"the thread {name} did not start within {START_TIMEOUT:g} s")

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T:
        """What ``function(*arguments)`` gives over there, its exception too.  BridgeClosed."""
        if self._ended.is_set():
            raise BridgeClosed("the thread has ended")
        call = _Call(trio.lowlevel.current_task())

        def begin() -> None:
            call.task = self._loop.create_task(function(*arguments))
            call.task.add_done_callback(done)
            if call.raise_cancel is not None:
                call.task.cancel()

        def done(task: asyncio.Task[T]) -> None:
            result: outcome.Outcome[T]
            if task.cancelled():
                result = outcome.Error(BridgeClosed("the thread ended while it was asked"))
            elif (error := task.exception()) is not None:
                result = outcome.Error(error)
            else:
                result = outcome.Value(task.result())
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._finish, call, result, task.cancelled())

        def cancel() -> None:
            if call.task is not None:
                call.task.cancel()

        def abort(raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            call.raise_cancel = raise_cancel
            with contextlib.suppress(RuntimeError):  # the loop is closed: the end of the thread finishes the call
                self._loop.call_soon_threadsafe(cancel)
            return trio.lowlevel.Abort.FAILED

        self._waiting.add(call)
        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError as error:
            self._waiting.discard(call)
            raise BridgeClosed("the thread has ended") from error
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def stop(self) -> None:
        """Cancel what runs there, and wait until the thread is gone."""
        with trio.CancelScope(shield=True):
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopped.set)
            await self._ended.wait()
            self._thread.join()  # its last line was to say that it has ended

    def _finish(self, call: _Call, result: outcome.Outcome[Any], cancelled: bool) -> None:
        if call not in self._waiting:
            return
        self._waiting.discard(call)
        if cancelled and call.raise_cancel is not None:
            result = outcome.capture(call.raise_cancel)
        trio.lowlevel.reschedule(call.waiter, result)

    def _over(self) -> None:
        self._ended.set()
        for call in list(self._waiting):
            self._finish(call, outcome.Error(BridgeClosed("the thread ended while it was asked")), True)

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._stopped = asyncio.Event()
            ready.set()
            await self._stopped.wait()

        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(serve())
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._over)
