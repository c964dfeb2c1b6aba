"""What was carried for whom, until somebody asks."""

from __future__ import annotations

from actors.served_circuits import ServedCircuits
from protocol.reputation_messages import Served, ServedWanted


def test_both_ends_see_their_own_side() -> None:
    served = ServedCircuits()
    served.ended(b"a", b"b", 100, 7, failed=False)
    served.ended(b"c", b"a", 1, 2, failed=True)
    assert served.take(ServedWanted(1, b"a")) == Served(1, b"a", 1, 1, 102, 8)
    assert served.take(ServedWanted(2, b"b")) == Served(2, b"b", 1, 0, 7, 100)
    assert served.take(ServedWanted(3, b"a")) == Served(3, b"a", 0, 0, 0, 0), "it was told"
    assert len(served) == 1


def test_those_go_first_that_used_it_longest_ago() -> None:
    served = ServedCircuits(max_peers=3)
    served.ended(b"a", b"b", 1, 1, failed=False)
    served.ended(b"a", b"c", 1, 1, failed=False)
    served.ended(b"a", b"d", 1, 1, failed=False)
    assert len(served) == 3
    assert served.take(ServedWanted(1, b"b")).worked == 0
    assert served.take(ServedWanted(1, b"a")).worked == 3
