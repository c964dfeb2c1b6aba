"""What is believed of a server that was asked whether it reaches us, and what it costs to ask."""

from __future__ import annotations

from typing import Any

import pytest

from actors.autonat_asks import NONCE_TIME, TIMEOUT, Asked, Asks
from protocol import autonat
from protocol.autonat import DialDataRequest, DialDataResponse, DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

NOW = 1_800_000_000.0
FORWARDER = "forwarder/0"
HERE, ALSO, HOME, NAT = (multiaddr(ip) for ip in ("20.1.1.1", "20.1.1.2", "192.168.1.5", "21.1.1.1"))
OK = DialResponse(ResponseStatus.OK, 0, DialStatus.OK)
FAILED = DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_ERROR)
BACK_FAILED = DialResponse(ResponseStatus.OK, 0, DialStatus.DIAL_BACK_ERROR)


class Desk:
    def __init__(self, address: bytes = HERE, own: tuple[bytes, ...] = (HERE, ALSO)) -> None:
        self.asks = Asks("reachability", lambda size: seeded("nonce")[:size], lambda: own)
        self.asks.begin(FORWARDER, b"server", (NAT,), address, NOW)
        (send,) = self.asks.sends
        self.wanted: StreamWanted = send.message
        self.asks.sends.clear()
        assert self.wanted.payload is not None
        request = autonat.decode(self.wanted.payload)
        assert isinstance(request, DialRequest) and request.addresses == (address,)
        self.nonce = request.nonce

    def say(self, message: Any) -> list[StreamAnswer]:
        payload = message if isinstance(message, bytes) else autonat.encode(message)
        number = self.wanted.request_id
        told = StreamMessage(FORWARDER, 5, b"server", "30.1.1.1", autonat.DIAL_REQUEST, payload, number, dialled=True)
        self.asks.message(told, NOW + 1)
        return self.taken()

    def back(self, nonce: int | None = None, local: bytes = HERE, *, dialled: bool = False, stream: int = 6) -> bool:
        payload = autonat.encode_dial_back(self.nonce if nonce is None else nonce)
        told = StreamMessage(
            FORWARDER, stream, b"another", "30.1.1.1", autonat.DIAL_BACK, payload, local=local, dialled=dialled
        )
        return self.asks.dial_back(told)

    def taken(self) -> list[StreamAnswer]:
        told = [send.message for send in self.asks.sends]
        self.asks.sends.clear()
        return told

    @property
    def outcomes(self) -> list[str]:
        return [one.outcome for one in self.asks.done]


def test_a_nonce_that_came_back_is_proof() -> None:
    desk = Desk()
    assert desk.back()
    assert desk.taken() == [StreamAnswer(6, b"", finish=True)]
    assert desk.say(OK) == [StreamAnswer(5, None, reset=True, release=True)]
    assert desk.asks.done == [Asked(b"server", HERE, "reached", "30.1.1.1")]
    assert len(desk.asks) == 0 and desk.asks.next_deadline() is None


@pytest.mark.parametrize("said", [OK, FAILED, BACK_FAILED])
def test_and_it_does_not_matter_what_is_said_of_it(said: DialResponse) -> None:
    desk = Desk()
    desk.back()
    desk.say(said)
    assert desk.outcomes == ["reached"]


