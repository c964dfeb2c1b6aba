"""RelayServer against any order of events, beside a model that walks lists where RelayServer keeps counts.

The model is what two forwarders hold.  Whatever happens: no count is negative or left behind, no limit is exceeded,
every decision is the one that the model would make, and a RelayServer that starts anew and hears the forwarders'
reports decides as the one that lived through it all.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from actors.circuit_counts import LIMITS
from actors.relay_server import ADMISSION_TIMEOUT, RelayServer, RelayServerPolicy
from actors.reservations import group_of, household
from protocol import messages as m
from protocol.relay_hop import Status

FORWARDERS = ("forwarder/0", "forwarder/1")
PEERS = tuple(f"peer {n}".encode() for n in range(5))
#: Two of one /24, one of another network, and the first again as an IPv6 socket writes it; two of one /64, and another.
ADDRESSES = ("192.0.2.1", "192.0.2.2", "203.0.113.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:1::1")

POLICY = RelayServerPolicy(
    max_reservations=4,
    max_reservations_per_ip=2,
    max_reservations_per_group=3,
    max_circuits=4,
    max_circuits_per_peer=3,
    max_circuits_per_ip=2,
    max_circuits_per_pair=2,
    reservation_duration=60.0,
    rate_limits=False,
)

forwarders = st.sampled_from(FORWARDERS)
peers = st.sampled_from(PEERS)


class RelayServerStates(RuleBasedStateMachine):
    circuits = Bundle("circuits")

    @initialize()
    def start(self) -> None:
        self.now = 1000.0
        self.request = 0
        self.next_connection = 1
        #: What each forwarder knows: connection -> (peer, address), and of those that reserved, until when.
        self.connections: dict[str, dict[int, tuple[bytes, str]]] = {name: {} for name in FORWARDERS}
        self.reserved: dict[tuple[str, int], float] = {}
        self.held: dict[int, m.HeldCircuit] = {}
        self.dialled_by: dict[int, str] = {}
        self.admitted_at: dict[int, float] = {}
        self.numbers: set[int] = set()
        self.server = self.new_server()
        for forwarder in FORWARDERS:
            self.server.handle(self.report(forwarder), self.now)

    def new_server(self) -> RelayServer:
        server = RelayServer(POLICY, FORWARDERS)
        sends = server.handle_deadline(self.now)
        assert [send.receiver for send in sends] == list(FORWARDERS)
        return server

    def report(self, forwarder: str) -> m.ForwarderReport:
        reservations = tuple(
            m.HeldReservation(number, *self.connections[name][number], until)
            for (name, number), until in self.reserved.items()
            if name == forwarder
        )
        circuits = tuple(held for number, held in self.held.items() if self.dialled_by[number] == forwarder)
        return m.ForwarderReport(forwarder, 1, reservations, circuits)

    # The model's answers.

    def current(self, peer: bytes) -> tuple[str, int] | None:
        """The live connection on which ``peer`` reserved last."""
        mine = [
            (until, key)
            for key, until in self.reserved.items()
            if until > self.now and self.connections[key[0]][key[1]][0] == peer
        ]
        return max(mine)[1] if mine else None

    def places(self) -> set[tuple[bytes, str]]:
        """Peers and the addresses from which they hold a reservation."""
        live = [self.connections[name][number] for (name, number), until in self.reserved.items() if until > self.now]
        return set(live)

    def may_reserve(self, peer: bytes, address: str) -> bool:
        others = {place for place in self.places() if place[0] != peer}
        homes = [home for _, home in {(other, household(at)) for other, at in others}]
        groups = [group for _, group in {(other, group_of(at)) for other, at in others}]
        return (
            len({other for other, _ in others}) < POLICY.max_reservations
            and homes.count(household(address)) < POLICY.max_reservations_per_ip
            and groups.count(group_of(address)) < POLICY.max_reservations_per_group
        )

    def ends(self) -> Counter[bytes]:
        return Counter(peer for held in self.held.values() for peer in (held.source, held.target))

    def pairs(self) -> Counter[tuple[bytes, bytes]]:
        return Counter((held.source, held.target) for held in self.held.values())

    def homes(self) -> Counter[str]:
        return Counter(household(held.address) for held in self.held.values())

    def connect_status(self, source: bytes, target: bytes, address: str) -> Status:
        ends = self.ends()
        if source == target:
            return Status.PERMISSION_DENIED
        if self.current(target) is None:
            return Status.NO_RESERVATION
        if (
            len(self.held) >= POLICY.max_circuits
            or max(ends[source], ends[target]) >= POLICY.max_circuits_per_peer
            or self.homes()[household(address)] >= POLICY.max_circuits_per_ip
            or self.pairs()[source, target] >= POLICY.max_circuits_per_pair
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        return Status.OK

    # What happens.

    @rule(forwarder=forwarders, peer=peers, address=st.sampled_from(ADDRESSES))
    def reserves_on_a_new_connection(self, forwarder: str, peer: bytes, address: str) -> None:
        connection = self.next_connection
        self.next_connection += 1
        self.connections[forwarder][connection] = (peer, address)
        self.reserves(forwarder, connection)

    @precondition(lambda self: any(self.connections.values()))
    @rule(data=st.data())
    def reserves_again(self, data: st.DataObject) -> None:
        every = [(name, number) for name, numbers in self.connections.items() for number in numbers]
        self.reserves(*data.draw(st.sampled_from(every)))

    def reserves(self, forwarder: str, connection: int) -> None:
        peer, address = self.connections[forwarder][connection]
        allowed = self.may_reserve(peer, address)
        self.request += 1
        self.now += 0.001  # no two reservations at the very same time: which is newer would be a matter of taste
        (send,) = self.server.handle(m.ReserveAsked(self.request, forwarder, connection, peer, address), self.now)
        assert send.receiver == forwarder
        assert send.message.request_id == self.request and send.message.connection == connection
        if allowed:
            assert isinstance(send.message, m.ReserveGranted)
            assert send.message.expires_at == self.now + POLICY.reservation_duration
            self.reserved[forwarder, connection] = send.message.expires_at
        else:
            assert isinstance(send.message, m.ReserveRefused)
            assert send.message.status == Status.RESERVATION_REFUSED
            assert 1 <= send.message.retry_after <= 60 and "max_reservations" in send.message.reason

    @precondition(lambda self: any(self.connections.values()))
    @rule(data=st.data())
    def a_connection_ends(self, data: st.DataObject) -> None:
        every = [(name, number) for name, numbers in self.connections.items() for number in numbers]
        forwarder, connection = data.draw(st.sampled_from(every))
        peer, _ = self.connections[forwarder].pop(connection)
        if self.reserved.pop((forwarder, connection), None) is not None:
            assert self.server.handle(m.ReservationEnded(forwarder, connection, peer), self.now) == []

    @rule(target=circuits, forwarder=forwarders, source=peers, to=peers, address=st.sampled_from(ADDRESSES))
    def connects(self, forwarder: str, source: bytes, to: bytes, address: str) -> int:
        expected = self.connect_status(source, to, address)
        self.request += 1
        (send,) = self.server.handle(m.ConnectAsked(self.request, forwarder, 0, source, to, address), self.now)
        assert send.receiver == forwarder and send.message.request_id == self.request
        if expected is not Status.OK:
            assert isinstance(send.message, m.ConnectRefused)
            assert send.message.status == expected and send.message.reason
            return 0
        admitted = send.message
        assert isinstance(admitted, m.ConnectAdmitted)
        assert (admitted.target_forwarder, admitted.target_connection) == self.current(to)
        number = admitted.circuit
        assert number not in self.numbers
        self.numbers.add(number)
        self.held[number] = m.HeldCircuit(
            number, source, to, 0, admitted.target_connection, self.now, admitted.target_forwarder, address
        )
        self.dialled_by[number] = forwarder
        self.admitted_at[number] = self.now
        return number

    @precondition(lambda self: any(self.current(peer) for peer in PEERS))
    @rule(target=circuits, forwarder=forwarders, source=peers, data=st.data())
    def connects_to_one_that_reserved(self, forwarder: str, source: bytes, data: st.DataObject) -> int:
        reachable = [peer for peer in PEERS if self.current(peer) and peer != source]
        to, address = data.draw(st.sampled_from(reachable or [source])), data.draw(st.sampled_from(ADDRESSES))
        return self.connects(forwarder, source, to, address)

    @rule(number=circuits)
    def a_circuit_opens(self, number: int) -> None:
        if number in self.held:
            self.admitted_at.pop(number, None)
            self.server.handle(m.CircuitOpened(number, self.dialled_by[number]), self.now)

    @rule(number=consumes(circuits), failed=st.booleans())
    def a_circuit_ends(self, number: int, failed: bool) -> None:
        """Also one that ended already: what is said twice counts once."""
        forwarder = self.dialled_by.get(number, FORWARDERS[0])
        self.forget(number)
        ended = m.CircuitFailed(number, forwarder, 203, "") if failed else m.CircuitEnded(number, forwarder, 1, 2, "")
        assert self.server.handle(ended, self.now) == []

    def forget(self, number: int) -> None:
        for table in (self.held, self.dialled_by, self.admitted_at):
            table.pop(number, None)

    @rule(seconds=st.sampled_from((0.5, 10.0, 59.0, 60.0, ADMISSION_TIMEOUT)))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.server.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            assert self.server.handle_deadline(self.now) == []
            further = self.server.next_deadline()
            assert further is None or further > self.now, "a deadline that was handled is over"
        self.now = end
        for number, admitted_at in list(self.admitted_at.items()):
            if admitted_at + ADMISSION_TIMEOUT <= self.now:
                self.forget(number)

    @rule(forwarder=forwarders)
    def a_forwarder_falls(self, forwarder: str) -> None:
        assert self.server.handle(m.ActorDown(forwarder), self.now) == []
        self.connections[forwarder].clear()
        self.reserved = {key: until for key, until in self.reserved.items() if key[0] != forwarder}
        for number, held in list(self.held.items()):
            if forwarder in (self.dialled_by[number], held.target_forwarder):
                self.forget(number)
        self.server.handle(m.ActorUp(forwarder), self.now)
        assert self.server.handle(self.report(forwarder), self.now) == []

    @rule(order=st.permutations(FORWARDERS))
    def it_restarts(self, order: list[str]) -> None:
        self.now += 0.01
        self.server = self.new_server()
        asked = m.ConnectAsked(0, FORWARDERS[0], 0, PEERS[0], PEERS[0], "198.51.100.1")
        assert self.server.handle(asked, self.now) == []
        assert self.server.handle(self.report(order[0]), self.now) == []
        (send,) = self.server.handle(self.report(order[1]), self.now)
        assert send.message.status == Status.PERMISSION_DENIED
        # Whether one that is being made will be heard of is its forwarder's promise.
        self.admitted_at.clear()

    # What always holds.

    @invariant()
    def counts_are_the_truth(self) -> None:
        server = self.server
        reservations = server._reservations
        reservations.expire(self.now)
        places = self.places()
        assert server.reservations_in_all == len({peer for peer, _ in places})
        assert reservations._addresses.peers == Counter(
            home for _, home in {(peer, household(address)) for peer, address in places}
        )
        assert reservations._groups.peers == Counter(
            group for _, group in {(peer, group_of(address)) for peer, address in places}
        )
        assert set(server._circuits) == set(self.held)
        counts = server._counts
        assert counts.held("max_circuits_per_peer") == self.ends()
        assert counts.held("max_circuits_per_pair") == self.pairs()
        assert counts.held("max_circuits_per_ip") == self.homes()
        assert all(count > 0 for setting in LIMITS for count in counts.held(setting).values())
        assert set(server._opening) == set(self.admitted_at)

    @invariant()
    def limits_hold(self) -> None:
        server = self.server
        assert server.reservations_in_all <= POLICY.max_reservations
        assert max(server._reservations._addresses.peers.values(), default=0) <= POLICY.max_reservations_per_ip
        assert max(server._reservations._groups.peers.values(), default=0) <= POLICY.max_reservations_per_group
        assert server.circuits_in_all <= POLICY.max_circuits
        for setting in LIMITS:
            assert max(server._counts.held(setting).values(), default=0) <= getattr(POLICY, setting)

    @invariant()
    def peers_are_found_where_they_reserved_last(self) -> None:
        for peer in PEERS:
            found = self.server._reservations.find(peer, self.now)
            assert (None if found is None else (found.forwarder, found.connection)) == self.current(peer)


RelayServerStates.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRelayServerStates = RelayServerStates.TestCase
