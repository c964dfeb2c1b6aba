"""AutoNAT v2: a peer is asked to dial one of our addresses, and proves that it did by a number that we gave it.

    client                                  server
    DialRequest addresses, nonce   ->       on /libp2p/autonat/2/dial-request
                                   <-       DialDataRequest, if the address is not where the client is seen
    DialDataResponse, many         ->
                                   <-       DialBack nonce, on /libp2p/autonat/2/dial-back of a new connection
    DialBackResponse               ->
                                   <-       DialResponse, on the first stream

The data makes whoever wants a third party dialled pay more than that is made to.

Source: https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.proto import autonat_pb2
from protocol.wire import parse

DIAL_REQUEST: Final = "/libp2p/autonat/2/dial-request"
DIAL_BACK: Final = "/libp2p/autonat/2/dial-back"

#: Bytes of a message: what go-libp2p reads.
MAX_MESSAGE: Final = 8192
MAX_DIAL_BACK: Final = 1024

#: Addresses of a request that are looked at, as go-libp2p does; the rest are as if not there.
MAX_ADDRESSES: Final = 50

#: Bytes of an address that is looked at: a longer one is no IP address and port.
MAX_ADDRESS: Final = 256

#: "servers SHOULD ask for 30k to 100k bytes"; who asks for more is not obeyed.
LEAST_DATA: Final = 30_000
MOST_DATA: Final = 100_000

#: "the data field in each individual protobuf is limited to 4096 bytes in length".
MAX_CHUNK: Final = 4096

_MAX_NONCE: Final = 2**64 - 1


class ResponseStatus(IntEnum):
    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class DialStatus(IntEnum):
    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    OK = 200


@dataclass(frozen=True, slots=True)
class DialRequest:
    """``addresses``: binary multiaddrs, the most wanted first; b"" stands for one that is too long to be dialled."""

    addresses: tuple[bytes, ...]
    nonce: int


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """``index``: of the address; ``size``: bytes of data."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class DialDataResponse:
    """``data``: at most 4096 bytes of anything."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DialResponse:
    """``index``, ``dial``: of the address that was dialled, when ``status`` is OK."""

    status: ResponseStatus
    index: int = 0
    dial: DialStatus = DialStatus.UNUSED


AutonatMessage = DialRequest | DialDataRequest | DialDataResponse | DialResponse


def encode(message: AutonatMessage) -> bytes:
    """Without length prefix.  LocalProtocolError: more than a peer would read."""
    match message:
        case DialRequest(addresses=addresses, nonce=nonce):
            if not 0 <= nonce <= _MAX_NONCE:
                raise LocalProtocolError("a nonce has 64 bits")
            asked = autonat_pb2.DialRequest(addrs=addresses, nonce=nonce)
            encoded = autonat_pb2.Message(dial_request=asked)
        case DialDataRequest(index=index, size=size):
            wanted = autonat_pb2.DialDataRequest(addr_idx=index, num_bytes=size)
            encoded = autonat_pb2.Message(dial_data_request=wanted)
        case DialDataResponse(data=data):
            if len(data) > MAX_CHUNK:
                raise LocalProtocolError(f"{len(data)} bytes of dial data, at most {MAX_CHUNK}")
            encoded = autonat_pb2.Message(dial_data_response=autonat_pb2.DialDataResponse(data=data))
        case DialResponse(status=status, index=index, dial=dial):
            answer = autonat_pb2.DialResponse(status=status, addr_idx=index, dial_status=dial)
            encoded = autonat_pb2.Message(dial_response=answer)
    payload = encoded.SerializeToString()
    if len(payload) > MAX_MESSAGE:
        raise LocalProtocolError(f"an AutoNAT message of {len(payload)} bytes, at most {MAX_MESSAGE}")
    return payload


def decode(payload: bytes) -> AutonatMessage:
    """Any message of a dial-request stream.  RemoteProtocolError: malformed, too large, or with a status that is not
    known ("Implementations MUST discard responses with status codes they do not understand")."""
    if len(payload) > MAX_MESSAGE:
        raise RemoteProtocolError(f"an AutoNAT message of {len(payload)} bytes, at most {MAX_MESSAGE}", "oversized")
    message = parse(autonat_pb2.Message(), payload, "an AutoNAT message", "autonat")
    match message.WhichOneof("msg"):
        case "dial_request":
            asked = message.dial_request
            addresses = tuple(one if len(one) <= MAX_ADDRESS else b"" for one in asked.addrs[:MAX_ADDRESSES])
            return DialRequest(addresses, asked.nonce)
        case "dial_data_request":
            return DialDataRequest(message.dial_data_request.addr_idx, message.dial_data_request.num_bytes)
        case "dial_data_response":
            data = message.dial_data_response.data
            if len(data) > MAX_CHUNK:
                raise RemoteProtocolError(f"{len(data)} bytes of dial data, at most {MAX_CHUNK}", "oversized")
            return DialDataResponse(data)
        case "dial_response":
            answer = message.dial_response
            try:
                return DialResponse(ResponseStatus(answer.status), answer.addr_idx, DialStatus(answer.dial_status))
            except ValueError:
                told = f"{answer.status}, {answer.dial_status}"
                raise RemoteProtocolError(f"an AutoNAT response of status {told}", "autonat") from None
    raise RemoteProtocolError("an AutoNAT message that says nothing", "autonat")


def encode_dial_back(nonce: int) -> bytes:
    """DialBack, the first message of a dial-back stream, without length prefix."""
    return autonat_pb2.DialBack(nonce=nonce).SerializeToString()


def decode_dial_back(payload: bytes) -> int:
    """The nonce.  RemoteProtocolError: malformed or too large."""
    if len(payload) > MAX_DIAL_BACK:
        raise RemoteProtocolError(f"a dial-back of {len(payload)} bytes, at most {MAX_DIAL_BACK}", "oversized")
    return parse(autonat_pb2.DialBack(), payload, "a dial-back", "autonat").nonce


#: DialBackResponse: OK, its one status, is proto3's default and so no bytes.
DIAL_BACK_RESPONSE: Final = b""
