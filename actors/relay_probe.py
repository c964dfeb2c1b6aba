"""Trying a relay: is it there, how far is it, and would it take us?

    ping            with the dial; tells that it is there.  While it has proved its peer id at none of its addresses
                    it is dialled though it is connected to us: others have to reach it there
    ping            on the same stream; its round trip is the latency
    HOP RESERVE     if wanted; the answer tells whether it has room, and for how long not

The connection is given up afterwards, and with it a reservation that was granted, unless something else uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.actor import Send
from protocol import ping, relay_hop
from protocol.errors import RemoteProtocolError
from protocol.relay_hop import HopClient, RequestRefused, ReservationGranted, Status
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted
from protocol.wire import FrameReader, frame

#: Seconds for the dial and the first answer, and for each answer after it: far above a round trip round the earth.
TIMEOUT: Final = 5.0

#: Statuses of a relay that has no room now.
_FULL: Final = (Status.RESERVATION_REFUSED, Status.RESOURCE_LIMIT_EXCEEDED)

#: Seconds for which a relay's word to come back later is believed.
MAX_RETRY: Final = 86_400


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``latency``: seconds, None: it was not reached.  ``answer``: as FoundRelay says it; ``unprobed``: it is there,
    and was not asked, or we could not ask; ``norelay``: it is there, and does not relay.  ``reason``: why not, for the
    log.  ``met_at``: where it was dialled and has proved its peer id, a binary multiaddr; b"": it was met otherwise."""

    peer: bytes
    latency: float | None
    answer: str
    retry_after: int = 0
    reason: str = ""
    met_at: bytes = b""


@dataclass(slots=True)
class _Probe:
    peer: bytes
    addresses: tuple[bytes, ...]
    reserve: bool
    forwarder: str
    pings: int = 0
    sent_at: float = 0.0
    latency: float | None = None
    met_at: bytes = b""


class Probes:
    """Those under way.  ``name``: the actor that streams are told to.  ``randomness(n)``: n random bytes."""

    def __init__(self, name: str, randomness: Callable[[int], bytes]) -> None:
        self._name = name
        self._randomness = randomness
        self._next = 1
        self._probes: dict[int, _Probe] = {}
        self.peers: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._probes)

    def begin(
        self, forwarder: str, peer: bytes, addresses: tuple[bytes, ...], *, reserve: bool, fresh: bool
    ) -> list[Send]:
        """Try ``peer``, over ``forwarder``; ``fresh``: on a connection of our own making."""
        self.peers.add(peer)
        probe = _Probe(peer, addresses, reserve, forwarder)
        return [self._want(probe, ping.PROTOCOL, self._randomness(ping.SIZE), fixed=ping.SIZE, fresh=fresh)]

    def _want(self, probe: _Probe, protocol: str, payload: bytes, fixed: int = 0, *, fresh: bool = False) -> Send:
        number, self._next = self._next, self._next + 1
        self._probes[number] = probe
        wanted = StreamWanted(
            number,
            self._name,
            probe.peer,
            probe.addresses,
            protocol,
            payload,
            TIMEOUT,
            fixed,
            finish=not fixed,
            fresh=fresh,
        )
        return Send(probe.forwarder, wanted)

    def message(self, message: StreamMessage, now: float) -> tuple[list[Send], ProbeResult | None]:
        """A word of a relay that is tried: what to say, and what came of it at the end."""
        probe = self._probes.get(message.request_id)
        if probe is None:
            return [Send(message.forwarder, StreamAnswer(message.stream, None, reset=True))], None
        if message.protocol == relay_hop.PROTOCOL:
            return self._hop_answered(message, probe)
        probe.met_at = message.observed if message.dialled else b""
        probe.pings += 1
        if probe.pings == 1:
            probe.sent_at = now
            return [Send(message.forwarder, StreamAnswer(message.stream, self._randomness(ping.SIZE)))], None
        probe.latency = now - probe.sent_at
        del self._probes[message.request_id]
        over = Send(message.forwarder, StreamAnswer(message.stream, None, reset=True, release=not probe.reserve))
        if probe.reserve:
            asking = HopClient()
            asking.reserve()
            reader = FrameReader(relay_hop.MAX_MESSAGE)
            reader.receive_data(asking.data_to_send())
            return [self._want(probe, relay_hop.PROTOCOL, reader.next_frame() or b""), over], None
        return [over], self._end(probe, "unprobed")

    def _hop_answered(self, message: StreamMessage, probe: _Probe) -> tuple[list[Send], ProbeResult]:
        del self._probes[message.request_id]
        machine = HopClient()
        machine.reserve()
        over = [Send(message.forwarder, StreamAnswer(message.stream, None, reset=True, release=True))]
        try:
            machine.receive_data(frame(message.payload))
            answer = machine.next_event()
        except RemoteProtocolError as error:
            return over, self._end(probe, "refuses", reason=str(error))
        match answer:
            case ReservationGranted():
                return over, self._end(probe, "reserves")
            case RequestRefused(status, reason, retry_after) if status in _FULL:
                return over, self._end(probe, "full", min(retry_after, MAX_RETRY), reason)
            case RequestRefused(reason=reason):
                return over, self._end(probe, "refuses", reason=reason)
        return over, self._end(probe, "refuses", reason="an answer that makes no sense")

    def over(self, message: StreamOver) -> ProbeResult | None:
        """A stream ended before the answer."""
        probe = self._probes.pop(message.request_id, None)
        if probe is None:
            return None
        if message.code in ("gone", "limit"):
            return self._end(probe, "unprobed", reason=message.reason)  # not its fault
        if probe.latency is not None and message.code == "protocol":
            return self._end(probe, "norelay", reason=message.reason)
        if probe.latency is not None:
            return self._end(probe, "refuses", reason=message.reason or "it does not answer")
        return self._end(probe, "unreachable", reason=message.reason or message.code)

    def forwarder_lost(self, forwarder: str) -> list[ProbeResult]:
        lost = [number for number, probe in self._probes.items() if probe.forwarder == forwarder]
        return [self._end(self._probes.pop(number), "unprobed", reason=f"{forwarder} fell") for number in lost]

    def _end(self, probe: _Probe, answer: str, retry_after: int = 0, reason: str = "") -> ProbeResult:
        self.peers.discard(probe.peer)
        return ProbeResult(probe.peer, probe.latency, answer, retry_after, reason, probe.met_at)
