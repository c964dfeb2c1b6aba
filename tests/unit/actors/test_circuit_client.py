"""CircuitClient against our relay in memory, and against a relay made by hand that does what no relay should."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.circuit_client import CircuitClient, ClientPolicy
from actors.client_streams import ByteStream, say
from actors.peer_link import PeerLink, Refusal
from actors.relay_server import RelayServerPolicy
from protocol import relay_hop, relay_stop
from protocol.arena import Arena
from protocol.connection import Connection, ConnectionLimits
from protocol.envelope import seal_voucher
from protocol.errors import RemoteProtocolError
from protocol.identity import Identity, PeerId
from protocol.multistream import Dialer, Listener, Negotiated
from protocol.noise import StaticKey
from protocol.relay_hop import HopServer, Limit, ReservationGranted, Status
from protocol.relay_stop import CircuitAccepted, CircuitRefused, StopClient
from protocol.switching import Switch
from protocol.yamux import INITIAL_WINDOW, DataReceived, Stream, StreamOpened
from tests.support.peers import START, MemoryRelay, seeded

ECHO = "/test/echo/1.0.0"
SINK = "/test/sink/1.0.0"


def echo(_: PeerLink, view: ByteStream) -> None:
    """Send back what comes; finish when the other end does."""

    def changed() -> None:
        data = view.take(1 << 20)
        if data and not view.failure:
            view.stream.session.send(view.stream, data)
        if view.ended:
            view.stream.session.finish(view.stream)

    view.changed = changed


class MemoryClient:
    """A CircuitClient whose wire is in memory.  It is attached to a MemoryRelay as a MemoryPeer is."""

    def __init__(self, name: str, expected: PeerId, policy: ClientPolicy | None = None) -> None:
        self._random = 0
        self.name = name
        self.written = bytearray()
        self.closed = False
        self.accepted: list[PeerLink] = []
        self.sunk: list[ByteStream] = []
        self.client = CircuitClient(
            policy or ClientPolicy(),
            StaticKey(Identity.from_seed(seeded(name)), seeded(name + " static")),
            self.randomness,
            handlers={ECHO: echo, SINK: lambda _, view: self.sunk.append(view)},
            accepted=self.accepted.append,
        )
        self.peer_id = self.client.peer_id
        self.link = self.client.attach(self, expected, START)

    def randomness(self, size: int) -> bytes:
        self._random += 1
        return seeded(f"{self.name} {self._random}")[:size]

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def output(self) -> bytes:
        self.client.flush()
        data = bytes(self.written)
        self.written.clear()
        return data

    def receive(self, data: bytes, now: float) -> None:
        view = memoryview(data)
        while view:
            buffer = self.link.connection.receive_buffer()
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self.client.filled(self.link, size, now)
            view = view[size:]

    def ask(self, ask: Callable[..., None], *arguments: object, now: float = START) -> list:
        """Ask the client something; the list gets the answer."""
        answers: list[object] = []
        ask(self.link, *arguments, answers.append, now)
        return answers

    def open(self, link: PeerLink, *protocols: str) -> list:
        answers: list[object] = []
        self.client.open(link, protocols, answers.append, answers.append, START)
        return answers


def pair(piece: int = 0, **policy: float) -> tuple[MemoryRelay, MemoryClient, MemoryClient]:
    relay = MemoryRelay(RelayServerPolicy(rate_limits=False, **policy), piece=piece)
    clients = [MemoryClient(name, relay.peer_id) for name in ("alice", "bob")]
    for client in clients:
        relay.attach(client)  # type: ignore[arg-type]
    return relay, *clients


def circuit(relay: MemoryRelay, alice: MemoryClient, bob: MemoryClient) -> PeerLink:
    """Alice's end of a circuit to Bob."""
    reserved = bob.ask(bob.client.reserve)
    relay.run()
    assert isinstance(reserved[0], ReservationGranted)
    connected = alice.ask(alice.client.connect, bob.peer_id)
    relay.run()
    link = connected[0]
    assert isinstance(link, PeerLink)
    return link


@pytest.mark.parametrize("piece", [0, 1, 7, 1000])
def test_a_circuit_carries_streams_both_ways(piece: int) -> None:
    relay, alice, bob = pair(piece)
    link = circuit(relay, alice, bob)
    assert (link.peer, bob.accepted[0].peer) == (bob.peer_id, alice.peer_id)
    assert link.ready
    assert not link.inbound
    assert bob.accepted[0].inbound
    data = bytes(range(256)) * (4 if 0 < piece < 100 else 3000)
    for client, end in ((alice, link), (bob, bob.accepted[0])):
        opened = client.open(end, "/test/unknown", ECHO)
        relay.run()
        view = opened[0]
        assert view.protocol == ECHO
        view.stream.session.send(view.stream, data)
        received = bytearray()
        for _ in range(8):
            relay.run()
            while part := view.take(1 << 20):
                received += part
        assert received == data
        view.stream.session.finish(view.stream)
        relay.run()
        assert view.ended
        assert not view.failure


