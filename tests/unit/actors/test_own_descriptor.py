"""When a relay says anew what it is, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.own_descriptor import (
    LEAST_INTERVAL,
    LIFE,
    LOOK_INTERVAL,
    RENEWAL,
    DescriptorIssuer,
    DescriptorPolicy,
)
from protocol.descriptor import RelayDescriptor, Terms, open_descriptor
from protocol.discovery_messages import DescriptorChanged, ReachabilityChanged
from protocol.identity import Identity
from protocol.messages import ActorUp, AddressesChanged, StatusAnswer, StatusAsked
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

NOW = 1_800_000_000.0
IDENTITY = Identity.from_seed(seeded("relay"))
HERE, THERE, HOME = multiaddr("8.8.8.8"), multiaddr("9.9.9.9"), multiaddr("192.168.1.5")
POLICY = DescriptorPolicy("cooperative", 100, 200, Terms(0, 0, 3600), "descord-relay/0.1.0")


class Desk:
    """An issuer, how full the relay is, and what was published."""

    def __init__(self, policy: DescriptorPolicy = POLICY) -> None:
        self.issuer = DescriptorIssuer("issuer", IDENTITY, policy, ["dht", "mdns"], "relay_server")
        self.now = NOW
        self.reservations = self.circuits = 0
        #: What RelayServer says beside that.
        self.told: dict[str, Any] = {}
        self.published: list[RelayDescriptor | None] = []

    def say(self, message: Any) -> None:
        self.take(self.issuer.handle(message, self.now))

    def take(self, sends: list[Any]) -> None:
        changed = [send for send in sends if isinstance(send.message, DescriptorChanged)]
        if changed:
            assert [send.receiver for send in changed] == ["dht", "mdns"]
            envelope = changed[0].message.envelope
            self.published.append(open_descriptor(envelope, self.now) if envelope else None)
        for send in sends:
            if isinstance(send.message, StatusAsked):
                answer = StatusAnswer(send.message.request_id, self.reservations, self.circuits, 0, 0, {}, **self.told)
                self.say(answer)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.issuer.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.take(self.issuer.handle_deadline(self.now))
        self.now = end


def test_nothing_is_said_until_others_reach_it() -> None:
    desk = Desk()
    desk.say(AddressesChanged((HERE,)))
    desk.run(600)
    assert not desk.published
    desk.say(ReachabilityChanged((HERE,)))
    (told,) = desk.published
    assert told is not None and told.peer == IDENTITY.peer_id
    assert (told.addresses, told.mode, told.capacity.reservations) == ((HERE,), "cooperative", 100)
    desk.say(ReachabilityChanged(()))
    desk.say(ReachabilityChanged(()))
    assert desk.published[1:] == [None]


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, (HERE,)), ({"private": True}, (HERE, HOME))],
)
def test_who_is_told_that_it_is_reached_needs_no_proof(more: dict[str, Any], expected: tuple[bytes, ...]) -> None:
    desk = Desk(replace(POLICY, assume_reachable=True, **more))
    desk.say(AddressesChanged((HERE, HOME)))
    desk.run(1)
    (told,) = desk.published
    assert told is not None and told.addresses == expected


def test_one_that_does_not_want_to_be_found_is_not() -> None:
    desk = Desk(replace(POLICY, mode=""))
    desk.say(ReachabilityChanged((HERE,)))
    desk.run(3 * LIFE)
    assert not desk.published


def test_it_is_said_anew_before_it_expires_and_no_oftener() -> None:
    desk = Desk()
    desk.say(ReachabilityChanged((HERE,)))
    desk.run(10 * LIFE)
    assert 10 / RENEWAL - 2 <= len(desk.published) <= 10 / RENEWAL + 1
    sequences = [one.sequence for one in desk.published if one is not None]
    assert sequences == sorted(set(sequences))


def test_other_addresses_are_said_at_once() -> None:
    desk = Desk()
    desk.say(ReachabilityChanged((HERE,)))
    desk.run(1)
    desk.say(ReachabilityChanged((THERE, HERE)))
    desk.say(ReachabilityChanged((HERE, THERE)))
    assert [one.addresses for one in desk.published if one is not None] == [(HERE,), (THERE, HERE)]


def test_how_full_it_is_is_said_when_it_changed_much() -> None:
    desk = Desk()
    desk.say(ReachabilityChanged((HERE,)))
    desk.run(LEAST_INTERVAL)
    desk.reservations = 20
    desk.run(LOOK_INTERVAL)
    assert len(desk.published) == 1
    desk.reservations = 30
    desk.run(LOOK_INTERVAL)
    last = desk.published[-1]
    assert len(desk.published) == 2 and last is not None and last.capacity.load == 0.3
    desk.circuits = 200
    desk.run(LOOK_INTERVAL)
    assert len(desk.published) == 2, "a moment ago it said something else"
    desk.run(LEAST_INTERVAL)
    last = desk.published[-1]
    assert last is not None and (last.capacity.load, last.capacity.circuits) == (1.0, 0)


def test_a_publisher_that_starts_anew_is_told() -> None:
    desk = Desk()
    desk.say(ReachabilityChanged((HERE,)))
    desk.run(1)
    assert [send.receiver for send in desk.issuer.handle(ActorUp("dht"), desk.now)] == ["dht"]
    assert not desk.issuer.handle(ActorUp("relay_server"), desk.now)


def test_a_clock_that_was_set_back_does_not_make_it_stale() -> None:
    desk = Desk()
    desk.say(ReachabilityChanged((HERE,)))
    desk.run(1)
    desk.now -= 500
    desk.say(ReachabilityChanged((THERE,)))
    first, second = desk.published
    assert first is not None and second is not None and second.sequence > first.sequence


def test_it_is_listed_as_what_its_owner_lets_it_be() -> None:
    desk = Desk()
    desk.say(ReachabilityChanged((HERE,)))
    desk.told = {"listed": "cooperative", "max_circuits": 10, "hourly": 1000, "bytes_last_hour": 700}
    desk.run(LOOK_INTERVAL)
    first = desk.published[-1]
    assert first is not None and first.mode == "cooperative"
    assert (first.capacity.circuits, first.capacity.hourly, first.capacity.load) == (10, 300, 0.7)
    desk.told["listed"] = "dedicated"
    desk.run(LOOK_INTERVAL)
    assert desk.published[-1] is not None and desk.published[-1].mode == "dedicated"
    desk.told["listed"] = ""  # it relays for nobody now
    desk.run(LOOK_INTERVAL)
    assert desk.published[-1] is None
    desk.told["listed"] = "cooperative"
    desk.run(LOOK_INTERVAL)
    assert desk.published[-1] is not None and len(desk.published) == 4
