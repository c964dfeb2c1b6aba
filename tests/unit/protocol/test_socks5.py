"""SOCKS 5: a request in any cuts, what is refused and how; bytes as RFC 1928 gives them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.socks5 import ConnectRequested, Reply, SocksServer

GREETING = bytes((5, 2, 0, 2))
REQUEST = bytes((5, 1, 0, 3, 11)) + b"abc.descord" + (80).to_bytes(2, "big")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_request_in_any_cuts_and_what_comes_behind_it(size: int) -> None:
    machine = SocksServer()
    data, events = GREETING + REQUEST + b"GET /", []
    for start in range(0, len(data), size):
        machine.receive_data(data[start : start + size])
        event = machine.next_event()
        if event is not None:
            events.append(event)
    assert events == [ConnectRequested("abc.descord", 80)]
    machine.reply(Reply.SUCCEEDED)
    assert machine.data_to_send() == bytes((5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    assert machine.trailing_data() == b"GET /"


@pytest.mark.parametrize(
    ("data", "said", "code"),
    [
        (b"\x04\x01\x00\x50", b"", "version"),
        (b"GET / HTTP/1.1", b"", "version"),
        (bytes((5, 1, 2)), bytes((5, 0xFF)), "method"),
        (GREETING + bytes((4, 1, 0, 3)), bytes((5, 0)), "version"),
        (GREETING + bytes((5, 2, 0, 3)), bytes((5, 0, 5, 7, 0, 1)) + bytes(6), "command"),
        (GREETING + bytes((5, 1, 0, 1, 127, 0, 0, 1, 0, 80)), bytes((5, 0, 5, 8, 0, 1)) + bytes(6), "address"),
        (GREETING + bytes((5, 1, 0, 3, 0, 0, 80)), bytes((5, 0, 5, 4, 0, 1)) + bytes(6), "name"),
        (GREETING + bytes((5, 1, 0, 3, 2, 0xC3, 0xA9, 0, 80)), bytes((5, 0, 5, 4, 0, 1)) + bytes(6), "name"),
    ],
)
def test_what_is_refused_is_answered_and_the_machine_stays_dead(data: bytes, said: bytes, code: str) -> None:
    machine = SocksServer()
    machine.receive_data(data)
    with pytest.raises(RemoteProtocolError) as raised:
        machine.next_event()
    assert raised.value.code == code and machine.data_to_send() == said
    machine.receive_data(GREETING + REQUEST)
    with pytest.raises(RemoteProtocolError):
        machine.next_event()


def test_nothing_is_answered_that_was_not_asked() -> None:
    with pytest.raises(LocalProtocolError):
        SocksServer().reply(Reply.SUCCEEDED)


@given(st.binary(max_size=600), st.integers(1, 50))
def test_any_bytes_are_a_request_or_an_error(data: bytes, size: int) -> None:
    machine = SocksServer()
    try:
        for start in range(0, len(data), size):
            machine.receive_data(data[start : start + size])
            machine.next_event()
    except RemoteProtocolError:
        pass
