"""Identify: each peer says who it is, where it listens, what it speaks, and where it sees the other.

The answer is one protobuf behind its length, and the stream ends.  The same message, unasked, is a push.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.errors import LocalProtocolError
from protocol.machine import Machine
from protocol.proto import identify_pb2
from protocol.wire import FrameReader, frame, parse

PROTOCOL: Final = "/ipfs/id/1.0.0"
PUSH_PROTOCOL: Final = "/ipfs/id/push/1.0.0"

#: What is sent: some implementations read no more.
MAX_SENT: Final = 4096

#: What is taken: a signed peer record of many addresses makes a message large.
MAX_RECEIVED: Final = 8192


@dataclass(frozen=True, slots=True)
class IdentifyMessage:
    """``public_key``: protobuf.  Addresses: binary multiaddrs.  ``signed_peer_record``: an envelope."""

    public_key: bytes = b""
    listen_addrs: tuple[bytes, ...] = ()
    protocols: tuple[str, ...] = ()
    observed_addr: bytes = b""
    protocol_version: str = ""
    agent_version: str = ""
    signed_peer_record: bytes = b""


@dataclass(frozen=True, slots=True)
class IdentifyReceived:
    """What the peer says of itself: none of it is proved but what its signed record proves."""

    message: IdentifyMessage


def encode_identify(message: IdentifyMessage) -> bytes:
    """The message on the wire, at most 4096 bytes.

    When it is more, the peer record, then addresses, then protocols from the last on are left out.  LocalProtocolError
    when what is left is still more: the key, the observed address and the versions are ours to keep short.
    """
    listen, protocols, record = list(message.listen_addrs), list(message.protocols), message.signed_peer_record
    while True:
        encoded = identify_pb2.Identify(
            publicKey=message.public_key,
            listenAddrs=listen,
            protocols=protocols,
            observedAddr=message.observed_addr,
            protocolVersion=message.protocol_version,
            agentVersion=message.agent_version,
        )
        if record:
            encoded.signedPeerRecord = record
        framed = frame(encoded.SerializeToString())
        if len(framed) <= MAX_SENT:
            return framed
        if record:
            record = b""
        elif listen:
            listen.pop()
        elif protocols:
            protocols.pop()
        else:
            raise LocalProtocolError(f"an identify message of {len(framed)} bytes without addresses and protocols")


def _text(field: str | bytes) -> str:
    """A string field; protobuf gives the bytes of one that is not UTF-8 (proto2 does not forbid it)."""
    return field if isinstance(field, str) else field.decode(errors="replace")


class IdentifyReader(Machine[IdentifyReceived]):
    """Takes one message, from an answer or a push."""

    __slots__ = ("_reader",)

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_RECEIVED)

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        payload = self._reader.next_frame()
        if payload is None:
            return
        message = parse(identify_pb2.Identify(), payload, "an identify message", "identify")
        self._events.append(
            IdentifyReceived(
                IdentifyMessage(
                    public_key=message.publicKey,
                    listen_addrs=tuple(message.listenAddrs),
                    protocols=tuple(map(_text, message.protocols)),
                    observed_addr=message.observedAddr,
                    protocol_version=_text(message.protocolVersion),
                    agent_version=_text(message.agentVersion),
                    signed_peer_record=message.signedPeerRecord,
                )
            )
        )
        self._done = True
        self._trailing = self._reader.trailing_data()
