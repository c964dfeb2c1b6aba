"""The actor: what it says to forwarders, peers and askers."""

from __future__ import annotations

import itertools
import random

from actors.actor import Send
from actors.dht_advertiser import DHTAdvertiser
from actors.kad_whereabouts import LATER
from actors.record_store import MemoryStore
from protocol import identify, kad
from protocol.discovery_messages import DescriptorChanged, DhtModeChanged, RelayFound, RelaysSearched, RelaysWanted
from protocol.identity import Identity
from protocol.kad import KadMessage, KadPeer, KadRecord, MessageType
from protocol.kad_keys import RELAYS, descriptor_key, provider_key, whereabouts_key
from protocol.messages import ActorDown
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from protocol.whereabouts import seal_whereabouts
from protocol.whereabouts_messages import WhereaboutsFound, WhereaboutsGiven, WhereaboutsSought, WhereaboutsStored
from protocol.wire import FrameReader
from tests.support.descriptors import descriptor, validate
from tests.support.peers import seeded

NOW = 1_800_000_000.0
OWN, ALICE, BOB = (Identity.from_seed(seeded(name)) for name in ("own", "alice", "bob"))
HERE = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"
THERE = b"\x04\x09\x09\x09\x09\x06\x0f\xa1"
READY = ForwarderReady("forwarder/0", (HERE,))
KEY = provider_key(RELAYS)


class Driver:
    """An advertiser, and what it said since it was last looked at."""

    def __init__(self, *, joined: bool = False, **options: object) -> None:
        self.now = NOW
        options.setdefault("bootstrap", ((ALICE.peer_id.bytes, (THERE,)),))
        self.store = MemoryStore()
        self.core = DHTAdvertiser(
            "dht",
            OWN.peer_id,
            validate,
            random.Random(7).randbytes,
            self.store,
            **options,  # type: ignore[arg-type]
        )
        self.sends: list[Send] = []
        self.post(READY)
        if joined:
            self.wait(2.0)
            while self.wanted_last() is not None:
                self.answer()

    def post(self, message: object) -> None:
        self.sends += self.core.handle(message, self.now)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.sends += self.core.handle_deadline(self.now)
        self.now = end

    def said(self, kind: type) -> list[object]:
        return [send.message for send in self.sends if isinstance(send.message, kind)]

    def wanted_last(self) -> StreamWanted | None:
        """The next request that nobody answered."""
        return next((one for one in self.said(StreamWanted) if isinstance(one, StreamWanted)), None)

    def take(self) -> StreamWanted:
        wanted = self.wanted_last()
        assert wanted is not None
        self.sends = [send for send in self.sends if send.message is not wanted]
        return wanted

    def answer(self, closer: tuple[KadPeer, ...] = (), **fields: object) -> KadMessage:
        """Answer the next request as an honest peer that knows ``closer``; the request."""
        wanted = self.take()
        assert wanted.payload is not None
        request = kad.decode_request(wanted.payload)
        answer = KadMessage(request.type, request.key, closer=closer, **fields)  # type: ignore[arg-type]
        self.reply(wanted, kad.encode(answer))
        return request

    def reply(self, wanted: StreamWanted, payload: bytes) -> None:
        where = {ALICE.peer_id.bytes: "9.9.9.9"}.get(wanted.peer, "9.9.9.8")
        self.post(
            StreamMessage(
                "forwarder/0", 900, wanted.peer, where, wanted.protocol, payload, wanted.request_id, THERE, HERE, True
            )
        )

    def asked(self, request: KadMessage, *, peer: bytes = BOB.peer_id.bytes, stream: int = 5) -> StreamAnswer:
        """What it answers ``peer``."""
        self.post(StreamMessage("forwarder/0", stream, peer, "7.7.7.7", kad.PROTOCOL, kad.encode(request)))
        return next(
            one for one in reversed(self.said(StreamAnswer)) if isinstance(one, StreamAnswer) and one.stream == stream
        )


def test_a_server_announces_its_protocol_and_a_client_none() -> None:
    driver = Driver()
    assert driver.said(ProtocolsServed) == [ProtocolsServed("dht", ("/descord/kad/1.0.0",))]
    driver.sends.clear()
    driver.post(DhtModeChanged(False))
    driver.post(DhtModeChanged(False))
    assert driver.said(ProtocolsServed) == [ProtocolsServed("dht", ())]
    assert Driver(server=False).said(ProtocolsServed) == [ProtocolsServed("dht", ())]
    other = Driver(protocol=kad.PUBLIC_PROTOCOL)
    assert other.said(ProtocolsServed) == [ProtocolsServed("dht", ("/ipfs/kad/1.0.0",))]


