"""Our machines read what js-libp2p wrote, and where an answer has one right form, write what it wrote.

The vectors are recordings of each layer (tests/interop/raw_capture says how; test_js_connections.py reads
whole connections).  Every reading is done with the bytes in one piece and byte by byte.
"""

from __future__ import annotations

from typing import Any

import pytest

from protocol.envelope import Voucher, open_peer_record, open_voucher, seal_peer_record, seal_voucher
from protocol.errors import RemoteProtocolError
from protocol.identify import IdentifyReader, IdentifyReceived
from protocol.identity import Identity, PeerId, PublicKey
from protocol.multistream import Dialer, Listener, Negotiated
from protocol.relay_hop import (
    ConnectAccepted,
    ConnectRequested,
    HopClient,
    HopServer,
    Limit,
    RequestRefused,
    ReservationGranted,
    ReserveRequested,
    Status,
)
from protocol.relay_stop import CircuitAccepted, IncomingCircuit, StopClient, StopServer

from .captures import Cut, cuts, raw, vectors

# Identities.


@pytest.mark.parametrize("key", vectors("identity")["keys"], ids=lambda key: key["type"])
def test_public_keys_peer_ids_and_signatures(key: dict[str, str]) -> None:
    public_key = PublicKey.decode(raw(key["public_key"]))
    message, signature = raw(key["message"]), raw(key["signature"])
    assert public_key.encode() == raw(key["public_key"])
    assert str(public_key.peer_id) == key["peer_id"]
    assert PeerId.parse(key["peer_id"]) == PeerId.parse(key["peer_id_cid"]) == public_key.peer_id
    assert public_key.verify(message, signature)
    assert not public_key.verify(message + b"!", signature)
    assert not public_key.verify(message, signature[:-1] + bytes([signature[-1] ^ 1]))


def test_our_identity_from_the_same_seed_is_the_same() -> None:
    key = vectors("identity")["keys"][0]
    identity = Identity.from_seed(raw(key["seed"]))
    assert identity.encode() == raw(key["private_key"])
    assert Identity.decode(raw(key["private_key"])).peer_id == identity.peer_id
    assert str(identity.peer_id) == key["peer_id"]
    assert identity.sign(raw(key["message"])) == raw(key["signature"])


# multistream-select.

negotiations = pytest.mark.parametrize(
    "negotiation",
    vectors("multistream")["negotiations"],
    ids=lambda entry: f"{entry['session']}-{entry['id']}",
)


@cuts
@negotiations
def test_listener_answers_as_js_does(negotiation: dict[str, str], cut: Cut) -> None:
    listener = Listener({negotiation["protocol"]})
    for piece in cut(raw(negotiation["dialer"]) + b"what follows"):
        listener.receive_data(piece)
    assert listener.next_event() == Negotiated(negotiation["protocol"])
    assert listener.data_to_send() == raw(negotiation["listener"])
    assert listener.trailing_data() == b"what follows"


@cuts
@negotiations
def test_dialer_asks_as_js_does(negotiation: dict[str, str], cut: Cut) -> None:
    dialer = Dialer((negotiation["protocol"],))
    assert dialer.data_to_send() == raw(negotiation["dialer"])
    for piece in cut(raw(negotiation["listener"]) + b"what follows"):
        dialer.receive_data(piece)
    assert dialer.next_event() == Negotiated(negotiation["protocol"])
    assert dialer.trailing_data() == b"what follows"


# Hop and stop.


def hop(index: int) -> dict[str, Any]:
    exchange: dict[str, Any] = vectors("circuit")["hop"][index]
    return exchange


RESERVED, CONNECTED, REFUSED = range(3)


def peer_of(name: str) -> PeerId:
    return PeerId.parse(vectors("circuit")[name])


def limit_of(fields: dict[str, Any]) -> Limit:
    return Limit(duration=fields["limit"]["duration"], data=fields["limit"]["data"])


@cuts
def test_hop_server_reads_reserve_and_grants_as_js_does(cut: Cut) -> None:
    exchange = hop(RESERVED)
    server = HopServer()
    for piece in cut(raw(exchange["request"]["framed"])):
        server.receive_data(piece)
    assert server.next_event() == ReserveRequested()

    client = HopClient()
    client.reserve()
    assert client.data_to_send() == raw(exchange["request"]["framed"])
    for piece in cut(raw(exchange["answer"]["framed"])):
        client.receive_data(piece)
    granted = client.next_event()
    assert isinstance(granted, ReservationGranted)
    reservation = exchange["answer"]["fields"]["reservation"]
    assert granted.expires_at == reservation["expire"]
    assert [*granted.addrs] == [raw(address) for address in reservation["addrs"]]
    assert granted.limit == limit_of(exchange["answer"]["fields"])

    server.grant_reservation(granted.expires_at, granted.addrs, granted.voucher, granted.limit)
    assert server.data_to_send() == raw(exchange["answer"]["framed"])


