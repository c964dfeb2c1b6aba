"""RelayServer while one forwarder takes over from another: no question is lost or answered to the wrong one."""

from __future__ import annotations

from actors.actor import Send
from actors.relay_handover import HANDOVER_WAIT
from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import messages
from tests.support.peers import START

OLD, NEW, THIRD = "forwarder/0", "forwarder/0.1", "forwarder/1"


def peer(name: str) -> bytes:
    return name.encode()


def report(
    forwarder: str, *held: str, circuits: tuple[messages.HeldCircuit, ...] = (), replaces: str = ""
) -> messages.ForwarderReport:
    reservations = tuple(
        messages.HeldReservation(10 + number, peer(name), "192.0.2.1", START + 1000) for number, name in enumerate(held)
    )
    return messages.ForwarderReport(forwarder, 1, reservations, circuits, replaces=replaces)


def circuit(number: int, source: str, target: str, forwarder: str) -> messages.HeldCircuit:
    return messages.HeldCircuit(number, peer(source), peer(target), 1, 2, START, forwarder)


def connect(forwarder: str, source: str, target: str, request: int = 1) -> messages.ConnectAsked:
    return messages.ConnectAsked(request, forwarder, 5, peer(source), peer(target), "192.0.2.1")


def reserve(forwarder: str, name: str, request: int = 1) -> messages.ReserveAsked:
    return messages.ReserveAsked(request, forwarder, 6, peer(name), "192.0.2.1")


class Stage:
    """A RelayServer whose forwarders are OLD, with bob's reservation and a circuit of alice to bob, and THIRD."""

    def __init__(self) -> None:
        self.server = RelayServer(RelayServerPolicy(rate_limits=False), (OLD, THIRD))
        self.server.handle_deadline(START)
        self.say(report(OLD, "bob", circuits=(circuit(7, "alice", "bob", OLD),)))
        self.say(report(THIRD, circuits=(circuit(8, "carol", "bob", OLD),)))

    def say(self, message: messages.RelayServerMessage, now: float = START + 1) -> list[Send]:
        return self.server.handle(message, now)

    def begin(self) -> None:
        assert self.say(messages.HandoverBegins(OLD, NEW)) == [Send(OLD, messages.HandoverReady())]

    def admitted(self, sends: list[Send]) -> list[tuple[str, str, int]]:
        return [
            (send.receiver, send.message.target_forwarder, send.message.target_connection)
            for send in sends
            if isinstance(send.message, messages.ConnectAdmitted)
        ]


def test_who_wants_a_peer_that_is_moving_waits_until_it_has_moved() -> None:
    stage = Stage()
    stage.begin()
    assert stage.say(connect(THIRD, "carol", "bob")) == []
    assert stage.say(connect(NEW, "dave", "bob")) == []
    done = stage.say(report(NEW, "bob", circuits=(circuit(7, "alice", "bob", NEW),), replaces=OLD))
    assert stage.admitted(done) == [(THIRD, NEW, 10), (NEW, NEW, 10)]
    assert stage.server.reservations_in_all == 1


def test_what_has_nothing_to_do_with_it_is_answered() -> None:
    stage = Stage()
    stage.begin()
    (granted,) = stage.say(reserve(THIRD, "dave"))
    assert isinstance(granted.message, messages.ReserveGranted)
    assert stage.admitted(stage.say(connect(THIRD, "carol", "dave"))) == [(THIRD, THIRD, 6)]
    (granted,) = stage.say(reserve(NEW, "bob"))  # on the connection that has moved
    assert granted.receiver == NEW
    assert stage.admitted(stage.say(connect(THIRD, "carol", "bob"))) == [(THIRD, NEW, 6)]


def test_questions_of_the_old_one_are_the_new_ones_to_ask() -> None:
    stage = Stage()
    stage.begin()
    assert stage.say(reserve(OLD, "erin")) == [] == stage.say(connect(OLD, "erin", "bob"))
    assert stage.say(report(NEW, "bob", replaces=OLD)) == []
    assert stage.admitted(stage.say(connect(NEW, "erin", "bob"))) == [(NEW, NEW, 10)]


