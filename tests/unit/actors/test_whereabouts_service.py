"""A relay looks for peers, and publishes for them, within bounds."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from actors.actor import Send
from actors.whereabouts_service import AT_ONCE_OF_ONE, MAX_JOBS_OF_HOUSEHOLD, WhereaboutsService
from protocol import whereabouts
from protocol.identity import Identity
from protocol.messages import ActorDown, CountsAsked, Undeliverable
from protocol.quota_messages import ModeTold
from protocol.service_messages import ForwarderReady, ProtocolsServed, StreamAnswer, StreamMessage, StreamOver
from protocol.whereabouts import (
    WhereaboutsKept,
    WhereaboutsMessage,
    WhereaboutsSaid,
    WhereaboutsTold,
    WhereaboutsWanted,
    seal_whereabouts,
)
from protocol.whereabouts_messages import WhereaboutsFound, WhereaboutsGiven, WhereaboutsSought, WhereaboutsStored
from tests.support.peers import seeded

NOW = 1_800_000_000.0
ALICE, BOB, RELAY = (Identity.from_seed(seeded(name)) for name in ("alice", "bob", "relay"))
CIRCUIT = Multiaddr(f"/ip4/8.8.8.8/tcp/4001/p2p/{RELAY.peer_id}/p2p-circuit").to_bytes()
RECORD = seal_whereabouts(BOB, (CIRCUIT,), NOW)


def service() -> WhereaboutsService:
    made = WhereaboutsService("whereabouts", "dht")
    assert made.handle(ForwarderReady("f", ()), NOW) == [
        Send("f", ProtocolsServed("whereabouts", (whereabouts.PROTOCOL,)))
    ]
    return made


def said(
    message: WhereaboutsMessage | bytes, stream: int = 1, who: Identity = ALICE, ip: str = "192.0.2.1"
) -> StreamMessage:
    payload = message if isinstance(message, bytes) else whereabouts.encode(message)
    return StreamMessage("f", stream, who.peer_id.bytes, ip, whereabouts.PROTOCOL, payload)


RESET = [Send("f", StreamAnswer(1, None, reset=True))]


def test_a_question_goes_to_the_dht_and_its_answer_back() -> None:
    made = service()
    (ask,) = made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes)), NOW)
    assert ask.receiver == "dht" and isinstance(ask.message, WhereaboutsSought)
    assert ask.message.peer == BOB.peer_id.bytes
    (told,) = made.handle(WhereaboutsFound(ask.message.request_id, RECORD), NOW)
    assert told == Send("f", StreamAnswer(1, whereabouts.encode(WhereaboutsTold(RECORD)), finish=True))
    assert made.handle(WhereaboutsFound(ask.message.request_id, RECORD), NOW) == [], "only once"


def test_a_peers_own_record_is_published_and_nobody_elses() -> None:
    made = service()
    (ask,) = made.handle(said(WhereaboutsSaid(RECORD), who=BOB), NOW)
    assert isinstance(ask.message, WhereaboutsGiven) and ask.message.record == RECORD
    (told,) = made.handle(WhereaboutsStored(ask.message.request_id, 20), NOW)
    assert told == Send("f", StreamAnswer(1, whereabouts.encode(WhereaboutsKept(20)), finish=True))
    assert made.handle(said(WhereaboutsSaid(RECORD), who=ALICE), NOW) == RESET
    assert made.counts["refused: foreign"] == 1


@pytest.mark.parametrize("junk", [b"", b"\xff", WhereaboutsTold(b""), WhereaboutsKept(1), WhereaboutsSaid(b"x")])
def test_anything_else_ends_its_stream(junk: WhereaboutsMessage | bytes) -> None:
    assert service().handle(said(junk), NOW) == RESET


def test_a_household_asks_so_often_and_so_much_at_a_time() -> None:
    made = service()
    asked = 0
    for stream in range(100):
        sends = made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes), stream), NOW)
        asked += sends[0].receiver == "dht"
    assert asked == MAX_JOBS_OF_HOUSEHOLD
    assert made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes), 200, ip="198.51.100.1"), NOW)[0].receiver == "dht"
    for stream in range(MAX_JOBS_OF_HOUSEHOLD):
        made.handle(StreamOver("f", stream, b"", whereabouts.PROTOCOL, "reset"), NOW)
    later = NOW + AT_ONCE_OF_ONE
    assert made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes), 300), later)[0].receiver == "dht"
    assert made.counts["refused: busy"] + made.counts["refused: rate"] == 100 - asked


@pytest.mark.parametrize("end", [ActorDown("dht"), Undeliverable("dht", 1)])
def test_without_a_dht_who_asked_is_not_left_waiting(end: ActorDown | Undeliverable) -> None:
    made = service()
    made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes)), NOW)
    assert made.handle(end, NOW) == RESET
    assert made.handle(end, NOW) == []


def test_what_was_asked_through_a_forwarder_that_fell_is_forgotten() -> None:
    made = service()
    (ask,) = made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes)), NOW)
    assert isinstance(ask.message, WhereaboutsSought)
    assert made.handle(ActorDown("f"), NOW) == []
    assert made.handle(WhereaboutsFound(ask.message.request_id, RECORD), NOW) == []
    (told,) = made.handle(CountsAsked(7, "node"), NOW)
    assert told.message.sizes == {"under way": 0}  # type: ignore[attr-defined]


def test_a_node_that_relays_for_nobody_serves_nobody() -> None:
    made = service()
    assert made.handle(ModeTold(False, "volunteer"), NOW) == [Send("f", ProtocolsServed("whereabouts", ()))]
    assert made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes)), NOW) == RESET
    assert made.handle(ModeTold(False, "volunteer"), NOW) == []
    made.handle(ModeTold(True, "volunteer"), NOW)
    assert made.handle(said(WhereaboutsWanted(BOB.peer_id.bytes)), NOW)[0].receiver == "dht"
