"""Varints and frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.wire import FrameReader, decode_uvarint, encode_uvarint, frame


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001")],
)
def test_the_examples_of_the_specification(number: int, encoded: str) -> None:
    assert encode_uvarint(number).hex() == encoded
    assert decode_uvarint(bytes.fromhex(encoded)) == (number, len(encoded) // 2)


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_what_is_encoded_is_decoded(number: int, before: bytes, behind: bytes) -> None:
    encoded = encode_uvarint(number)
    assert decode_uvarint(before + encoded + behind, len(before)) == (number, len(before) + len(encoded))
    assert all(decode_uvarint(encoded[:end]) is None for end in range(len(encoded)))


@pytest.mark.parametrize("encoded", ["8000", "ff00", "80808000", "ff" * 9, "80" * 9 + "01"])
def test_varints_that_are_too_long(encoded: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode_uvarint(bytes.fromhex(encoded))
    assert raised.value.code == "varint"


@pytest.mark.parametrize("number", [-1, 2**63])
def test_what_is_no_varint(number: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_uvarint(number)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_frames_out_of_any_cuts(size: int) -> None:
    payloads = [b"", b"a", b"b" * 200]
    data = b"".join(map(frame, payloads)) + b"\x05rest"
    reader, got = FrameReader(200), []
    for start in range(0, len(data), size):
        reader.receive_data(memoryview(data)[start : start + size])
        while (payload := reader.next_frame()) is not None:
            got.append(payload)
    assert got == payloads and reader
    assert reader.trailing_data() == b"\x05rest" and not reader


def test_a_frame_is_refused_when_it_is_announced() -> None:
    reader = FrameReader(200)
    reader.receive_data(encode_uvarint(201))
    with pytest.raises(RemoteProtocolError) as raised:
        reader.next_frame()
    assert raised.value.code == "oversized"
