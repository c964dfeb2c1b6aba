"""HOP and STOP, both sides of each."""

from __future__ import annotations

import pytest

from protocol import relay_hop, relay_stop
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity
from protocol.proto import circuit_pb2
from protocol.relay_hop import HopClient, HopServer, Limit, Status
from protocol.relay_stop import StopClient, StopServer
from protocol.wire import frame

PEER = Identity.from_seed(bytes(32)).peer_id
LIMIT = Limit(120, 131072)


def feed(machine: HopServer | HopClient | StopServer | StopClient, data: bytes, size: int = 1) -> None:
    for start in range(0, len(data), size):
        machine.receive_data(data[start : start + size])


def hop(**fields: object) -> bytes:
    return frame(circuit_pb2.HopMessage(**fields).SerializePartialToString())  # type: ignore[arg-type]


def stop(**fields: object) -> bytes:
    return frame(circuit_pb2.StopMessage(**fields).SerializePartialToString())  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [LIMIT, None])
def test_a_reservation(limit: Limit | None) -> None:
    client, server = HopClient(), HopServer()
    client.reserve()
    feed(server, client.data_to_send())
    assert server.next_event() == relay_hop.ReserveRequested()
    server.grant_reservation(1_800_000_000, (b"one", b"two"), b"voucher", limit)
    feed(client, server.data_to_send())
    granted = relay_hop.ReservationGranted(1_800_000_000, (b"one", b"two"), b"voucher", limit)
    assert client.next_event() == granted and client.next_event() is None


def test_a_connection_and_what_follows_it() -> None:
    client, server = HopClient(), HopServer()
    client.connect(PEER)
    feed(server, client.data_to_send() + b"early")
    assert server.next_event() == relay_hop.ConnectRequested(PEER, ())
    assert server.trailing_data() == b"early"
    server.accept_connect(LIMIT)
    feed(client, server.data_to_send() + b"answer")
    assert client.next_event() == relay_hop.ConnectAccepted(LIMIT) and client.trailing_data() == b"answer"


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    client, server = HopClient(), HopServer()
    client.reserve()
    feed(server, client.data_to_send())
    server.refuse(Status.RESERVATION_REFUSED, "full" + "!" * 1000, 2**40)
    data = server.data_to_send()
    feed(client, data)
    refused = client.next_event()
    assert isinstance(refused, relay_hop.RequestRefused)
    assert (refused.status, refused.retry_after) == (200, 0xFFFFFFFF)
    assert refused.reason.startswith("full!") and len(refused.reason) == relay_hop.MAX_REASON


def test_the_fields_that_others_know_are_where_they_look() -> None:
    """Status OK is field 5 with value 100; reasons are in fields that others skip (circuit-v2, "Protobuf")."""
    server = HopServer()
    feed(server, hop(type=0))
    server.grant_reservation(1, (), b"", None)
    assert server.data_to_send().hex() == "0a" + "0802" + "1a04" + "0801" + "1a00" + "2864"


def test_many_addresses_do_not_burst_the_message() -> None:
    server = HopServer()
    feed(server, hop(type=0))
    server.grant_reservation(1, [bytes(300)] * 100, bytes(300), LIMIT)
    data = server.data_to_send()
    assert len(data) <= relay_hop.MAX_MESSAGE + 2
    client = HopClient()
    client.reserve()
    feed(client, data, 500)
    granted = client.next_event()
    assert isinstance(granted, relay_hop.ReservationGranted) and len(granted.addrs) >= 8


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (frame(b"\xff"), Status.MALFORMED_MESSAGE),
        (frame(b""), Status.MALFORMED_MESSAGE),
        (hop(type=1), Status.MALFORMED_MESSAGE),
        (hop(type=1, peer=circuit_pb2.Peer(id=b"x")), Status.MALFORMED_MESSAGE),
        (hop(type=2, status=100), Status.UNEXPECTED_MESSAGE),
        (b"\x81\x20", Status.MALFORMED_MESSAGE),
    ],
)
def test_requests_that_are_none_are_answered_by_the_machine(data: bytes, status: Status) -> None:
    server = HopServer()
    feed(server, data)
    with pytest.raises(RemoteProtocolError):
        server.next_event()
    answer = circuit_pb2.HopMessage.FromString(server.data_to_send()[1:])
    assert answer.status == status and answer.reason
    with pytest.raises(LocalProtocolError):
        server.refuse(Status.PERMISSION_DENIED, "")


def test_only_what_was_asked_can_be_answered_and_once() -> None:
    server = HopServer()
    with pytest.raises(LocalProtocolError):
        server.accept_connect(None)
    feed(server, hop(type=0))
    with pytest.raises(LocalProtocolError):
        server.accept_connect(None)
    server.refuse(Status.PERMISSION_DENIED, "")
    with pytest.raises(LocalProtocolError):
        server.refuse(Status.PERMISSION_DENIED, "")
    client = HopClient()
    client.reserve()
    with pytest.raises(LocalProtocolError):
        client.connect(PEER)


@pytest.mark.parametrize(
    "data", [hop(type=0), hop(type=2), hop(), hop(type=2, status=100), frame(b"\xff"), b"\xff\xff\xff\x01"]
)
def test_answers_that_are_none(data: bytes) -> None:
    client = HopClient()
    client.reserve()
    feed(client, data)
    with pytest.raises(RemoteProtocolError):
        client.next_event()


def test_an_answer_before_the_question() -> None:
    client = HopClient()
    feed(client, hop(type=2, status=100))
    with pytest.raises(RemoteProtocolError):
        client.next_event()


@pytest.mark.parametrize("limit", [LIMIT, None])
def test_a_target_takes_a_circuit(limit: Limit | None) -> None:
    relay, target = StopClient(PEER, limit), StopServer()
    feed(target, relay.data_to_send() + b"early")
    assert target.next_event() == relay_stop.IncomingCircuit(PEER, limit) and target.trailing_data() == b"early"
    target.accept()
    feed(relay, target.data_to_send() + b"hello")
    assert relay.next_event() == relay_stop.CircuitAccepted() and relay.trailing_data() == b"hello"
    with pytest.raises(LocalProtocolError):
        target.accept()


def test_a_target_refuses() -> None:
    relay, target = StopClient(PEER, None), StopServer()
    with pytest.raises(LocalProtocolError):
        target.accept()
    feed(target, relay.data_to_send())
    target.refuse(Status.PERMISSION_DENIED, "not now")
    feed(relay, target.data_to_send())
    assert relay.next_event() == relay_stop.CircuitRefused(202, "not now")


@pytest.mark.parametrize(
    "data", [frame(b"\xff"), frame(b""), stop(type=0), stop(type=0, peer=circuit_pb2.Peer(id=b"x")), stop(type=1)]
)
def test_stop_requests_that_are_none(data: bytes) -> None:
    target = StopServer()
    feed(target, data)
    with pytest.raises(RemoteProtocolError):
        target.next_event()
    answer = circuit_pb2.StopMessage.FromString(target.data_to_send()[1:])
    assert answer.status in (Status.MALFORMED_MESSAGE, Status.UNEXPECTED_MESSAGE) and answer.reason


@pytest.mark.parametrize("data", [frame(b"\xff"), frame(b""), stop(type=0), stop(type=1)])
def test_stop_answers_that_are_none(data: bytes) -> None:
    relay = StopClient(PEER, None)
    feed(relay, data)
    with pytest.raises(RemoteProtocolError):
        relay.next_event()