def test_a_client_answers_nobody() -> None:
    driver = Driver(server=False)
    assert driver.asked(KadMessage(MessageType.FIND_NODE, b"key")).reset
    assert driver.core.counts["refused: client"] == 1


def test_it_joins_by_those_it_was_given() -> None:
    driver = Driver()
    driver.wait(2.0)
    wanted = driver.wanted_last()
    assert wanted is not None and (wanted.peer, wanted.addresses) == (ALICE.peer_id.bytes, (THERE,))
    request = driver.answer()
    assert request == KadMessage(MessageType.FIND_NODE, OWN.peer_id.bytes)
    assert ALICE.peer_id.bytes in driver.core.table
    driver.wait(2.0)
    assert driver.answer() == KadMessage(MessageType.FIND_NODE, OWN.peer_id.bytes), "then it looks for its neighbours"


def test_whoever_answers_will_do_to_join() -> None:
    driver = Driver(bootstrap=((b"", (THERE,)),))
    driver.wait(2.0)
    wanted = driver.take()
    assert wanted.peer == b"" and wanted.payload is not None
    answer = kad.encode(KadMessage(MessageType.FIND_NODE, OWN.peer_id.bytes))
    driver.post(
        StreamMessage(
            "forwarder/0",
            3,
            BOB.peer_id.bytes,
            "9.9.9.9",
            wanted.protocol,
            answer,
            wanted.request_id,
            THERE,
            HERE,
            True,
        )
    )
    assert BOB.peer_id.bytes in driver.core.table


def test_joining_is_tried_again_ever_more_rarely() -> None:
    driver = Driver()
    times: list[float] = []
    while len(times) < 8:
        driver.wait(10.0)
        if driver.wanted_last() is not None:
            wanted = driver.take()
            times.append(driver.now)
            driver.post(StreamOver("forwarder/0", 0, wanted.peer, wanted.protocol, "dial", "", wanted.request_id))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[-1] > 5 * gaps[0] and max(gaps) <= 1800 + 10


def test_it_publishes_its_descriptor_and_withdraws_it() -> None:
    driver = Driver(joined=True)
    envelope = descriptor(OWN, 1, NOW + 7200, (HERE,))
    driver.post(DescriptorChanged(envelope))
    driver.wait(0.0)
    seen = []
    while driver.wanted_last() is not None:
        wanted = driver.wanted_last()
        assert wanted is not None and wanted.payload is not None
        request = kad.decode_request(wanted.payload)
        seen.append(request)
        if request.type is MessageType.ADD_PROVIDER:
            assert wanted.finish
            driver.take()
            driver.post(StreamOver("forwarder/0", 8, wanted.peer, wanted.protocol, "finished", "", wanted.request_id))
        else:
            driver.answer(record=request.record)
    added = [one for one in seen if one.type is MessageType.ADD_PROVIDER]
    assert [(one.key, one.providers) for one in added] == [(KEY, (KadPeer(OWN.peer_id.bytes, (HERE,)),))]
    (put,) = [one for one in seen if one.type is MessageType.PUT_VALUE]
    assert put.record is not None and (put.key, put.record.value) == (descriptor_key(OWN.peer_id), envelope)
    assert driver.core.counts["descriptor stored"] == 1

    answer = driver.asked(KadMessage(MessageType.GET_VALUE, descriptor_key(OWN.peer_id)))
    assert answer.payload is not None and envelope in answer.payload
    driver.post(DescriptorChanged(b""))
    answer = driver.asked(KadMessage(MessageType.GET_VALUE, descriptor_key(OWN.peer_id)))
    assert answer.payload is not None and envelope not in answer.payload
    driver.sends.clear()
    driver.wait(86_400.0)
    kinds = {kad.decode_request(one.payload).type for one in driver.said(StreamWanted)}  # type: ignore[attr-defined]
    assert not kinds & {MessageType.ADD_PROVIDER, MessageType.PUT_VALUE}


