"""A bridged circuit, or one whose dialler moved, is a local one: whatever two peers do, they see the same."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.relay_server import RelayServerPolicy
from tests.support.bridged import BridgedRelay
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


def seen(relay: MemoryRelay, steps: list[Step], limit: int) -> list[tuple[bytes, bool, bool]]:
    """What each end received, and whether it saw the end or a reset."""
    peers = MemoryPeer("alice"), MemoryPeer("bob")
    relay.attach(peers[0])
    if isinstance(relay, BridgedRelay):
        relay.attach(peers[1], forwarder=1)
    else:
        relay.attach(peers[1])
    ends: tuple[MemoryStream, MemoryStream] = relay.circuit(*peers)
    for number, step in enumerate(steps):
        view = ends[step.who]
        stream = view.stream
        open_for_sending = not (stream.fin_sent or stream.fin_after_held or stream.closed)
        if step.what == "send" and open_for_sending:
            view.send(bytes([number]) * step.size)
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
    # How much reaches one who does not read is a matter of the steps in which credit is given; what, is not.
    for view in ends:
        if not view.reading and not view.stream.closed:
            view.reading = True
            view.stream.session.consume(view.stream, len(view.received))
    relay.run()
    return [(bytes(view.received), view.finished, view.reset) for view in ends]


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, limit=st.sampled_from([0, 0, 1, 2000, 500_000]), piece=st.sampled_from([0, 0, 4096]))
def test_nobody_sees_a_difference(steps: list[Step], limit: int, piece: int) -> None:
    policy = RelayServerPolicy(rate_limits=False, circuit_data=limit)
    local = seen(MemoryRelay(policy, piece=piece), steps, limit)
    for plain, moves in ((True, False), (False, False), (True, True)):
        bridged = BridgedRelay(policy, piece=piece, plain=plain, moves=moves)
        assert seen(bridged, steps, limit) == local
        assert bridged.moved == moves
        standing = {number for forwarder in bridged.forwarders.values() for number in forwarder.circuits}
        assert len(standing) == bridged.relay_server.circuits_in_all
