"""What a server dials for whom, what it costs them, and what it says of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from actors.autonat_server import (
    AT_ONCE_OF_ONE,
    DATA_AT_ONCE,
    DATA_TIME,
    LEAST_CHUNK,
    MAX_ANSWERED,
    MAX_JOBS,
    MAX_JOBS_OF_HOUSEHOLD,
    MAX_JOBS_OF_PEER,
    MAX_PAUSE,
    TARGET_AT_ONCE,
    AutonatServer,
)
from protocol import autonat
from protocol.autonat import DialDataRequest, DialDataResponse, DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

NOW = 1_800_000_000.0
FORWARDER = "forwarder/0"
HERE, SEEN, OTHER, HOME = "8.8.8.8", "20.1.1.1", "40.1.1.1", "192.168.1.5"
NONCE = 77
REJECTED = DialResponse(ResponseStatus.REQUEST_REJECTED)
REFUSED = DialResponse(ResponseStatus.DIAL_REFUSED)


class Desk:
    """A server, and what it said last."""

    def __init__(self, *own: str, private: bool = False) -> None:
        self.drawn = 0
        self.counts: Counter[str] = Counter()
        self.server = AutonatServer("reachability", self.random, self.counts, private=private)
        self.server.own = [multiaddr(one) for one in own or (HERE,)]
        self.now = NOW

    def random(self, size: int) -> bytes:
        self.drawn += 1
        return seeded(f"{self.drawn}")[:size]

    def say(self, message: Any, stream: int = 1, peer: bytes = b"peer", ip: str = SEEN) -> list[Any]:
        payload = message if isinstance(message, bytes) else autonat.encode(message)
        told = StreamMessage(FORWARDER, stream, peer, ip, autonat.DIAL_REQUEST, payload)
        self.server.asked(told, self.now)
        return self.taken()

    def ask(self, *addresses: str, **more: Any) -> list[Any]:
        return self.say(DialRequest(tuple(multiaddr(one) for one in addresses), NONCE), **more)

    def taken(self) -> list[Any]:
        """Of each send: what is answered, or the message."""
        told = []
        for send in self.server.sends:
            assert send.receiver == FORWARDER
            answered = isinstance(send.message, StreamAnswer) and send.message.payload is not None
            told.append(autonat.decode(send.message.payload) if answered else send.message)
        self.server.sends.clear()
        return told

    def feed(self, owed: int, stream: int = 1) -> list[Any]:
        told: list[Any] = []
        for sent in range(0, owed, autonat.MAX_CHUNK):
            told = self.say(DialDataResponse(bytes(min(autonat.MAX_CHUNK, owed - sent))), stream)
        return told


def wanted(told: list[Any]) -> StreamWanted:
    (one,) = told
    assert isinstance(one, StreamWanted)
    return one


def test_exactly_the_first_address_that_may_be_dialled_is_dialled_afresh() -> None:
    desk = Desk()
    dial = wanted(desk.ask(HOME, SEEN, OTHER))
    assert dial.addresses == (multiaddr(SEEN),)
    assert (dial.peer, dial.fresh, dial.protocol, dial.finish) == (b"peer", True, autonat.DIAL_BACK, True)
    assert dial.payload is not None and autonat.decode_dial_back(dial.payload) == NONCE
    receipt = StreamMessage(FORWARDER, 9, b"peer", SEEN, autonat.DIAL_BACK, b"", dial.request_id)
    desk.server.received(receipt)
    over, answer = desk.taken()
    assert over == StreamAnswer(9, None, reset=True, release=True)
    assert answer == DialResponse(ResponseStatus.OK, 1, DialStatus.OK)
    assert len(desk.server) == 0 and desk.server.next_deadline() is None


@pytest.mark.parametrize(
    ("stream", "code", "answer"),
    [
        (0, "dial", DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_ERROR)),
        (0, "timeout", DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_ERROR)),
        (0, "peer", DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_ERROR)),
        (0, "protocol", DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_BACK_ERROR)),
        (0, "limit", DialResponse(ResponseStatus.INTERNAL_ERROR)),
        (0, "gone", DialResponse(ResponseStatus.INTERNAL_ERROR)),
        (9, "reset", DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_BACK_ERROR)),
        (9, "finished", DialResponse(ResponseStatus.OK, 0, DialStatus.OK)),
    ],
)
def test_what_became_of_the_dial_is_told(stream: int, code: str, answer: DialResponse) -> None:
    desk = Desk()
    dial = wanted(desk.ask(SEEN))
    desk.server.dial_over(StreamOver(FORWARDER, stream, b"peer", autonat.DIAL_BACK, code, "", dial.request_id))
    assert desk.taken() == [answer]


def test_a_third_party_is_dialled_for_data_only_and_after_a_pause() -> None:
    desk = Desk()
    (request,) = desk.ask(OTHER)
    assert isinstance(request, DialDataRequest) and request.index == 0
    assert autonat.LEAST_DATA <= request.size <= autonat.MOST_DATA
    assert desk.feed(request.size) == []
    due = desk.server.next_deadline()
    assert due is not None and NOW <= due <= NOW + MAX_PAUSE
    desk.server.handle_deadline(due)
    assert wanted(desk.taken()).addresses == (multiaddr(OTHER),)


@pytest.mark.parametrize(
    "message",
    [
        DialDataResponse(bytes(LEAST_CHUNK - 1)),
        DialRequest((multiaddr(SEEN),), 1),
        DialResponse(ResponseStatus.OK),
        b"\xff",
        b"",
    ],
    ids=["crumbs", "another request", "a response", "no protobuf", "nothing"],
)
def test_who_sends_something_else_instead_of_data_is_let_go(message: Any) -> None:
    desk = Desk()
    desk.ask(OTHER)
    assert desk.say(message) == [StreamAnswer(1, None, reset=True)]
    assert len(desk.server) == 0 and desk.server.next_deadline() is None


def test_who_is_slow_with_the_data_is_let_go() -> None:
    desk = Desk()
    desk.ask(OTHER)
    assert desk.server.next_deadline() == NOW + DATA_TIME
    desk.server.handle_deadline(NOW + DATA_TIME)
    assert desk.taken() == [StreamAnswer(1, None, reset=True)]
    assert len(desk.server) == 0


@pytest.mark.parametrize(
    ("own", "seen", "asked"),
    [
        (HERE, SEEN, HOME),
        (HERE, SEEN, "127.0.0.1"),
        (HERE, SEEN, "224.0.0.1"),
        (HERE, SEEN, HERE),
        (HERE, "2001:4860::1", "2001:4860::1"),
        ("2001:4860::8", SEEN, SEEN),
    ],
    ids=["private", "loopback", "multicast", "ourselves", "IPv6 without", "IPv4 without"],
)
def test_what_may_not_or_can_not_be_dialled_is_refused(own: str, seen: str, asked: str) -> None:
    assert Desk(own).ask(asked, ip=seen) == [REFUSED]


def test_a_request_of_nothing_that_is_understood_is_refused() -> None:
    desk = Desk()
    assert desk.say(DialRequest((), 1)) == [REFUSED]
    assert desk.say(DialRequest((b"", b"\x04", b"\xff" * 40), 1), stream=2) == [REFUSED]


def test_in_a_private_network_private_addresses_are_dialled() -> None:
    assert wanted(Desk("127.0.0.1", private=True).ask("127.0.0.1", ip="127.0.0.1"))
    assert wanted(Desk(private=True).ask(HOME, ip="::ffff:" + HOME))


def test_a_stream_carries_one_request() -> None:
    desk = Desk()
    assert desk.ask(HOME) == [REFUSED]
    assert desk.ask(SEEN) == [StreamAnswer(1, None, reset=True)]
    assert wanted(desk.ask(SEEN, stream=2))
    desk.server.asker_gone((FORWARDER, 2))
    assert len(desk.server) == 0


def test_a_peer_and_a_household_have_few_requests_at_a_time_and_all_have_some() -> None:
    desk = Desk()
    for stream in range(MAX_JOBS_OF_PEER):
        assert wanted(desk.ask(SEEN, stream=stream))
    assert desk.ask(SEEN, stream=90) == [REJECTED]
    for stream in range(MAX_JOBS_OF_PEER, MAX_JOBS_OF_HOUSEHOLD):
        assert wanted(desk.ask(SEEN, stream=stream, peer=b"%d" % stream))
    assert desk.ask(SEEN, stream=91, peer=b"another") == [REJECTED]
    for stream in range(MAX_JOBS_OF_HOUSEHOLD, MAX_JOBS):
        ip = f"20.2.2.{stream}"
        assert wanted(desk.ask(ip, stream=stream, peer=b"%d" % stream, ip=ip))
    assert desk.ask("20.3.3.3", stream=92, peer=b"late", ip="20.3.3.3") == [REJECTED]
    desk.server.forwarder_lost(FORWARDER)
    assert len(desk.server) == 0
    assert wanted(desk.ask("20.3.3.3", stream=93, peer=b"late", ip="20.3.3.3"))


def test_a_household_with_many_peer_ids_keeps_to_its_rate() -> None:
    desk = Desk()
    answers = [desk.ask(HOME, stream=stream, peer=b"%d" % stream)[0] for stream in range(40)]
    assert answers.count(REFUSED) == AT_ONCE_OF_ONE
    assert answers.count(REJECTED) == 40 - AT_ONCE_OF_ONE
    assert desk.ask(HOME, stream=99, ip="20.9.9.9") == [REFUSED]


def test_one_victim_is_dialled_rarely_whoever_asks() -> None:
    desk = Desk()
    answers = [desk.ask(OTHER, stream=at, peer=b"%d" % at, ip=f"20.2.2.{at}")[0] for at in range(10)]
    assert sum(isinstance(one, DialDataRequest) for one in answers) == TARGET_AT_ONCE
    desk.now += 1
    more = [desk.ask(f"50.1.1.{at}", stream=at, peer=b"%d" % at, ip=f"20.2.2.{at}")[0] for at in range(20, 40)]
    assert sum(isinstance(one, DialDataRequest) for one in more) <= DATA_AT_ONCE - TARGET_AT_ONCE + 1


def test_streams_that_their_peers_do_not_end_are_bounded() -> None:
    desk = Desk()
    resets = 0
    for stream in range(MAX_ANSWERED + 5):
        told = desk.ask(HOME, stream=stream, peer=b"%d" % stream, ip=f"20.{stream // 250}.{stream % 250}.1")
        resets += sum(isinstance(one, StreamAnswer) and one.reset for one in told)
    assert resets == 5


def test_an_asker_that_leaves_while_it_is_dialled_is_told_nothing() -> None:
    desk = Desk()
    dial = wanted(desk.ask(SEEN))
    desk.server.asker_gone((FORWARDER, 1))
    desk.server.dial_over(StreamOver(FORWARDER, 0, b"peer", autonat.DIAL_BACK, "dial", "", dial.request_id))
    assert desk.taken() == []


def test_an_observed_address_that_is_none_is_like_no_other() -> None:
    assert isinstance(Desk().ask(SEEN, ip="a circuit")[0], DialDataRequest)
