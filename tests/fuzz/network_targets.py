"""What strangers say of relays and peers: descriptors, whereabouts, mDNS records, receipts, SOCKS requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.record_store import MemoryStore
from actors.reputation_tracker import ReputationTracker
from protocol import envelope, extend, port_mapping, receipts, whereabouts
from protocol.descriptor import DOMAIN, PAYLOAD_TYPE, open_descriptor
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity
from protocol.mdns import read_txt
from protocol.reputation_messages import Served
from protocol.service_messages import StreamAnswer, StreamMessage
from protocol.socks5 import SocksServer
from tests.support.peers import seeded

_RELAY: Final = Identity.from_seed(seeded("fuzz relay"))
_PEER: Final = Identity.from_seed(seeded("fuzz peer"))


def descriptor(data: bytes) -> None:
    """Of anybody, and signed as it should be."""
    for said in (data, envelope.seal(_RELAY, DOMAIN, PAYLOAD_TYPE, data)):
        try:
            opened = open_descriptor(said, 1.0)
        except RemoteProtocolError:
            continue
        assert opened.peer == _RELAY.peer_id and opened.addresses


def mdns_record(data: bytes) -> None:
    try:
        told = read_txt(data)
    except RemoteProtocolError:
        return
    assert told.peer.bytes


def receipt(data: bytes) -> None:
    """Messages and envelopes, signed as they should be or not, at each point of the exchange."""
    tracker = ReputationTracker("reputation", MemoryStore(), _RELAY, relay_server="relay_server")
    peer = _PEER.peer_id.bytes
    sealed = envelope.seal(_PEER, receipts.DOMAIN, receipts.SHOWN, data)[: receipts.MAX_ENVELOPE]
    said = [data, receipts.encode(receipts.ReceiptSigned(sealed)), receipts.encode(receipts.ReceiptsShown((sealed,)))]
    for number, payload in enumerate(said):
        asked = StreamMessage(
            "f", number, peer, "192.0.2.1", receipts.PROTOCOL, receipts.encode(receipts.ReceiptAsked())
        )
        tracker.handle(asked, 1.0)
        tracker.handle(Served(number + 1, peer, 1, 0, 5, 5), 1.0)
        sends = tracker.handle(StreamMessage("f", number, peer, "192.0.2.1", receipts.PROTOCOL, payload), 1.0)
        assert sends and all(isinstance(send.message, StreamAnswer) for send in sends if send.receiver == "f")
    assert len(tracker.receipts.vouchers) == 0


def mapping_answer(data: bytes) -> None:
    """Of a router, or of whoever sends in its name."""
    for read in (
        lambda: port_mapping.pcp_answer(data, bytes(port_mapping.NONCE), 4001),
        lambda: port_mapping.pmp_answer(data, 4001),
        lambda: port_mapping.pmp_external_answer(data),
    ):
        try:
            read()
        except RemoteProtocolError:
            pass


def whereabouts_record(data: bytes) -> None:
    """A record of anybody, and signed as it should be; and messages about them."""
    for said in (data, envelope.seal(_PEER, envelope.PEER_RECORD_DOMAIN, envelope.PEER_RECORD_TYPE, data)):
        try:
            opened = whereabouts.open_whereabouts(said, 1.0)
        except RemoteProtocolError:
            continue
        assert opened.peer == _PEER.peer_id and all(whereabouts.is_hidden(one) for one in opened.addresses)
    for read in (whereabouts.decode, extend.decode):
        try:
            read(data)
        except RemoteProtocolError:
            pass


def socks(data: bytes) -> None:
    machine = SocksServer()
    try:
        for byte in data:
            machine.receive_data(bytes((byte,)))
            if (event := machine.next_event()) is not None:
                assert event.host.isprintable() and 0 <= event.port < 65536
    except RemoteProtocolError:
        pass


NETWORK_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "descriptor": descriptor,
    "mapping answer": mapping_answer,
    "mdns record": mdns_record,
    "receipt": receipt,
    "socks": socks,
    "whereabouts": whereabouts_record,
}

NETWORK_SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "socks": (bytes((5, 1, 0, 5, 1, 0, 3, 1, 97, 0, 80)),),
    "whereabouts": (
        whereabouts.encode(whereabouts.WhereaboutsWanted(_PEER.peer_id.bytes)),
        extend.encode(extend.ExtendWanted(_RELAY.peer_id.bytes)),
    ),
    "receipt": (
        receipts.encode(receipts.ReceiptAsked()),
        receipts.encode(receipts.ReceiptOffered(b"envelope")),
        receipts.encode(receipts.StandingTold(1.0, 2)),
    ),
}
