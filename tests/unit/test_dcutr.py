"""The hole punching messages: bytes put together by hand after the specification's schema, limits, both roles."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from protocol.addresses import encode_tcp, with_peer, without_peer
from protocol.dcutr import MAX_ADDRESSES, MAX_MESSAGE, PeerSeenAt, PunchInitiator, PunchResponder, Synchronised
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity
from protocol.proto import dcutr_pb2
from protocol.wire import frame

ALICE = encode_tcp(ip_address("1.2.3.4"), 4001)
BOB = encode_tcp(ip_address("2001:4860::1"), 4002)

#: type (field 1, varint) = CONNECT 100 = 0x64; ObsAddrs (field 2, bytes) = /ip4/1.2.3.4/tcp/4001, 8 bytes.
CONNECT_ALICE = bytes.fromhex("0c086412080401020304060fa1")
#: type = SYNC 300 = varint ac 02.
SYNC = bytes.fromhex("0308ac02")


def connect(*addresses: bytes) -> bytes:
    body = b"\x08\x64" + b"".join(b"\x12" + bytes((len(one),)) + one for one in addresses)
    size = len(body)
    return (bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))) + body


def test_b_begins_and_dials_half_a_round_trip_after_sync() -> None:
    bob = PunchInitiator([ALICE], 10.0)
    assert bob.data_to_send() == CONNECT_ALICE
    with pytest.raises(LocalProtocolError):
        bob.synchronise(10.0)
    bob.receive_data(connect(BOB))
    assert bob.next_event() == PeerSeenAt((BOB,))
    assert bob.synchronise(10.5) == 0.25
    assert bob.data_to_send() == SYNC
    with pytest.raises(LocalProtocolError):
        bob.synchronise(11.0)


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_a_answers_and_dials_at_sync(cut: int) -> None:
    alice = PunchResponder([BOB])
    data = CONNECT_ALICE + SYNC
    for at in range(0, len(data), cut):
        alice.receive_data(data[at : at + cut])
    assert alice.next_event() == PeerSeenAt((ALICE,))
    assert alice.next_event() == Synchronised()
    assert alice.data_to_send() == connect(BOB)


@pytest.mark.parametrize("ip", ["1.2.3.4", "2001:db8::1"])
def test_an_address_may_name_the_peer_as_rusts_do(ip: str) -> None:
    at = encode_tcp(ip_address(ip), 4001)
    peer = Identity.from_seed(bytes(32)).peer_id.bytes
    named = with_peer(at, peer)
    assert without_peer(named) == without_peer(at) == at
    for other in (named + b"\xa2\x02", named[:-1], at + b"\xa5\x03", b"", b"\x04"):  # a circuit; cut short
        assert without_peer(other) == other
    responder = PunchResponder([at])
    message = dcutr_pb2.HolePunch(type=dcutr_pb2.HolePunch.CONNECT, ObsAddrs=[named, at, named + b"\xa2\x02"])
    responder.receive_data(frame(message.SerializeToString()))
    assert responder.next_event() == PeerSeenAt((at,))


def test_what_cannot_be_dialled_is_passed_over_and_the_rest_is_bounded() -> None:
    many = [encode_tcp(ip_address(f"1.2.3.{number}"), 4001) for number in range(1, 3 * MAX_ADDRESSES)]
    quic = bytes.fromhex("0401020304910222cc03")
    no_port = encode_tcp(ip_address("1.2.3.4"), 0)
    alice = PunchResponder([])
    alice.receive_data(connect(b"", b"rubbish", quic, no_port, many[0], *many))
    assert alice.next_event() == PeerSeenAt(tuple(many[:MAX_ADDRESSES]))


@pytest.mark.parametrize(
    "data", [SYNC, b"\x00", b"\x02\x08\x07", b"\x02\xff\xff", b"\x81\x20" + bytes(MAX_MESSAGE + 1)]
)
def test_what_is_no_connect_ends_the_machine(data: bytes) -> None:
    for machine in (PunchResponder([]), PunchInitiator([], 0.0)):
        machine.receive_data(data)
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                machine.next_event()


def test_a_second_connect_is_no_sync() -> None:
    alice = PunchResponder([BOB])
    alice.receive_data(CONNECT_ALICE * 2)
    assert alice.next_event() == PeerSeenAt((ALICE,))
    with pytest.raises(RemoteProtocolError, match="no SYNC"):
        alice.next_event()


def test_an_end_before_sync_is_told() -> None:
    alice = PunchResponder([])
    alice.receive_eof()
    with pytest.raises(RemoteProtocolError):
        alice.next_event()
