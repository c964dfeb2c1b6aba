"""What a message between two actors costs in the local runtime: `python -m tests.runtimes.message_cost`.

Two actors hand one question back and forth: encoded, put into a mailbox, taken out, decoded, handled.  The handler does
next to nothing, so what is printed is the runtime's own share: CPU microseconds of this process, the least of five
rounds, on the loop that the node uses.
"""

from __future__ import annotations

import asyncio
import time

import uvloop

from actors.actor import Send
from actors.ports.clock import steady_clock
from actors.runtime.local import LocalRuntime
from protocol.messages import ReserveAsked

MESSAGES = 20_000
WAKES = 100_000


class Player:
    """Returns the ball, counting down."""

    def __init__(self, other: str, over: asyncio.Event) -> None:
        self.other = other
        self.over = over

    def handle(self, message: ReserveAsked, now: float) -> list[Send]:
        left = message.request_id - 1
        if not left:
            self.over.set()
            return []
        return [Send(self.other, ReserveAsked(left, "forwarder/0", 5, message.peer, message.address))]

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


async def measure() -> tuple[float, float]:
    """Microseconds of CPU for a message, and for a wake that changes nothing."""
    over = asyncio.Event()
    runtime = LocalRuntime(clock=steady_clock(), on_fatal=print)
    runtime.add("one", lambda: Player("other", over))
    runtime.add("other", lambda: Player("one", over))
    await runtime.start()
    messages, wakes = [], []
    for _ in range(5):
        over.clear()
        began = time.process_time()
        runtime.post("test", "one", ReserveAsked(MESSAGES, "forwarder/0", 5, bytes(38), "192.0.2.1"))
        await over.wait()
        messages.append((time.process_time() - began) / MESSAGES)
        began = time.process_time()
        for _ in range(WAKES):
            runtime.wake("one")
        wakes.append((time.process_time() - began) / WAKES)
    await runtime.stop()
    return min(messages) * 1e6, min(wakes) * 1e6


if __name__ == "__main__":
    message, wake = uvloop.run(measure())
    print(f"{message:.2f} us a message, {wake:.3f} us a wake")
