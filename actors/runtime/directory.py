"""Where actors are and which start of them it is, as one process knows it; and what follows from what it learns.

News comes from the supervisor, and from the words of the actors themselves: an envelope of a later incarnation than is
known tells that the one before fell, maybe before the supervisor's news of it is here.  Whichever comes first counts,
so that an actor hears ActorDown before it hears a word of the successor, and hears it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from protocol import messages


class State(Enum):
    EXPECTED = auto()  # about to start, for the first time
    UP = auto()
    FALLEN = auto()  # its successor will have the same name
    GONE = auto()  # nobody will have that name again


@dataclass(frozen=True, slots=True)
class News:
    """``where``: what a call to its process needs, None: not known yet, or nothing."""

    name: str
    incarnation: int
    state: State
    where: Any = None


Notice = messages.ActorDown | messages.ActorUp


class Directory:
    """See the module."""

    __slots__ = ("_entries",)

    def __init__(self, news: list[News] | None = None) -> None:
        self._entries = {one.name: one for one in news or ()}

    def find(self, name: str) -> News | None:
        return self._entries.get(name)

    def all(self) -> list[News]:
        return list(self._entries.values())

    def names(self) -> tuple[str, ...]:
        """Those that run."""
        return tuple(one.name for one in self._entries.values() if one.state is State.UP)

    def learn(self, news: News) -> list[Notice]:
        """What the actors of this process are to be told about it."""
        known = self._entries.get(news.name)
        if known is not None and news.incarnation < known.incarnation:
            return []
        same = known is not None and news.incarnation == known.incarnation
        if same and known is not None and known.state in (State.FALLEN, State.GONE) and news.state is State.UP:
            return []  # it fell since
        self._entries[news.name] = news
        was_up = known is not None and known.state in (State.UP, State.EXPECTED)
        down: list[Notice] = [messages.ActorDown(news.name)]
        up: list[Notice] = [messages.ActorUp(news.name)]
        if news.state in (State.FALLEN, State.GONE):
            return down if was_up else []
        if news.state is State.EXPECTED or (same and was_up):
            return []
        return down + up if was_up else up

    def heard(self, name: str, incarnation: int) -> tuple[bool, list[Notice]]:
        """An envelope of ``name`` came: whether it counts, and what is to be told before it."""
        known = self._entries.get(name)
        if not incarnation or (known is not None and known.incarnation == incarnation and known.state is State.UP):
            return True, []
        if known is not None and (
            incarnation < known.incarnation
            or (incarnation == known.incarnation and known.state in (State.FALLEN, State.GONE))
        ):
            return False, []
        where = known.where if known is not None and known.incarnation == incarnation else None
        return True, self.learn(News(name, incarnation, State.UP, where))