def test_circuits_that_others_dialled_lead_to_the_new_one() -> None:
    stage = Stage()
    stage.begin()
    stage.say(report(NEW, "bob", circuits=(circuit(7, "alice", "bob", NEW),), replaces=OLD))
    assert stage.server.circuits_in_all == 2
    stage.say(messages.ActorDown(OLD))  # as planned
    assert (stage.server.circuits_in_all, stage.server.reservations_in_all) == (2, 1)
    stage.say(messages.ActorDown(NEW))
    assert (stage.server.circuits_in_all, stage.server.reservations_in_all) == (0, 0)


def test_circuits_that_ended_on_the_way_are_not_counted() -> None:
    stage = Stage()
    stage.begin()
    stage.say(messages.CircuitEnded(7, NEW, 1, 1, "finished"))
    stage.say(messages.CircuitEnded(8, THIRD, 1, 1, "finished"))
    stage.say(report(NEW, "bob", replaces=OLD))
    assert stage.server.circuits_in_all == 0


def test_nothing_came_of_it() -> None:
    stage = Stage()
    stage.begin()
    assert stage.say(connect(THIRD, "carol", "bob")) == []
    back = stage.say(report(OLD, "bob", circuits=(circuit(7, "alice", "bob", OLD),)))
    assert stage.admitted(back) == [(THIRD, OLD, 10)]
    assert stage.admitted(stage.say(connect(OLD, "alice", "bob"))) == [(OLD, OLD, 10)]


def test_the_old_one_falls_and_the_new_one_has_part() -> None:
    stage = Stage()
    stage.begin()
    stage.say(connect(THIRD, "carol", "bob"))
    assert stage.say(messages.ActorDown(OLD)) == []
    assert stage.server.reservations_in_all == 1
    done = stage.say(report(NEW, "bob", replaces=OLD))
    assert stage.admitted(done) == [(THIRD, NEW, 10)]
    assert stage.server.circuits_in_all == 2  # carol's old one, and the new one


def test_the_new_one_falls_and_the_old_one_has_part() -> None:
    stage = Stage()
    stage.begin()
    stage.say(connect(THIRD, "carol", "bob"))
    assert stage.say(messages.ActorDown(NEW)) == []
    (refused,) = stage.say(report(OLD))  # bob had moved
    assert isinstance(refused.message, messages.ConnectRefused)
    assert stage.server.reservations_in_all == 0


def test_both_fall() -> None:
    for first, second in ((OLD, NEW), (NEW, OLD)):
        stage = Stage()
        stage.begin()
        stage.say(connect(THIRD, "carol", "bob"))
        stage.say(messages.ActorDown(first))
        stage.say(messages.ActorDown(second))
        deadline = stage.server.next_deadline()
        assert deadline is not None and deadline <= START  # there is nothing to wait for
        (refused,) = stage.server.handle_deadline(START + 1)
        assert isinstance(refused.message, messages.ConnectRefused)
        assert (stage.server.circuits_in_all, stage.server.reservations_in_all) == (0, 0)


def test_one_of_which_nothing_is_heard_is_not_waited_for_for_ever() -> None:
    stage = Stage()
    stage.begin()
    stage.say(connect(THIRD, "carol", "bob"))
    answered = stage.server.handle_deadline(START + 1 + HANDOVER_WAIT)
    assert stage.admitted(answered) == [(THIRD, OLD, 10)]


def test_a_question_of_one_that_fell_is_not_answered() -> None:
    stage = Stage()
    stage.begin()
    stage.say(connect(THIRD, "carol", "bob"))
    stage.say(messages.ActorDown(THIRD))
    assert stage.say(report(NEW, "bob", replaces=OLD)) == []
