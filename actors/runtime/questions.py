"""Questions that are open: asked by actors of this process, and neither answered nor come back.

A question is a message with a ``request_id`` that is posted with a deadline; its answer is a message with the same
number from whoever was asked.  When that one falls no answer will come, wherever the question is by then: in its
mailbox, on its way, or heard.  So who asked is told from here, where it is known who did.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Question(NamedTuple):
    """``deadline``: Unix time after which ``asker`` does not wait any more."""

    asker: str
    number: int
    deadline: float


class OpenQuestions:
    """See the module.  It holds what was asked of an actor within the longest patience of its askers, until the next
    question to it; falsy: nothing is open."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        # By who was asked; then in the order in which they were.
        self._open: dict[str, dict[tuple[str, int], Question]] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def asked(self, receiver: str, question: Question, now: float) -> None:
        asked = self._open.setdefault(receiver, {})
        while asked and next(iter(asked.values())).deadline <= now:
            del asked[next(iter(asked))]
        asked[question.asker, question.number] = question

    def heard(self, sender: str, receiver: str, message: Any) -> None:
        """``receiver`` hears ``message``, which may be an answer."""
        asked = self._open.get(sender)
        if asked is not None:
            asked.pop((receiver, getattr(message, "request_id", 0)), None)
            if not asked:
                del self._open[sender]

    def fell(self, actor: str) -> list[Question]:
        """What was asked of ``actor`` and will not be answered.  What it asked itself, its successor does not know."""
        for receiver, asked in list(self._open.items()):
            for key in [key for key in asked if key[0] == actor]:
                del asked[key]
            if not asked:
                del self._open[receiver]
        return list(self._open.pop(actor, {}).values())
