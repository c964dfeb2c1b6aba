"""AutoNAT's messages: what is said is understood, and nothing unbounded or unknown comes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import autonat
from protocol.autonat import DialDataRequest, DialDataResponse, DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.proto import autonat_pb2

ADDRESS = b"\x04\x01\x02\x03\x04\x06\x0f\xa1"
nonces = st.integers(0, 2**64 - 1)

said = st.one_of(
    st.builds(DialRequest, st.lists(st.binary(max_size=autonat.MAX_ADDRESS), max_size=20).map(tuple), nonces),
    st.builds(DialDataRequest, st.integers(0, 2**32 - 1), nonces),
    st.builds(DialDataResponse, st.binary(max_size=autonat.MAX_CHUNK)),
    st.builds(DialResponse, st.sampled_from(ResponseStatus), st.integers(0, 2**32 - 1), st.sampled_from(DialStatus)),
)


@given(said)
def test_a_message_is_read_as_it_was_written(message) -> None:
    assert autonat.decode(autonat.encode(message)) == message


@given(nonces)
def test_a_nonce_comes_back(nonce: int) -> None:
    assert autonat.decode_dial_back(autonat.encode_dial_back(nonce)) == nonce


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for read in (autonat.decode, autonat.decode_dial_back):
        try:
            read(data)
        except RemoteProtocolError:
            pass


@pytest.mark.parametrize(
    ("message", "bytes_"),
    [
        # Written by hand after the specification's field numbers: tag, length, and so on; a fixed64 is little-endian.
        (DialRequest((ADDRESS,), 0x0102030405060708), "0a130a080401020304060fa1110807060504030201"),
        (DialResponse(ResponseStatus.OK, 1, DialStatus.OK), "120808c801100118c801"),
        (DialResponse(ResponseStatus.DIAL_REFUSED), "12020865"),
        (DialDataRequest(1, 30_000), "1a06080110b0ea01"),
        (DialDataResponse(b"abc"), "22050a03616263"),
    ],
)
def test_the_bytes_are_those_of_the_specification(message, bytes_: str) -> None:
    assert autonat.encode(message).hex() == bytes_
    assert autonat.decode(bytes.fromhex(bytes_)) == message


def test_the_bytes_of_a_dial_back() -> None:
    assert autonat.encode_dial_back(0x0102030405060708).hex() == "090807060504030201"
    assert autonat_pb2.DialBackResponse(status=0).SerializeToString() == autonat.DIAL_BACK_RESPONSE


def test_a_request_is_bounded() -> None:
    many = autonat_pb2.Message(dial_request=autonat_pb2.DialRequest(addrs=[ADDRESS] * 500, nonce=1))
    request = autonat.decode(many.SerializeToString())
    assert isinstance(request, DialRequest)
    assert len(request.addresses) == autonat.MAX_ADDRESSES
    # An index that is told counts those that are too long as well.
    long = autonat_pb2.Message(dial_request=autonat_pb2.DialRequest(addrs=[bytes(300), ADDRESS], nonce=1))
    assert autonat.decode(long.SerializeToString()) == DialRequest((b"", ADDRESS), 1)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(autonat.MAX_MESSAGE + 1),
        autonat_pb2.Message(dial_response=autonat_pb2.DialResponse(status=7)).SerializeToString(),
        autonat_pb2.Message(dial_response=autonat_pb2.DialResponse(status=200, dial_status=300)).SerializeToString(),
        autonat_pb2.Message(dial_data_response=autonat_pb2.DialDataResponse(data=bytes(4097))).SerializeToString(),
    ],
    ids=["empty", "oversized", "unknown status", "unknown dial status", "a large chunk"],
)
def test_what_may_not_be_said_is_an_error(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        autonat.decode(payload)


def test_what_a_peer_would_not_read_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        autonat.encode(DialDataResponse(bytes(autonat.MAX_CHUNK + 1)))
    with pytest.raises(LocalProtocolError):
        autonat.encode(DialRequest((bytes(256),) * 50, 1))
    with pytest.raises(LocalProtocolError):
        autonat.encode(DialRequest((), 2**64))
    with pytest.raises(RemoteProtocolError):
        autonat.decode_dial_back(bytes(autonat.MAX_DIAL_BACK + 1))
