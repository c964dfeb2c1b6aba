"""STOP: how a relay tells a peer with a reservation that somebody wants to talk to it.

    relay: CONNECT peer (the dialler), limit  ->
                                              <-  target: STATUS OK; from here on the stream is the circuit

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md, "Stop Protocol".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import PeerId
from protocol.machine import Machine
from protocol.proto import circuit_pb2
from protocol.relay_hop import MAX_MESSAGE, MAX_REASON, Limit, Status, decode_limit, encode_limit, status_of
from protocol.wire import FrameReader, frame, parse

PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"

_Stop = circuit_pb2.StopMessage


@dataclass(frozen=True, slots=True)
class CircuitAccepted:
    """The target takes the circuit: the stream is it now."""


@dataclass(frozen=True, slots=True)
class CircuitRefused:
    """The target does not; ``status`` is one of :class:`protocol.relay_hop.Status` or unknown."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class IncomingCircuit:
    """``peer`` wants to talk, through the relay at the other end, within ``limit``."""

    peer: PeerId
    limit: Limit | None


def _read(payload: bytes) -> circuit_pb2.StopMessage:
    message = parse(_Stop(), payload, "a STOP message", "stop")
    if not message.HasField("type"):
        raise RemoteProtocolError("a STOP message without a type", "stop")
    return message


class StopClient(Machine[CircuitAccepted | CircuitRefused]):
    """The relay's side: asks at once."""

    __slots__ = ("_reader",)

    def __init__(self, peer: PeerId, limit: Limit | None) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_MESSAGE)
        message = _Stop(type=_Stop.CONNECT, peer=circuit_pb2.Peer(id=peer.bytes), limit=encode_limit(limit))
        self._output = frame(message.SerializeToString())

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        payload = self._reader.next_frame()
        if payload is None:
            return
        message = _read(payload)
        if message.type != _Stop.STATUS or not message.HasField("status"):
            raise RemoteProtocolError("something else than a STATUS in answer to CONNECT", "unexpected")
        if message.status == circuit_pb2.OK:
            self._events.append(CircuitAccepted())
        else:
            self._events.append(CircuitRefused(message.status, message.reason[:MAX_REASON]))
        self._done = True
        self._trailing = self._reader.trailing_data()


class StopServer(Machine[IncomingCircuit]):
    """The target's side.  What cannot be understood is answered by the machine itself, as in HopServer."""

    __slots__ = ("_answered", "_reader")

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_MESSAGE)
        self._answered = False

    def accept(self) -> None:
        self._answer()
        self._output += frame(_Stop(type=_Stop.STATUS, status=circuit_pb2.OK).SerializeToString())

    def refuse(self, status: Status, reason: str) -> None:
        self._answer()
        self._write_refusal(status, reason)

    def _answer(self) -> None:
        if not self._done or self._answered:
            raise LocalProtocolError("there is no circuit to answer")
        self._answered = True

    def _write_refusal(self, status: int, reason: str) -> None:
        message = _Stop(type=_Stop.STATUS, status=status, reason=reason[:MAX_REASON])  # type: ignore[arg-type]
        self._output += frame(message.SerializeToString())

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        try:
            payload = self._reader.next_frame()
            if payload is None:
                return
            message = _read(payload)
            if message.type != _Stop.CONNECT:
                raise RemoteProtocolError("a STATUS in place of CONNECT", "unexpected")
            if not message.HasField("peer"):
                raise RemoteProtocolError("CONNECT without a peer", "stop")
            event = IncomingCircuit(PeerId(message.peer.id), decode_limit(message))
        except RemoteProtocolError as error:
            self._write_refusal(status_of(error), str(error))
            raise
        self._events.append(event)
        self._done = True
        self._trailing = self._reader.trailing_data()
