"""When an actor is started again, and when it is given up."""

from __future__ import annotations

from actors.supervisor import RestartPolicy, Supervision


def test_at_once_and_then_later_and_later() -> None:
    supervision = Supervision(RestartPolicy(max_restarts=10))
    delays = [supervision.failed(float(now)) for now in range(10)]
    assert delays == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_one_too_many_within_the_window_is_given_up() -> None:
    supervision = Supervision(RestartPolicy(max_restarts=2, window=60.0))
    assert supervision.failed(0.0) == 0.0 and supervision.failed(1.0) == 0.05
    assert supervision.failed(2.0) is None and supervision.recent == 3


def test_failures_older_than_the_window_are_forgiven() -> None:
    supervision = Supervision(RestartPolicy(max_restarts=1, window=60.0))
    assert [supervision.failed(now) for now in (0.0, 60.0, 120.0)] == [0.0, 0.0, 0.0]
    assert supervision.failed(179.9) is None


def test_no_restart_at_all_can_be_asked_for() -> None:
    assert Supervision(RestartPolicy(max_restarts=0)).failed(0.0) is None


def test_ten_thousand_failures_are_borne_if_so_set() -> None:
    supervision = Supervision(RestartPolicy(max_restarts=10_000, window=86_400.0))
    assert {supervision.failed(0.0) for _ in range(10_000)} >= {0.0, 5.0}
