"""A question to whoever sits at the terminal, while everything else goes on."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

#: Bytes of an answer that are read: a line.
MAX_ANSWER: Final = 1024


async def ask(question: str) -> str | None:
    """The line that is typed after ``question``; None: there is no terminal, it is not ours (a job in the background),
    or its input has ended."""
    if not _ours():
        return None
    print(question, end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    typed = loop.create_future()

    def read() -> None:
        if typed.done():
            return
        try:
            typed.set_result(os.read(0, MAX_ANSWER) if _ours() else b"")
        except OSError:
            typed.set_result(b"")  # it is gone

    loop.add_reader(0, read)
    try:
        data: bytes = await typed
    finally:
        loop.remove_reader(0)
    return data.decode(errors="replace") if data else None


def _ours() -> bool:
    """Who reads from a terminal in the background is stopped by it."""
    try:
        return os.isatty(0) and os.isatty(2) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