def test_a_descriptor_that_is_not_ours_or_not_valid_is_not_published() -> None:
    driver = Driver(joined=True)
    for envelope in (descriptor(BOB, 1, NOW + 60), b"junk", descriptor(OWN, 1, NOW - 1)):
        driver.post(DescriptorChanged(envelope))
        driver.wait(0.0)
        assert driver.wanted_last() is None
    assert driver.core.counts["own descriptor: foreign"] == driver.core.counts["own descriptor: expired"] == 1


def test_relays_are_found_with_their_descriptors() -> None:
    driver = Driver(joined=True)
    driver.post(RelaysWanted(1, "directory", 10.0))
    request = driver.answer(providers=(KadPeer(BOB.peer_id.bytes, (THERE,)),))
    assert (request.type, request.key) == (MessageType.GET_PROVIDERS, KEY)
    wanted = driver.wanted_last()
    assert wanted is not None and wanted.peer == BOB.peer_id.bytes, "the relay itself is asked first"
    envelope = descriptor(BOB, 1, NOW + 60, (THERE, HERE))
    key = descriptor_key(BOB.peer_id)
    driver.answer(record=KadRecord(key, envelope))
    found = RelayFound("dht", BOB.peer_id.bytes, (THERE, HERE), envelope, 1)
    assert driver.said(RelayFound) == [found]
    assert driver.said(RelaysSearched) == [RelaysSearched("dht", 1)]
    driver.sends.clear()
    driver.post(RelaysWanted(2, "directory", 10.0))
    assert [one.request_id for one in driver.said(RelayFound)] == [2], "soon after, from memory"  # type: ignore[attr-defined]
    assert driver.wanted_last() is None


def test_a_forged_descriptor_is_no_descriptor() -> None:
    driver = Driver(joined=True)
    driver.post(RelaysWanted(1, "directory", 10.0))
    driver.answer(providers=(KadPeer(BOB.peer_id.bytes, (THERE,)),))
    key = descriptor_key(BOB.peer_id)
    forged = descriptor(ALICE, 9, NOW + 60)
    while driver.wanted_last() is not None:
        driver.answer(record=KadRecord(key, forged))
    assert driver.said(RelayFound) == [RelayFound("dht", BOB.peer_id.bytes, (THERE,), b"", 1)]
    assert driver.core.counts["descriptor not believed: foreign"] >= 1


def test_searches_in_vain_are_ever_rarer() -> None:
    driver = Driver(joined=True)
    searched = []
    for number in range(1, 400):
        driver.post(RelaysWanted(number, "directory", 5.0))
        while driver.wanted_last() is not None:
            if driver.answer().type is MessageType.GET_PROVIDERS:
                searched.append(driver.now)
        driver.wait(10.0)
    assert len(driver.said(RelaysSearched)) == 399
    assert len(searched) < 15
    gaps = [later - earlier for earlier, later in itertools.pairwise(searched)]
    assert gaps[-1] > 10 * gaps[0]
    assert any("searched again" in one.problem for one in driver.said(RelaysSearched))  # type: ignore[attr-defined]


def test_an_asker_hears_why_nothing_is_found() -> None:
    driver = Driver()
    driver.post(RelaysWanted(1, "directory", 5.0))
    assert driver.said(RelaysSearched) == []
    driver.wait(5.0)
    (over,) = driver.said(RelaysSearched)
    assert "no peer of the DHT" in over.problem  # type: ignore[attr-defined]


def test_one_who_knows_nobody_is_not_waited_for() -> None:
    driver = Driver(bootstrap=())
    driver.post(RelaysWanted(1, "directory", 5.0))
    (over,) = driver.said(RelaysSearched)
    assert "nobody is known by whom to join" in over.problem  # type: ignore[attr-defined]


def test_a_relay_of_this_network_is_a_way_to_join() -> None:
    driver = Driver(bootstrap=())
    driver.wait(5.0)
    assert driver.wanted_last() is None
    peer = Identity.from_seed(seeded("neighbour")).peer_id.bytes
    driver.post(RelayFound("mdns", peer, (b"\x04\xc0\xa8\x01\x05\x06\x0f\xa1",)))
    driver.wait(30.0)
    wanted = driver.wanted_last()
    assert wanted is not None and wanted.peer == peer


