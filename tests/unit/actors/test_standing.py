"""Whom a relay that is full serves first."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from actors.relay_server import RelayServer, RelayServerPolicy
from actors.shares import CEILING, FLOOR, OPERATOR, PUBLIC, TRUSTED
from actors.standing import MAX_OPERATORS, Standing
from protocol import messages
from protocol.discovery_messages import ClassTold
from protocol.identity import Identity
from tests.support.peers import seeded

NOW = 1_800_000_000.0
DAY = 86_400.0


def peer(name: str) -> bytes:
    return Identity.from_seed(seeded(name)).peer_id.bytes


FRIEND, HELPER = peer("friend"), peer("helper")


def server(reservations: int = 100, **more: object) -> RelayServer:
    policy = RelayServerPolicy(
        max_reservations=reservations, max_reservations_per_ip=10_000, max_reservations_per_group=10_000,
        max_circuits_per_peer=10_000, max_circuits_per_ip=10_000, max_circuits_per_pair=10_000, rate_limits=False,
        **more,
    )  # type: ignore[arg-type]  # fmt: skip
    relay = RelayServer(policy, forwarders=("f",))
    relay.handle_deadline(NOW)
    relay.handle(messages.ForwarderReport("f", 1, (), ()), NOW)
    return relay


def reserve(relay: RelayServer, who: bytes, connection: int, now: float = NOW) -> str:
    """ "" when it was granted, else the setting that forbade it."""
    (send,) = relay.handle(messages.ReserveAsked(connection, "f", connection, who, "192.0.2.1"), now)
    return "" if isinstance(send.message, messages.ReserveGranted) else send.message.reason.rpartition("(")[2][:-1]


def test_without_anybody_special_all_is_the_publics() -> None:
    relay = server(100)
    assert [reserve(relay, peer(f"p{n}"), n) for n in range(100)] == [""] * 100
    assert reserve(relay, peer("more"), 101) == "max_reservations"


def test_friends_find_room_when_the_public_does_not() -> None:
    relay = server(100, trusted_peers=(FRIEND,))
    told = [reserve(relay, peer(f"p{n}"), n) for n in range(100)]
    assert told.count("") == 98 and set(told[98:]) == {"reserved_slots"}
    assert reserve(relay, FRIEND, 200) == ""
    assert reserve(relay, peer("p1"), 1) == "", "a refresh takes no slot"
    assert relay.refused_here["reserved_slots"] == 2


def test_an_operator_is_one_for_a_time() -> None:
    relay = server(100)
    relay.handle(ClassTold(HELPER, NOW + DAY), NOW)
    assert [reserve(relay, peer(f"p{n}"), n) for n in range(96)][94:] == ["", "reserved_slots"]
    assert reserve(relay, HELPER, 200) == ""
    relay.handle(messages.ReservationEnded("f", 200, HELPER), NOW)
    assert reserve(relay, HELPER, 201, NOW + DAY + 1) == "", "of the public by now, but all others have run out"
    standing = Standing((), 100, 100)
    standing.told(ClassTold(HELPER, NOW + DAY), NOW)
    assert (standing.class_of(HELPER, NOW), standing.class_of(HELPER, NOW + DAY)) == (OPERATOR, PUBLIC)
    standing.told(ClassTold(HELPER, 0.0), NOW)
    assert standing.class_of(HELPER, NOW) == PUBLIC


def test_what_a_peer_holds_counts_for_its_class_at_once() -> None:
    standing = Standing((), 100, 100)
    standing.peer_reserved(HELPER, NOW)
    standing.peer_reserved(HELPER, NOW)
    assert (standing.reservations.used(PUBLIC), standing.reservations.used(OPERATOR)) == (1, 0)
    standing.told(ClassTold(HELPER, NOW + DAY), NOW)
    assert (standing.reservations.used(PUBLIC), standing.reservations.used(OPERATOR)) == (0, 1)
    standing.peer_left(HELPER)
    standing.peer_left(HELPER)
    assert standing.reservations.total == 0


def test_a_circuit_has_the_better_class_of_its_ends() -> None:
    standing = Standing((FRIEND,), 100, 100)
    standing.circuit_began(1, peer("a"), FRIEND, NOW)
    standing.circuit_began(2, FRIEND, peer("a"), NOW)
    standing.circuit_began(3, peer("a"), peer("b"), NOW)
    assert (standing.circuits.used(TRUSTED), standing.circuits.used(PUBLIC)) == (2, 1)
    for number in (1, 2, 3, 3):
        standing.circuit_ended(number)
    assert standing.circuits.total == 0


def test_operators_are_bounded() -> None:
    standing = Standing((), 100, 100)
    for number in range(MAX_OPERATORS + 10):
        standing.told(ClassTold(b"%d" % number, NOW + 1 + number), NOW)
    assert len(standing._operators) == MAX_OPERATORS
    assert standing.class_of(b"0", NOW) == PUBLIC and standing.class_of(b"%d" % MAX_OPERATORS, NOW) == OPERATOR


@pytest.mark.parametrize("seed", range(2))
def test_helpers_are_served_first_and_nobody_is_starved(seed: int) -> None:
    """A relay of 200 slots; the public wants five times as many, operators as many as there are.  All by RelayServer's
    own messages."""
    rng = random.Random(seed)
    relay, now = server(200, reservation_duration=1e9), NOW
    helpers = {peer(f"helper {n}") for n in range(300)}
    for helper in helpers:
        relay.handle(ClassTold(helper, NOW + 10 * DAY), NOW)
    waiting = {OPERATOR: sorted(helpers), PUBLIC: [peer(f"public {n}") for n in range(1500)]}
    held: dict[int, tuple[bytes, str, float]] = {}
    asked, refused, slots = Counter[str](), Counter[str](), Counter[str]()
    for step in range(20_000):
        now += rng.expovariate(2.0)
        for connection in [number for number, (_, _, until) in held.items() if until <= now]:
            who, name, _ = held.pop(connection)
            relay.handle(messages.ReservationEnded("f", connection, who), now)
            waiting[name].append(who)
        # Operators want about half of the slots, the public five times all of them.
        name = OPERATOR if rng.random() < 0.09 else PUBLIC
        who = waiting[name].pop(rng.randrange(len(waiting[name])))
        granted = reserve(relay, who, step + 1, now) == ""
        if granted:
            held[step + 1] = who, name, now + rng.expovariate(1 / 600)
        else:
            waiting[name].append(who)
        if step > 8000:
            asked[name] += 1
            refused[name] += not granted
            slots.update(one for _, one, _ in held.values())
    share = {name: slots[name] / asked[name] for name in (OPERATOR, PUBLIC)}
    rate = {name: refused[name] / asked[name] for name in (OPERATOR, PUBLIC)}
    assert share[OPERATOR] >= 3 * share[PUBLIC], "slots for each that is asked for"
    assert rate[OPERATOR] <= rate[PUBLIC] / 10
    assert slots[PUBLIC] / sum(slots.values()) >= FLOOR[PUBLIC]
    assert CEILING[OPERATOR] + FLOOR[PUBLIC] < 1


def test_who_has_an_operators_pass_shares_its_part() -> None:
    """Ten devices of one operator hold no more circuits as operators than another operator alone."""
    standing = Standing((), 100, 100)
    one, other = peer("one"), peer("other")
    devices = [peer(f"device {number}") for number in range(10)]
    standing.told(ClassTold(other, NOW + 100), NOW)
    for device in devices:
        standing.told(ClassTold(device, NOW + 100, 1.0, one), NOW)
    held = {one: 0, other: 0}
    for number in range(400):
        operator, asking = (other, other) if number % 2 else (one, devices[number // 2 % 10])
        standing.circuit_began(number, asking, peer("public"), NOW)
        held[operator] += standing.class_of_circuit(number) == OPERATOR
    assert held[one] == held[other] > 10


def test_a_reservation_is_of_another_class_when_it_is_asked_for_again() -> None:
    relay = server(100)
    who = peer("device")
    relay.handle(ClassTold(who, NOW + 100, 1.0, peer("operator")), NOW)
    reserve(relay, who, 1)
    assert relay._standing._reserved == {who: OPERATOR}
    reserve(relay, who, 1, NOW + 200)
    assert relay._standing._reserved == {who: PUBLIC}
