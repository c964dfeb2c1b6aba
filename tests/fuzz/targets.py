"""What every parser must bear: any bytes, in any cuts.

A target takes bytes, of which the first few choose where the rest is cut.  It returns when the code under it kept its
contract: nothing but RemoteProtocolError, and that from ``next_event``; the same events, output and error however the
bytes are cut; memory that follows its bound.  tests/fuzz/test_parsers.py calls the targets with hypothesis,
tests/fuzz/atheris_targets.py with coverage as a guide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from actors.dht_advertiser import DHTAdvertiser
from actors.reachability import Reachability
from actors.record_store import MemoryStore
from actors.settings import PREFIX, SettingsError, load_settings
from protocol import (
    autonat,
    codec,
    dcutr,
    discovery_messages,
    envelope,
    identify,
    kad,
    messages,
    multiaddr_form,
    multistream,
    noise,
    padding,
    perf,
    ping,
    relay_hop,
    relay_stop,
    service_messages,
    wire,
)
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity, PeerId, PublicKey
from protocol.machine import MAX_TRAILING, Machine
from protocol.yamux import HEADER, INITIAL_WINDOW
from tests.fuzz.network_targets import NETWORK_SEEDS, NETWORK_TARGETS
from tests.support.descriptors import validate
from tests.support.peers import MemoryPeer, MemoryRelay, seeded

Target = Callable[[bytes], None]

STATIC = noise.StaticKey(Identity.from_seed(seeded("fuzzed")), seeded("fuzzed static"))
PEER = Identity.from_seed(seeded("peer")).peer_id


def cuts(data: bytes) -> tuple[list[bytes], bytes]:
    """(``data`` behind its first four bytes in pieces that those choose, the same in one)."""
    chosen, rest = data[:4] or b"\0", data[4:]
    pieces, start, turn = [], 0, 0
    while start < len(rest):
        size = 1 + chosen[turn % len(chosen)] % 64
        pieces.append(rest[start : start + size])
        start, turn = start + size, turn + 1
    return pieces, rest


def drive(machine: Any, pieces: list[bytes]) -> tuple[list[object], bytes, bytes, str]:
    """(events, output, trailing data, error) of ``machine``, which may raise only where the contract says."""
    events: list[object] = []
    output = b""
    error = ""
    for step, piece in enumerate([*pieces, None]):
        if piece is None:
            machine.receive_eof()
        else:
            machine.receive_data(memoryview(piece) if step % 2 else piece)
        try:
            while (event := machine.next_event()) is not None:
                events.append(event)
        except RemoteProtocolError as raised:
            assert not error or error == str(raised), "the error changed"
            error = str(raised)
        output += machine.data_to_send()
    return events, output, machine.trailing_data(), error


def machine_target(make: Callable[[], Any], *, same: bool = True) -> Target:
    """The contract of a stream's machine.  ``same``: whatever the cuts."""

    def target(data: bytes) -> None:
        pieces, whole = cuts(data)
        cut = drive(make(), pieces)
        if same:
            at_once = drive(make(), [whole] if whole else [])
            assert cut == at_once, "the cuts changed the meaning"
        assert len(cut[2]) <= MAX_TRAILING

    return target


def _pinger() -> ping.Pinger:
    machine = ping.Pinger()
    machine.ping(bytes(range(32)))
    return machine


def _hop_client(kind: str) -> Machine[Any]:
    client = relay_hop.HopClient()
    if kind == "reserve":
        client.reserve()
    else:
        client.connect(PEER)
    return client


def _handshake(*, initiator: bool) -> noise.Handshake:
    return noise.Handshake(STATIC, seeded("fuzz ephemeral"), initiator=initiator, muxers=("/yamux/1.0.0",))


def varints(data: bytes) -> None:
    try:
        decoded = wire.decode_uvarint(data)
    except RemoteProtocolError:
        return
    if decoded is not None:
        number, end = decoded
        assert wire.encode_uvarint(number) == data[:end]


