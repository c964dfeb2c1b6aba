"""What one side writes the other reads, whatever the contents and wherever the bytes are cut; and no bytes at all are
more than a RemoteProtocolError."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import envelope, identify, relay_hop, relay_stop
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId, base58_decode, base58_encode
from protocol.machine import Machine
from protocol.multistream import HEADER, Dialer, Listener, Negotiated, encode_line
from protocol.relay_hop import HopClient, HopServer, Limit, Status
from protocol.relay_stop import StopClient, StopServer
from protocol.wire import FrameReader, decode_uvarint, encode_uvarint, frame

ALICE = Identity.from_seed(bytes(32))

inlined = st.binary(min_size=1, max_size=42).map(lambda key: PeerId(bytes((0, len(key))) + key))
hashed = st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest))
peers = inlined | hashed
limits = st.none() | st.builds(Limit, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
seconds = st.integers(0, 2**63 - 1)
pieces = st.integers(1, 40)
trailing = st.binary(max_size=50)
addresses = st.lists(st.binary(min_size=1, max_size=60), max_size=10).map(tuple)
text = st.text(max_size=40)


def fed(machine: Machine[Any], data: bytes, size: int) -> Any:
    """The one event of ``machine`` that ``data``, in pieces of ``size`` bytes, makes."""
    for start in range(0, len(data), size):
        machine.receive_data(memoryview(data)[start : start + size])
    event = machine.next_event()
    assert machine.next_event() is None
    return event


@given(st.integers(0, 2**63 - 1), trailing)
def test_varints(number: int, behind: bytes) -> None:
    encoded = encode_uvarint(number)
    assert decode_uvarint(encoded + behind) == (number, len(encoded))
    assert all(decode_uvarint(encoded[:end]) is None for end in range(len(encoded)))


@given(st.lists(st.binary(max_size=300), max_size=5), pieces)
def test_frames(payloads: list[bytes], size: int) -> None:
    reader, read = FrameReader(300), []
    data = b"".join(map(frame, payloads))
    for start in range(0, len(data), size):
        reader.receive_data(data[start : start + size])
        while (payload := reader.next_frame()) is not None:
            read.append(payload)
    assert read == payloads and reader.trailing_data() == b""


@given(st.binary(max_size=60))
def test_base58(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


@given(hashed)
def test_peer_ids_as_text(peer: PeerId) -> None:
    assert PeerId.parse(str(peer)) == peer


@given(st.lists(st.sampled_from(["/a", "/b", "/c"]), max_size=5), trailing, pieces)
def test_a_listener(refused: list[str], behind: bytes, size: int) -> None:
    listener = Listener(frozenset({"/wanted"}))
    lines = (HEADER, *refused, "/wanted")
    assert fed(listener, b"".join(map(encode_line, lines)) + behind, size) == Negotiated("/wanted")
    assert listener.trailing_data() == behind
    assert listener.data_to_send() == b"".join(map(encode_line, (HEADER, *["na"] * len(refused), "/wanted")))


@given(st.integers(0, 5), trailing, pieces)
def test_a_dialer(refusals: int, behind: bytes, size: int) -> None:
    dialer = Dialer([f"/{number}" for number in range(6)])
    answer = b"".join(map(encode_line, (HEADER, *["na"] * refusals, f"/{refusals}")))
    assert fed(dialer, answer + behind, size) == Negotiated(f"/{refusals}")
    assert dialer.trailing_data() == behind


@given(seconds, addresses, st.binary(max_size=300), limits, pieces)
def test_reservations(
    expires_at: int, addrs: tuple[bytes, ...], voucher: bytes, limit: Limit | None, size: int
) -> None:
    client, server = HopClient(), HopServer()
    client.reserve()
    assert fed(server, client.data_to_send(), size) == relay_hop.ReserveRequested()
    server.grant_reservation(expires_at, addrs, voucher, limit)
    granted = relay_hop.ReservationGranted(expires_at, addrs, voucher, limit)
    assert fed(client, server.data_to_send(), size) == granted


@given(peers, limits, trailing, trailing, pieces)
def test_connections(peer: PeerId, limit: Limit | None, early: bytes, behind: bytes, size: int) -> None:
    client, server = HopClient(), HopServer()
    client.connect(peer)
    assert fed(server, client.data_to_send() + early, size) == relay_hop.ConnectRequested(peer, ())
    server.accept_connect(limit)
    assert fed(client, server.data_to_send() + behind, size) == relay_hop.ConnectAccepted(limit)
    assert (server.trailing_data(), client.trailing_data()) == (early, behind)


@given(st.sampled_from([s for s in Status if s >= 200]), text, st.integers(0, 2**32 - 1), pieces)
def test_refusals(status: Status, reason: str, retry_after: int, size: int) -> None:
    client, server = HopClient(), HopServer()
    client.reserve()
    fed(server, client.data_to_send(), size)
    server.refuse(status, reason, retry_after)
    assert fed(client, server.data_to_send(), size) == relay_hop.RequestRefused(status, reason, retry_after)


@given(peers, limits, trailing, trailing, pieces)
def test_circuits(peer: PeerId, limit: Limit | None, early: bytes, behind: bytes, size: int) -> None:
    relay, target = StopClient(peer, limit), StopServer()
    assert fed(target, relay.data_to_send() + early, size) == relay_stop.IncomingCircuit(peer, limit)
    target.accept()
    assert fed(relay, target.data_to_send() + behind, size) == relay_stop.CircuitAccepted()
    assert (target.trailing_data(), relay.trailing_data()) == (early, behind)


@given(
    st.builds(
        identify.IdentifyMessage,
        public_key=st.binary(max_size=50),
        listen_addrs=addresses,
        protocols=st.lists(text, max_size=10).map(tuple),
        observed_addr=st.binary(max_size=30),
        protocol_version=text,
        agent_version=text,
        signed_peer_record=st.binary(max_size=200),
    ),
    trailing,
    pieces,
)
def test_identify(message: identify.IdentifyMessage, behind: bytes, size: int) -> None:
    reader = identify.IdentifyReader()
    assert fed(reader, identify.encode_identify(message) + behind, size) == identify.IdentifyReceived(message)
    assert reader.trailing_data() == behind


@settings(max_examples=30)
@given(peers, seconds, st.integers(0, 2**64 - 1), addresses)
def test_envelopes(peer: PeerId, expires_at: int, sequence: int, addrs: tuple[bytes, ...]) -> None:
    voucher = envelope.open_voucher(envelope.seal_voucher(ALICE, peer, expires_at))
    assert voucher == envelope.Voucher(ALICE.peer_id, peer, expires_at)
    record = envelope.open_peer_record(envelope.seal_peer_record(ALICE, sequence, addrs))
    assert record == envelope.PeerRecord(ALICE.peer_id, sequence, addrs)


def _asked(peer: PeerId | None) -> HopClient:
    client = HopClient()
    client.reserve() if peer is None else client.connect(peer)
    return client


@given(st.binary(max_size=200), st.booleans(), pieces)
def test_any_bytes_at_all(data: bytes, framed: bool, size: int) -> None:
    """The good events, then the same RemoteProtocolError for ever, or nothing."""
    machines: tuple[Machine[Any], ...] = (
        Listener({"/a"}),
        Dialer(("/a",)),
        HopServer(),
        _asked(None),
        _asked(ALICE.peer_id),
        StopServer(),
        StopClient(ALICE.peer_id, None),
        identify.IdentifyReader(),
    )
    sent = frame(data) if framed else data
    for machine in machines:
        for start in range(0, len(sent), size):
            machine.receive_data(sent[start : start + size])
        machine.receive_eof()
        errors = []
        for _ in range(3):
            try:
                while machine.next_event() is not None:
                    pass
            except RemoteProtocolError as error:
                errors.append(error)
        assert len(errors) in (0, 3) and len({(str(error), error.code) for error in errors}) <= 1