def test_a_search_waits_for_the_first_peer() -> None:
    driver = Driver()
    driver.post(RelaysWanted(1, "directory", 30.0))
    driver.wait(2.0)
    driver.answer()
    requests = [kad.decode_request(one.payload).type for one in driver.said(StreamWanted)]  # type: ignore[attr-defined]
    assert MessageType.GET_PROVIDERS in requests


# Those who ask us.


def identified(driver: Driver, wanted: StreamWanted, message: identify.IdentifyMessage, ip: str = "7.7.7.7") -> None:
    reader = FrameReader(identify.MAX_RECEIVED)
    reader.receive_data(identify.encode_identify(message))
    payload = reader.next_frame()
    assert payload is not None
    driver.post(StreamMessage("forwarder/0", 77, wanted.peer, ip, identify.PROTOCOL, payload, wanted.request_id))


def test_who_asks_is_asked_who_it_is_before_it_is_believed() -> None:
    there = b"\x04\x07\x07\x07\x07\x06\x0f\xa1"
    victim = b"\x04\x08\x08\x04\x04\x06\x0f\xa1"
    for protocols, believed in (((kad.PROTOCOL,), True), (("/other",), False), ((), False)):
        driver = Driver(bootstrap=())
        driver.asked(KadMessage(MessageType.FIND_NODE, b"key"))
        wanted = driver.take()
        assert (wanted.peer, wanted.protocol, wanted.payload) == (BOB.peer_id.bytes, identify.PROTOCOL, None)
        identified(driver, wanted, identify.IdentifyMessage(listen_addrs=(victim, there), protocols=protocols))
        contact = driver.core.table.find(BOB.peer_id.bytes)
        assert (contact is not None) == believed
        if contact is not None:
            assert contact.addresses == (there,), "only where it was met"


def test_a_server_that_gives_no_address_where_it_was_met_is_not_remembered() -> None:
    driver = Driver(bootstrap=())
    driver.asked(KadMessage(MessageType.FIND_NODE, b"key"))
    identified(driver, driver.take(), identify.IdentifyMessage(listen_addrs=(THERE,), protocols=(kad.PROTOCOL,)))
    assert len(driver.core.table) == 0


def test_a_household_is_not_asked_who_it_is_again_and_again() -> None:
    driver = Driver(bootstrap=())
    for number in range(100):
        peer = Identity.from_seed(seeded(f"flood {number}")).peer_id.bytes
        driver.asked(KadMessage(MessageType.FIND_NODE, b"key"), peer=peer, stream=number + 1)
    assert len(driver.said(StreamWanted)) == 4


def test_bad_requests_end_their_stream_and_are_counted() -> None:
    driver = Driver()
    for number, payload in enumerate(
        (b"\xff\xff", b"", bytes(20_000), kad.encode(KadMessage(MessageType.ADD_PROVIDER, KEY)))
    ):
        driver.post(StreamMessage("forwarder/0", number + 1, BOB.peer_id.bytes, "7.7.7.7", kad.PROTOCOL, payload))
    answers = driver.said(StreamAnswer)
    assert [(one.stream, one.reset) for one in answers] == [(number, True) for number in range(1, 5)]  # type: ignore[attr-defined]
    assert sum(count for name, count in driver.core.counts.items() if name.startswith("refused")) == 4


def test_many_requests_on_one_stream_are_answered_in_turn() -> None:
    driver = Driver()
    for _ in range(50):
        answer = driver.asked(KadMessage(MessageType.PING))
        assert answer.payload is not None and not (answer.finish or answer.reset)


def test_a_flood_of_one_household_is_refused_and_others_are_served() -> None:
    driver = Driver()
    answers = [driver.asked(KadMessage(MessageType.PING), stream=number) for number in range(300)]
    assert sum(answer.reset for answer in answers) == 100
    driver.post(
        StreamMessage(
            "forwarder/0", 999, ALICE.peer_id.bytes, "5.5.5.5", kad.PROTOCOL, kad.encode(KadMessage(MessageType.PING))
        )
    )
    last = driver.said(StreamAnswer)[-1]
    assert (last.stream, last.reset) == (999, False)  # type: ignore[attr-defined]


def test_eleven_idle_streams_or_a_thousand_hold_nothing_up() -> None:
    driver = Driver()
    for number in range(1, 1001):
        ip = f"{20 + number % 50}.1.1.1"
        message = StreamMessage(
            "forwarder/0", number, BOB.peer_id.bytes, ip, kad.PROTOCOL, kad.encode(KadMessage(MessageType.PING))
        )
        driver.post(message)
    assert driver.core.counts["idle stream let go"] == 1000 - 512
    assert driver.asked(KadMessage(MessageType.FIND_NODE, b"key"), stream=2000).payload is not None


