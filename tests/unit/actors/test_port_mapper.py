"""When a router is asked to pass our port on, and what is told of it."""

from __future__ import annotations

from ipaddress import ip_address

from actors.port_mapper import LEASE, MAX_RETRY, PATIENCE, RETRY, PortMapper
from protocol.addresses import encode_tcp
from protocol.mapping_messages import ExternalAddresses, MappingResult, MappingWanted, PortMapping
from protocol.messages import ActorDown, ActorUp, AddressesChanged

NOW = 1_800_000_000.0


def at(host: str, port: int = 4001) -> bytes:
    return encode_tcp(ip_address(host), port)


HOME = at("192.168.1.5")
OUTER = PortMapping(4001, 4100, "1.2.3.4", LEASE, "PCP")


def asked(mapper: PortMapper, now: float) -> MappingWanted:
    """What the port is to do, when the time has come."""
    assert mapper.next_deadline() is not None and mapper.next_deadline() <= now
    assert mapper.handle_deadline(now) == []
    wanted, mapper.wanted = mapper.wanted, None
    assert wanted is not None
    return wanted


def test_a_mapping_is_asked_for_told_and_renewed() -> None:
    mapper = PortMapper("reachability", (HOME,))
    wanted = asked(mapper, NOW)
    assert wanted == MappingWanted(1, ((4001, 4001),), LEASE)
    (send,) = mapper.handle(MappingResult(1, (OUTER,)), NOW)
    assert (send.receiver, send.message) == ("reachability", ExternalAddresses((at("1.2.3.4", 4100),)))
    assert mapper.next_deadline() == NOW + LEASE / 2 and mapper.problem == ""
    # The same outer port again; and what is the same is not told twice.
    assert asked(mapper, NOW + LEASE / 2).ports == ((4001, 4100),)
    assert mapper.handle(MappingResult(2, (OUTER,)), NOW + LEASE / 2) == []
    (send,) = mapper.handle(ActorUp("reachability"), NOW)
    assert send.message == ExternalAddresses((at("1.2.3.4", 4100),))
    assert mapper.handle(ActorUp("dht"), NOW) == mapper.handle(ActorDown("reachability"), NOW) == []


def test_nobody_is_asked_where_no_router_is_needed() -> None:
    for addresses in ((at("8.8.8.8"), HOME), (at("127.0.0.1"),), (at("2001:db8::1"),), (at("192.168.1.5", 0),), ()):
        mapper = PortMapper("reachability", addresses)
        assert mapper.next_deadline() is None and mapper.handle_deadline(NOW) == [] and mapper.wanted is None


def test_a_refusal_is_asked_about_later_and_later() -> None:
    mapper, now, pauses = PortMapper("reachability", (HOME,)), NOW, []
    for number in range(1, 10):
        asked(mapper, now)
        assert mapper.handle(MappingResult(number, (), "no"), now) == []
        assert mapper.problem == "no"
        due = mapper.next_deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses[0] == RETRY and pauses[-1] == MAX_RETRY and pauses == sorted(pauses)


def test_a_mapping_that_ends_is_taken_back() -> None:
    mapper = PortMapper("reachability", (HOME,))
    asked(mapper, NOW)
    mapper.handle(MappingResult(1, (OUTER,)), NOW)
    asked(mapper, NOW + LEASE)
    (send,) = mapper.handle(MappingResult(2, (), "gone"), NOW + LEASE)
    assert send.message == ExternalAddresses(())


def test_a_router_behind_a_router_is_of_no_use() -> None:
    inner = PortMapping(4001, 4100, "10.0.0.2", LEASE, "UPnP")
    for private, expected in ((False, []), (True, [ExternalAddresses((at("10.0.0.2", 4100),))])):
        mapper = PortMapper("reachability", (HOME,), private=private)
        asked(mapper, NOW)
        assert [send.message for send in mapper.handle(MappingResult(1, (inner,)), NOW)] == expected
        assert bool(mapper.problem) != private


def test_other_addresses_are_another_network() -> None:
    mapper = PortMapper("reachability", (HOME,))
    asked(mapper, NOW)
    mapper.handle(MappingResult(1, (OUTER,)), NOW)
    # The same port elsewhere: asked anew at once.
    assert mapper.handle(AddressesChanged((at("10.0.0.9"),)), NOW + 5) == []
    assert mapper.next_deadline() == NOW + 5
    asked(mapper, NOW + 5)
    # A public one: the mapping is ended, and what comes of the last question is of no interest.
    (send,) = mapper.handle(AddressesChanged((at("8.8.8.8"),)), NOW + 6)
    assert send.message == ExternalAddresses(()) and mapper.wanted is not None and mapper.wanted.ports == ()
    assert mapper.handle(MappingResult(2, (OUTER,)), NOW + 7) == [] and mapper.next_deadline() is None
    # And back again.
    mapper.handle(AddressesChanged((HOME,)), NOW + 8)
    assert asked(mapper, NOW + 8).ports == ((4001, 4100),)


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    mapper = PortMapper("reachability", (HOME,))
    asked(mapper, NOW)
    assert mapper.next_deadline() == NOW + PATIENCE
    assert asked(mapper, NOW + PATIENCE).number == 2
    assert mapper.handle(MappingResult(1, (OUTER,)), NOW + PATIENCE) == [], "too late"
