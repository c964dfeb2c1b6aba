"""Receipts from end to end, between ReputationTrackers and a RelayServer; streams are passed on by hand."""

from __future__ import annotations

from typing import Any

import pytest

from actors.actor import Send
from actors.receipts import AT_ONCE, MAX_HOLDERS, MAX_SETTLING, RETRY, SETTLE_AFTER, SHOW_AT_ONCE, TRIES
from actors.record_store import MemoryStore
from actors.relay_server import RelayServer, RelayServerPolicy
from actors.reputation_tracker import OPERATOR_TIME, ReputationTracker
from protocol import messages, receipts
from protocol.discovery_messages import ClassTold, Observed
from protocol.identity import Identity
from protocol.messages import ActorDown, ActorUp
from protocol.receipts import (
    NothingToSign,
    PassShown,
    Receipt,
    ReceiptAsked,
    ReceiptOffered,
    ReceiptSigned,
    ReceiptsShown,
)
from protocol.reputation_messages import (
    BytesUsed,
    CircuitUsed,
    ContributionWanted,
    PassTold,
    PassWanted,
    PriorityTold,
    PriorityWanted,
    ServedWanted,
)
from protocol.service_messages import (
    ForwarderReady,
    ProtocolsServed,
    StreamAnswer,
    StreamMessage,
    StreamOver,
    StreamWanted,
)
from tests.support.peers import seeded

NOW = 1_800_000_000.0
MIB = 1 << 20


class Peer:
    """A node: its tracker, and its RelayServer."""

    def __init__(self, network: Network, name: str, consent: str = "shown", incentive: str = "priority") -> None:
        self.identity = Identity.from_seed(seeded(name))
        self.id = self.identity.peer_id.bytes
        self.network = network
        self.store = MemoryStore()
        self.tracker = ReputationTracker(
            "reputation", self.store, self.identity, relay_server="relay_server", consent=consent, incentive=incentive
        )
        self.server = RelayServer(RelayServerPolicy(rate_limits=False), forwarders=("f",), tracker="reputation")
        self.server.handle_deadline(NOW)
        self.server.handle(messages.ForwarderReport("f", 1, (), ()), NOW)
        self.told: list[Any] = []
        network.peers[self.id] = self
        self.say(ForwarderReady("f", ()))
        assert self.told == [Send("f", ProtocolsServed("reputation", (receipts.PROTOCOL,)))]
        self.told.clear()

    def say(self, message: Any) -> None:
        """To its tracker."""
        self.take(self.tracker.handle(message, self.network.now))

    def take(self, sends: list[Send]) -> None:
        for send in sends:
            if send.receiver == "relay_server":
                self.take(self.server.handle(send.message, self.network.now))
                if isinstance(send.message, ClassTold):
                    self.told.append(send)
            elif send.receiver == "reputation":
                self.say(send.message)
            elif isinstance(send.message, StreamWanted | StreamAnswer) and not self.network.held:
                self.network.carry(self, send.message)
            else:
                self.told.append(send)

    def relayed(self, source: Peer, target: Peer, to_target: int, to_source: int, *, failed: bool = False) -> None:
        """A circuit over this relay, from its beginning to its end."""
        self.network.circuits += 1
        number = self.network.circuits
        self.take(self.server.handle(messages.ReserveAsked(number, "f", number, target.id, "192.0.2.1"), NOW))
        asked = messages.ConnectAsked(number, "f", number, source.id, target.id, "192.0.2.2")
        admitted = next(s.message for s in self.server.handle(asked, NOW))
        self.server.handle(messages.CircuitOpened(admitted.circuit, "f"), NOW)
        ended = messages.CircuitEnded(admitted.circuit, "f", to_target, to_source, "closed", failed)
        self.take(self.server.handle(ended, self.network.now))
        self.told.clear()

    def confirmed(self) -> int:
        (send,) = self.tracker.handle(ContributionWanted(1, "node"), self.network.now)
        return int(send.message.month.confirmed)

    def works_for(self, hours: int, *seen_by: Peer) -> Peer:
        """It was seen to relay in so many hours up to now."""
        for one in seen_by:
            for hour in range(hours):
                at = self.network.now - 3600 * (hours - 1 - hour)
                one.take(one.tracker.handle(Observed(self.id, "probe", 0.1, works=True), at))
            one.told.clear()
        return self


