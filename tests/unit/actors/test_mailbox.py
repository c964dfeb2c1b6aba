"""An inbox is bounded, and an actor learns that another fell before it reads more from it."""

from __future__ import annotations

import pytest

from actors.runtime.mailbox import Mailbox, MailboxFull
from protocol.codec import Envelope
from protocol.messages import ActorDown, CircuitOpened, Message, ReportWanted


def envelope(message: Message, sender: str = "forwarder/0") -> Envelope:
    return Envelope(sender, "relay_server", message)


def data(number: int, sender: str = "forwarder/0") -> Envelope:
    return envelope(CircuitOpened(number, sender), sender)


def test_first_come_first_served() -> None:
    mailbox = Mailbox("relay_server", 10)
    for number in range(3):
        mailbox.put(data(number))
    assert [mailbox.take() for _ in range(4)] == [data(0), data(1), data(2), None]


def test_control_goes_before_data_and_is_never_refused() -> None:
    mailbox = Mailbox("relay_server", 1)
    mailbox.put(data(1))
    mailbox.put(envelope(ActorDown("forwarder/0")))
    mailbox.put(envelope(ReportWanted()))
    assert len(mailbox) == 3
    assert [mailbox.take() for _ in range(3)] == [envelope(ActorDown("forwarder/0")), envelope(ReportWanted()), data(1)]


def test_a_full_one_refuses_by_name_and_counts() -> None:
    mailbox = Mailbox("relay_server", 2)
    mailbox.put(data(1))
    mailbox.put(data(2))
    with pytest.raises(MailboxFull, match=r"relay_server.*2.*mailbox_capacity"):
        mailbox.put(data(3))
    assert (mailbox.refused, len(mailbox)) == (1, 2)
    mailbox.take()
    mailbox.put(data(4))


def test_it_is_emptied_of_one_sender_or_of_all() -> None:
    mailbox = Mailbox("relay_server", 10)
    mailbox.put(data(1, "forwarder/0"))
    mailbox.put(data(2, "forwarder/1"))
    mailbox.put(envelope(ReportWanted(), "forwarder/0"))
    assert mailbox.discard(sender="forwarder/0") == 2
    assert [mailbox.take(), mailbox.take()] == [data(2, "forwarder/1"), None]
    mailbox.put(data(3))
    assert mailbox.clear() == 1 and len(mailbox) == 0
