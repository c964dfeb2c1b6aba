"""The bandwidth cap: what it promises its owner, over an hour, whatever peers want and whatever falls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actor import Send
from actors.bandwidth import Bandwidth, LastHour
from protocol.messages import ForwarderCounters, ForwarderReport
from protocol.quota_messages import QuotaGranted, QuotaReturned, QuotaWanted
from tests.support.capped import Line, Lines
from tests.support.peers import START

MEGABYTE_AN_HOUR = 1e6 / 3600


@dataclass(frozen=True)
class Habit:
    """A circuit of ``forwarder``: ``size`` bytes each ``period`` seconds, in one direction or the other."""

    forwarder: int
    period: int
    size: int
    back: bool


@dataclass(frozen=True)
class Fault:
    at: int
    what: str
    forwarder: int


HABITS = st.lists(
    st.builds(
        Habit,
        forwarder=st.integers(0, 2),
        period=st.sampled_from([1, 2, 7, 60, 600]),
        size=st.one_of(st.integers(1, 2000), st.integers(10_000, 1 << 20)),
        back=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
FAULTS = st.lists(
    st.builds(
        Fault,
        at=st.integers(1, 3500),
        what=st.sampled_from(["kill", "restart bucket", "retire"]),
        forwarder=st.integers(0, 2),
    ),
    max_size=4,
)


def live(lines: Lines, habits: list[Habit], faults: list[Fault], seconds: int, *, greedy: bool) -> None:
    """``greedy``: a further circuit on each forwarder has always more to send."""
    names = [f"forwarder/{number}" for number in range(3)]

    def settle_in(number: int) -> list[tuple[Habit, object]]:
        line = lines.lines[names[number]]
        own = [(habit, line.circuit()) for habit in habits if habit.forwarder == number]
        if greedy:
            line.greedy.append(line.circuit().source)
        return own

    tenants = {number: settle_in(number) for number in range(3)}
    for second in range(seconds):
        for fault in faults:
            if fault.at != second:
                continue
            number = fault.forwarder
            if fault.what == "kill":
                lines.kill(names[number])
                tenants[number] = settle_in(number)
            elif fault.what == "retire":
                lines.retire(names[number], names[number] + ".1")
                names[number] += ".1"
            else:
                lines.restart_bucket()
        for number, own in tenants.items():
            line = lines.lines[names[number]]
            for habit, circuit in own:
                if second % habit.period == 0:
                    line.offer(circuit.target if habit.back else circuit.source, habit.size)
        lines.run(START + second + 1)


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_at_the_cap_is_exact(seed: int) -> None:
    """More is wanted than may pass, all the time, by three forwarders, two of which and RelayServer fall meanwhile."""
    rate = (20, 500, 9000)[seed] * MEGABYTE_AN_HOUR
    habits = [Habit(seed, 7, 3000, True), Habit((seed + 1) % 3, 60, 500_000, True)]
    faults = [Fault(600, "kill", 1), Fault(1200, "restart bucket", 0), Fault(1800, "retire", 2), Fault(2400, "kill", 0)]
    lines = Lines(rate, 3)
    live(lines, habits, faults, 3600, greedy=True)
    assert 0.99 * 3600 * rate <= lines.passed <= 3600 * rate
    assert lines.high <= rate


@settings(max_examples=25, deadline=None)
@given(habits=HABITS, faults=FAULTS, megabytes=st.integers(1, 20_000))
def test_the_cap_is_never_exceeded(habits: list[Habit], faults: list[Fault], megabytes: int) -> None:
    """Whatever is wanted, whoever falls: in no span of time passes more than the rate and one second's worth."""
    lines = Lines(megabytes * MEGABYTE_AN_HOUR, 3)
    faults = [Fault(fault.at % 110, fault.what, fault.forwarder) for fault in faults]
    live(lines, habits, faults, 120, greedy=False)
    assert lines.passed <= 120 * lines.rate
    assert lines.high <= lines.rate


