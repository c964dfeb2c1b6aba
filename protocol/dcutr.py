"""DCUtR: two peers that are connected through a relay agree on when each dials the other, so that both NATs let it in.

A dialled B through a relay.  B opens a stream within that connection:

    B: CONNECT, where B is seen   ->
                                  <-  A: CONNECT, where A is seen
    B: SYNC                       ->                               half a round trip later B dials
                                      A dials at once

Both dial from the port from which they are connected to their relays: the SYNs cross, each NAT takes the other's for
an answer, and TCP makes one connection of them (simultaneous open).  "For the purpose of all protocols run on top of
this TCP connection, A is assumed to be the client and B the server" (step 5).  One stream is one attempt: "On failure
of all connection attempts go back to step (1)".

Source: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.addresses import decode_tcp, without_peer
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.machine import Machine
from protocol.proto import dcutr_pb2
from protocol.wire import FrameReader, frame, parse

PROTOCOL: Final = "/libp2p/dcutr"

#: Bytes of a message: "SHOULD refuse encoded RPC messages (length prefix excluded) larger than 4 KiB".
MAX_MESSAGE: Final = 4096

#: Addresses of a CONNECT that are kept, and that are told: each costs a dial at the same instant.
MAX_ADDRESSES: Final = 8

#: Attempts of B: "SHOULD retry twice (thus a total of 3 attempts) before considering the upgrade as failed".
ATTEMPTS: Final = 3

_Message = dcutr_pb2.HolePunch


@dataclass(frozen=True, slots=True)
class PeerSeenAt:
    """CONNECT came.  ``addresses``: binary multiaddrs, TCP over IP, at most MAX_ADDRESSES; the peer's word."""

    addresses: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Synchronised:
    """SYNC came: dial now."""


def _connect(addresses: Sequence[bytes]) -> bytes:
    told = list(addresses)[:MAX_ADDRESSES]
    return frame(_Message(type=_Message.CONNECT, ObsAddrs=told).SerializeToString())


def _read(payload: bytes, wanted: dcutr_pb2.HolePunch.Type) -> dcutr_pb2.HolePunch:
    message = parse(_Message(), payload, "a hole punching message", "dcutr")
    if not message.HasField("type") or message.type != wanted:
        raise RemoteProtocolError(f"a hole punching message that is no {_Message.Type.Name(wanted)}", "unexpected")
    return message


def _seen_at(message: dcutr_pb2.HolePunch) -> PeerSeenAt:
    # Of other kinds (QUIC, names, circuits) there is nothing to dial here: peers send them, and they are passed over.
    # rust-libp2p's have its peer id behind them, which is known.
    told = map(without_peer, message.ObsAddrs)
    usable = dict.fromkeys(one for one in told if (found := decode_tcp(one)) is not None and found[1])
    return PeerSeenAt(tuple(usable)[:MAX_ADDRESSES])


class PunchInitiator(Machine[PeerSeenAt]):
    """B, whom the other reached through a relay.  CONNECT leaves at once, at ``now``: the round trip is measured from
    then on."""

    __slots__ = ("_reader", "_started", "_told")

    def __init__(self, addresses: Sequence[bytes], now: float) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_MESSAGE)
        self._started = now
        self._told = False
        self._output = _connect(addresses)

    def synchronise(self, now: float) -> float:
        """The CONNECT of the other came at ``now``: SYNC leaves; in so many seconds B is to dial, half the round trip.
        LocalProtocolError: it has not come, or SYNC has left."""
        if not self._told:
            raise LocalProtocolError("there is no CONNECT to answer with SYNC")
        self._told = False
        self._output += frame(_Message(type=_Message.SYNC).SerializeToString())
        return max(now - self._started, 0.0) / 2

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        payload = self._reader.next_frame()
        if payload is None:
            return
        self._events.append(_seen_at(_read(payload, _Message.CONNECT)))
        self._told = self._done = True
        self._trailing = self._reader.trailing_data()


class PunchResponder(Machine[PeerSeenAt | Synchronised]):
    """A, who dialled the other through a relay.  ``addresses``: where A is seen."""

    __slots__ = ("_addresses", "_answered", "_reader")

    def __init__(self, addresses: Sequence[bytes]) -> None:
        super().__init__()
        self._reader = FrameReader(MAX_MESSAGE)
        self._addresses = tuple(addresses)
        self._answered = False

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.receive_data(data)
        while not self._done and (payload := self._reader.next_frame()) is not None:
            if not self._answered:
                self._events.append(_seen_at(_read(payload, _Message.CONNECT)))
                self._answered = True
                self._output += _connect(self._addresses)
            else:
                _read(payload, _Message.SYNC)
                self._events.append(Synchronised())
                self._done = True
                self._trailing = self._reader.trailing_data()
