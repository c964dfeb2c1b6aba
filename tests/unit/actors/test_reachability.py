"""The actor around AutoNAT's parts: whom it tells, of what, and what it takes for an address of ours."""

from __future__ import annotations

from typing import Any

from actors.actor import Send
from actors.reachability import MAX_CANDIDATES, MAX_SEEN, SEEN_LIFE, Reachability, ReachabilityPolicy
from protocol import autonat
from protocol.autonat import DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.discovery_messages import DhtModeChanged, ReachabilityChanged, RelayFound, RelaysSearched, RelaysWanted
from protocol.messages import ActorDown, ActorUp, AddressesChanged
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

NOW = 1_800_000_000.0
FORWARDER = "forwarder/0"
HERE, THERE, HOME = (multiaddr(ip) for ip in ("20.1.1.1", "21.1.1.1", "192.168.1.5"))


class Desk:
    """The actor among servers that the test plays.  ``reached``: the addresses at which they reach it."""

    def __init__(self, *own: bytes, servers: int = 3, **policy: Any) -> None:
        self.now = NOW
        self.drawn = 0
        self.reached: set[bytes] = set(own)
        self.asked: list[bytes] = []
        self.said: list[Send] = []
        self.core = Reachability(
            "reachability", b"own", ["issuer"], "dht", ["dht"], self.random, ReachabilityPolicy(**policy)
        )
        self.say(ForwarderReady(FORWARDER, own))
        for number in range(servers):
            self.say(RelayFound("dht", b"%d" % number, (multiaddr(f"{30 + number}.1.1.1"),)))

    def random(self, size: int) -> bytes:
        self.drawn += 1
        return seeded(f"{self.drawn}")[:size]

    def say(self, message: Any) -> list[Any]:
        """What it says to others than forwarders."""
        return self.take(self.core.handle(message, self.now))

    def run(self, seconds: float) -> list[Any]:
        end, told = self.now + seconds, []
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            told += self.take(self.core.handle_deadline(self.now))
        self.now = end
        return told

    def take(self, sends: list[Send]) -> list[Any]:
        told = [send.message for send in sends if send.receiver != FORWARDER]
        self.said += sends
        for send in sends:
            if isinstance(send.message, StreamWanted) and send.message.protocol == autonat.DIAL_REQUEST:
                told += self.answer(send.message)
        return told

    def answer(self, wanted: StreamWanted) -> list[Any]:
        assert wanted.payload is not None
        request = autonat.decode(wanted.payload)
        assert isinstance(request, DialRequest)
        (address,) = request.addresses
        self.asked.append(address)
        told, dialled = [], DialStatus.DIAL_ERROR
        ip = f"{30 + int(wanted.peer)}.1.1.1"
        if address in self.reached:
            dialled = DialStatus.OK
            nonce = autonat.encode_dial_back(request.nonce)
            told += self.say(StreamMessage(FORWARDER, 8, wanted.peer, ip, autonat.DIAL_BACK, nonce, local=address))
        payload = autonat.encode(DialResponse(ResponseStatus.OK, 0, dialled))
        told += self.say(
            StreamMessage(FORWARDER, 9, wanted.peer, ip, autonat.DIAL_REQUEST, payload, wanted.request_id, dialled=True)
        )
        return told


def test_it_serves_both_protocols_at_each_forwarder() -> None:
    desk = Desk(HERE)
    desk.core.handle(ForwarderReady("forwarder/1", (HERE,)), NOW)
    both = (autonat.DIAL_REQUEST, autonat.DIAL_BACK)
    assert desk.said[0] == Send(FORWARDER, ProtocolsServed("reachability", both))


def test_confirmed_addresses_are_told_to_those_who_want_them() -> None:
    desk = Desk(HERE, THERE, HOME)
    desk.reached = {HERE}
    desk.run(60.0)
    told = [send for send in desk.said if send.receiver in ("issuer", "dht")]
    assert told == [Send("issuer", ReachabilityChanged((HERE,))), Send("dht", DhtModeChanged(True))]
    assert HOME not in desk.asked and THERE in desk.asked
    assert desk.core.counts["asked: reached"] == 3


