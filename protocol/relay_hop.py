"""HOP: what a peer asks of a relay.  RESERVE a slot to be reached through, or CONNECT to a peer that has one.

    RESERVE                     ->
                                <-  STATUS OK, reservation (expiry, addresses, voucher), limit
    CONNECT peer                ->
                                <-  STATUS OK, limit; from here on the stream is the circuit

A refusal is a STATUS with another code; ours says beside it why, and when to come back.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md, "Hop Protocol".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.machine import Machine
from protocol.proto import circuit_pb2
from protocol.wire import FrameReader, frame, parse

PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"

#: "implementations ... at most 4096 bytes a message" (go-, rust- and js-libp2p read no more).
MAX_MESSAGE: Final = 4096

#: Addresses of a relay in one reservation: a message must hold them.
MAX_ADDRESSES: Final = 32

#: Characters of a reason: for a person to read.
MAX_REASON: Final = 256

_Hop = circuit_pb2.HopMessage


class Status(IntEnum):
    """Status codes (circuit-v2, "Status Codes and Error Handling")."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Limit:
    """What a circuit may last, in seconds, and carry, in bytes each way.  0: unlimited."""

    duration: int
    data: int


@dataclass(frozen=True, slots=True)
class ReserveRequested:
    """The peer at the other end of the connection wants a reservation."""


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """It wants a circuit to ``peer``.  ``addrs``: binary multiaddrs that it named, which a relay does not need."""

    peer: PeerId
    addrs: tuple[bytes, ...]


HopRequest = ReserveRequested | ConnectRequested


@dataclass(frozen=True, slots=True)
class ReservationGranted:
    """``expires_at``: Unix time, seconds.  ``addrs``: the relay's, binary multiaddrs.  ``voucher``: b"" if none."""

    expires_at: int
    addrs: tuple[bytes, ...]
    voucher: bytes
    limit: Limit | None


@dataclass(frozen=True, slots=True)
class ConnectAccepted:
    """The stream is a circuit now."""

    limit: Limit | None


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """``reason`` and ``retry_after`` (seconds) are empty and 0 from relays that do not say."""

    status: int
    reason: str
    retry_after: int


HopAnswer = ReservationGranted | ConnectAccepted | RequestRefused


def encode_limit(limit: Limit | None) -> circuit_pb2.Limit | None:
    return None if limit is None else circuit_pb2.Limit(duration=limit.duration, data=limit.data)


def decode_limit(message: circuit_pb2.HopMessage | circuit_pb2.StopMessage) -> Limit | None:
    if not message.HasField("limit"):
        return None
    return Limit(message.limit.duration, message.limit.data)


def status_of(error: RemoteProtocolError) -> Status:
    """With which a request is answered that cannot be understood, or does not belong here."""
    return Status.UNEXPECTED_MESSAGE if error.code == "unexpected" else Status.MALFORMED_MESSAGE


