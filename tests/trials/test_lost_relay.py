"""Peers at High go on when the relay between them is killed or falls silent, within what the design allows."""

from __future__ import annotations

import pytest

from tests.benchmarks.lost_relay import lose

#: Milliseconds: a new path for new streams, and listeners reached through another relay (the design's numbers).
NEW_PATH = 2000.0
REACHED_AGAIN = 3000.0


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "silent"])
async def test_a_relay_lost_in_mid_stream(silent: bool) -> None:
    dialling, listening = await lose(runs=5, silent=silent)
    assert len(dialling) == len(listening) == 5
    assert max(dialling) < NEW_PATH
    assert max(listening) < REACHED_AGAIN
