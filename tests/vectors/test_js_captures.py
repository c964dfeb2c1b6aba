"""Our machines read what js-libp2p wrote, and where an answer has one right form, write what it wrote.

The vectors are recordings (tests/interop/raw_capture says how): whole connections with the keys that open
them, and each layer taken out of them.  Every reading is done with the bytes in one piece and byte by byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from protocol import noise, yamux
from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits, Multiplexed
from protocol.envelope import Voucher, open_peer_record, open_voucher, seal_peer_record, seal_voucher
from protocol.errors import RemoteProtocolError
from protocol.identify import IdentifyReader, IdentifyReceived
from protocol.identity import Identity, PeerId, PublicKey
from protocol.multistream import Dialer, Listener, Negotiated
from protocol.noise import Handshake, HandshakeCompleted, StaticKey
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
from protocol.switching import Switch

NOW = 1_800_000_000.0
SESSIONS = ("target", "dialer")


@cache
def vectors(name: str) -> dict[str, Any]:
    """The recording tests/vectors/js_<name>.json."""
    text = Path(__file__).with_name(f"js_{name}.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


cuts = pytest.mark.parametrize("cut", [whole, bytewise])


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


# Noise.


def handshake(session: dict[str, Any], side: str) -> Handshake:
    """Our handshake with the keys that js had on that side."""
    keys = session[side]
    static = StaticKey(Identity.from_seed(raw(keys["identity_seed"])), raw(keys["static_private"]))
    return Handshake(
        static, raw(keys["ephemeral_private"]), initiator=side == "initiator", muxers=(yamux.PROTOCOL,)
    )


def completed(machine: Handshake) -> HandshakeCompleted:
    event = machine.next_event()
    assert event is not None
    return event


@cuts
@pytest.mark.parametrize("name", SESSIONS)
def test_noise_initiator_writes_the_messages_of_js(name: str, cut: Cut) -> None:
    session = vectors("noise")["sessions"][name]
    first, second, third = map(raw, session["noise"]["messages"])
    initiator = handshake(session, "initiator")
    assert initiator.data_to_send() == first
    for piece in cut(second):
        initiator.receive_data(piece)
    event = completed(initiator)
    assert initiator.data_to_send() == third
    assert str(event.peer) == session["responder"]["peer_id"]
    assert event.muxer == yamux.PROTOCOL
    assert event.send_key == raw(session["noise"]["initiator_key"])
    assert event.receive_key == raw(session["noise"]["responder_key"])


@cuts
@pytest.mark.parametrize("name", SESSIONS)
def test_noise_responder_writes_the_message_of_js(name: str, cut: Cut) -> None:
    session = vectors("noise")["sessions"][name]
    first, second, third = map(raw, session["noise"]["messages"])
    responder = handshake(session, "responder")
    for piece in cut(first):
        responder.receive_data(piece)
    assert responder.data_to_send() == second
    for piece in cut(third + b"transport"):
        responder.receive_data(piece)
    event = completed(responder)
    assert str(event.peer) == session["initiator"]["peer_id"]
    assert event.send_key == raw(session["noise"]["responder_key"])
    assert event.receive_key == raw(session["noise"]["initiator_key"])
    assert responder.trailing_data() == b"transport"


@pytest.mark.parametrize("message", [1, 2])
def test_a_damaged_noise_message_is_refused_at_every_byte(message: int) -> None:
    session = vectors("noise")["sessions"]["dialer"]
    messages = [raw(text) for text in session["noise"]["messages"]]
    for at in range(2, len(messages[message])):  # behind the length, whose damage only makes us wait
        damaged = bytearray(messages[message])
        damaged[at] ^= 0x40
        machine = handshake(session, "initiator" if message == 1 else "responder")
        if message == 2:
            machine.receive_data(messages[0])
        machine.receive_data(damaged)
        with pytest.raises(RemoteProtocolError):
            machine.next_event()


# A whole connection.


def pieces_as_captured(session: dict[str, Any]) -> list[bytes]:
    return [raw(piece["hex"]) for piece in session["pieces"] if piece["from"] == "client"]


@pytest.mark.parametrize("cutting", ["captured", "whole", "bytewise"])
def test_a_connection_of_js_is_read_from_its_first_byte(cutting: str) -> None:
    """The relay's side with the relay's keys, fed what js sent: the same keys, so the same ciphers."""
    session = vectors("noise")["sessions"]["dialer"]
    keys = session["responder"]
    static = StaticKey(Identity.from_seed(raw(keys["identity_seed"])), raw(keys["static_private"]))
    limits = ConnectionLimits(keepalive_interval=0)
    ephemeral = raw(keys["ephemeral_private"])
    connection = Connection(Switch(Arena()), static, ephemeral, NOW, initiator=False, limits=limits)

    captured = pieces_as_captured(session)
    everything = b"".join(captured)
    pieces = {"captured": captured, "whole": [everything], "bytewise": list(bytewise(everything))}[cutting]
    peers: list[str] = []
    received: dict[int, bytearray] = {}
    opened: list[int] = []
    finished: list[int] = []
    for piece in pieces:
        connection.receive_data(piece, NOW)
        while (event := connection.next_event()) is not None:
            match event:
                case Multiplexed(_, peer):
                    peers.append(str(peer))
                case yamux.StreamOpened(stream):
                    opened.append(stream.id)
                case yamux.DataReceived(stream, data):
                    received.setdefault(stream.id, bytearray()).extend(data)
                    stream.session.consume(stream, len(data))
                case yamux.StreamFinished(stream):
                    finished.append(stream.id)
                case _:
                    pass

    frames = vectors("yamux")["sessions"]["dialer"]["client"]
    sent: dict[int, bytes] = {}
    for frame in frames:
        if frame["type"] == "data":
            sent[frame["stream"]] = sent.get(frame["stream"], b"") + raw(frame["body"])
    assert peers == [session["initiator"]["peer_id"]]
    assert opened == [frame["stream"] for frame in frames if "SYN" in frame["flags"] and frame["stream"]]
    assert received == sent
    assert finished == [frame["stream"] for frame in frames if "FIN" in frame["flags"]]


def test_a_bit_flipped_in_a_connection_of_js_ends_it() -> None:
    session = vectors("noise")["sessions"]["dialer"]
    keys = session["responder"]
    static = StaticKey(Identity.from_seed(raw(keys["identity_seed"])), raw(keys["static_private"]))
    everything = bytearray(b"".join(pieces_as_captured(session)))
    everything[-1] ^= 1
    ephemeral = raw(keys["ephemeral_private"])
    limits = ConnectionLimits(keepalive_interval=0)
    connection = Connection(Switch(Arena()), static, ephemeral, NOW, initiator=False, limits=limits)
    connection.receive_data(everything, NOW)
    with pytest.raises(RemoteProtocolError):
        while connection.next_event() is not None:
            pass


@pytest.mark.parametrize("side", ["client", "relay"])
@pytest.mark.parametrize("name", SESSIONS)
def test_transport_messages_open_with_the_keys_of_the_handshake(name: str, side: str) -> None:
    session = vectors("noise")["sessions"][name]
    wire = b"".join(raw(piece["hex"]) for piece in session["pieces"] if piece["from"] == side)
    handshake_messages = [1] if side == "relay" else [0, 2]
    start = len(raw(session["multistream"][side]))
    start += sum(len(raw(session["noise"]["messages"][index])) for index in handshake_messages)
    arena = Arena()
    sealed = wire[start:]
    arena.inbound[: len(sealed)] = sealed
    opener = noise.Opener(raw(session["noise"]["responder_key" if side == "relay" else "initiator_key"]))
    consumed, end = opener.open(arena, len(sealed), 0)
    assert consumed == len(sealed)
    # The recording ends with the last message that js still read.
    assert bytes(arena.plain_view[:end]).startswith(raw(session["plaintext"][side]))


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
