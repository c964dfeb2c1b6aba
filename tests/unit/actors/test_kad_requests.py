"""Requests of others: so many at a time, each answered once, whatever becomes of its forwarder."""

from __future__ import annotations

from actors.actor import Send
from actors.kad_requests import GRACE, MAX_QUEUED, MAX_UNDER_WAY, TIMEOUT, Reply, Requests
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted


class Replies(list[Reply]):
    def __call__(self, reply: Reply, now: float) -> None:
        self.append(reply)


def requests(*forwarders: str) -> Requests:
    made = Requests("dht")
    made.forwarders = dict.fromkeys(forwarders, ())
    return made


def wanted(made: Requests) -> list[tuple[str, StreamWanted]]:
    sends, made.sends = made.sends, []
    return [(send.receiver, send.message) for send in sends if isinstance(send.message, StreamWanted)]


def test_a_request_is_a_stream_that_ends_with_its_answer() -> None:
    made, replies = requests("forwarder/0"), Replies()
    made.ask(b"peer", (b"address",), "/kad", b"ask", replies, 0.0)
    ((receiver, asked),) = wanted(made)
    assert (receiver, asked.peer, asked.addresses, asked.payload) == ("forwarder/0", b"peer", (b"address",), b"ask")
    answer = StreamMessage("forwarder/0", 7, b"peer", "8.8.8.8", "/kad", b"answer", asked.request_id)
    made.message(answer, 1.0)
    assert replies == [Reply(b"peer", answer)]
    assert made.sends == [Send("forwarder/0", StreamAnswer(7, None, finish=True))]
    made.message(answer, 2.0)
    assert len(replies) == 1 and made.sends[-1].message.reset
    made.over(StreamOver("forwarder/0", 7, b"peer", "/kad", "finished", "", asked.request_id), 3.0)
    assert len(replies) == 1 and made.next_deadline() is None


def test_so_many_at_a_time_and_so_many_wait() -> None:
    made, replies = requests("forwarder/0"), Replies()
    for number in range(MAX_UNDER_WAY + MAX_QUEUED + 5):
        made.ask(b"%d" % number, (), "/kad", b"", replies, 0.0)
    first = wanted(made)
    assert len(first) == made.under_way == MAX_UNDER_WAY and made.waiting == MAX_QUEUED
    made.settle(0.0)
    assert [reply.code for reply in replies] == ["gone"] * 5
    made.over(StreamOver("forwarder/0", 0, b"0", "/kad", "dial", "", first[0][1].request_id), 1.0)
    assert replies[-1] == Reply(b"0", None, "dial") and len(wanted(made)) == 1


def test_a_forwarder_that_falls_silent_is_not_waited_for() -> None:
    made, replies = requests("forwarder/0"), Replies()
    made.ask(b"peer", (), "/kad", b"", replies, 100.0)
    assert made.next_deadline() == 100.0 + TIMEOUT + GRACE
    made.handle_deadline(100.0 + TIMEOUT)
    assert replies == []
    made.handle_deadline(100.0 + TIMEOUT + GRACE)
    assert replies == [Reply(b"peer", None, "gone")] and made.next_deadline() is None


def test_what_a_lost_forwarder_was_asked_fails_and_what_waits_goes_elsewhere() -> None:
    made, replies = requests("forwarder/0", "forwarder/1"), Replies()
    for number in range(MAX_UNDER_WAY + 10):
        made.ask(b"%d" % number, (), "/kad", b"", replies, 0.0)
    of = [receiver for receiver, _ in wanted(made)]
    assert set(of) == {"forwarder/0", "forwarder/1"}
    made.lost("forwarder/0", 1.0)
    assert made.next_deadline() == 0.0
    made.settle(1.0)
    assert len(replies) == of.count("forwarder/0")
    assert {receiver for receiver, _ in wanted(made)} == {"forwarder/1"}
    made.lost("forwarder/1", 2.0)
    made.settle(2.0)
    assert len(replies) == MAX_UNDER_WAY + 10 and made.under_way == made.waiting == 0


def test_without_a_forwarder_nothing_is_asked() -> None:
    made, replies = requests(), Replies()
    made.ask(b"peer", (), "/kad", b"", replies, 0.0)
    made.handle_deadline(0.0)
    assert replies == [Reply(b"peer", None, "gone")] and made.sends == []


def test_the_same_peer_is_asked_through_the_same_forwarder_and_a_known_one_through_its_own() -> None:
    made, replies = requests("forwarder/0", "forwarder/1", "forwarder/2"), Replies()
    for _ in range(3):
        made.ask(b"peer", (), "/kad", b"", replies, 0.0)
    assert len({receiver for receiver, _ in wanted(made)}) == 1
    for name in ("forwarder/0", "forwarder/2"):
        made.ask(b"peer", (), "/kad", b"", replies, 0.0, forwarder=name)
        assert wanted(made)[0][0] == name
