"""`python -m tests.support.faulty_node`: a node of several processes whose actors raise when they are told to.

An actor raises the next time that it is asked for anything when there is a file of its name in the folder
``FAULTS`` (an environment variable), which it removes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

from actors import parts, ray_node
from actors.actor import Send
from actors.node import main
from actors.runtime.spec import Part, Surroundings

FAULTS = "RELAY_TEST_FAULTS"


class Faulty:
    """An actor, and its faults."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor = actor
        self._fault = os.path.join(os.environ[FAULTS], name.replace("/", "-"))

    def _look(self) -> None:
        if os.path.exists(self._fault):
            os.unlink(self._fault)
            raise RuntimeError("told to")

    def handle(self, message: Any, now: float) -> list[Send]:
        self._look()
        return list(self._actor.handle(message, now))

    def next_deadline(self) -> float | None:
        self._look()
        deadline: float | None = self._actor.next_deadline()
        return deadline

    def handle_deadline(self, now: float) -> list[Send]:
        self._look()
        return list(self._actor.handle_deadline(now))


def relay_server(surroundings: Surroundings, **arguments: Any) -> Part:
    part = parts.relay_server(surroundings, **arguments)
    return replace(part, actor=Faulty(part.actor, surroundings.name))


def forwarder(surroundings: Surroundings, **arguments: Any) -> Part:
    part = parts.forwarder(surroundings, **arguments)
    return replace(part, actor=Faulty(part.actor, surroundings.name))


if __name__ == "__main__":
    ray_node.BUILDERS.update(
        {
            parts.RELAY_SERVER: "tests.support.faulty_node:relay_server",
            parts.FORWARDERS: "tests.support.faulty_node:forwarder",
        }
    )
    sys.exit(main())