@settings(max_examples=15, deadline=None)
@given(habits=HABITS, megabytes=st.integers(1, 20_000))
def test_what_may_pass_does_when_enough_is_wanted(habits: list[Habit], megabytes: int) -> None:
    lines = Lines(megabytes * MEGABYTE_AN_HOUR, 3)
    live(lines, habits, [], 300, greedy=True)
    # A second's worth may be under way, ahead of streams or not yet shared out.
    assert 299 * lines.rate <= lines.passed <= 300 * lines.rate


def test_circuits_share_evenly_wherever_they_are() -> None:
    lines = Lines(360 * MEGABYTE_AN_HOUR, 2)
    few, many = lines.lines.values()
    circuits = [few.circuit(), *(many.circuit() for _ in range(9))]
    few.greedy, many.greedy = [circuits[0].source], [circuit.source for circuit in circuits[1:]]
    lines.run(START + 120)
    shares = [circuit.bytes_to_target / lines.passed for circuit in circuits]
    assert all(0.08 < share < 0.12 for share in shares), shares


def test_who_wants_little_waits_for_nobody() -> None:
    """A circuit of a few words a second beside others that take all they get."""
    lines = Lines(360 * MEGABYTE_AN_HOUR, 1)
    line = next(iter(lines.lines.values()))
    greedy, modest = [line.circuit() for _ in range(20)], line.circuit()
    line.greedy = [circuit.source for circuit in greedy]
    for second in range(60):
        line.offer(modest.source, 300)
        lines.run(START + second + 1)
        assert modest.bytes_to_target >= 300 * second
    assert all(circuit.bytes_to_target for circuit in greedy)


def test_what_is_not_used_goes_back() -> None:
    lines = Lines(3600 * MEGABYTE_AN_HOUR, 2)
    lines.run(START + 2)
    first, second = lines.lines.values()
    first.offer(first.circuit().source, 1000)
    lines.run(START + 2.5)
    assert first.passed == 1000 and first.switch.meter.collect() > 0
    lines.run(START + 10)
    assert first.switch.meter.collect() == 0 and not lines.bandwidth._accounts
    second.offer(second.circuit().source, 200_000)
    lines.run(START + 10.01)
    assert second.passed == 200_000


# The bucket alone.


def ask(bandwidth: Bandwidth, now: float, owed: int, name: str = "forwarder/0", circuits: int = 1) -> int | None:
    """What is given at once."""
    sends = bandwidth.wanted(QuotaWanted(name, owed, circuits, 0), now)
    given = {send.receiver: send.message.amount for send in sends}
    return given.get(name)


def test_it_is_empty_at_first_and_holds_a_second() -> None:
    bandwidth = Bandwidth(1000.0)
    bandwidth.begin(0.0)
    assert ask(bandwidth, 0.0, 500) is None
    assert bandwidth.next_deadline() == pytest.approx(0.5)
    assert bandwidth.handle_deadline(0.5) == [Send("forwarder/0", QuotaGranted(500))]
    assert ask(bandwidth, 100.0, 900) == 950  # half of what is left, ahead


def test_nothing_is_given_before_it_begins() -> None:
    """A RelayServer that takes over: until its forwarders have reported, another one gives quota."""
    bandwidth = Bandwidth(1000.0)
    assert ask(bandwidth, 0.0, 500) is None and bandwidth.next_deadline() is None
    assert bandwidth.begin(10.0) == []
    assert bandwidth.handle_deadline(10.5) == [Send("forwarder/0", QuotaGranted(500))]


def test_little_is_ahead_of_many() -> None:
    """However many forwarders have some ahead, half of what may be saved up is for bytes that wait."""
    bandwidth = Bandwidth(100_000.0)
    bandwidth.begin(0.0)
    for number in range(40):
        assert ask(bandwidth, 10.0, 0, f"forwarder/{number}") is not None
    assert ask(bandwidth, 10.0, 49_000, "forwarder/40") == 49_000


def test_the_cap_counts_as_spent_when_what_waits_takes_more_than_a_second() -> None:
    bandwidth = Bandwidth(1000.0)
    bandwidth.begin(0.0)
    assert not bandwidth.retry_after(0.0)
    ask(bandwidth, 0.0, 800)
    assert not bandwidth.retry_after(0.0)
    ask(bandwidth, 0.0, 30_000)
    assert bandwidth.retry_after(0.0) == 30
    ask(bandwidth, 0.0, 30_000_000)
    assert bandwidth.retry_after(0.0) == 3600
    bandwidth.lost("forwarder/0")
    assert not bandwidth.retry_after(0.0)