class HopServer(Machine[HopRequest]):
    """The relay's side of one request.

    A message that cannot be understood is answered MALFORMED_MESSAGE by the machine itself, one that does not belong
    here UNEXPECTED_MESSAGE; ``next_event`` then raises.  ``request``: what was asked, once it is complete.
    """

    __slots__ = ("_answered", "_reader", "request")

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_MESSAGE)
        self.request: HopRequest | None = None
        self._answered = False

    def grant_reservation(self, expires_at: int, addrs: Sequence[bytes], voucher: bytes, limit: Limit | None) -> None:
        """Answer RESERVE.  ``addrs``: our binary multiaddrs with /p2p; those that fit a message are sent."""
        self._answer(ReserveRequested)
        message = _Hop(type=_Hop.STATUS, status=circuit_pb2.OK, limit=encode_limit(limit))
        reservation = message.reservation
        reservation.expire = expires_at
        reservation.voucher = voucher
        room = MAX_MESSAGE - message.ByteSize() - 16
        for address in addrs[:MAX_ADDRESSES]:
            room -= len(address) + 3
            if room < 0:
                break
            reservation.addrs.append(address)
        self._output += frame(message.SerializeToString())

    def accept_connect(self, limit: Limit | None) -> None:
        """Answer CONNECT: from here on the stream is the circuit."""
        self._answer(ConnectRequested)
        message = _Hop(type=_Hop.STATUS, status=circuit_pb2.OK, limit=encode_limit(limit))
        self._output += frame(message.SerializeToString())

    def refuse(self, status: Status, reason: str, retry_after: int = 0) -> None:
        """Answer either with ``status``.  ``retry_after``: seconds, 0: not known."""
        self._answer(ReserveRequested | ConnectRequested)
        self._write_refusal(status, reason, retry_after)

    def _answer(self, expected: type[HopRequest] | object) -> None:
        if self._answered or not isinstance(self.request, expected):  # type: ignore[arg-type]
            raise LocalProtocolError("there is no such request to answer")
        self._answered = True

    def _write_refusal(self, status: int, reason: str, retry_after: int) -> None:
        message = _Hop(type=_Hop.STATUS, status=status, reason=reason[:MAX_REASON])  # type: ignore[arg-type]
        if retry_after:
            message.retry_after = min(retry_after, 0xFFFFFFFF)
        self._output += frame(message.SerializeToString())

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        try:
            payload = self._reader.next_frame()
            if payload is None:
                return
            self.request = self._read(payload)
        except RemoteProtocolError as error:
            self._write_refusal(status_of(error), str(error), 0)
            raise
        self._events.append(self.request)
        self._done = True
        self._trailing = self._reader.trailing_data()

    @staticmethod
    def _read(payload: bytes) -> HopRequest:
        message = parse(_Hop(), payload, "a HOP message", "hop")
        if not message.HasField("type"):
            raise RemoteProtocolError("a HOP message without a type", "hop")
        if message.type == _Hop.RESERVE:
            return ReserveRequested()
        if message.type == _Hop.CONNECT:
            if not message.HasField("peer"):
                raise RemoteProtocolError("CONNECT without a peer", "hop")
            return ConnectRequested(PeerId(message.peer.id), tuple(message.peer.addrs))
        raise RemoteProtocolError("a STATUS in place of a request", "unexpected")


class HopClient(Machine[HopAnswer]):
    """The asking side of one request: :meth:`reserve` or :meth:`connect`, once."""

    __slots__ = ("_asked", "_reader")

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_MESSAGE)
        self._asked: int | None = None

    def reserve(self) -> None:
        self._ask(_Hop.RESERVE, _Hop(type=_Hop.RESERVE))

    def connect(self, peer: PeerId) -> None:
        self._ask(_Hop.CONNECT, _Hop(type=_Hop.CONNECT, peer=circuit_pb2.Peer(id=peer.bytes)))

    def _ask(self, kind: int, message: circuit_pb2.HopMessage) -> None:
        if self._asked is not None:
            raise LocalProtocolError("one stream carries one request")
        self._asked = kind
        self._output += frame(message.SerializeToString())

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        if self._asked is None:
            raise RemoteProtocolError("an answer before there was a request", "unexpected")
        self._reader.receive_data(data)
        payload = self._reader.next_frame()
        if payload is None:
            return
        message = parse(_Hop(), payload, "a HOP message", "hop")
        if message.type != _Hop.STATUS or not message.HasField("status"):
            raise RemoteProtocolError("something else than a STATUS in answer to a request", "unexpected")
        self._events.append(self._read(message))
        self._done = True
        self._trailing = self._reader.trailing_data()

    def _read(self, message: circuit_pb2.HopMessage) -> HopAnswer:
        if message.status != circuit_pb2.OK:
            return RequestRefused(message.status, message.reason[:MAX_REASON], message.retry_after)
        if self._asked == _Hop.CONNECT:
            return ConnectAccepted(decode_limit(message))
        if not message.HasField("reservation"):
            raise RemoteProtocolError("a granted reservation that is not there", "hop")
        reservation = message.reservation
        addresses = tuple(reservation.addrs[:MAX_ADDRESSES])
        return ReservationGranted(reservation.expire, addresses, reservation.voucher, decode_limit(message))
