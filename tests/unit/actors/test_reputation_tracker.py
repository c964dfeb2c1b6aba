"""ReputationTracker: asked and told, within bounds, and the same after a restart."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.actor import Send
from actors.record_store import MemoryStore
from actors.reputation_tracker import OPERATOR_TIME, ReputationTracker
from protocol.discovery_messages import ClassTold, Observed, Rating, RatingsWanted
from protocol.identity import Identity
from protocol.messages import ActorDown, ActorUp
from protocol.quota_messages import ModeTold
from protocol.reputation_messages import (
    CircuitUsed,
    Contributed,
    Contribution,
    ContributionWanted,
    MonthContribution,
    PriorityWanted,
)

ME = Identity.from_seed(bytes(32))
OWN = ME.peer_id.bytes
NOW = 1_782_864_000.0  # 2026-07-01 00:00 UTC
DAY = 86_400.0


def tracker(store: MemoryStore | None = None, **more: Any) -> ReputationTracker:
    return ReputationTracker(
        "reputation", store if store is not None else MemoryStore(), ME, relay_server="relay_server", **more
    )


def ratings(actor: ReputationTracker, *peers: bytes, now: float = NOW) -> tuple[Rating, ...]:
    (send,) = actor.handle(RatingsWanted(7, "directory", peers), now)
    assert (send.receiver, send.message.request_id) == ("directory", 7)
    told: tuple[Rating, ...] = send.message.ratings
    return told


def contribution(actor: ReputationTracker, now: float = NOW) -> Contribution:
    (send,) = actor.handle(ContributionWanted(3, "node"), now)
    assert send.receiver == "node" and isinstance(send.message, Contribution)
    return send.message


def test_each_kind_is_counted_as_what_it_is() -> None:
    actor = tracker()
    for seen in (
        Observed(b"a", "probe", 0.5),
        Observed(b"a", "probe", 1.5),
        Observed(b"a", "circuit", carried=1000),
        Observed(b"a", "circuit", carried=500),
        Observed(b"a", "circuit_failed"),
        Observed(b"a", "dropped"),
        Observed(b"b", "unreachable"),
        Observed(b"c", "probe", 0.2),
    ):
        assert actor.handle(seen, NOW) == []
    assert ratings(actor, b"a", b"b", b"c", b"stranger") == (
        Rating(b"a", 85.0, 1.0, 1.0, 2, 2, 1500),
        Rating(b"b", None, 0.0, None, 0, 0, 0),
        Rating(b"c", None, 1.0, 0.2, 0, 0, 0),
        Rating(b"stranger", None, None, None, 0, 0, 0),
    )
    assert len(actor) == 3, "to be asked about is not to be remembered"


def test_what_was_seen_outlives_a_restart() -> None:
    store = MemoryStore()
    actor = tracker(store)
    for peer in (b"a", b"b"):
        actor.handle(Observed(peer, "probe", 0.1), NOW)
    actor.handle(Observed(b"a", "circuit", carried=9), NOW + DAY)
    actor.handle(Contributed(5000, 2), NOW + DAY)
    before = ratings(actor, b"a", b"b", now=NOW + 2 * DAY), contribution(actor, NOW + 2 * DAY)
    again = tracker(store)
    assert (ratings(again, b"a", b"b", now=NOW + 2 * DAY), contribution(again, NOW + 2 * DAY)) == before


def test_a_process_that_takes_over_counts_on_from_what_the_old_one_wrote() -> None:
    store = MemoryStore()
    old, new = tracker(store), tracker(store)
    new.handle(ActorUp("forwarder/0"), NOW)
    new.handle(ActorDown("forwarder/0"), NOW)
    old.handle(Contributed(100, 1), NOW)
    new.handle(Contributed(10, 1), NOW)
    told = contribution(tracker(store))
    assert (told.month.carried, told.month.circuits) == (110, 2)


def test_rows_that_cannot_be_read_are_left_there() -> None:
    store = MemoryStore()
    store.values |= {b"pbad": b"\xff", b"m2026-07": b"no", b"?": b"of a later node"}
    actor = tracker(store)
    assert ratings(actor, b"bad") == (Rating(b"bad", None, None, None, 0, 0, 0),)
    assert actor.unread == 2 and set(store.values) == {b"pbad", b"m2026-07", b"?"}


def test_when_there_are_too_many_those_go_of_which_least_is_known() -> None:
    store = MemoryStore()
    actor = tracker(store, max_peers=3)
    for _ in range(5):
        actor.handle(Observed(b"bad", "circuit_failed"), NOW)
        actor.handle(Observed(b"good", "circuit", carried=1), NOW)
    for number in range(20):
        actor.handle(Observed(b"new %d" % number, "probe", 0.1), NOW + number)
        assert len(actor) <= 3
    assert set(store.values) - {b"o"} == {b"pbad", b"pgood", b"pnew 19"}, "nobody is cleared by newcomers"
    assert len(tracker(store, max_peers=2)) == 0, "nothing is read before it is needed"
    smaller = tracker(store, max_peers=2)
    ratings(smaller, b"bad")
    assert len(smaller) == 2 and set(store.values) - {b"o"} == {b"pbad", b"pgood"}


@given(st.lists(st.tuples(st.binary(max_size=2), st.sampled_from(["probe", "unreachable", "circuit", "dropped"]))))
def test_memory_and_disk_hold_the_same_peers_and_no_more_than_they_may(seen: list[tuple[bytes, str]]) -> None:
    store = MemoryStore()
    actor = tracker(store, max_peers=4)
    for number, (peer, kind) in enumerate(seen):
        actor.handle(Observed(peer, kind, 0.1), NOW + number)
        assert len(actor) == len(set(store.values) - {b"o"}) <= 4
        assert b"p" + peer in store.values


# What this node did.


def months_on(months: int) -> float:
    """The first of a month, so many after ``NOW``."""
    return datetime(2026 + (6 + months) // 12, (6 + months) % 12 + 1, 1, tzinfo=UTC).timestamp()


def test_contributions_are_added_up_by_months_in_utc() -> None:
    actor = tracker()
    assert contribution(actor) == Contribution(3, MonthContribution("2026-07", 0, 0), None)
    actor.handle(Contributed(100, 1), NOW - 1)
    actor.handle(Contributed(20, 0), NOW)
    actor.handle(Contributed(3, 2), NOW + 30 * DAY)
    assert contribution(actor, NOW + 30 * DAY) == Contribution(
        3, MonthContribution("2026-07", 23, 2), None, (MonthContribution("2026-06", 100, 1),)
    )
    assert contribution(actor, NOW + 31 * DAY).month.month == "2026-08"


def test_two_years_are_kept() -> None:
    store = MemoryStore()
    actor = tracker(store)
    for month in range(40):
        actor.handle(Contributed(month, 1), months_on(month))
    assert sum(key.startswith(b"m") for key in store.values) == 24
    told = contribution(actor, months_on(39))
    assert told.month.carried == 39 and len(told.earlier) == 23
    assert [one.carried for one in told.earlier] == list(range(38, 15, -1))
    # An hour with the clock of 1970 costs the oldest of them, and no more.
    actor.handle(Contributed(1, 1), 0.0)
    assert b"m1970-01" in store.values and sum(key.startswith(b"m") for key in store.values) == 24
    actor.handle(Contributed(1, 1), months_on(40))
    assert b"m1970-01" not in store.values


def test_its_own_score_is_what_others_would_have_seen() -> None:
    store = MemoryStore()
    actor = tracker(store)
    assert contribution(actor).score is None
    actor.handle(Observed(b"a", "probe", 2.0), NOW)
    assert contribution(actor).score is None, "nobody had a circuit through it"
    actor.handle(Contributed(1000, 3), NOW)
    assert contribution(actor).score == pytest.approx(40 + 30 + 15)
    actor.handle(Contributed(0, 0, 1), NOW)
    assert contribution(actor).score == pytest.approx(40 + 30 * 3 / 4 + 15)
    # Off for a day, and on again: in one of twenty-six hours it was there and looked at, in another it is now.
    again = tracker(store)
    later = NOW + 25 * 3600
    again.handle(Observed(b"a", "probe", 2.0), later)
    own = again.rating(OWN, later)
    assert own.uptime == pytest.approx(2 / 26, rel=0.05) and own.latency == pytest.approx(2.0)
    for hour in range(1, 200):
        again.handle(Observed(b"a", "probe", 2.0), later + hour * 3600)
    assert again.rating(OWN, later + 200 * 3600).uptime == 1.0, "that was more than a week ago"


def test_what_is_known_of_itself_makes_room_for_nobody() -> None:
    actor = tracker(max_peers=3)
    actor.handle(Contributed(1000, 3), NOW)
    for number in range(5):
        actor.handle(Observed(b"%d" % number, "probe", 0.1), NOW)
    assert len(actor) == 3 and contribution(actor).score is not None


def told_to(sends: list[Send], receiver: str) -> list[Any]:
    return [send.message for send in sends if send.receiver == receiver]


def test_whose_relay_works_is_an_operator_and_relay_server_hears_it_again_when_it_begins_anew() -> None:
    store = MemoryStore()
    actor = tracker(store)
    assert actor.handle(Observed(b"there", "probe", 0.1), NOW) == [], "it does not relay"
    sends = actor.handle(Observed(b"works", "probe", 0.1, works=True), NOW)
    assert told_to(sends, "relay_server") == [ClassTold(b"works", NOW + OPERATOR_TIME, 1 / 12)]
    again = tracker(store)
    assert again.handle(ActorUp("relay_server"), NOW) == [], "nothing is read before it is needed"
    sends = again.handle(RatingsWanted(1, "directory", ()), NOW)
    assert [one.peer for one in told_to(sends, "relay_server")] == [b"works"]
    sends = again.handle(ActorUp("relay_server"), NOW + 3600)
    assert [one.peer for one in told_to(sends, "relay_server")] == [b"works"]
    assert again.handle(ActorUp("relay_server"), NOW + OPERATOR_TIME) == [], "its time is over"


def test_what_is_used_is_spent() -> None:
    actor = tracker(incentive="credits")
    actor.handle(Contributed(1000, 1), NOW)
    actor.handle(CircuitUsed(b"relay", 600, 500), NOW)
    told = contribution(actor).month
    assert (told.carried, told.used) == (1000, 1100)
    (send,) = actor.handle(PriorityWanted(5, "router", b"relay"), NOW)
    assert send.message.request_id == 5 and "credits are spent" in send.message.problem
    actor.handle(ModeTold(True, "volunteer"), NOW)
    (send,) = actor.handle(PriorityWanted(6, "router", b"relay"), NOW)
    assert "volunteer" in send.message.problem
    actor.handle(ModeTold(True, "priority"), NOW)
    (send,) = actor.handle(PriorityWanted(7, "router", b"relay"), NOW)
    assert "no peer has signed" in send.message.problem


@pytest.mark.parametrize("message", (ActorUp("dht"), ActorDown("directory")))
def test_it_owes_nothing_to_those_that_fall(message: ActorUp | ActorDown) -> None:
    actor = tracker()
    sends: list[Send] = actor.handle(message, NOW)
    assert sends == [] == actor.handle_deadline(NOW) and actor.next_deadline() is None