def test_both_learn_who_the_other_says_it_is() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    for end in (link, bob.accepted[0]):
        assert end.identified is not None
        assert ECHO in end.identified.protocols
        # Through a circuit nobody can be asked to accept another one.
        assert relay_stop.PROTOCOL not in end.identified.protocols
    assert relay.forwarder.links
    assert alice.link.identified is not None
    assert relay_hop.PROTOCOL in alice.link.identified.protocols


def test_the_limit_is_told_to_both() -> None:
    relay, alice, bob = pair(circuit_data=1 << 20, circuit_duration=77)
    link = circuit(relay, alice, bob)
    assert link.limit == bob.accepted[0].limit == Limit(77, 1 << 20)


def test_a_refusal_says_what_the_relay_said() -> None:
    relay, alice, bob = pair()
    answers = alice.ask(alice.client.connect, bob.peer_id)
    relay.run()
    refusal = answers[0]
    assert isinstance(refusal, Refusal)
    assert refusal.status == Status.NO_RESERVATION
    assert str(refusal).startswith("NO_RESERVATION: ")


def test_what_a_relay_says_is_no_command_to_a_terminal() -> None:
    assert str(Refusal(204, "\x1b[31mred\nline")) == "NO_RESERVATION: ?[31mred?line"
    assert str(Refusal(999, "", 60)) == "status 999; retry after 60 s"


def test_the_wrong_relay_is_not_talked_to() -> None:
    relay = MemoryRelay()
    client = MemoryClient("alice", Identity.from_seed(seeded("someone else")).peer_id)
    relay.attach(client)  # type: ignore[arg-type]
    client.client.flush()
    assert "expected peer" in client.link.ended
    assert client.closed


def test_an_unknown_protocol_fails_and_costs_the_connection_nothing() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    answers = alice.open(link, "/test/unknown")
    relay.run()
    assert answers == ["the peer speaks none of /test/unknown"]
    assert link.ready


def test_what_came_before_a_reset_can_still_be_read() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    opened = alice.open(link, SINK)
    relay.run()
    ours, theirs = opened[0], bob.sunk[0]
    ours.stream.session.send(ours.stream, b"last words")
    ours.stream.session.reset(ours.stream)
    relay.run()
    assert theirs.failure == "the peer reset the stream"
    assert theirs.take(100) == b"last words"


def test_a_reader_that_stops_holds_its_writer_up() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    opened = alice.open(link, SINK)
    relay.run()
    view, theirs = opened[0], bob.sunk[0]
    written = 0
    while CircuitClient.takes(view):
        view.stream.session.send(view.stream, bytes(1000))
        written += 1000
        relay.run()
    assert INITIAL_WINDOW <= written <= INITIAL_WINDOW + 1000
    # What was said to agree on the protocol came out of the same window.
    assert INITIAL_WINDOW - 100 <= sum(map(len, theirs.received)) <= INITIAL_WINDOW
    woken = []
    view.changed = lambda: woken.append(CircuitClient.takes(view))
    theirs.take(1 << 20)
    relay.run()
    assert woken[-1]


def test_a_socket_that_takes_nothing_holds_writers_within_circuits_up() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    opened = alice.open(link, SINK)
    relay.run()
    view = opened[0]
    alice.link.connection.blocked = True
    assert not CircuitClient.takes(view)
    woken = []
    view.changed = lambda: woken.append(CircuitClient.takes(view))
    alice.link.connection.blocked = False
    alice.client.drained(alice.link)
    assert woken == [True]


def test_the_connection_to_the_relay_takes_what_is_within_it_along() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    opened = alice.open(link, SINK)
    relay.run()
    alice.client.lost(alice.link, "cable cut", START)
    assert "cable cut" in link.ended
    assert "cable cut" in opened[0].failure
    assert not alice.client.links
    relay.detach(alice)  # type: ignore[arg-type]
    assert bob.accepted[0].ended
    assert bob.sunk[0].failure
    assert bob.link.ready


def test_closing_says_good_bye_and_frees_the_circuit() -> None:
    relay, alice, bob = pair()
    link = circuit(relay, alice, bob)
    alice.client.close(link, START)
    relay.run()
    assert bob.accepted[0].ended == "the peer closed the circuit"
    assert not relay.forwarder.circuits
    assert alice.link.ready