def voucher_of_js() -> bytes:
    client = HopClient()
    client.reserve()
    client.receive_data(raw(hop(RESERVED)["answer"]["framed"]))
    granted = client.next_event()
    assert isinstance(granted, ReservationGranted)
    return granted.voucher


def test_the_voucher_is_the_one_we_would_sign() -> None:
    expires_at = hop(RESERVED)["answer"]["fields"]["reservation"]["voucher"]["payload"]["expiration"]
    voucher = voucher_of_js()
    assert open_voucher(voucher) == Voucher(peer_of("relay"), peer_of("target"), expires_at)
    relay = Identity.from_seed(raw(vectors("identify")["identity_seed"]))
    assert seal_voucher(relay, peer_of("target"), expires_at) == voucher


def test_a_damaged_voucher_does_not_open() -> None:
    voucher = voucher_of_js()
    for at in range(len(voucher)):
        with pytest.raises(RemoteProtocolError):
            open_voucher(voucher[:at] + bytes([voucher[at] ^ 1]) + voucher[at + 1 :])
        with pytest.raises(RemoteProtocolError):
            open_voucher(voucher[:at])


@cuts
def test_hop_server_reads_connect_and_accepts_as_js_does(cut: Cut) -> None:
    exchange = hop(CONNECTED)
    circuit_bytes = raw(exchange["request"]["trailing"])
    server = HopServer()
    for piece in cut(raw(exchange["request"]["framed"]) + circuit_bytes):
        server.receive_data(piece)
    fields = exchange["request"]["fields"]["peer"]
    assert server.next_event() == ConnectRequested(peer_of("target"), tuple(map(raw, fields["addrs"])))
    assert server.trailing_data() == circuit_bytes
    limit = limit_of(exchange["answer"]["fields"])
    server.accept_connect(limit)
    assert server.data_to_send() == raw(exchange["answer"]["framed"])


@cuts
def test_hop_client_reads_the_answers_of_js(cut: Cut) -> None:
    accepted = hop(CONNECTED)["answer"]
    client = HopClient()
    client.connect(peer_of("target"))
    for piece in cut(raw(accepted["framed"]) + raw(accepted["trailing"])):
        client.receive_data(piece)
    assert client.next_event() == ConnectAccepted(limit_of(accepted["fields"]))
    assert client.trailing_data() == raw(accepted["trailing"])

    client = HopClient()
    client.connect(peer_of("target"))
    for piece in cut(raw(hop(REFUSED)["answer"]["framed"])):
        client.receive_data(piece)
    refused = client.next_event()
    assert isinstance(refused, RequestRefused)
    assert refused.status == Status.NO_RESERVATION
    assert refused.reason == ""


@cuts
def test_stop_messages_are_those_of_js(cut: Cut) -> None:
    (exchange,) = vectors("circuit")["stop"]
    limit = limit_of(exchange["request"]["fields"])
    relay_side = StopClient(peer_of("dialer"), limit)
    assert relay_side.data_to_send() == raw(exchange["request"]["framed"])

    target_side = StopServer()
    for piece in cut(raw(exchange["request"]["framed"]) + raw(exchange["request"]["trailing"])):
        target_side.receive_data(piece)
    assert target_side.next_event() == IncomingCircuit(peer_of("dialer"), limit)
    assert target_side.trailing_data() == raw(exchange["request"]["trailing"])
    target_side.accept()
    assert target_side.data_to_send() == raw(exchange["answer"]["framed"])

    for piece in cut(raw(exchange["answer"]["framed"]) + raw(exchange["answer"]["trailing"])):
        relay_side.receive_data(piece)
    assert relay_side.next_event() == CircuitAccepted()
    assert relay_side.trailing_data() == raw(exchange["answer"]["trailing"])


# Identify.


@cuts
def test_identify_of_js(cut: Cut) -> None:
    recording = vectors("identify")
    reader = IdentifyReader()
    for piece in cut(raw(recording["messages"][0]["framed"])):
        reader.receive_data(piece)
    reader.receive_eof()
    event = reader.next_event()
    assert isinstance(event, IdentifyReceived)
    message = event.message
    assert str(PublicKey.decode(message.public_key).peer_id) == recording["peer_id"]
    assert message.agent_version == recording["agent_version"]
    assert set(message.protocols) == set(recording["protocols"])
    port = recording["listen_port"]
    assert message.listen_addrs == (b"\x04\x7f\x00\x00\x01\x06" + port.to_bytes(2, "big"),)
    record = open_peer_record(message.signed_peer_record)
    assert str(record.peer) == recording["peer_id"]
    assert record.addresses == message.listen_addrs
    identity = Identity.from_seed(raw(recording["identity_seed"]))
    assert seal_peer_record(identity, record.sequence, record.addresses) == message.signed_peer_record
