"""Padding: sizes, round trips in any cuts, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.padding import MAX_DATA, SIZES, UNIT, Padder, Unpadded, Unpadder, encode_frame, padme


def unpadded(machine: Unpadder) -> bytes:
    data = b""
    while (event := machine.next_event()) is not None:
        data += event.data
    return data


def test_a_frame_is_laid_out_as_the_module_says() -> None:
    assert encode_frame(b"hello") == bytes.fromhex("00000005") + b"hello" + bytes(247)
    assert encode_frame(bytes(253))[:4] == bytes.fromhex("010000fd")


@pytest.mark.parametrize(
    ("length", "size"),
    [(0, 256), (252, 256), (253, 1024), (1020, 1024), (1021, 4096), (4093, 16384), (16381, 65024), (65020, 65024)],
)
def test_a_message_takes_the_smallest_size_that_holds_it(length: int, size: int) -> None:
    assert len(encode_frame(bytes(length))) == size


def test_a_frame_takes_no_more_than_it_can_hold() -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(bytes(MAX_DATA + 1))


@pytest.mark.parametrize(("length", "padded"), [(0, 0), (1, 1), (9, 10), (100, 104), (1000, 1024), (10**6, 1015808)])
def test_padme_is_what_the_paper_says(length: int, padded: int) -> None:
    # Algorithm 1: E = floor(log2 L), S = floor(log2 E) + 1, the last E - S bits are rounded up.
    assert padme(length) == padded


@given(st.integers(1, 1 << 50))
def test_padme_costs_at_most_twelve_percent_and_is_a_fixed_point(length: int) -> None:
    assert length <= padme(length) <= length * 1.12
    assert padme(padme(length)) == padme(length)


@given(st.lists(st.binary(max_size=3000), max_size=6), st.integers(0, 70_000), st.integers(1, 9000))
def test_what_is_written_comes_out_in_any_cuts_and_every_frame_has_a_size(
    writes: list[bytes], large: int, cut: int
) -> None:
    padder, unpadder = Padder(), Unpadder()
    writes.append(bytes(range(256)) * (large // 256))
    frames = [frame for data in writes for frame in padder.frames(data)]
    padder.total = sum(map(len, frames))
    frames += padder.filling()
    wire = b"".join(frames)
    assert all(len(frame) in SIZES for frame in frames)
    assert len(wire) == padme(len(wire) // UNIT) * UNIT
    got = b""
    for start in range(0, len(wire), cut):
        unpadder.receive_data(wire[start : start + cut])
        assert len(unpadder._buffer) < SIZES[-1]
        got += unpadded(unpadder)
    unpadder.receive_eof()
    assert got + unpadded(unpadder) == b"".join(writes)


def test_a_stream_that_said_nothing_is_filled_up_too() -> None:
    padder = Padder()
    assert [len(frame) for frame in padder.filling()] == [UNIT]


@pytest.mark.parametrize(
    "bad",
    [
        bytes.fromhex("05000000"),
        bytes.fromhex("00010000"),
        bytes.fromhex("000000fd"),
        bytes.fromhex("0400fdfd"),
        bytes.fromhex("00000000") + bytes(251) + b"\1",
        bytes.fromhex("00000001") + b"a\1" + bytes(250),
    ],
)
def test_what_is_no_frame_is_refused_behind_what_was_good(bad: bytes) -> None:
    unpadder = Unpadder()
    unpadder.receive_data(encode_frame(b"good") + bad)
    assert unpadder.next_event() == Unpadded(b"good")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as raised:
            unpadder.next_event()
        assert raised.value.code == "padding"


def test_an_end_within_a_frame_is_no_end() -> None:
    unpadder = Unpadder()
    unpadder.receive_data(encode_frame(b"good")[:-1])
    unpadder.receive_eof()
    with pytest.raises(RemoteProtocolError, match="within a padded frame"):
        unpadder.next_event()
