"""What only bytes show, seen by a go-libp2p peer that speaks HOP and STOP by hand.

The messages here are encoded and decoded by this file, after the specification, so that no part of the node
vouches for itself: field = number << 3 | wire type; 0 is a varint, 2 is length and bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import MIB, StartNode, StartPeer
from .node import Node
from .peer import Peer

# HopMessage
TYPE, PEER, RESERVATION, LIMIT, STATUS = 1, 2, 3, 4, 5
RESERVE, CONNECT, STATUS_TYPE = 0, 1, 2
# The two fields that this network adds: a text for people, and seconds until a next try is worth it.
REASON, RETRY_AFTER = 100, 101

OK = 100
RESERVATION_REFUSED, RESOURCE_LIMIT_EXCEEDED = 200, 201
NO_RESERVATION, MALFORMED_MESSAGE = 204, 400

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

Message = dict[int, int | bytes]


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def encode(message: Message) -> str:
    encoded = b""
    for number, value in message.items():
        if isinstance(value, int):
            encoded += varint(number << 3) + varint(value)
        else:
            encoded += varint(number << 3 | 2) + varint(len(value)) + value
    return encoded.hex()


def decode(text: str) -> Message:
    octets = iter(bytes.fromhex(text))
    return dict(_fields(octets))


def _fields(octets: Iterator[int]) -> Iterator[tuple[int, int | bytes]]:
    for first in octets:
        key = _varint(octets, first)
        value = _varint(octets, next(octets))
        number, wire_type = key >> 3, key & 7
        assert wire_type in (0, 2)
        yield number, value if wire_type == 0 else bytes(next(octets) for _ in range(value))


def _varint(octets: Iterator[int], octet: int) -> int:
    number, shift = octet & 0x7F, 7
    while octet & 0x80:
        octet = next(octets)
        number |= (octet & 0x7F) << shift
        shift += 7
    return number


def peer_bytes(peer_id: str) -> bytes:
    number = 0
    for letter in peer_id:
        number = number * 58 + BASE58.index(letter)
    # An Ed25519 peer id is an identity multihash and starts with 0, which base58 writes as a leading 1.
    return b"\0" + number.to_bytes(37, "big")


def connect_to(node: Node, dialer: Peer, target_id: str) -> tuple[Message, str]:
    request = encode({TYPE: CONNECT, PEER: bytes.fromhex(encode({1: peer_bytes(target_id)}))})
    answered = dialer.call("hop_raw", relay=node.address, request=request)
    return decode(answered["reply"]), answered["circuit"]


def text_and_seconds(answer: Message) -> tuple[str, int]:
    reason, retry_after = answer[REASON], answer[RETRY_AFTER]
    assert isinstance(reason, bytes) and isinstance(retry_after, int)
    return reason.decode(), retry_after


def test_full_relay_tells_why_and_when(start_node: StartNode, start_peer: StartPeer) -> None:
    node = start_node(max_reservations=1)
    start_peer("go").call("reserve", relay=node.address)
    refused = decode(start_peer("go").call("hop_raw", relay=node.address, request=encode({TYPE: RESERVE}))["reply"])
    assert refused[TYPE] == STATUS_TYPE
    assert refused[STATUS] in (RESERVATION_REFUSED, RESOURCE_LIMIT_EXCEEDED)
    assert RESERVATION not in refused
    reason, retry_after = text_and_seconds(refused)
    assert reason
    assert retry_after > 0


def test_unknown_target_is_refused_with_a_reason(node: Node, start_peer: StartPeer) -> None:
    stranger = start_peer("go").peer_id
    refused, _ = connect_to(node, start_peer("go"), stranger)
    assert (refused[TYPE], refused[STATUS]) == (STATUS_TYPE, NO_RESERVATION)
    assert refused[REASON]


@pytest.mark.parametrize(
    "request_message",
    [{TYPE: 9}, {TYPE: CONNECT}, {TYPE: CONNECT, PEER: b"\x0a\x01\xff"}, {TYPE: STATUS_TYPE, STATUS: OK}],
    ids=["unknown type", "no peer", "bad peer id", "a status"],
)
def test_malformed_request_gets_a_status(request_message: Message, node: Node, start_peer: StartPeer) -> None:
    """... and costs that stream only: the same connection reserves afterwards."""
    peer = start_peer("go")
    answer = decode(peer.call("hop_raw", relay=node.address, request=encode(request_message))["reply"])
    assert answer[TYPE] == STATUS_TYPE
    status = answer[STATUS]
    assert isinstance(status, int) and status >= MALFORMED_MESSAGE
    peer.call("reserve", relay=node.address)


def test_reservation_is_the_connections_whatever_the_message_says(node: Node, start_peer: StartPeer) -> None:
    """A RESERVE that names another peer reserves for its sender, never for the one it names."""
    victim, sender = start_peer("go"), start_peer("go")
    claimed = encode({TYPE: RESERVE, PEER: bytes.fromhex(encode({1: peer_bytes(victim.peer_id)}))})
    sender.call("hop_raw", relay=node.address, request=claimed)
    refused, _ = connect_to(node, start_peer("go"), victim.peer_id)
    assert refused[STATUS] == NO_RESERVATION


# Below the first yamux window of 256 KiB, and above it, where the relay's grants decide.
@pytest.mark.parametrize("limit", [100_000, 1_000_000])
def test_data_limit_is_exact_to_the_byte(limit: int, start_node: StartNode, start_peer: StartPeer) -> None:
    node = start_node(circuit_data=limit)
    dialer, target = start_peer("go"), start_peer("go")
    target.call("stop_raw", bytes=limit)
    target.call("reserve", relay=node.address)
    accepted, circuit = connect_to(node, dialer, target.peer_id)
    assert accepted[STATUS] == OK
    told = accepted[LIMIT]
    assert isinstance(told, bytes)
    assert decode(told.hex())[2] == limit

    dialer.call("raw_push", circuit=circuit, bytes=limit)
    assert target.wait_for("raw_circuit_full")["received"] == limit
    one_too_many = dialer.start("raw_push", circuit=circuit, bytes=1)
    ended = target.wait_for("raw_circuit_ended")
    assert (ended["received"], ended["reset"]) == (limit, True)
    assert dialer.call("raw_end", circuit=circuit)["reset"] is True
    one_too_many.exception(timeout=10)


def test_unlimited_circuit_says_so_by_saying_nothing(node: Node, start_peer: StartPeer) -> None:
    """A Limit message makes go-libp2p call a connection limited, and applications refuse to use it."""
    dialer, target = start_peer("go"), start_peer("go")
    target.call("stop_raw")
    target.call("reserve", relay=node.address)
    accepted, circuit = connect_to(node, dialer, target.peer_id)
    assert accepted[STATUS] == OK
    assert LIMIT not in accepted
    connect = decode(target.wait_for("raw_circuit")["connect"])
    assert 3 not in connect
    dialer.call("raw_close", circuit=circuit)
    assert target.wait_for("raw_circuit_ended")["reset"] is False


def test_stalled_circuit_costs_little_and_stops_no_other(node: Node, start_peer: StartPeer) -> None:
    """Two circuits to one target, on its one connection: one is never read, the other flows.

    The relay holds at most 1 MiB for a circuit and direction; the bound here leaves room for what a Python
    process takes from its allocator meanwhile.
    """
    stuck, flowing, target = start_peer("go"), start_peer("go"), start_peer("go")
    target.call("stop_raw", stalled=1, bytes=16 * MIB)
    target.call("reserve", relay=node.address)
    _, stuck_circuit = connect_to(node, stuck, target.peer_id)
    target.wait_for("raw_circuit")
    before = node.resident_bytes()
    stuck_push = stuck.start("raw_push", circuit=stuck_circuit, bytes=64 * MIB)
    _, flowing_circuit = connect_to(node, flowing, target.peer_id)
    flowing.call("raw_push", circuit=flowing_circuit, bytes=16 * MIB)
    assert target.wait_for("raw_circuit_full")["received"] == 16 * MIB
    assert not stuck_push.done()
    assert node.resident_bytes() - before < 16 * MIB
