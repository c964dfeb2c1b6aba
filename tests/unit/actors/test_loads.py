"""Which forwarder a dialler may move to."""

from __future__ import annotations

import pytest

from actors.loads import BUSY, STALE, Loads
from actors.relay_server import RelayServerPolicy
from protocol import messages as m
from tests.support.bridged import NAMES, BridgedRelay
from tests.support.peers import MemoryPeer

HERE, THERE = NAMES


def loads(here: float, there: float) -> Loads:
    """Rates as fractions of BUSY, over a second that ends at 11."""
    counted = Loads()
    for forwarder, rate in ((HERE, here), (THERE, there)):
        counted.reported(forwarder, 1000, 10.0)
        counted.reported(forwarder, 1000 + int(rate * BUSY), 11.0)
    return counted


@pytest.mark.parametrize(
    ("here", "there", "welcome"),
    [(0, 0, True), (0, 0.9, True), (0, 1.1, False), (1.0, 1.1, False), (1.2, 1.1, True), (2, 0, True)],
)
def test_not_to_one_that_is_busier_than_its_own(here: float, there: float, welcome: bool) -> None:
    assert loads(here, there).welcomes(THERE, HERE, 11.5) is welcome


def test_one_that_fell_silent_carries_nothing() -> None:
    counted = loads(0, 2)
    assert counted.rate(THERE, 11.0) > BUSY and counted.rate(THERE, 11.0 + STALE) == 0
    assert counted.welcomes(THERE, HERE, 11.0 + STALE)


def test_one_that_began_anew_or_is_gone() -> None:
    counted = loads(0, 2)
    counted.reported(THERE, 0, 12.0)
    assert counted.rate(THERE, 12.0) == 0
    counted.reported(THERE, 3 * BUSY, 13.0)
    counted.forget(THERE)
    assert counted.welcomes(THERE, HERE, 13.0)


def test_two_reports_of_one_moment() -> None:
    counted = Loads()
    counted.reported(HERE, 1, 1.0)
    counted.reported(HERE, 2, 1.0)
    assert counted.rate(HERE, 1.0) == 0


@pytest.mark.parametrize("busy", [False, True])
def test_a_dialler_stays_when_its_targets_forwarder_is_busy(busy: bool) -> None:
    relay = BridgedRelay(RelayServerPolicy(rate_limits=False), moves=True)
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice, forwarder=0)
    relay.attach(bob, forwarder=1)
    for second in (1, 2):
        total = 2 * BUSY * second if busy else second
        relay.relay_server.handle(m.ForwarderCounters(THERE, 1, 0, total, {}), relay.now + second - 2)
    relay.circuit(alice, bob)
    assert relay.moved == (not busy) and bool(relay.bridges) == busy
