"""Who may have a circuit extended, and to where: to relays that are known here, and to nothing else."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from actors.actor import Send
from actors.extension_service import AT_ONCE, FRESH, SEARCH_AGAIN, ExtensionService
from protocol import extend
from protocol.discovery_messages import BestRelays, BestRelaysWanted, FoundRelay
from protocol.extend import ExtendMessage, ExtendTold, ExtendWanted
from protocol.identity import Identity
from protocol.messages import ActorDown, Undeliverable
from protocol.quota_messages import ModeTold
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamExtended,
    StreamMessage,
    StreamOver,
)
from tests.support.peers import seeded

NOW = 0.0
ALICE, R1, R2 = (Identity.from_seed(seeded(name)).peer_id.bytes for name in ("alice", "r1", "r2"))
AT = Multiaddr("/ip4/8.8.4.1/tcp/4001").to_bytes()
SERVED = Send("f", ProtocolsServed("extension", (extend.PROTOCOL,)))
RESET = [Send("f", StreamAnswer(1, None, reset=True))]


VICTIM = Multiaddr("/ip4/8.8.8.8/tcp/25").to_bytes()


def relay(peer: bytes, answer: str = "reserves", proved: tuple[bytes, ...] = (AT,)) -> FoundRelay:
    """What it says of where it is leads to somebody else too."""
    return FoundRelay(peer, (VICTIM, AT), ("dht",), 0.1, 0.1, None, answer, proved=proved)


def service(*, metered: bool = False) -> ExtensionService:
    made = ExtensionService("extension", "directory", serves=True, metered=metered)
    (said,) = made.handle(ForwarderReady("f", ()), NOW)
    assert said == (SERVED if not metered else Send("f", ProtocolsServed("extension", ())))
    return made


def wanted(message: ExtendMessage | bytes, stream: int = 1, ip: str = "192.0.2.1") -> StreamMessage:
    payload = message if isinstance(message, bytes) else extend.encode(message)
    return StreamMessage("f", stream, ALICE, ip, extend.PROTOCOL, payload)


def asked(made: ExtensionService, *relays: FoundRelay, stream: int = 1, peer: bytes = R1) -> list[Send]:
    (ask,) = made.handle(wanted(ExtendWanted(peer), stream), NOW)
    assert ask.receiver == "directory" and isinstance(ask.message, BestRelaysWanted) and not ask.message.search
    sends = made.handle(BestRelays(ask.message.request_id, relays), NOW)
    if len(sends) == 1 and isinstance(search := sends[0].message, BestRelaysWanted):
        assert search.search
        return made.handle(BestRelays(search.request_id, relays), NOW)
    return sends


def test_a_relay_is_gone_on_to_where_it_proved_to_be_and_nowhere_else() -> None:
    assert asked(service(), relay(R1), relay(R2)) == [Send("f", StreamExtended(1, (AT,)))]


@pytest.mark.parametrize(
    "known", [(), (relay(R2),), (relay(R1, "unreachable"),), (relay(R1, "unprobed", ()),), (relay(R1, proved=()),)]
)
def test_nothing_else_is(known: tuple[FoundRelay, ...]) -> None:
    (told,) = asked(service(), *known)
    assert isinstance(told.message, StreamAnswer) and told.message.finish and told.message.payload is not None
    assert isinstance(extend.decode(told.message.payload), ExtendTold)


def test_the_directory_is_asked_once_for_many() -> None:
    made = service()
    (ask,) = made.handle(wanted(ExtendWanted(R1), 1), NOW)
    assert made.handle(wanted(ExtendWanted(R2), 2), NOW) == []
    assert made.handle(StreamOver("f", 2, ALICE, extend.PROTOCOL, "reset"), NOW) == []
    sends = made.handle(BestRelays(ask.message.request_id, (relay(R1), relay(R2))), NOW)  # type: ignore[union-attr]
    assert sends == [Send("f", StreamExtended(1, (AT,)))], "the other one had gone"
    assert made.handle(wanted(ExtendWanted(R2), 3), NOW + FRESH - 1) == [Send("f", StreamExtended(3, (AT,)))]
    assert made.handle(wanted(ExtendWanted(R2), 4), NOW + FRESH)[0].receiver == "directory"


def test_a_relay_that_is_not_known_is_looked_for_but_not_all_the_time() -> None:
    made = service()
    (ask,) = made.handle(wanted(ExtendWanted(R1), 1), NOW)
    assert isinstance(ask.message, BestRelaysWanted) and not ask.message.search
    made.handle(wanted(ExtendWanted(R2), 2), NOW)
    known, search = made.handle(BestRelays(ask.message.request_id, (relay(R2),)), NOW)
    assert known == Send("f", StreamExtended(2, (AT,))), "who is known need not wait"
    assert isinstance(search.message, BestRelaysWanted) and search.message.search and search.message.timeout
    assert made.handle(wanted(ExtendWanted(R2), 3), NOW) == [Send("f", StreamExtended(3, (AT,)))]
    assert made.handle(BestRelays(search.message.request_id, (relay(R1), relay(R2))), NOW + 3) == [
        Send("f", StreamExtended(1, (AT,)))
    ]
    (refused,) = made.handle(wanted(ExtendWanted(ALICE), 4), NOW + 4)
    assert isinstance(refused.message, StreamAnswer), "no second search so soon"
    (again,) = made.handle(wanted(ExtendWanted(ALICE), 5), NOW + SEARCH_AGAIN)
    assert again.receiver == "directory"


@pytest.mark.parametrize("junk", [b"", b"\xff", ExtendTold(""), b"\x92\xa6extend\xc4\x01x"])
def test_what_is_no_request_ends_its_stream(junk: ExtendMessage | bytes) -> None:
    assert service().handle(wanted(junk), NOW) == RESET


def test_a_household_asks_so_often() -> None:
    made = service()
    asked(made, relay(R1))
    taken = sum(made.handle(wanted(ExtendWanted(R1)), NOW) != RESET for _ in range(100))
    assert taken == AT_ONCE - 1
    assert made.handle(wanted(ExtendWanted(R1), ip="198.51.100.1"), NOW) != RESET


def test_who_relays_for_nobody_or_under_a_cap_extends_nothing() -> None:
    assert service(metered=True).handle(wanted(ExtendWanted(R1)), NOW) == RESET
    made = service()
    none = [Send("f", ProtocolsServed("extension", ()))]
    assert made.handle(ModeTold(True, "volunteer", metered=True), NOW) == none
    assert made.handle(wanted(ExtendWanted(R1)), NOW) == RESET
    assert made.handle(ModeTold(True, "volunteer"), NOW) == [SERVED]
    assert made.handle(ModeTold(False, "volunteer"), NOW) == none


@pytest.mark.parametrize("end", [ActorDown("directory"), Undeliverable("directory", 1)])
def test_without_a_directory_who_asked_is_not_left_waiting(end: ActorDown | Undeliverable) -> None:
    made = service()
    made.handle(wanted(ExtendWanted(R1)), NOW)
    (told,) = made.handle(end, NOW)
    assert isinstance(told.message, StreamAnswer) and told.message.finish