class Network:
    """Streams: by what either side knows them, who is at the other end."""

    def __init__(self) -> None:
        self.now = NOW
        self.peers: dict[bytes, Peer] = {}
        self.streams: dict[tuple[bytes, int], tuple[Peer, int, int]] = {}
        self.said: list[Any] = []
        self.held = False
        self.numbers = self.circuits = 0

    def carry(self, peer: Peer, message: StreamWanted | StreamAnswer) -> None:
        if isinstance(message, StreamWanted):
            other = self.peers.get(message.peer)
            if other is None:
                peer.say(StreamOver("f", 0, message.peer, message.protocol, "protocol", "", message.request_id))
                return
            self.numbers += 2
            mine, theirs = self.numbers, self.numbers + 1
            self.streams[peer.id, mine] = other, theirs, 0
            self.streams[other.id, theirs] = peer, mine, message.request_id
            self.deliver(peer, other, theirs, message.payload or b"", 0)
        else:
            other, number, request = self.streams[peer.id, message.stream]
            if message.reset:
                self.said.append("reset")
                other.say(StreamOver("f", number, peer.id, receipts.PROTOCOL, "reset", "", request))
            elif message.payload is not None:
                self.deliver(peer, other, number, message.payload, request)

    def deliver(self, sender: Peer, receiver: Peer, stream: int, payload: bytes, request: int) -> None:
        self.said.append(receipts.decode(payload))
        receiver.say(StreamMessage("f", stream, sender.id, "192.0.2.9", receipts.PROTOCOL, payload, request_id=request))

    def later(self, peer: Peer, seconds: float) -> None:
        self.now += seconds
        peer.take(peer.tracker.handle_deadline(self.now))

    @property
    def kinds(self) -> list[str]:
        return [one if isinstance(one, str) else type(one).__name__ for one in self.said]


@pytest.fixture
def network() -> Network:
    return Network()


def settle(network: Network, relay: Peer, client: Peer, sent: int = 3 * MIB, received: int = MIB) -> None:
    relay.relayed(client, Peer(network, "somebody"), sent, received)
    client.say(CircuitUsed(relay.id, sent, received))
    network.later(client, SETTLE_AFTER)


