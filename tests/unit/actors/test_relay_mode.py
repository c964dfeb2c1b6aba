"""When the node relays: what its owner chose, and how the machine is."""

from __future__ import annotations

import pytest

from actors.relay_mode import (
    CHARGING_RETRY,
    DAY,
    IDLE_AFTER,
    MODES,
    RUN_WHEN,
    MachineState,
    ModePolicy,
    RelayMode,
    rate_of,
)
from protocol.quota_messages import TermsSet

QUIET = MachineState(charging=True, busy=0.1)
BUSY = MachineState(charging=True, busy=1.5)
ON_BATTERY = MachineState(charging=False, busy=0.0)


def relays(mode: RelayMode, now: float) -> bool:
    return not mode.terms(now).refusal


@pytest.mark.parametrize("run_when", RUN_WHEN)
@pytest.mark.parametrize("chosen", MODES)
def test_only_a_cooperative_node_asks_how_the_machine_is(chosen: str, run_when: str) -> None:
    mode = RelayMode(ModePolicy(mode=chosen, run_when=run_when), 0.0)
    mode.observe(MachineState(charging=False, busy=4.0), 0.0)
    terms = mode.terms(0.0)
    assert terms.serves == (chosen != "client-only")
    assert bool(terms.refusal) == (chosen == "client-only" or (chosen == "cooperative" and run_when != "always"))


def test_terms_are_what_was_chosen() -> None:
    assert RelayMode(ModePolicy(), 0.0).terms(0.0) == TermsSet(True, "", "", 0, 0.0, 2048)
    policy = ModePolicy(max_bandwidth=3600, max_circuits=7)
    assert RelayMode(policy, 0.0).terms(0.0) == TermsSet(True, "", "", 0, 1e6, 7)
    assert rate_of(1) == pytest.approx(277.8, abs=0.1)
    assert RelayMode(ModePolicy(mode="client-only"), 0.0).terms(0.0).setting == "mode"


def test_who_may_find_the_relay() -> None:
    listed = {
        (mode, public): RelayMode(ModePolicy(mode=mode, public=public), 0.0).terms(0.0).listed
        for mode in MODES
        for public in (True, False)
    }
    assert {chosen: what for chosen, what in listed.items() if what} == {
        ("cooperative", True): "cooperative",
        ("cooperative", False): "cooperative",
        ("dedicated", True): "dedicated",
    }
    paused = RelayMode(ModePolicy(run_when="charging"), 0.0)
    paused.observe(ON_BATTERY, 0.0)
    assert paused.terms(0.0).listed == ""


def test_charging_comes_and_goes() -> None:
    mode = RelayMode(ModePolicy(run_when="charging"), 0.0)
    assert relays(mode, 0.0)
    mode.observe(ON_BATTERY, 10.0)
    terms = mode.terms(10.0)
    assert "charging" in terms.refusal and (terms.setting, terms.retry_after) == ("run_when", CHARGING_RETRY)
    mode.observe(BUSY, 20.0)
    assert relays(mode, 20.0)


def test_idle_is_quiet_for_a_while() -> None:
    mode = RelayMode(ModePolicy(run_when="idle"), 0.0)
    mode.observe(MachineState(charging=True, busy=None), 0.0)
    assert not relays(mode, 0.0) and mode.terms(0.0).retry_after == IDLE_AFTER
    mode.observe(QUIET, 30.0)
    assert mode.terms(100.0).retry_after == IDLE_AFTER - 70
    mode.observe(ON_BATTERY, 329.0)
    assert not relays(mode, 329.0) and relays(mode, 330.0)
    mode.observe(BUSY, 360.0)
    assert not relays(mode, 360.0)
    mode.observe(QUIET, 390.0)
    assert not relays(mode, 689.0) and relays(mode, 690.0)


def test_a_choice_holds_at_once() -> None:
    mode = RelayMode(ModePolicy(run_when="charging"), 0.0)
    mode.observe(ON_BATTERY, 0.0)
    mode.choose(ModePolicy(run_when="always"), 1.0)
    assert relays(mode, 1.0)
    mode.choose(ModePolicy(mode="client-only"), 2.0)
    assert not mode.terms(2.0).serves


def test_the_share_of_the_day_in_which_it_relayed() -> None:
    mode = RelayMode(ModePolicy(run_when="charging", uptime_target=0.5), 0.0)
    assert mode.uptime(0.0) == 1.0
    mode.observe(ON_BATTERY, 100.0)
    assert mode.uptime(400.0) == pytest.approx(0.25)
    assert not mode.below_target(400.0)  # too soon to say
    assert mode.below_target(1000.0)
    mode.observe(QUIET, 1000.0)
    assert mode.uptime(1900.0) == pytest.approx(1000 / 1900)
    assert not mode.below_target(1900.0)
    # What was a day ago no longer counts.
    assert mode.uptime(1000.0 + DAY) == 1.0
    mode.observe(ON_BATTERY, 1000.0 + 2 * DAY)
    assert mode.uptime(1000.0 + 2.5 * DAY) == pytest.approx(0.5)


def test_a_target_means_nothing_where_nothing_keeps_the_node_down() -> None:
    mode = RelayMode(ModePolicy(mode="client-only", uptime_target=1.0), 0.0)
    assert mode.uptime(1000.0) == 0.0 and not mode.below_target(1000.0)
