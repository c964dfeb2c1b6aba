"""Relays under a bandwidth cap, in virtual time."""

from __future__ import annotations

from types import SimpleNamespace

from actors.actor import Send
from actors.bandwidth import Bandwidth
from actors.deadlines import Deadlines
from actors.quota import Quota
from protocol.arena import Arena
from protocol.quota_messages import QuotaGranted, QuotaReturned, QuotaWanted, TermsSet
from protocol.switching import Circuit, Switch
from protocol.yamux import INITIAL_WINDOW, Session, Stream, YamuxLimits
from tests.support.peers import START, MemoryRelay

#: Any bytes: what they are is of no matter here.
BYTES = memoryview(bytes(1 << 20))


def terms(
    rate: float = 0.0, *, serves: bool = True, refusal: str = "", setting: str = "", retry_after: int = 0
) -> TermsSet:
    return TermsSet(serves, refusal, setting, retry_after, rate, 2048)


def set_terms(relay: MemoryRelay, wanted: TermsSet) -> None:
    """As the node says it to RelayServer."""
    relay._post([Send("relay_server", wanted)])
    relay.run()


def pass_time(relay: MemoryRelay, seconds: float, step: float = 0.05) -> None:
    """Like MemoryRelay.advance, in steps in which quota is given out."""
    end = relay.now + seconds
    while relay.now < end:
        relay.now = min(relay.now + step, end)
        for forwarder in getattr(relay, "forwarders", {"": relay.forwarder}).values():
            if (due := forwarder.next_deadline()) is not None and due <= relay.now:
                relay._post(forwarder.handle_deadline(relay.now))
        if (due := relay.relay_server.next_deadline()) is not None and due <= relay.now:
            relay._post(relay.relay_server.handle_deadline(relay.now))
        relay.run()


class Line:
    """A forwarder under a cap without the peers: a real switch with real circuits, whose receivers take all.
    ``greedy``: streams whose peers send whatever they may."""

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self.switch = Switch(Arena())
        self.circuits: dict[int, Circuit] = {}
        self.deadlines = Deadlines()
        self.said: list[QuotaWanted | QuotaReturned] = []
        self.greedy: list[Stream] = []
        self.quota = Quota(name, self.switch, self.circuits, self.deadlines, self.said.append, rate)  # type: ignore[arg-type]

    @property
    def passed(self) -> int:
        return self.switch.arena.bytes_switched

    def circuit(self) -> Circuit:
        ends = []
        for _ in range(2):
            connection = SimpleNamespace(blocked=False, waiting=set())
            session = Session(initiator=True, limits=YamuxLimits(), mark_dirty=lambda: None, connection=connection)
            ends.append(session.open_stream())
        number = len(self.circuits) + 1
        self.circuits[number] = self.switch.join(number, *ends)
        return self.circuits[number]

    def offer(self, stream: Stream, size: int) -> int:
        """Its peer sends ``size`` bytes, if it may; how many it sent."""
        size = min(size, stream.receive_window, len(BYTES))
        stream.receive_window -= size
        self.switch.push(stream, BYTES[:size])
        return size

    def end_turn(self) -> bool:
        """What comes at the end of a turn; whether anything came from the greedy."""
        came = sum(self.offer(stream, len(BYTES)) for stream in self.greedy)
        for circuit in self.circuits.values():
            for stream, out in ((circuit.source, circuit.target), (circuit.target, circuit.source)):
                # What came out the receiver has used up.
                out.session.control.clear()
                if out.send_window < INITIAL_WINDOW:
                    out.send_window = INITIAL_WINDOW
                    self.switch._credited.add(stream)
        if self.switch.meter.hungry:
            self.quota.settle()
        self.switch.settle()
        return came > 0


class Lines:
    """Some of them with the bucket that they share.  ``high``: most bytes that ever passed beyond the rate, in any
    span of time."""

    def __init__(self, rate: float, count: int) -> None:
        self.rate = rate
        self.now = START
        self.bandwidth = Bandwidth(rate)
        self.bandwidth.begin(self.now)
        self.lines = {f"forwarder/{number}": Line(f"forwarder/{number}", rate) for number in range(count)}
        self._before = 0
        self._lowest = 0.0
        self.high = 0.0

    @property
    def passed(self) -> int:
        return self._before + sum(line.passed for line in self.lines.values())

    def run(self, until: float) -> None:
        """What is due up to that time."""
        self._settle()
        while True:
            times = [line.deadlines.next() for line in self.lines.values()] + [self.bandwidth.next_deadline()]
            due = min((when for when in times if when is not None), default=until)
            if due >= until:
                break
            self.now = max(self.now, due)
            for line in self.lines.values():
                line.deadlines.run(self.now)
            if (round_at := self.bandwidth.next_deadline()) is not None and round_at <= self.now:
                self._carry(self.bandwidth.handle_deadline(self.now))
            self._settle()
        self.now = until

    def _settle(self) -> None:
        talking = True
        while talking:
            talking = False
            for line in self.lines.values():
                talking |= line.end_turn()
                said, line.said[:] = list(line.said), []
                for message in said:
                    talking = True
                    if isinstance(message, QuotaWanted):
                        self._carry(self.bandwidth.wanted(message, self.now))
                    else:
                        self._carry(self.bandwidth.returned(message, self.now))
        beyond = self.passed - self.rate * (self.now - START)
        self._lowest = min(self._lowest, beyond)
        self.high = max(self.high, beyond - self._lowest)

    def _carry(self, sends: list[Send]) -> None:
        for send in sends:
            assert isinstance(send.message, QuotaGranted)
            self.lines[send.receiver].quota.granted(send.message, self.now)

    def kill(self, name: str) -> None:
        """A forwarder falls, and another takes its place, with nothing."""
        self._before += self.lines[name].passed
        self.lines[name] = Line(name, self.rate)
        self.bandwidth.lost(name)

    def restart_bucket(self) -> None:
        """RelayServer falls, and another asks forwarders for what they have."""
        self.bandwidth = Bandwidth(self.rate)
        self.bandwidth.begin(self.now)
        for line in self.lines.values():
            line.said.clear()
            line.quota.begin_anew()

    def retire(self, name: str, successor: str) -> None:
        """A forwarder hands its circuits over to another one, and says nothing more."""
        old, new = self.lines[name], Line(successor, self.rate)
        old.switch.meter.collect()
        for number, circuit in old.circuits.items():
            old.switch.meter.let_go(circuit)
            new.circuits[number] = circuit
            new.switch.meter.join(circuit)
        new.greedy = old.greedy
        self._before += old.passed
        del self.lines[name]
        self.lines[successor] = new
        self.bandwidth.lost(name)
