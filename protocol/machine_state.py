"""Wire machines as plain data, and back: those that a stream of a relay can be in the middle of.

Between turns a machine has neither events nor output left, and one in error is gone with its stream; so its state is
how far it got, and the bytes of the message that is not whole yet.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Annotated, Any

import msgspec

from protocol.identify import IdentifyReader
from protocol.identity import PeerId
from protocol.machine import MAX_TRAILING, Machine
from protocol.multistream import Dialer, Listener
from protocol.perf import PerfServer
from protocol.ping import SIZE, PingResponder
from protocol.relay_hop import ConnectRequested, HopServer, ReserveRequested
from protocol.relay_stop import StopClient, StopServer

#: A message that is not whole, or what came behind the last one: what may be kept, and one receive.
_Bytes = Annotated[bytes, msgspec.Meta(max_length=4 * MAX_TRAILING)]


class NegotiationState(msgspec.Struct, frozen=True, array_like=True):
    """multistream-select.  ``proposals``: that came (Listener), or the number of ours that is out (Dialer)."""

    greeted: bool
    proposals: int
    buffered: _Bytes


class HopState(msgspec.Struct, frozen=True, array_like=True):
    """HOP, our side.  ``request``: "" while it is not whole, "reserve" or "connect"."""

    buffered: _Bytes
    request: str
    target: bytes
    answered: bool
    trailing: _Bytes


class ReaderState(msgspec.Struct, frozen=True, array_like=True):
    """A machine that reads one message."""

    buffered: _Bytes
    done: bool
    trailing: _Bytes


class AnswerState(msgspec.Struct, frozen=True, array_like=True):
    """A machine that reads one request and answers it."""

    buffered: _Bytes
    done: bool
    answered: bool
    trailing: _Bytes


class PingState(msgspec.Struct, frozen=True, array_like=True):
    partial: Annotated[bytes, msgspec.Meta(max_length=SIZE - 1)]


class PerfState(msgspec.Struct, frozen=True, array_like=True):
    header: Annotated[bytes, msgspec.Meta(max_length=8)]
    count: int
    remaining: int
    done: bool


def _ended(machine: Machine[Any], *, done: bool, trailing: bytes) -> None:
    machine._output = b""  # it was sent
    machine._done = done
    machine._trailing = trailing


def take_negotiation(machine: Listener | Dialer) -> NegotiationState:
    count = machine._proposed if isinstance(machine, Dialer) else machine._proposals
    return NegotiationState(machine._greeted, count, machine._reader._buffer)


def restore_listener(state: NegotiationState, protocols: Container[str]) -> Listener:
    machine = Listener(protocols)
    machine._greeted = state.greeted
    machine._proposals = state.proposals
    machine._reader.receive_data(state.buffered)
    return machine


def restore_dialer(state: NegotiationState, protocols: Sequence[str]) -> Dialer:
    machine = Dialer(protocols)
    machine._greeted = state.greeted
    machine._proposed = state.proposals
    machine._reader.receive_data(state.buffered)
    machine._output = b""
    return machine


def take_hop(machine: HopServer) -> HopState:
    request = machine.request
    target = request.peer.bytes if isinstance(request, ConnectRequested) else b""
    name = "" if request is None else "connect" if target else "reserve"
    return HopState(machine._reader._buffer, name, target, machine._answered, machine._trailing)


def restore_hop(state: HopState) -> HopServer:
    machine = HopServer()
    machine._reader.receive_data(state.buffered)
    if state.request:
        machine.request = ConnectRequested(PeerId(state.target), ()) if state.target else ReserveRequested()
    machine._answered = state.answered
    _ended(machine, done=bool(state.request), trailing=state.trailing)
    return machine


def take_reader(machine: StopClient | IdentifyReader) -> ReaderState:
    return ReaderState(machine._reader._buffer, machine._done, machine._trailing)


def restore_stop(state: ReaderState, source: PeerId) -> StopClient:
    """``source``: any peer, for the request was sent."""
    machine = StopClient(source, None)
    machine._reader.receive_data(state.buffered)
    _ended(machine, done=state.done, trailing=state.trailing)
    return machine


def take_stop_server(machine: StopServer) -> AnswerState:
    return AnswerState(machine._reader._buffer, machine._done, machine._answered, machine._trailing)


def restore_stop_server(state: AnswerState) -> StopServer:
    machine = StopServer()
    machine._reader.receive_data(state.buffered)
    machine._answered = state.answered
    _ended(machine, done=state.done, trailing=state.trailing)
    return machine


def restore_identify(state: ReaderState) -> IdentifyReader:
    machine = IdentifyReader()
    machine._reader.receive_data(state.buffered)
    _ended(machine, done=state.done, trailing=state.trailing)
    return machine


def take_ping(machine: PingResponder) -> PingState:
    return PingState(machine._partial)


def restore_ping(state: PingState) -> PingResponder:
    machine = PingResponder()
    machine._partial = state.partial
    return machine


def take_perf(machine: PerfServer) -> PerfState:
    return PerfState(machine._header, machine._count, machine.remaining, machine._done)


def restore_perf(state: PerfState) -> PerfServer:
    machine = PerfServer()
    machine._header = state.header
    machine._count = state.count
    machine.remaining = state.remaining
    machine._done = state.done
    return machine
