"""Negotiating what a stream is for."""

from __future__ import annotations

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.machine import MAX_TRAILING
from protocol.multistream import (
    HEADER,
    MAX_LINE,
    MAX_PROPOSALS,
    Dialer,
    Listener,
    Negotiated,
    ProtocolsRefused,
    encode_line,
)

HEADER_LINE = encode_line(HEADER)


def said(*lines: str) -> bytes:
    return b"".join(map(encode_line, lines))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_first_proposal_that_both_speak(size: int) -> None:
    dialer, listener = Dialer(("/a", "/b", "/c")), Listener({"/b", "/c"})
    for _ in range(6):
        for source, target in ((dialer, listener), (listener, dialer)):
            data = source.data_to_send()
            for start in range(0, len(data), size):
                target.receive_data(data[start : start + size])
    assert dialer.next_event() == listener.next_event() == Negotiated("/b")


def test_what_is_on_the_wire() -> None:
    assert HEADER_LINE == b"\x13/multistream/1.0.0\n"
    dialer, listener = Dialer(("/a",)), Listener(("/a",))
    data = dialer.data_to_send()
    assert data == HEADER_LINE + b"\x03/a\n"
    listener.receive_data(data)
    assert listener.data_to_send() == HEADER_LINE + b"\x03/a\n"


def test_bytes_behind_the_last_line_are_kept_up_to_a_bound() -> None:
    listener = Listener(("/a",))
    listener.receive_data(said(HEADER, "/a") + b"early ")
    assert listener.next_event() == Negotiated("/a")
    listener.receive_data(b"and more")
    assert listener.trailing_data() == b"early and more" and listener.trailing_data() == b""
    listener.receive_data(bytes(MAX_TRAILING))
    listener.receive_data(b"!")
    with pytest.raises(RemoteProtocolError):
        listener.next_event()


def test_all_proposals_refused() -> None:
    dialer = Dialer(("/a", "/b"))
    dialer.receive_data(said(HEADER, "na", "na"))
    assert dialer.next_event() == ProtocolsRefused(("/a", "/b"))


def test_ls_tells_what_is_spoken() -> None:
    listener = Listener(("/a", "/b"))
    listener.receive_data(said(HEADER, "ls"))
    assert listener.data_to_send() == HEADER_LINE + b"\x09\x03/a\n\x03/b\n\n"
    listener.receive_data(said("/b"))
    assert listener.next_event() == Negotiated("/b")


def test_patience_ends() -> None:
    listener = Listener(("/a",))
    listener.receive_data(said(HEADER, *["/x"] * MAX_PROPOSALS))
    assert listener.next_event() is None and listener.data_to_send().count(b"\x03na\n") == MAX_PROPOSALS
    listener.receive_data(said("/a"))
    with pytest.raises(RemoteProtocolError):
        listener.next_event()


@pytest.mark.parametrize(
    "data",
    [
        said("/multistream/2.0.0"),
        said(HEADER) + b"\x02/a",
        said(HEADER) + b"\x00",
        said(HEADER) + b"\x03\xff\xff\n",
        b"\x81\x08",
        said(HEADER) + b"\xff\xff\x01",
    ],
    ids=["version", "no newline", "empty", "no text", "oversized header", "oversized line"],
)
def test_lines_that_are_none(data: bytes) -> None:
    for machine in (Listener(("/a",)), Dialer(("/a",))):
        machine.receive_data(data)
        with pytest.raises(RemoteProtocolError) as first:
            machine.next_event()
        machine.receive_data(said(HEADER, "/a"))
        with pytest.raises(RemoteProtocolError) as second:
            machine.next_event()
        assert str(first.value) == str(second.value)
    assert MAX_LINE == 1024


def test_an_answer_to_another_question() -> None:
    dialer = Dialer(("/a",))
    dialer.receive_data(said(HEADER, "/b"))
    with pytest.raises(RemoteProtocolError, match="/b"):
        dialer.next_event()


def test_the_end_in_the_middle() -> None:
    listener = Listener(("/a",))
    listener.receive_data(HEADER_LINE)
    listener.receive_eof()
    with pytest.raises(RemoteProtocolError) as raised:
        listener.next_event()
    assert raised.value.code == "closed"


def test_there_must_be_something_to_propose() -> None:
    with pytest.raises(LocalProtocolError):
        Dialer(())
