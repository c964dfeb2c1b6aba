"""RelayServer under terms: who is refused, and what forwarders are told."""

from __future__ import annotations

import pytest

from actors.actor import Send
from actors.relay_server import RelayServer, RelayServerPolicy
from protocol import messages as m
from protocol.quota_messages import QuotaGranted, QuotaReturned, QuotaWanted, TermsChanged, TermsSet
from protocol.relay_hop import Status
from tests.support.capped import terms

ZERO, ONE = "forwarder/0", "forwarder/1"


def started(first: TermsSet | None = None, **report: float) -> RelayServer:
    relay = RelayServer(RelayServerPolicy(), (ZERO,), terms=first)
    relay.handle_deadline(0.0)
    relay.handle(m.ForwarderReport(ZERO, 1, (), (), **report), 0.0)  # type: ignore[arg-type]
    return relay


RESERVE = m.ReserveAsked(1, ZERO, 5, b"bob", "192.0.2.1")
CONNECT = m.ConnectAsked(2, ZERO, 6, b"alice", b"bob", "192.0.2.2")


def test_without_terms_anything_goes() -> None:
    relay = started()
    assert isinstance(relay.handle(RESERVE, 1.0)[0].message, m.ReserveGranted)
    assert isinstance(relay.handle(CONNECT, 1.0)[0].message, m.ConnectAdmitted)


@pytest.mark.parametrize("setting", ["run_when", "mode"])
def test_a_pause_refuses_what_is_new_and_nothing_else(setting: str) -> None:
    relay = started()
    relay.handle(RESERVE, 1.0)
    (admitted,) = relay.handle(CONNECT, 1.0)
    assert isinstance(admitted.message, m.ConnectAdmitted)
    relay.handle(m.CircuitOpened(admitted.message.circuit, ZERO), 1.0)
    assert relay.handle(terms(refusal="not now", setting=setting, retry_after=300), 2.0) == []
    for asked, kind, status in (
        (RESERVE, m.ReserveRefused, Status.RESERVATION_REFUSED),
        (CONNECT, m.ConnectRefused, Status.RESOURCE_LIMIT_EXCEEDED),
    ):
        (send,) = relay.handle(asked, 3.0)
        assert send.message == kind(asked.request_id, asked.connection, int(status), f"not now ({setting})", 300)
    assert (relay.circuits_in_all, relay.reservations_in_all) == (1, 1)
    assert relay.refused_here == {setting: 2}
    relay.handle(terms(), 4.0)
    assert isinstance(relay.handle(RESERVE, 4.0)[0].message, m.ReserveGranted)


def test_forwarders_are_told_what_is_theirs_when_it_changes() -> None:
    relay = started()
    assert relay.handle(terms(1000.0), 1.0) == [Send(ZERO, TermsChanged(True, 1000.0))]
    assert relay.handle(terms(1000.0, refusal="no", setting="run_when"), 1.0) == []
    assert relay.handle(terms(1000.0, serves=False), 1.0) == [Send(ZERO, TermsChanged(False, 1000.0))]


def test_a_forwarder_that_goes_by_other_terms_is_told() -> None:
    relay = started(terms(1000.0), rate=1000.0)
    assert relay.handle(m.ForwarderReport(ONE, 2, (), (), rate=1000.0), 1.0) == []
    told = relay.handle(m.ForwarderReport(ONE, 2, (), ()), 1.0)
    assert told == [Send(ONE, TermsChanged(True, 1000.0))]


def test_the_number_of_circuits_changes_without_a_restart() -> None:
    relay = started()
    relay.handle(RESERVE, 1.0)
    relay.handle(CONNECT, 1.0)
    relay.handle(TermsSet(True, "", "", 0, 0.0, 1), 2.0)
    (send,) = relay.handle(m.ConnectAsked(3, ZERO, 7, b"carol", b"bob", "192.0.2.3"), 3.0)
    assert isinstance(send.message, m.ConnectRefused) and "all 1 circuits" in send.message.reason


def test_quota_is_given_as_it_comes() -> None:
    relay = started(terms(1000.0), rate=1000.0)
    assert relay.handle(QuotaWanted(ZERO, 600, 1, 0), 0.1) == []
    deadline = relay.next_deadline()
    assert deadline is not None and 0.4 <= deadline <= 0.6
    (send,) = relay.handle_deadline(deadline)
    assert isinstance(send.message, QuotaGranted) and send.receiver == ZERO and 0 < send.message.amount <= 600
    assert relay.handle(QuotaReturned(ZERO, 5), 1.0) == []


def test_a_relay_server_that_takes_over_gives_none_before_all_is_taken_over() -> None:
    """Another one, in the process that leaves, gives it until then: together they would give twice the rate."""
    relay = RelayServer(RelayServerPolicy(), (ZERO,), terms=terms(1000.0), report_wait=3600.0)
    relay.handle_deadline(0.0)
    assert relay.handle(QuotaWanted(ZERO, 600, 1, 0), 50.0) == []
    assert relay.handle_deadline(60.0) == []
    relay.handle(m.ForwarderReport(ZERO, 1, (), (), rate=1000.0), 60.0)
    granted = [send for at in (60.0, 60.5) for send in relay.handle_deadline(at)]
    assert [send.message for send in granted] == [QuotaGranted(500)]


def test_a_forwarder_that_is_gone_gets_no_quota() -> None:
    """What it said last may come behind the report of its successor."""
    relay = started(terms(1000.0), rate=1000.0)
    relay.handle(m.HandoverBegins(ZERO, ONE), 1.0)
    assert isinstance(relay.handle(QuotaWanted(ZERO, 10, 1, 0), 2.0)[0].message, QuotaGranted)  # it still relays
    relay.handle(m.ForwarderReport(ONE, 2, (), (), replaces=ZERO, rate=1000.0), 3.0)
    assert relay.handle(QuotaWanted(ZERO, 10, 1, 0), 4.0) == []
    assert isinstance(relay.handle(QuotaWanted(ONE, 10, 1, 0), 4.0)[0].message, QuotaGranted)