def test_a_circuit_is_signed_for_by_both(network: Network) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client")
    settle(network, relay, client)
    assert network.kinds == ["ReceiptAsked", "ReceiptOffered", "ReceiptSigned"]
    expected = Receipt(relay.id, client.id, int(network.now // 3600), 1, 0, 7, 5)
    assert receipts.open_receipt(network.said[1].envelope, receipts.OFFER) == expected
    assert receipts.open_receipt(network.said[2].envelope, receipts.SHOWN) == expected
    assert len(relay.tracker.receipts.rows) == 1 and relay.confirmed() == 2 * MIB + MIB // 2
    assert not any(key.startswith(b"r") for key in client.store.values), "whom it used is nobody's affair"
    network.later(client, 3600)
    assert len(network.said) == 3, "once is enough"


def test_several_circuits_make_one_receipt(network: Network) -> None:
    relay, client, other = (Peer(network, name) for name in ("relay", "client", "other"))
    for failed in (False, False, True):
        relay.relayed(client, other, 100, 7, failed=failed)
        client.say(CircuitUsed(relay.id, 100, 7, failed=failed))
    network.later(client, SETTLE_AFTER)
    receipt = receipts.open_receipt(network.said[2].envelope, receipts.SHOWN)
    assert (receipt.worked, receipt.failed, receipt.sent, receipt.received) == (2, 1, 1, 1)


def test_nobody_asks_who_signs_none(network: Network) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client", consent="off")
    settle(network, relay, client)
    assert network.said == [] and client.tracker.next_deadline() is None


def test_a_receipt_that_is_kept_is_not_shown(network: Network) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client", consent="kept")
    settle(network, relay, client)
    with pytest.raises(receipts.RemoteProtocolError):
        receipts.open_receipt(network.said[2].envelope, receipts.SHOWN)
    assert relay.confirmed() > 0
    relay.say(PriorityWanted(9, "router", client.id))
    assert [send.message.problem for send in relay.told] == ["no peer has signed a receipt that may be shown"]


def test_who_says_more_than_we_counted_gets_nothing(network: Network) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client")
    relay.relayed(client, Peer(network, "somebody"), 100 * MIB, 0)
    client.say(CircuitUsed(relay.id, 3 * MIB, 0))
    network.later(client, SETTLE_AFTER)
    assert network.kinds == ["ReceiptAsked", "ReceiptOffered", "reset"]
    assert client.tracker.receipts.counts == {"refused: amount": 1} and not len(relay.tracker.receipts.rows)


def test_a_relay_that_does_not_know_yet_is_asked_again_and_not_for_ever(network: Network) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client")
    client.say(CircuitUsed(relay.id, MIB, 0))
    network.later(client, SETTLE_AFTER)
    relay.relayed(client, Peer(network, "somebody"), MIB, 0)
    network.later(client, RETRY)
    assert network.kinds == ["ReceiptAsked", "NothingToSign", "ReceiptAsked", "ReceiptOffered", "ReceiptSigned"]
    network.said.clear()
    client.say(CircuitUsed(relay.id, MIB, 0))
    for _ in range(10):
        network.later(client, RETRY)
    assert network.kinds == ["ReceiptAsked", "NothingToSign"] * TRIES and client.tracker.next_deadline() is None


def test_a_relay_that_makes_none_is_asked_once(network: Network) -> None:
    client = Peer(network, "client")
    client.say(CircuitUsed(b"another implementation", MIB, 0))
    network.later(client, SETTLE_AFTER)
    assert network.said == [] and client.tracker.next_deadline() is None


@pytest.mark.parametrize("gone", ["relay_server", "f"])
def test_who_falls_in_between_ends_it_and_it_is_asked_again(network: Network, gone: str) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client")
    relay.relayed(client, Peer(network, "somebody"), MIB, 0)
    client.say(CircuitUsed(relay.id, MIB, 0))
    if gone == "f":
        network.held = True
        network.later(client, SETTLE_AFTER)
        network.held = False
        client.say(ActorDown("f"))
        network.later(client, RETRY)
        client.say(ForwarderReady("f", ()))
        network.later(client, RETRY)
        assert network.kinds == ["ReceiptAsked", "ReceiptOffered", "ReceiptSigned"]
        return
    said = [Send("f", StreamAnswer(1, receipts.encode(NothingToSign()), finish=True))]
    asked = StreamMessage("f", 1, client.id, "192.0.2.9", receipts.PROTOCOL, receipts.encode(ReceiptAsked()))
    relay.tracker.handle(asked, NOW)
    assert relay.tracker.handle(ActorDown("relay_server"), NOW) == said
    assert relay.tracker.handle(ActorUp("relay_server"), NOW) == []


# Standing.


def test_what_a_known_relay_signed_raises_another_that_is_known(network: Network) -> None:
    new, witness, there = (Peer(network, name) for name in ("new", "witness", "there"))
    settle(network, new, witness)
    new.works_for(1, there)
    witness.works_for(12, there)
    new.say(PriorityWanted(9, "router", there.id))
    (told,) = [send.message for send in new.told]
    assert told.standing == pytest.approx(2 / 12, rel=0.01) and not told.problem
    assert told.until == NOW + SETTLE_AFTER + OPERATOR_TIME
    (send,) = there.told
    assert send.message == ClassTold(new.id, told.until, told.standing)


def test_what_strangers_sign_raises_nobody(network: Network) -> None:
    new, there = Peer(network, "new"), Peer(network, "there")
    for number in range(20):
        settle(network, new, Peer(network, f"sybil {number}"))
    new.say(PriorityWanted(9, "router", there.id))
    assert [send.message for send in new.told] == [PriorityTold(9, 0.0, 0)] and there.told == []
    assert len(network.said[-2].envelopes) == receipts.MAX_SHOWN
    new.works_for(1, there)
    new.told.clear()
    new.say(PriorityWanted(9, "router", there.id))
    (told,) = [send.message for send in new.told]
    assert told.standing == pytest.approx(1 / 12)


def test_another_relays_receipts_are_worth_nothing(network: Network) -> None:
    relay, thief, witness, there = (Peer(network, name) for name in ("relay", "thief", "witness", "there"))
    settle(network, relay, witness)
    shown = receipts.encode(ReceiptsShown((network.said[2].envelope,)))
    stolen = StreamMessage("f", 5, thief.id, "192.0.2.9", receipts.PROTOCOL, shown)
    assert there.tracker.handle(stolen, NOW) == [Send("f", StreamAnswer(5, None, reset=True))]
    assert there.tracker.receipts.counts == {"refused: forged": 1}


def test_receipts_are_there_after_a_restart(network: Network) -> None:
    relay, client = Peer(network, "relay"), Peer(network, "client")
    settle(network, relay, client)
    (key,) = [key for key in relay.store.values if key.startswith(b"r")]
    assert key == b"r" + client.id
    again = ReputationTracker("reputation", relay.store, relay.identity, relay_server="relay_server")
    (send,) = again.handle(ContributionWanted(1, "node"), network.now)
    assert send.message.receipts == 1 and again.unread == 0


# Bad peers.


def message(peer: Peer, payload: bytes, stream: int = 1, address: str = "192.0.2.9") -> StreamMessage:
    return StreamMessage("f", stream, peer.id, address, receipts.PROTOCOL, payload)


def test_what_is_not_due_ends_its_stream(network: Network) -> None:
    relay, bad = Peer(network, "relay"), Peer(network, "bad")
    reset = [Send("f", StreamAnswer(1, None, reset=True))]
    for payload in (b"", b"\x91\xa4what", receipts.encode(NothingToSign()), receipts.encode(ReceiptSigned(b"x"))):
        assert relay.tracker.handle(message(bad, payload), NOW) == reset
    relay.relayed(bad, Peer(network, "somebody"), MIB, 0)
    network.held = True
    relay.say(message(bad, receipts.encode(ReceiptAsked())))
    (offered,) = [receipts.decode(send.message.payload) for send in relay.told]
    assert isinstance(offered, ReceiptOffered)
    forged = receipts.open_receipt(offered.envelope, receipts.OFFER)
    more = Receipt(forged.relay, forged.client, forged.window, 40, 0, 40, 40)
    signed = receipts.encode(ReceiptSigned(receipts.sign(more, bad.identity, receipts.SHOWN)))
    assert relay.tracker.handle(message(bad, signed), NOW) == reset
    assert not len(relay.tracker.receipts.rows)


def test_a_flood_is_bounded(network: Network) -> None:
    relay, bad = Peer(network, "relay"), Peer(network, "bad")
    network.held = True
    asked, shown = receipts.encode(ReceiptAsked()), receipts.encode(ReceiptsShown(()))
    for number in range(1000):
        relay.say(message(bad, asked, number))
        relay.say(message(bad, shown, 5000 + number))
    answered = [receipts.decode(send.message.payload) for send in relay.told if send.message.payload]
    assert len([one for one in answered if isinstance(one, NothingToSign)]) == AT_ONCE
    assert len(answered) == AT_ONCE + SHOW_AT_ONCE
    # Of many households, while RelayServer has not answered.
    waiting = 0
    for number in range(2 * MAX_SETTLING):
        (send,) = relay.tracker.handle(message(bad, asked, number, f"10.{number % 250}.{number // 250}.1"), NOW)
        waiting += isinstance(send.message, ServedWanted)
    assert waiting == MAX_SETTLING


# Passes.


def given_by(relay: Peer, holder: Peer) -> PassTold:
    relay.told.clear()
    relay.say(PassWanted(5, "node", holder.id))
    (told,) = [send.message for send in relay.told]
    assert isinstance(told, PassTold) and not told.problem
    return told


def show(there: Peer, holder: Peer, told: PassTold, at: float | None = None) -> list[Any]:
    """What the relay ``there`` says to it, and to its RelayServer."""
    said = receipts.encode(PassShown(told.envelope, told.receipts))
    message = StreamMessage("f", 7, holder.id, f"192.0.2.{holder.id[-1]}", receipts.PROTOCOL, said)
    sends = there.tracker.handle(message, there.network.now if at is None else at)
    return [send.message for send in sends]


def test_who_has_the_pass_of_a_relay_that_worked_is_served_as_that_relay(network: Network) -> None:
    relay, owner, there = Peer(network, "relay"), Peer(network, "owner"), Peer(network, "there")
    told = given_by(relay, owner)
    # A relay that nobody has seen is worth nothing.
    answer, *more = show(there, owner, told)
    assert receipts.decode(answer.payload) == receipts.StandingTold(0.0, 0) and more == []
    relay.works_for(6, there)
    answer, *_, last = show(there, owner, told)
    standing = receipts.decode(answer.payload)
    assert isinstance(standing, receipts.StandingTold) and standing.standing == pytest.approx(0.5, rel=0.01)
    assert standing.until == NOW + receipts.PASS_LIFE == last.until
    assert last == ClassTold(owner.id, last.until, standing.standing, relay.id)
    # RelayServer hears of it again when it has fallen, and no more when the pass is over.
    again = [send.message for send in there.tracker.handle(ActorUp("relay_server"), NOW)]
    assert last in again
    later = [send.message for send in there.tracker.handle(ActorUp("relay_server"), NOW + receipts.PASS_LIFE + 1)]
    assert owner.id not in {one.peer for one in later}


def test_a_pass_is_worth_nothing_to_others_or_when_it_is_over(network: Network) -> None:
    relay, owner, thief, there = (Peer(network, name) for name in ("relay", "owner", "thief", "there"))
    relay.works_for(6, there)
    told = given_by(relay, owner)
    forged = PassTold(0, receipts.give_pass(thief.identity, owner.id, NOW)[:-1] + b"?")
    ended = StreamAnswer(7, None, reset=True)
    assert show(there, thief, told) == [ended]
    assert show(there, owner, forged) == [ended]
    assert show(there, owner, told, NOW + receipts.PASS_LIFE) == [ended]
    assert show(there, owner, told, NOW - 2 * receipts.WINDOW) == [ended], "it would hold for too long"
    assert there.tracker.receipts.passes == {}


def test_a_relay_has_few_who_are_served_as_it(network: Network) -> None:
    relay, there = Peer(network, "relay"), Peer(network, "there")
    relay.works_for(6, there)
    holders = [Peer(network, f"device {number}") for number in range(MAX_HOLDERS + 1)]
    passes = [given_by(relay, one) for one in holders]
    answers = [show(there, one, told)[0] for one, told in zip(holders, passes, strict=True)]
    assert [one.reset for one in answers] == [False] * MAX_HOLDERS + [True]
    assert not show(there, holders[0], passes[0])[0].reset, "one of them may show it again"
    later = NOW + receipts.PASS_LIFE + 1
    last = PassTold(0, receipts.give_pass(relay.identity, holders[-1].id, later))
    assert not show(there, holders[-1], last, later)[0].reset


def test_short_passes_do_not_make_room_for_more(network: Network) -> None:
    """Made so that each is over in a moment."""
    relay, there = Peer(network, "relay"), Peer(network, "there")
    relay.works_for(6, there)
    answers = []
    for number in range(MAX_HOLDERS + 1):
        holder, now = Peer(network, f"device {number}"), NOW + 10 * number
        brief = PassTold(0, receipts.give_pass(relay.identity, holder.id, now - receipts.PASS_LIFE + 2))
        answers.append(show(there, holder, brief, now)[0].reset)
    assert answers == [False] * MAX_HOLDERS + [True]


def test_who_is_an_operator_itself_loses_nothing_by_a_pass(network: Network) -> None:
    relay, owner, there = Peer(network, "relay"), Peer(network, "owner"), Peer(network, "there")
    relay.works_for(1, there)
    owner.works_for(6, there)
    *_, last = show(there, owner, given_by(relay, owner))
    assert last == ClassTold(owner.id, NOW + OPERATOR_TIME, last.standing) and last.standing > 0.4


def test_who_wants_nothing_for_it_gives_no_pass(network: Network) -> None:
    volunteer, owner = Peer(network, "relay", incentive="volunteer"), Peer(network, "owner")
    volunteer.say(PassWanted(5, "node", owner.id))
    assert "volunteer" in volunteer.told[0].message.problem
    spender = Peer(network, "spender", incentive="credits")
    spender.say(BytesUsed(MIB))
    spender.say(PassWanted(5, "node", owner.id))
    assert "credits are spent" in spender.told[0].message.problem
