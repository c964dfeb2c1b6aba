"""Which questions are open: each is closed once, by its answer, by a fall, or by nobody waiting any more."""

from __future__ import annotations

from actors.runtime.questions import OpenQuestions, Question
from protocol.messages import ActorUp, Message, StatusAnswer


def answer(number: int) -> Message:
    return StatusAnswer(number, 0, 0, 0, 0, {})


def asked(*questions: tuple[str, Question]) -> OpenQuestions:
    opened = OpenQuestions()
    for receiver, question in questions:
        opened.asked(receiver, question, 0.0)
    return opened


FIRST, SECOND, OTHER = Question("node", 1, 10.0), Question("node", 2, 10.0), Question("metrics", 1, 10.0)


def test_what_was_asked_of_the_fallen_comes_back_once_and_in_order() -> None:
    opened = asked(("relay_server", FIRST), ("relay_server", SECOND), ("metrics", FIRST), ("relay_server", OTHER))
    assert opened.fell("relay_server") == [FIRST, SECOND, OTHER]
    assert opened.fell("relay_server") == [] and opened
    assert opened.fell("metrics") == [FIRST] and not opened


def test_an_answer_closes_its_own_question_alone() -> None:
    opened = asked(("relay_server", FIRST), ("relay_server", SECOND), ("relay_server", OTHER))
    for sender, receiver, message in (
        ("somebody", "node", answer(1)),
        ("relay_server", "node", answer(3)),
        ("relay_server", "node", ActorUp("forwarder/0")),
    ):
        opened.heard(sender, receiver, message)
    opened.heard("relay_server", "node", answer(1))
    assert opened.fell("relay_server") == [SECOND, OTHER]


def test_nothing_is_kept_of_what_is_closed() -> None:
    opened = asked(("relay_server", FIRST))
    opened.heard("relay_server", "node", answer(1))
    assert not opened


def test_what_the_fallen_asked_is_no_question_of_its_successor() -> None:
    opened = asked(("relay_server", FIRST), ("relay_server", OTHER))
    assert opened.fell("node") == []
    assert opened.fell("relay_server") == [OTHER]


def test_what_nobody_waits_for_is_forgotten_when_another_is_asked() -> None:
    opened = asked(("relay_server", FIRST), ("relay_server", SECOND))
    late = Question("node", 3, 20.0)
    opened.asked("relay_server", late, 10.0)
    assert opened.fell("relay_server") == [late]
