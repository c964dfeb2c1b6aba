"""An actor that has something, and passes it on; or does not, as it is told when it is made."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Any

from actors.actor import Send
from actors.runtime.spec import ActorSpec, Part, Surroundings
from protocol import messages as m


class Hoard:
    """Counts the questions that it, and those before it, were asked; tells the count."""

    def __init__(self) -> None:
        self.asked = 0
        self.of_others = 0

    def handle(self, message: m.RelayServerMessage, now: float) -> list[Send]:
        if not isinstance(message, m.StatusAsked):
            return []
        self.asked += 1
        return [Send(message.asker, m.StatusAnswer(message.request_id, self.of_others, self.asked, os.getpid(), 0, {}))]

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


def build(surroundings: Surroundings, giving: str = "", taking: str = "") -> Part:
    """``giving``, ``taking``: what goes wrong: "raise", "die", and after half of it was passed "die midway" and "raise
    midway"; ``taking`` "no": it cannot be made."""
    if taking == "no" and surroundings.adopting:
        raise OSError("there is no place for it")
    actor = Hoard()

    async def hand_over(sock: socket.socket, successor: str) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            _do(giving)
            await loop.sock_sendall(sock, bytes([actor.asked // 2]))
            await loop.sock_recv(sock, 1)
            actor.asked -= actor.asked // 2
            _do(giving.removesuffix(" midway"))
            await loop.sock_sendall(sock, bytes([actor.asked]))
            if not await loop.sock_recv(sock, 1):
                raise ConnectionError(f"{successor} said nothing of the second half")

    async def take_in(sock: socket.socket, predecessor: str) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        with sock:
            _do(taking)
            first = await loop.sock_recv(sock, 1)
            if not first:
                raise ConnectionError(f"{predecessor} gave nothing")
            actor.of_others += first[0]
            await loop.sock_sendall(sock, b"!")
            _do(taking.removesuffix(" midway"))
            second = await loop.sock_recv(sock, 1)
            if not second:
                return {"broken": f"{predecessor} gave half of it"}
            actor.of_others += second[0]
            await loop.sock_sendall(sock, b"!")
        return {"taken": actor.of_others}

    return Part(actor, hand_over=hand_over, take_in=take_in)


def _do(what: str) -> None:
    if what == "raise":
        raise RuntimeError("told to")
    if what == "die":
        os._exit(9)


def spec(**arguments: str) -> ActorSpec:
    return ActorSpec("tests.trials.hoard:build", arguments, renamed=True)