def test_who_rises_again_is_told_again() -> None:
    desk = Desk(HERE)
    assert desk.say(ActorUp("issuer")) == desk.say(ActorUp("dht")) == []
    desk.run(60.0)
    assert desk.say(ActorUp("issuer")) == [ReachabilityChanged((HERE,))]
    assert desk.say(ActorUp("dht")) == [DhtModeChanged(True)]
    assert desk.say(ActorUp("directory")) == []


def test_an_address_that_is_no_longer_ours_is_withdrawn_at_once_and_a_new_one_is_asked_about() -> None:
    desk = Desk(HERE)
    desk.run(60.0)
    desk.reached = {THERE}
    assert desk.say(AddressesChanged((THERE,))) == [ReachabilityChanged(())]
    assert desk.run(60.0) == [ReachabilityChanged((THERE,))]


def test_a_forwarder_that_falls_changes_nothing_that_is_known() -> None:
    desk = Desk(HERE)
    desk.run(60.0)
    assert desk.say(ActorDown(FORWARDER)) == []
    assert desk.run(10_000.0) == []
    assert desk.core.addresses == (HERE,)
    desk.core.handle(ForwarderReady("forwarder/1", (HERE,)), desk.now)
    assert desk.core.addresses == (HERE,)


def test_where_peers_reached_us_may_be_an_address_of_ours() -> None:
    desk = Desk(HOME)
    desk.reached = {HERE}
    request = autonat.encode(DialRequest((), 1))
    for dialled, local in ((True, THERE), (False, HOME), (False, HERE)):
        desk.say(
            StreamMessage(FORWARDER, 1, b"p", "30.1.1.1", autonat.DIAL_REQUEST, request, local=local, dialled=dialled)
        )
        desk.say(StreamOver(FORWARDER, 1, b"p", autonat.DIAL_REQUEST, "finished"))
    desk.run(60.0)
    assert set(desk.asked) == {HERE} and desk.core.addresses == (HERE,)
    desk.run(SEEN_LIFE + 4000)
    assert desk.core.addresses == ()


def test_candidates_are_bounded() -> None:
    desk = Desk(*(multiaddr(f"20.1.1.{number}") for number in range(20)))
    for number in range(20):
        local = multiaddr(f"22.1.1.{number}")
        desk.say(StreamMessage(FORWARDER, number, b"p", "30.1.1.1", autonat.DIAL_REQUEST, b"", local=local))
    desk.run(3600.0)
    assert len(set(desk.asked)) == MAX_CANDIDATES > MAX_SEEN


def test_what_is_sure_is_asked_again_rarely_and_what_is_not_soon() -> None:
    desk = Desk(HERE, THERE)
    desk.reached = {HERE}
    desk.run(6 * 3600.0)
    assert 3 * 6 * 2 * 0.8 <= desk.asked.count(HERE) <= 3 * 6 * 2 * 1.3 + 3
    first_hour = desk.asked[: desk.asked.index(HERE, 6)].count(THERE)
    assert first_hour >= 9, "three rounds within half an hour"
    assert desk.asked.count(THERE) <= desk.asked.count(HERE) + 3 * 7


def test_no_more_is_searched_for_than_is_needed() -> None:
    desk = Desk(HERE)
    desk.run(3600.0)
    assert not any(isinstance(send.message, RelaysWanted) for send in desk.said)
    lonely = Desk(HERE, servers=0)
    lonely.run(3600.0)
    searches = [send for send in lonely.said if isinstance(send.message, RelaysWanted)]
    assert 2 <= len(searches) <= 4
    assert lonely.say(RelaysSearched("dht", 1)) == []


def test_strangers_words_about_nothing_are_answered_with_a_reset() -> None:
    desk = Desk(HERE)
    for kind, request in ((autonat.DIAL_BACK, 0), (autonat.DIAL_BACK, 99), (autonat.DIAL_REQUEST, 99)):
        desk.said.clear()
        desk.say(StreamMessage(FORWARDER, 4, b"p", "30.1.1.1", kind, b"\x09" + bytes(8), request))
        (answer,) = [send.message for send in desk.said]
        assert isinstance(answer, StreamAnswer) and answer.reset
    assert desk.core.addresses == ()