def test_no_more_circuits_than_allowed() -> None:
    relay = MemoryRelay()
    alice = MemoryClient("alice", relay.peer_id)
    bob = MemoryClient("bob", relay.peer_id, ClientPolicy(max_circuits=2))
    for client in (alice, bob):
        relay.attach(client)  # type: ignore[arg-type]
    for _ in range(2):
        circuit(relay, alice, bob)
    answers = alice.ask(alice.client.connect, bob.peer_id)
    relay.run()
    assert "2 circuits are open" in str(answers[0])
    assert len(bob.accepted) == 2


# A relay made by hand.


class HandRelay:
    """A relay's end of a connection; ``hop`` answers requests, :meth:`stop` announces a circuit."""

    def __init__(self, client: MemoryClient, hop: Callable[[HandRelay, HopServer], None]) -> None:
        self.identity = Identity.from_seed(seeded("relay"))
        self.client = client
        self.hop = hop
        self.circuits: list[bytearray] = []
        self.answers: list[object] = []
        self._sinks: dict[Stream, Callable[[bytes], None]] = {}
        self.connection = Connection(
            Switch(Arena()),
            StaticKey(self.identity, seeded("relay static")),
            seeded("relay ephemeral"),
            START,
            initiator=False,
            limits=ConnectionLimits(),
        )
        self.run()

    def run(self) -> None:
        while True:
            to_relay, to_client = self.client.output(), self.connection.data_to_send()
            if not (to_relay or to_client):
                return
            self.connection.receive_data(to_relay, START)
            self._read()
            if to_client:
                self.client.receive(to_client, START)

    def _read(self) -> None:
        while (event := self.connection.next_event()) is not None:
            match event:
                case StreamOpened(stream):
                    self._sinks[stream] = self._serve(stream)
                case DataReceived(stream, data):
                    self._sinks[stream](data)
                case _:
                    pass

    def _serve(self, stream: Stream) -> Callable[[bytes], None]:
        listener, server = Listener((relay_hop.PROTOCOL,)), HopServer()

        def sink(data: bytes) -> None:
            listener.receive_data(data)
            agreed = listener.next_event()
            stream.session.send(stream, listener.data_to_send())
            if isinstance(agreed, Negotiated):
                data = listener.trailing_data()
                self._sinks[stream] = asked
                asked(data)

        def asked(data: bytes) -> None:
            server.receive_data(data)
            if server.next_event() is not None:
                self.hop(self, server)
                say(stream, server.data_to_send())

        return sink

    def stop(self, peer: PeerId) -> None:
        stream = self.connection.session.open_stream()
        dialer, machine = Dialer((relay_stop.PROTOCOL,)), StopClient(peer, None)
        stream.session.send(stream, dialer.data_to_send() + machine.data_to_send())

        def sink(data: bytes) -> None:
            dialer.receive_data(data)
            if isinstance(dialer.next_event(), Negotiated):
                self._sinks[stream] = answered
                answered(dialer.trailing_data())

        def answered(data: bytes) -> None:
            machine.receive_data(data)
            if (event := machine.next_event()) is not None:
                self.answers.append(event)

        self._sinks[stream] = sink
        self.run()


def by_hand(hop: Callable[[HandRelay, HopServer], None] = lambda _, __: None) -> tuple[HandRelay, MemoryClient]:
    client = MemoryClient("alice", Identity.from_seed(seeded("relay")).peer_id)
    relay = HandRelay(client, hop)
    assert client.link.ready
    return relay, client


@pytest.mark.parametrize(("signer", "holder"), [("relay", "somebody else"), ("somebody else", "alice"), (None, None)])
def test_a_voucher_that_is_not_ours_is_refused(signer: str | None, holder: str | None) -> None:
    if signer is None or holder is None:
        voucher = b"garbage"
    else:
        holder_id = Identity.from_seed(seeded(holder)).peer_id
        voucher = seal_voucher(Identity.from_seed(seeded(signer)), holder_id, int(START) + 3600)
    relay, client = by_hand(lambda _, server: server.grant_reservation(int(START) + 3600, (), voucher, None))
    answers = client.ask(client.client.reserve)
    relay.run()
    assert isinstance(answers[0], Refusal)
    assert "voucher" in answers[0].reason


def test_a_relay_may_give_no_voucher() -> None:
    relay, client = by_hand(lambda _, server: server.grant_reservation(int(START) + 3600, (), b"", None))
    answers = client.ask(client.client.reserve)
    relay.run()
    assert isinstance(answers[0], ReservationGranted)