def frames(data: bytes) -> None:
    pieces, whole = cuts(data)

    def read(chunks: list[bytes]) -> Iterator[bytes | str]:
        reader = wire.FrameReader(100)
        for chunk in chunks:
            reader.receive_data(chunk)
            try:
                while (payload := reader.next_frame()) is not None:
                    assert len(payload) <= 100
                    yield payload
            except RemoteProtocolError as error:
                yield str(error)
                return

    assert list(read(pieces)) == list(read([whole]))


def peer_ids(data: bytes) -> None:
    try:
        peer = PeerId(data)
    except RemoteProtocolError:
        pass
    else:
        assert PeerId.parse(str(peer)) == peer
    try:
        parsed = PeerId.parse(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert PeerId(parsed.bytes) == parsed


def public_keys(data: bytes) -> None:
    try:
        key = PublicKey.decode(data)
        assert PublicKey.decode(key.encode()) == key
        PeerId(key.peer_id.bytes)
        repr(key)
        key.verify(b"data", data[-64:])
        key.verify(b"data", data)
    except RemoteProtocolError:
        pass


def private_keys(data: bytes) -> None:
    try:
        identity = Identity.decode(data)
    except LocalProtocolError:
        return
    assert Identity.decode(identity.encode()).peer_id == identity.peer_id


def envelopes(data: bytes) -> None:
    for opened in (
        lambda: envelope.open_peer_record(data),
        lambda: envelope.open_voucher(data),
        lambda: envelope.open_envelope(data, "domain", b"\x01"),
    ):
        try:
            opened()
        except RemoteProtocolError:
            pass


def sealed_contents(data: bytes) -> None:
    """An envelope whose signature is right, and whose contents are anything."""
    identity = STATIC.identity
    record = envelope.seal(identity, envelope.PEER_RECORD_DOMAIN, envelope.PEER_RECORD_TYPE, data)
    voucher = envelope.seal(identity, envelope.VOUCHER_DOMAIN, envelope.VOUCHER_TYPE, data)
    for opened in (lambda: envelope.open_peer_record(record), lambda: envelope.open_voucher(voucher)):
        try:
            opened()
        except RemoteProtocolError:
            pass


def actor_messages(data: bytes) -> None:
    try:
        decoded = codec.decode(data)
    except codec.CodecError:
        pass
    else:
        # As bytes: a number may be NaN, which equals nothing.
        encoded = codec.encode(decoded)
        assert codec.encode(codec.decode(encoded)) == encoded
    try:
        codec.decode_untrusted(data, messages.ForwarderReport, 4096)
    except codec.CodecError:
        pass


def kademlia(data: bytes) -> None:
    """Requests and answers of anybody, and what a server does with the former."""
    try:
        request = kad.decode_request(data)
    except RemoteProtocolError:
        pass
    else:
        assert kad.decode_request(kad.encode(request)).type is request.type
    stream = service_messages.StreamMessage("forwarder/0", 1, PEER.bytes, "8.8.8.8", kad.PROTOCOL, data)
    core = DHTAdvertiser("dht", STATIC.identity.peer_id, validate, bytes, MemoryStore())
    core.handle(service_messages.ForwarderReady("forwarder/0", ()), 1.0)
    answers = [send.message for send in core.handle(stream, 2.0)]
    assert any(isinstance(one, service_messages.StreamAnswer) for one in answers)
    for kind in kad.MessageType:
        asked = kad.KadMessage(kind, data[:40] or b"k")
        try:
            answer = kad.decode_answer(data, asked)
        except RemoteProtocolError:
            continue
        assert len(answer.closer) <= kad.MAX_CLOSER and len(answer.providers) <= kad.MAX_PROVIDERS
    if multiaddr_form.is_multiaddr(data):
        multiaddr_form.is_tcp(data)
        multiaddr_form.ip_of(data)


def reachability(data: bytes) -> None:
    """AutoNAT's messages of anybody, on every stream that there can be."""
    try:
        message = autonat.decode(data)
    except RemoteProtocolError:
        pass
    else:
        assert autonat.decode(autonat.encode(message)) == message
    core = Reachability("reachability", PEER.bytes, ["issuer"], "dht", [], bytes)
    ready = service_messages.ForwarderReady("forwarder/0", (bytes.fromhex("0414010101060fa1"),))
    core.handle(ready, 1.0)
    core.handle(discovery_messages.RelayFound("dht", b"server", (bytes.fromhex("041e010101060fa1"),)), 2.0)
    asked = [send.message for send in core.handle_deadline(60.0)]
    (wanted,) = [one for one in asked if isinstance(one, service_messages.StreamWanted)]
    kinds = [(autonat.DIAL_REQUEST, 0), (autonat.DIAL_BACK, 0), (autonat.DIAL_REQUEST, wanted.request_id)]
    for number, (kind, request) in enumerate(kinds):
        for payload in (data, data[::-1]):
            said = service_messages.StreamMessage("f", number, PEER.bytes, "8.8.8.8", kind, payload, request)
            sends = core.handle(said, 61.0)
            assert any(send.receiver == "f" for send in sends) or kind is autonat.DIAL_REQUEST
    core.handle_deadline(200.0)
    assert core.addresses == ()


class _Foreign(msgspec.Struct):
    name: str
    number: int
    children: tuple[_Foreign, ...] = ()


def foreign_msgpack(data: bytes) -> None:
    # Nesting is what msgpack costs least to send and most to take.
    for candidate in (data, bytes([0x91]) * (len(data) * 50) + data):
        try:
            codec.decode_untrusted(candidate, _Foreign, 1 << 20)
        except codec.CodecError:
            pass


def settings_text(data: bytes) -> None:
    """A settings file, an environment and a listening address of anybody's making."""
    text = data.decode("utf-8", "replace")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(data)
        name, _, value = text.partition("=")
        tries: list[tuple[list[str], dict[str, str]]] = [
            (["--config", str(path)], {}),
            ([], {PREFIX + name.upper(): value, "HOME": folder}),
            ([f"--listen={text}"], {"HOME": folder}),
            ([f"--announce={text}"], {"HOME": folder}),
            ([f"--circuit-data={text}"], {"HOME": folder}),
            ([f"--handshake-timeout={text}"], {"HOME": folder}),
        ]
        for arguments, environment in tries:
            try:
                load_settings(arguments, environment)
            except SettingsError as error:
                assert str(error)


# Whole connections.


def _relay() -> tuple[MemoryRelay, MemoryPeer, MemoryPeer, Any, Any]:
    relay = MemoryRelay()
    alice, bob = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(alice)
    relay.attach(bob)
    here, there = relay.circuit(alice, bob)
    return relay, alice, bob, here, there


def _unharmed(relay: MemoryRelay, here: Any, there: Any) -> None:
    here.send(b"still here")
    there.send(b"and there")
    relay.run()
    assert there.take() == b"still here" and here.take() == b"and there"
    assert relay.relay_server.circuits_in_all == len(relay.forwarder.circuits) + len(relay.forwarder._setup.opening)


def _close_if_closed(relay: MemoryRelay, peer: MemoryPeer) -> None:
    """What the host does with a connection that ended in error."""
    if relay.links[peer].connection.error is not None:
        relay.detach(peer)


def raw_connection(data: bytes) -> None:
    """Bytes in place of a handshake, after a good start of it, and in place of Noise messages."""
    relay, _, _, here, there = _relay()
    pieces, whole = cuts(data)
    starts = (
        b"",
        multistream.encode_line(multistream.HEADER),
        multistream.encode_line(multistream.HEADER) + multistream.encode_line(noise.PROTOCOL),
        multistream.encode_line(multistream.HEADER) + multistream.encode_line(noise.PROTOCOL) + b"\0\x20" + seeded("e"),
    )
    for start in starts:
        link = relay.forwarder.accept("192.0.2.9", b"", b"", relay.now)
        for piece in (start, *pieces, whole):
            link.connection.receive_data(piece, relay.now)
            relay.forwarder.received(link, relay.now)
            assert len(link.connection._pending) <= 65_537
        relay.forwarder.lost(link, "closed")
    bad = MemoryPeer("bad")
    link = relay.attach(bad)
    for piece in (*pieces, whole):
        link.connection.receive_data(piece, relay.now)
        relay.forwarder.received(link, relay.now)
        assert len(link.connection._pending) <= 65_537
    relay.run()
    _close_if_closed(relay, bad)
    _unharmed(relay, here, there)


def sealed_connection(data: bytes) -> None:
    """Bytes inside Noise, in place of yamux frames, from a peer that proved who it is."""
    relay, _, bob, here, there = _relay()
    bad = MemoryPeer("bad")
    relay.attach(bad)
    relay.connect(bad, bob.peer_id)
    pieces, _ = cuts(data)
    for piece in pieces:
        if relay.links[bad].connection.error is None:
            bad.connection.session.control += piece
            bad.connection.mark_dirty()
            relay.run()
    _close_if_closed(relay, bad)
    _unharmed(relay, here, there)


def forwarder(data: bytes) -> None:
    """Frames that are nearly right, on streams that are and are not there, with requests and circuits under way."""
    relay, alice, bob, here, there = _relay()
    bad = MemoryPeer("bad")
    relay.attach(bad)
    relay.reserve(bad)
    relay.connect(bad, bob.peer_id)
    bob.answers = False
    relay.connect(bad, bob.peer_id)
    relay.connect(alice, bad.peer_id)
    ids = sorted(bad.connection.session.streams) or [1]
    hop = multistream.encode_line(multistream.HEADER) + multistream.encode_line(relay_hop.PROTOCOL)
    bodies = (b"", hop, hop + data[:40], data[:300], wire.frame(data[:60]), bytes(1000))
    for start in range(0, len(data) - 3, 4):
        kind, flags, which, body = data[start : start + 4]
        known = ids[which % len(ids)] if which < 128 else (which - 128) * 2 + 1
        if kind & 3 == 0:
            payload = bodies[body % len(bodies)]
            frame = HEADER.pack(flags & 15, known, len(payload)) + payload
        elif kind & 3 == 1:
            frame = HEADER.pack(1 << 16 | flags & 15, known, body << (flags >> 4))
        elif kind & 3 == 2:
            frame = HEADER.pack((kind >> 2 & 3) << 16 | flags & 15, known if which & 1 else 0, body)
        else:
            relay.advance(body % 20)
            bob.answer_late()
            continue
        bad.connection.session.control += frame
        bad.connection.mark_dirty()
        relay.run()
        if relay.links[bad].connection.error is not None:
            break
    _close_if_closed(relay, bad)
    bob.answer_late()
    relay.advance(20)
    held = sum(len(s.held or b"") for c in relay.forwarder.circuits.values() for s in (c.source, c.target))
    assert held <= INITIAL_WINDOW * 4
    _unharmed(relay, here, there)


TARGETS: dict[str, Target] = {
    "varints": varints,
    "frames": frames,
    "multistream listener": machine_target(lambda: multistream.Listener(("/a", "/b/1.0.0"))),
    "multistream dialer": machine_target(lambda: multistream.Dialer(("/a", "/b/1.0.0"))),
    "noise initiator": machine_target(lambda: _handshake(initiator=True)),
    "noise responder": machine_target(lambda: _handshake(initiator=False)),
    "identify": machine_target(identify.IdentifyReader),
    "hop server": machine_target(relay_hop.HopServer),
    "hop client reserve": machine_target(lambda: _hop_client("reserve")),
    "hop client connect": machine_target(lambda: _hop_client("connect")),
    "dcutr initiator": machine_target(lambda: dcutr.PunchInitiator((), 0.0)),
    "dcutr responder": machine_target(lambda: dcutr.PunchResponder(())),
    "stop server": machine_target(relay_stop.StopServer),
    "stop client": machine_target(lambda: relay_stop.StopClient(PEER, None)),
    "ping responder": machine_target(ping.PingResponder, same=False),
    "pinger": machine_target(_pinger, same=False),
    "unpadder": machine_target(padding.Unpadder),
    "perf server": machine_target(perf.PerfServer),
    "perf client": machine_target(lambda: perf.PerfClient(100)),
    "peer ids": peer_ids,
    "public keys": public_keys,
    "private keys": private_keys,
    "envelopes": envelopes,
    "sealed contents": sealed_contents,
    "actor messages": actor_messages,
    "foreign msgpack": foreign_msgpack,
    "kademlia": kademlia,
    "reachability": reachability,
    "settings": settings_text,
    "raw connection": raw_connection,
    "sealed connection": sealed_connection,
    "forwarder": forwarder,
    **NETWORK_TARGETS,
}

#: Good input of each, so that what is fuzzed is more than its first refusal.
SEEDS: dict[str, tuple[bytes, ...]] = {
    **NETWORK_SEEDS,
    "multistream listener": (
        b"\x05\x07\x01\x3f" + b"".join(map(multistream.encode_line, (multistream.HEADER, "/c", "ls", "/a"))) + b"more",
    ),
    "multistream dialer": (
        b"\x05\x07\x01\x3f" + b"".join(map(multistream.encode_line, (multistream.HEADER, "na", "/b/1.0.0"))) + b"more",
    ),
    "identify": (b"\0\0\0\0" + identify.encode_identify(identify.IdentifyMessage(b"key", (b"addr",), ("/a",))),),
    "hop server": (b"\0\0\0\0" + bytes.fromhex("020800"), b"\0\0\0\0" + _hop_client("connect").data_to_send()),
    "dcutr initiator": (b"\0\0\0\0" + bytes.fromhex("0c086412080401020304060fa1"),),
    "dcutr responder": (b"\0\0\0\0" + bytes.fromhex("0c086412080401020304060fa10308ac02"),),
    "stop server": (b"\0\0\0\0" + relay_stop.StopClient(PEER, relay_hop.Limit(1, 2)).data_to_send(),),
    "unpadder": (b"\x3f\x07\x20\x10" + padding.encode_frame(b"data") + padding.encode_frame(b"", 1),),
    "public keys": (STATIC.identity.public_key.encode(), b"\x08\x00\x12\x02\x30\x00", b"\x08\x02\x12\x21" + bytes(33)),
    "private keys": (STATIC.identity.encode(),),
    "peer ids": (PEER.bytes, str(PEER).encode()),
    "envelopes": (envelope.seal_voucher(STATIC.identity, PEER, 1), envelope.seal_peer_record(STATIC.identity, 1, ())),
    "actor messages": (codec.encode(codec.Envelope("a", "b", messages.ReportWanted())),),
    "kademlia": (
        kad.encode(kad.KadMessage(kad.MessageType.FIND_NODE, b"k" * 34)),
        kad.encode(
            kad.KadMessage(
                kad.MessageType.ADD_PROVIDER,
                b"k" * 34,
                providers=(kad.KadPeer(PEER.bytes, (b"\x04\x08\x08\x08\x08\x06\x0f\xa1",)),),
            )
        ),
        kad.encode(kad.KadMessage(kad.MessageType.PUT_VALUE, b"k", kad.KadRecord(b"k", b"value", "2026"))),
    ),
    "settings": (b"circuit_data = 1\nlisten = ['/ip4/0.0.0.0/tcp/0']", b"/ip4/1.2.3.4/tcp/70000", b"json=maybe"),
    "sealed connection": (b"\x0c\0\0\0" + HEADER.pack(1, 5, 0) + HEADER.pack(1 << 16 | 1, 7, 0) + bytes(12),),
}
