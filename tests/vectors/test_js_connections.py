"""Whole connections of js-libp2p, read and written with the keys that js had.

With the same static and ephemeral keys our handshake must write the same bytes as js did, and from there on
the ciphers are the same: what js sent to its peer, our connection reads as if it were that peer.
"""

from __future__ import annotations

from typing import Any

import pytest

from protocol import noise, yamux
from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits, Multiplexed
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.noise import Handshake, HandshakeCompleted, StaticKey
from protocol.switching import Switch

from .captures import Cut, bytewise, cuts, raw, vectors

NOW = 1_800_000_000.0
SESSIONS = ("target", "dialer")


# Noise.


def handshake(session: dict[str, Any], side: str) -> Handshake:
    """Our handshake with the keys that js had on that side."""
    keys = session[side]
    static = StaticKey(Identity.from_seed(raw(keys["identity_seed"])), raw(keys["static_private"]))
    return Handshake(static, raw(keys["ephemeral_private"]), initiator=side == "initiator", muxers=(yamux.PROTOCOL,))


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


def wire(session: dict[str, Any], side: str) -> list[bytes]:
    """What one side's TCP connection carried, in the pieces in which it did."""
    return [raw(piece["hex"]) for piece in session["pieces"] if piece["from"] == side]


def cut_up(pieces: list[bytes], cutting: str) -> list[bytes]:
    everything = b"".join(pieces)
    return {"captured": pieces, "whole": [everything], "bytewise": list(bytewise(everything))}[cutting]


def connection_of(session: dict[str, Any], side: str) -> Connection:
    """Our connection with the keys that js had on that side: the same keys, so the same ciphers."""
    keys = session[side]
    return Connection(
        Switch(Arena()),
        StaticKey(Identity.from_seed(raw(keys["identity_seed"])), raw(keys["static_private"])),
        raw(keys["ephemeral_private"]),
        NOW,
        initiator=side == "initiator",
        limits=ConnectionLimits(keepalive_interval=0),
    )


class Reading:
    """What came out of a connection."""

    def __init__(self, connection: Connection, *, opens: int = 0) -> None:
        self.connection = connection
        self.opens = opens
        self.peers: list[str] = []
        self.opened: list[int] = []
        self.finished: list[int] = []
        self.received: dict[int, bytes] = {}

    def receive(self, piece: bytes) -> None:
        self.connection.receive_data(piece, NOW)
        while (event := self.connection.next_event()) is not None:
            match event:
                case Multiplexed(_, peer):
                    self.peers.append(str(peer))
                    for _ in range(self.opens):
                        self.connection.session.open_stream()
                case yamux.StreamOpened(stream):
                    self.opened.append(stream.id)
                case yamux.DataReceived(stream, data):
                    self.received[stream.id] = self.received.get(stream.id, b"") + data
                    stream.session.consume(stream, len(data))
                case yamux.StreamFinished(stream):
                    self.finished.append(stream.id)
                case _:
                    pass


def bodies(frames: list[dict[str, Any]]) -> dict[int, bytes]:
    sent: dict[int, bytes] = {}
    for frame in frames:
        if frame["type"] == "data":
            sent[frame["stream"]] = sent.get(frame["stream"], b"") + raw(frame["body"])
    return sent


cuttings = pytest.mark.parametrize("cutting", ["captured", "whole", "bytewise"])


@cuttings
def test_a_connection_that_js_dialed_is_read_from_its_first_byte(cutting: str) -> None:
    session = vectors("noise")["sessions"]["dialer"]
    reading = Reading(connection_of(session, "responder"))
    for piece in cut_up(wire(session, "client"), cutting):
        reading.receive(piece)
    frames = vectors("yamux")["sessions"]["dialer"]["client"]
    assert reading.peers == [session["initiator"]["peer_id"]]
    assert reading.opened == [frame["stream"] for frame in frames if "SYN" in frame["flags"] and frame["stream"]]
    assert reading.finished == [frame["stream"] for frame in frames if "FIN" in frame["flags"]]
    assert reading.received == bodies(frames)


@cuttings
def test_a_connection_that_js_accepted_is_read_from_its_first_byte(cutting: str) -> None:
    session = vectors("noise")["sessions"]["dialer"]
    frames = vectors("yamux")["sessions"]["dialer"]
    streams = {frame["stream"] for frame in frames["client"] if frame["stream"]}
    reading = Reading(connection_of(session, "initiator"), opens=len(streams))
    # Our streams are open before what js answered on them is read.
    opening, rest = wire(session, "relay")[:2], wire(session, "relay")[2:]
    for piece in cut_up(opening, cutting) + cut_up(rest, cutting):
        reading.receive(piece)
    assert reading.peers == [session["responder"]["peer_id"]]
    assert reading.received == bodies(frames["relay"])


def test_a_bit_flipped_in_a_connection_of_js_ends_it() -> None:
    session = vectors("noise")["sessions"]["dialer"]
    damaged = bytearray(b"".join(wire(session, "client")))
    damaged[-1] ^= 1
    reading = Reading(connection_of(session, "responder"))
    with pytest.raises(RemoteProtocolError):
        reading.receive(bytes(damaged))


@pytest.mark.parametrize("side", ["client", "relay"])
@pytest.mark.parametrize("name", SESSIONS)
def test_transport_messages_open_with_the_keys_of_the_handshake(name: str, side: str) -> None:
    session = vectors("noise")["sessions"][name]
    handshake_messages = [1] if side == "relay" else [0, 2]
    start = len(raw(session["multistream"][side]))
    start += sum(len(raw(session["noise"]["messages"][index])) for index in handshake_messages)
    arena = Arena()
    sealed = b"".join(wire(session, side))[start:]
    arena.inbound[: len(sealed)] = sealed
    opener = noise.Opener(raw(session["noise"]["responder_key" if side == "relay" else "initiator_key"]))
    consumed, end = opener.open(arena, len(sealed), 0)
    assert consumed == len(sealed)
    # The recording ends with the last message that js still read.
    assert bytes(arena.plain_view[:end]).startswith(raw(session["plaintext"][side]))
