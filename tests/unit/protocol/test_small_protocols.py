"""Identify, ping and perf."""

from __future__ import annotations

import pytest

from protocol import identify, perf, ping
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.wire import encode_uvarint, frame

MESSAGE = identify.IdentifyMessage(b"key", (b"a1", b"a2"), ("/a", "/b"), b"seen", "v", "agent", b"record")


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_an_identify_message_comes_back(size: int) -> None:
    reader, data = identify.IdentifyReader(), identify.encode_identify(MESSAGE)
    for start in range(0, len(data), size):
        assert reader.next_event() is None
        reader.receive_data(data[start : start + size])
    assert reader.next_event() == identify.IdentifyReceived(MESSAGE)


def test_what_is_sent_is_bounded_and_loses_the_record_first() -> None:
    many = identify.IdentifyMessage(b"k", (bytes(100),) * 60, ("/a",), b"", "", "", bytes(3000))
    data = identify.encode_identify(many)
    assert len(data) <= identify.MAX_SENT
    reader = identify.IdentifyReader()
    reader.receive_data(data)
    event = reader.next_event()
    assert event is not None and event.message.signed_peer_record == b""
    assert 30 < len(event.message.listen_addrs) < 60 and event.message.protocols == ("/a",)


def test_protocols_are_left_out_last() -> None:
    many = tuple(f"/protocol/{number}/1.0.0" for number in range(600))
    data = identify.encode_identify(identify.IdentifyMessage(b"k", (bytes(100),) * 3, many, b"seen", "v", "agent"))
    assert len(data) <= identify.MAX_SENT
    reader = identify.IdentifyReader()
    reader.receive_data(data)
    event = reader.next_event()
    assert event is not None
    message = event.message
    assert message.listen_addrs == () and (message.observed_addr, message.agent_version) == (b"seen", "agent")
    assert 100 < len(message.protocols) < 600 and message.protocols == many[: len(message.protocols)]


def test_a_message_that_nothing_makes_short_enough_is_ours_to_mend() -> None:
    with pytest.raises(LocalProtocolError):
        identify.encode_identify(identify.IdentifyMessage(agent_version="x" * identify.MAX_SENT))


@pytest.mark.parametrize("data", [frame(b"\xff"), encode_uvarint(identify.MAX_RECEIVED + 1)])
def test_identify_messages_that_are_none(data: bytes) -> None:
    reader = identify.IdentifyReader()
    reader.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        reader.next_event()


def test_text_is_text_whatever_was_sent() -> None:
    reader = identify.IdentifyReader()
    reader.receive_data(frame(b"\x1a\x02/\xff" + b"\x2a\x01\xff" + b"\x32\x02\xff\xfe"))
    event = reader.next_event()
    assert event is not None
    message = event.message
    assert (message.protocols, message.protocol_version, message.agent_version) == (
        ("/\ufffd",),
        "\ufffd",
        "\ufffd" * 2,
    )


def test_identify_cut_short() -> None:
    reader = identify.IdentifyReader()
    reader.receive_data(identify.encode_identify(MESSAGE)[:-1])
    reader.receive_eof()
    with pytest.raises(RemoteProtocolError):
        reader.next_event()


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_pings_come_back(size: int) -> None:
    responder, data = ping.PingResponder(), bytes(range(96))
    answered, count = b"", 0
    for start in range(0, len(data), size):
        responder.receive_data(data[start : start + size])
        answered += responder.data_to_send()
        while (event := responder.next_event()) is not None:
            count += event.count
    assert answered == data and count == 3
    responder.receive_eof()
    assert responder.next_event() is None


def test_a_ping_cut_short() -> None:
    responder = ping.PingResponder()
    responder.receive_data(bytes(33))
    responder.receive_eof()
    assert responder.next_event() == ping.Pinged(1)
    with pytest.raises(RemoteProtocolError):
        responder.next_event()


def test_the_asking_side() -> None:
    pinger, payload = ping.Pinger(), bytes(range(32))
    for _ in range(2):
        pinger.ping(payload)
        assert pinger.data_to_send() == payload
        pinger.receive_data(payload[:5])
        assert pinger.next_event() is None
        pinger.receive_data(payload[5:])
        assert pinger.next_event() == ping.Ponged()
    with pytest.raises(LocalProtocolError):
        pinger.ping(b"short")
    pinger.ping(payload)
    with pytest.raises(LocalProtocolError):
        pinger.ping(payload)


@pytest.mark.parametrize("answer", [b"\xff", bytes(range(32)) + b"x", bytes(32)])
def test_another_answer_than_what_was_sent(answer: bytes) -> None:
    pinger = ping.Pinger()
    pinger.ping(bytes(range(32)))
    pinger.receive_data(answer)
    with pytest.raises(RemoteProtocolError):
        pinger.next_event()


def test_perf_counts_without_keeping() -> None:
    client, server = perf.PerfClient(100_000), perf.PerfServer()
    data = client.data_to_send() + bytes(50_000)
    for start in range(0, len(data), 777):
        server.receive_data(data[start : start + 777])
    assert server.next_event() is None
    server.receive_eof()
    assert server.next_event() == perf.UploadFinished(50_000, 100_000)
    while part := server.produce(30_000):
        client.receive_data(part)
    client.receive_eof()
    assert client.next_event() == perf.DownloadFinished(100_000) and server.remaining == 0


def test_perf_that_is_more_or_less_than_was_wanted() -> None:
    more, less, early = perf.PerfClient(1), perf.PerfClient(1), perf.PerfServer()
    more.receive_data(b"xx")
    less.receive_eof()
    early.receive_data(b"short")
    early.receive_eof()
    for machine in (more, less, early):
        with pytest.raises(RemoteProtocolError):
            machine.next_event()