def test_a_cap_that_changes_holds_at_once() -> None:
    bandwidth = Bandwidth()
    bandwidth.begin(0.0)
    assert ask(bandwidth, 5.0, 10) is None and bandwidth.next_deadline() is None
    bandwidth.set_rate(1000.0, 10.0)
    assert ask(bandwidth, 10.0, 5000) is None
    assert bandwidth.handle_deadline(10.5) == [Send("forwarder/0", QuotaGranted(500))]
    ask(bandwidth, 10.5, 4500)
    assert bandwidth.set_rate(1e6, 11.0) == []
    (granted,) = bandwidth.handle_deadline(bandwidth.next_deadline() or 0.0)
    assert granted.message == QuotaGranted(4500) or granted.message.amount > 0
    bandwidth.set_rate(0.0, 12.0)
    assert bandwidth.next_deadline() is None and not bandwidth.retry_after(12.0)


def test_what_comes_back_is_there_for_others() -> None:
    bandwidth = Bandwidth(1000.0)
    bandwidth.begin(0.0)
    given = ask(bandwidth, 10.0, 0)
    assert given == 100
    bandwidth.returned(QuotaReturned("forwarder/0", given), 10.0)
    assert ask(bandwidth, 10.0, 1000, "forwarder/1") == 1000


def test_a_circuit_that_ends_pays_for_what_was_held() -> None:
    """It came over the owner's line: who opens circuits, fills them and goes away, spends quota too."""
    lines = Lines(3600.0 * MEGABYTE_AN_HOUR / 1000, 1)
    line: Line = next(iter(lines.lines.values()))
    circuit = line.circuit()
    line.offer(circuit.source, 50_000)
    lines.run(START + 10)
    passed = circuit.bytes_to_target
    assert 9_000 <= passed <= 10_000
    line.switch.end(circuit, "reset")
    assert circuit.bytes_to_target == passed
    lines.run(START + 11)
    assert 35 < lines.bandwidth.retry_after(lines.now) <= 40
    lines.run(START + 60)
    assert not lines.bandwidth.retry_after(lines.now)


# The last hour.


def count(hour: LastHour, name: str, total: int, now: float) -> None:
    hour.count(ForwarderCounters(name, 0, 0, total, {}), now)


def test_the_last_hour_is_counted_in_minutes() -> None:
    hour = LastHour()
    hour.reported(ForwarderReport("a", 1, (), ()))
    count(hour, "a", 100, 0.0)
    count(hour, "a", 150, 59.0)
    count(hour, "a", 1150, 1800.0)
    assert hour.total(1800.0) == 1150
    assert hour.total(3599.0) == 1150
    assert hour.total(3600.0) == 1000
    assert hour.total(7200.0) == 0


def test_what_was_relayed_before_is_not_this_hours() -> None:
    hour = LastHour()
    count(hour, "a", 5_000_000, 0.0)  # ahead of its report: it has told another RelayServer of these
    hour.reported(ForwarderReport("a", 1, (), (), bytes_forwarded=5_000_000))
    hour.reported(ForwarderReport("b", 1, (), (), bytes_forwarded=7_000_000))
    count(hour, "a", 5_000_010, 1.0), count(hour, "b", 7_000_020, 1.0)
    assert hour.total(1.0) == 30


def test_who_takes_over_goes_on_counting() -> None:
    hour = LastHour()
    hour.reported(ForwarderReport("a", 1, (), ()))
    count(hour, "a", 100, 0.0)
    hour.reported(ForwarderReport("a.1", 1, (), (), replaces="a", bytes_forwarded=130))
    count(hour, "a.1", 150, 1.0)
    assert hour.total(1.0) == 150
    hour.lost("a.1")
    hour.reported(ForwarderReport("a.1", 1, (), ()))
    count(hour, "a.1", 7, 2.0)
    assert hour.total(2.0) == 157