# Forwarders.


def test_a_forwarder_that_falls_is_done_without() -> None:
    driver = Driver()
    driver.wait(2.0)
    driver.take()
    driver.post(ActorDown("forwarder/0"))
    driver.wait(0.0)
    driver.wait(60.0)
    assert driver.wanted_last() is None, "nobody is there to ask through"
    driver.post(ForwarderReady("forwarder/0", (HERE,)))
    driver.wait(2.0)
    assert driver.wanted_last() is not None


def test_a_forwarder_in_anothers_place_is_asked_from_then_on() -> None:
    driver = Driver(joined=True)
    driver.sends.clear()
    driver.post(ForwarderReady("forwarder/0.1", (HERE,), replaces="forwarder/0"))
    driver.post(RelaysWanted(1, "directory", 10.0))
    assert {send.receiver for send in driver.sends if isinstance(send.message, StreamWanted)} == {"forwarder/0.1"}


def test_peers_are_remembered_over_a_restart() -> None:
    driver = Driver(joined=True)
    driver.wait(700.0)
    again = Driver(bootstrap=())
    again.core = DHTAdvertiser("dht", OWN.peer_id, validate, random.Random(8).randbytes, driver.store)
    again.sends.clear()
    again.post(READY)
    again.wait(2.0)
    wanted = again.wanted_last()
    assert wanted is not None and (wanted.peer, wanted.addresses) == (ALICE.peer_id.bytes, (THERE,))


def test_a_damaged_memory_of_peers_is_forgotten() -> None:
    store = MemoryStore()
    store.put(b"contacts", b"\xff\xff")
    DHTAdvertiser("dht", OWN.peer_id, validate, random.Random(8).randbytes, store).handle(READY, NOW)
    assert store.values == {}


def test_whereabouts_that_are_known_do_not_wait_for_who_says_nothing() -> None:
    driver = Driver(joined=True)
    circuit = THERE + b"\xa5\x03" + bytes([len(ALICE.peer_id.bytes)]) + ALICE.peer_id.bytes + b"\xa2\x02"
    record = seal_whereabouts(BOB, (circuit,), driver.now)
    driver.post(WhereaboutsGiven(1, "asker", record, "198.51.100.1", 15.0))
    driver.wait(20.0)  # alice says nothing, and it is kept here
    (stored,) = driver.said(WhereaboutsStored)
    assert isinstance(stored, WhereaboutsStored) and stored.copies == 1
    driver.post(WhereaboutsSought(2, "asker", BOB.peer_id.bytes, 15.0))
    assert driver.wanted_last() is not None, "others may know of a later one"
    driver.wait(LATER - 0.1)
    assert driver.said(WhereaboutsFound) == []
    driver.wait(0.2)
    assert driver.said(WhereaboutsFound) == [WhereaboutsFound(2, record, "")]


def test_a_later_record_is_waited_for_as_long_as_answers_come() -> None:
    """alice has an old one; whom she names, and who takes a moment, the new one."""
    driver = Driver(joined=True)
    relay = b"\xa5\x03" + bytes([len(ALICE.peer_id.bytes)]) + ALICE.peer_id.bytes + b"\xa2\x02"
    old = seal_whereabouts(BOB, (THERE + relay,), driver.now - 3000)
    new = seal_whereabouts(BOB, (HERE + relay,), driver.now)
    key = whereabouts_key(BOB.peer_id)
    driver.sends.clear()
    driver.post(WhereaboutsSought(2, "asker", BOB.peer_id.bytes, 15.0))
    driver.wait(0.4)
    other = Identity.from_seed(seeded("other")).peer_id.bytes
    driver.answer((KadPeer(other, (b"\x04\x07\x07\x07\x07\x06\x0f\xa1",)),), record=KadRecord(key, old, ""))
    driver.wait(LATER - 0.1)
    assert driver.said(WhereaboutsFound) == [], "she has just been asked"
    driver.answer(record=KadRecord(key, new, ""))
    assert driver.said(WhereaboutsFound) == [WhereaboutsFound(2, new, "")]
