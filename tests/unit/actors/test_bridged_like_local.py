"""A bridged circuit, or one whose dialler moved, is a local one: whatever two peers do, they see the same."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.relay_server import RelayServerPolicy
from tests.support.bridged import BridgedRelay
from tests.support.handover import MovingBridges
from tests.support.peers import MemoryPeer, MemoryRelay, MemoryStream

#: More than a window, so that credit has to come back.
LARGE = 700_000


@dataclass(frozen=True)
class Step:
    """``who`` does ``what``; ``size``: bytes that it sends."""

    who: int
    what: str
    size: int


STEPS = st.lists(
    st.builds(
        Step,
        who=st.integers(0, 1),
        what=st.sampled_from(["send", "send", "send", "finish", "reset", "stop reading", "read"]),
        size=st.one_of(st.integers(1, 3000), st.just(LARGE)),
    ),
    max_size=12,
)


def seen(relay: MemoryRelay, steps: list[Step], limit: int, merge_at: int = -1) -> list[tuple[bytes, bool, bool]]:
    """What each end received, and whether it saw the end or a reset.  ``merge_at``: before that step one forwarder
    takes what the other has."""
    sent: tuple[bytearray, bytearray] = bytearray(), bytearray()
    peers = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(peers[0])
    if isinstance(relay, BridgedRelay):
        relay.attach(peers[1], forwarder=1)
    else:
        relay.attach(peers[1])
    ends: tuple[MemoryStream, MemoryStream] = relay.circuit(*peers)
    for number, step in enumerate(steps):
        if number == merge_at and isinstance(relay, MovingBridges):
            relay.merge()
            relay.run()
        view = ends[step.who]
        stream = view.stream
        open_for_sending = not (stream.fin_sent or stream.fin_after_held or stream.closed)
        if step.what == "send" and open_for_sending:
            data = bytes([number]) * step.size
            view.send(data)
            sent[step.who].extend(data)
        elif step.what == "finish":
            view.finish()
        elif step.what == "reset":
            stream.session.reset(stream)
        elif step.what == "stop reading":
            view.reading = False
        elif step.what == "read" and not view.reading:
            view.reading = True
            stream.session.consume(stream, len(view.received))
        relay.run()
    # How much reaches one who does not read is a matter of the steps in which credit is given; what, is not.  The
    # other bytes are for one whose stream still stands; one that was reset has no use for them.
    for view in ends:
        if not view.reading and not view.stream.closed:
            view.reading = True
            view.stream.session.consume(view.stream, len(view.received))
    relay.run()
    for view, other in zip(ends, reversed(sent), strict=True):
        assert other.startswith(view.received)
    return [
        (bytes(view.received), view.finished, view.reset) if view.reading else (b"", False, view.reset) for view in ends
    ]


@example(
    steps=[Step(1, "send", LARGE), Step(0, "stop reading", 0), Step(1, "send", LARGE), Step(0, "reset", 0)],
    limit=0,
    piece=0,
)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, limit=st.sampled_from([0, 0, 1, 2000, 500_000]), piece=st.sampled_from([0, 0, 4096]))
def test_nobody_sees_a_difference(steps: list[Step], limit: int, piece: int) -> None:
    policy = RelayServerPolicy(rate_limits=False, circuit_data=limit)
    local = seen(MemoryRelay(policy, piece=piece), steps, limit)
    for plain, moves in ((True, False), (False, False), (True, True)):
        bridged = BridgedRelay(policy, piece=piece, plain=plain, moves=moves)
        assert seen(bridged, steps, limit) == local
        assert bridged.moved == moves
        standing = {abs(number) for forwarder in bridged.forwarders.values() for number in forwarder.circuits}
        assert len(standing) == bridged.relay_server.circuits_in_all


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, limit=st.sampled_from([0, 1, 2000, 500_000]), merge_at=st.integers(0, 11))
def test_both_halves_on_one_forwarder(steps: list[Step], limit: int, merge_at: int) -> None:
    """The place of one forwarder is no more: its half of the circuit goes on where the other half is."""
    policy = RelayServerPolicy(rate_limits=False, circuit_data=limit)
    merged = MovingBridges(policy)
    assert seen(merged, steps, limit, merge_at) == seen(MemoryRelay(policy), steps, limit)
    standing = {abs(number) for forwarder in merged.forwarders.values() for number in forwarder.circuits}
    assert len(standing) == merged.relay_server.circuits_in_all
    if standing and merge_at < len(steps):
        assert [len(forwarder.circuits) for forwarder in merged.forwarders.values()] == [2], "one half took the other's"
