"""The codec: what goes in comes out, and whatever else comes in is one error."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages
from protocol.codec import MAX_ENVELOPE, CodecError, Envelope, decode, decode_untrusted, encode
from protocol.errors import RemoteProtocolError

# Tuples and dicts of any size make slow examples of nothing new.
st.register_type_strategy(bytes, st.binary(max_size=40))
st.register_type_strategy(int, st.integers(0, 2**63 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False))

any_message = st.one_of([st.from_type(kind) for kind in typing.get_args(messages.Message)])
envelopes = st.builds(
    Envelope,
    sender=st.text(max_size=20),
    receiver=st.text(max_size=20),
    message=any_message,
    deadline=st.floats(0, 2e9),
    traceparent=st.text(max_size=55),
    incarnation=st.integers(0, 2**63 - 1),
)


@given(envelopes)
def test_what_goes_in_comes_out(envelope: Envelope) -> None:
    assert decode(encode(envelope)) == envelope


@given(envelopes, st.data())
def test_a_cut_message_is_an_error(envelope: Envelope, data: st.DataObject) -> None:
    whole = encode(envelope)
    with pytest.raises(CodecError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(envelopes, st.binary(min_size=1, max_size=8))
def test_trailing_bytes_are_an_error(envelope: Envelope, more: bytes) -> None:
    with pytest.raises(CodecError):
        decode(encode(envelope) + more)


@given(envelopes, st.data())
def test_damage_is_an_error_or_another_message(envelope: Envelope, data: st.DataObject) -> None:
    damaged = bytearray(encode(envelope))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert isinstance(decode(bytes(damaged)).message, messages.Message)
    except CodecError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_or_a_message(data: bytes) -> None:
    try:
        decode(data)
    except CodecError as error:
        assert isinstance(error, RemoteProtocolError) and error.code == "codec"


@pytest.mark.parametrize(
    "wrong",
    [
        ["a", "b", ["NoSuchMessage", 1]],
        ["a", "b", ["CircuitOpened", "not a number", "forwarder/0"]],
        ["a", "b", ["CircuitOpened", 1]],
        ["a", "b"],
        ["a", "b", None],
        {"sender": "a"},
        7,
    ],
)
def test_other_msgpack_is_an_error(wrong: object) -> None:
    with pytest.raises(CodecError):
        decode(msgspec.msgpack.encode(wrong))


def test_text_that_is_no_text_is_an_error() -> None:
    data = encode(Envelope("sender", "receiver", messages.ReportWanted())).replace(
        b"sender", b"\xff\xfe\xff\xfe\xff\xfe"
    )
    with pytest.raises(CodecError):
        decode(data)


def test_an_envelope_too_large_is_refused_unread() -> None:
    with pytest.raises(CodecError, match=str(MAX_ENVELOPE)):
        decode(b"\x00" * (MAX_ENVELOPE + 1))


def test_a_report_of_ten_thousand_reservations_travels() -> None:
    held = tuple(messages.HeldReservation(n, n.to_bytes(38), "203.0.113.255", 1e9 + n) for n in range(10_000))
    data = encode(Envelope("forwarder/0", "relay_server", messages.ForwarderReport("forwarder/0", 1, held, ())))
    assert len(data) < 1_000_000
    assert len(decode(data).message.reservations) == 10_000


class Descriptor(msgspec.Struct):
    name: typing.Annotated[str, msgspec.Meta(max_length=4)]
    slots: typing.Annotated[int, msgspec.Meta(ge=0)]


@pytest.mark.parametrize(
    "wrong",
    [{"name": "abcde", "slots": 1}, {"name": "a", "slots": -1}, {"name": "a"}, [], 1.5, {"name": b"", "slots": 1}],
)
def test_foreign_msgpack_is_typed_and_bounded(wrong: object) -> None:
    with pytest.raises(CodecError, match="Descriptor"):
        decode_untrusted(msgspec.msgpack.encode(wrong), Descriptor, 100)


def test_foreign_msgpack_that_is_right_is_taken() -> None:
    right = msgspec.msgpack.encode({"name": "a", "slots": 1})
    assert decode_untrusted(right, Descriptor, len(right)) == Descriptor("a", 1)
    with pytest.raises(CodecError):
        decode_untrusted(right, Descriptor, len(right) - 1)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"], ids=["lists", "maps"])
def test_endless_nesting_is_an_error(opening: bytes) -> None:
    nested = opening * 100_000 + b"\xc0"
    with pytest.raises(CodecError):
        decode_untrusted(nested, typing.Any, len(nested))
    with pytest.raises(CodecError):
        decode(nested)