@pytest.mark.parametrize("said", [OK, BACK_FAILED])
def test_it_may_come_a_little_later_than_the_word(said: DialResponse) -> None:
    desk = Desk()
    desk.say(said)
    assert desk.outcomes == [] and desk.asks.next_deadline() == NOW + 1 + NONCE_TIME
    desk.back()
    assert desk.outcomes == ["reached"]
    late = Desk()
    late.say(said)
    late.asks.handle_deadline(NOW + 1 + NONCE_TIME)
    assert late.outcomes == ["odd"]
    assert not late.back()


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (FAILED, "failed"),
        (DialResponse(ResponseStatus.DIAL_REFUSED), "refused"),
        (DialResponse(ResponseStatus.REQUEST_REJECTED), "busy"),
        (DialResponse(ResponseStatus.INTERNAL_ERROR), "busy"),
        (DialResponse(ResponseStatus.OK, 1, DialStatus.DIAL_ERROR), "odd"),
        (DialResponse(ResponseStatus.OK), "odd"),
        (DialDataRequest(0, autonat.MOST_DATA + 1), "odd"),
        (DialDataRequest(1, autonat.LEAST_DATA), "odd"),
        (DialDataResponse(b""), "odd"),
        (DialRequest((), 1), "odd"),
        (b"\xff", "odd"),
        (b"", "odd"),
    ],
)
def test_what_a_server_says_is_what_becomes_of_it(said: Any, outcome: str) -> None:
    desk = Desk()
    assert desk.say(said) == [StreamAnswer(5, None, reset=True, release=True)]
    assert desk.outcomes == [outcome]


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, autonat.MOST_DATA])
def test_data_is_sent_in_small_pieces_and_once(size: int) -> None:
    desk = Desk()
    told = desk.say(DialDataRequest(0, size))
    sent = [autonat.decode(one.payload) for one in told if one.payload is not None]
    assert all(isinstance(one, DialDataResponse) for one in sent)
    assert sum(len(one.data) for one in sent if isinstance(one, DialDataResponse)) == size
    assert told and not any(one.reset or one.finish for one in told)
    assert desk.outcomes == []
    desk.say(DialDataRequest(0, size))
    assert desk.outcomes == ["odd"]


@pytest.mark.parametrize(
    ("stream", "code", "outcome"),
    [
        (0, "protocol", "none"),
        (0, "dial", "away"),
        (0, "peer", "away"),
        (0, "timeout", "away"),
        (0, "limit", "ours"),
        (5, "gone", "ours"),
        (5, "reset", "away"),
        (5, "finished", "away"),
        (5, "timeout", "away"),
        (5, "malformed", "odd"),
    ],
)
def test_a_stream_that_ends_without_an_answer(stream: int, code: str, outcome: str) -> None:
    desk = Desk()
    over = StreamOver(FORWARDER, stream, b"server", autonat.DIAL_REQUEST, code, "", desk.wanted.request_id)
    desk.asks.over(over)
    assert desk.outcomes == [outcome]
    desk.asks.over(over)
    assert len(desk.outcomes) == 1


def test_a_nonce_that_is_not_ours_or_came_before_is_refused() -> None:
    desk = Desk()
    assert not desk.back(desk.nonce ^ 1)
    assert desk.taken() == [StreamAnswer(6, None, reset=True)]
    assert desk.back()
    assert not desk.back(stream=7)
    assert desk.asks.dial_back(StreamMessage(FORWARDER, 8, b"", "", autonat.DIAL_BACK, b"\xff")) is False


@pytest.mark.parametrize(
    ("address", "local", "dialled", "believed"),
    [
        (HERE, HERE, False, True),
        (HERE, HERE, True, False),
        (HERE, ALSO, False, False),
        (NAT, HOME, False, True),
        (HERE, HOME, False, True),
        (HERE, multiaddr("2001:4860::1"), False, False),
        (HERE, b"", False, False),
    ],
    ids=["there", "we dialled", "another of ours", "behind NAT", "forwarded", "another IP version", "nowhere"],
)
def test_a_nonce_must_come_where_it_was_to_be_brought(
    address: bytes, local: bytes, dialled: bool, believed: bool
) -> None:
    assert Desk(address, (HERE, ALSO, HOME)).back(local=local, dialled=dialled) is believed


def test_nothing_is_waited_for_without_end() -> None:
    desk = Desk()
    end = desk.asks.next_deadline()
    assert end is not None and end > NOW + TIMEOUT
    desk.asks.handle_deadline(end)
    assert desk.outcomes == ["odd"]


def test_a_forwarder_that_falls_takes_its_questions_along() -> None:
    desk = Desk()
    desk.asks.forwarder_lost("forwarder/1")
    assert desk.outcomes == []
    desk.asks.forwarder_lost(FORWARDER)
    assert desk.outcomes == ["ours"]
    # What is still said on its stream is of no use.
    assert desk.say(OK) == [StreamAnswer(5, None, reset=True, release=True)]