def test_the_answer_to_another_question_is_refused() -> None:
    relay, client = by_hand(lambda _, server: server.refuse(Status.OK, ""))
    answers = client.ask(client.client.reserve)
    relay.run()
    assert isinstance(answers[0], Refusal)
    assert client.link.ready


def test_a_relay_that_says_nothing_is_not_waited_for_for_ever() -> None:
    relay, client = by_hand()
    answers = client.ask(client.client.reserve)
    relay.run()
    assert not answers
    deadline = client.client.next_deadline()
    assert deadline is not None
    for _ in range(4):
        client.client.handle_deadline(START + 30.5)
    assert isinstance(answers[0], Refusal)
    assert "no answer within 30 s" in answers[0].reason


def test_a_handshake_that_stops_ends() -> None:
    client = MemoryClient("alice", Identity.from_seed(seeded("relay")).peer_id)
    client.client.handle_deadline(START + 10.5)
    client.client.flush()
    assert "10 s" in client.link.ended
    assert client.closed


def test_a_circuit_from_one_of_whom_nothing_was_asked_is_refused() -> None:
    relay, client = by_hand()
    relay.stop(Identity.from_seed(seeded("bob")).peer_id)
    (answer,) = relay.answers
    assert isinstance(answer, CircuitRefused)
    assert answer.status == Status.PERMISSION_DENIED
    assert not client.accepted


def test_a_circuit_in_which_nobody_speaks_ends() -> None:
    relay, client = by_hand(lambda _, server: server.grant_reservation(int(START) + 3600, (), b"", None))
    client.ask(client.client.reserve)
    relay.run()
    relay.stop(Identity.from_seed(seeded("bob")).peer_id)
    assert isinstance(relay.answers[0], CircuitAccepted)
    assert len(client.client.links) == 2
    client.client.handle_deadline(START + 10.5)
    relay.run()
    assert len(client.client.links) == 1
    assert not client.accepted


def test_a_relay_cannot_pass_itself_off_as_the_peer() -> None:
    """It accepts CONNECT and answers the inner handshake with a key of its own."""
    mallory = Identity.from_seed(seeded("mallory"))
    inner = Connection(
        Switch(Arena()),
        StaticKey(mallory, seeded("mallory static")),
        seeded("mallory ephemeral"),
        START,
        initiator=False,
        limits=ConnectionLimits(),
    )

    def hop(relay: HandRelay, server: HopServer) -> None:
        server.accept_connect(None)
        stream = next(stream for stream, sink in relay._sinks.items() if sink.__name__ == "asked")

        def speak(data: bytes) -> None:
            inner.receive_data(data, START)
            with suppress(RemoteProtocolError):
                while inner.next_event() is not None:
                    pass
            if not stream.closed:
                stream.session.send(stream, inner.data_to_send())

        relay._sinks[stream] = speak

    relay, client = by_hand(hop)
    answers = client.ask(client.client.connect, Identity.from_seed(seeded("bob")).peer_id)
    relay.run()
    link = answers[0]
    assert isinstance(link, PeerLink)
    assert "expected peer" in link.ended
    assert link.peer is None
    assert client.link.ready


@given(st.binary(max_size=200))
def test_any_answer_of_a_relay_is_an_answer_or_an_error(raw: bytes) -> None:
    def hop(relay: HandRelay, _: HopServer) -> None:
        stream = next(stream for stream, sink in relay._sinks.items() if sink.__name__ == "asked")
        stream.session.send(stream, raw)
        stream.session.finish(stream)

    for request in ("reserve", "connect"):
        relay, client = by_hand(hop)
        arguments = () if request == "reserve" else (Identity.from_seed(seeded("bob")).peer_id,)
        answers = client.ask(getattr(client.client, request), *arguments)
        relay.run()
        assert len(answers) == 1
        assert client.link.ready


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=5))
def test_any_bytes_within_a_circuit_cost_that_circuit_alone(pieces: list[bytes]) -> None:
    def hop(relay: HandRelay, server: HopServer) -> None:
        server.accept_connect(None)
        stream = next(stream for stream, sink in relay._sinks.items() if sink.__name__ == "asked")
        stream.session.send(stream, server.data_to_send())
        relay._sinks[stream] = lambda _: None
        for piece in pieces:
            stream.session.send(stream, piece)

    relay, client = by_hand(hop)
    answers = client.ask(client.client.connect, Identity.from_seed(seeded("bob")).peer_id)
    relay.run()
    assert isinstance(answers[0], PeerLink)
    assert not answers[0].ready
    assert client.link.ready
