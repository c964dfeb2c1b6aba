"""The protocols that a forwarder answers by itself: identify, identify push, ping, perf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from actors.inbound_streams import IdentifyAnswer, IdentifyPush, OwnerFactory, PerfAnswer, PingAnswer, StreamOwner
from actors.links import Link
from actors.self_description import SelfDescription
from protocol import identify, perf, ping
from protocol.identity import Identity
from protocol.yamux import Stream


@dataclass(slots=True)
class OwnProtocols:
    """``served``: by protocol, what a stream is handed to; others add to it (actors/circuit_setup.py,
    actors/services.py).  ``producers``: perf streams that have more to make."""

    description: SelfDescription
    served: dict[str, OwnerFactory]
    producers: dict[PerfAnswer, None] = field(default_factory=dict)

    @classmethod
    def make(cls, identity: Identity, *, serve_perf: bool, wall: Callable[[float], float]) -> OwnProtocols:
        served: dict[str, OwnerFactory] = {}
        own = cls(SelfDescription(identity, served, wall), served)
        served[identify.PROTOCOL] = own._identify
        served[identify.PUSH_PROTOCOL] = own.identify_push
        served[ping.PROTOCOL] = PingAnswer
        if serve_perf:
            served[perf.PROTOCOL] = lambda stream: PerfAnswer(stream, own.produces)
        return own

    def _identify(self, stream: Stream) -> StreamOwner:
        link: Link = stream.session.connection.owner
        return IdentifyAnswer(stream, self.description.identify(link.remote))

    def identify_push(self, stream: Stream) -> IdentifyPush:
        link: Link = stream.session.connection.owner

        def learnt(message: identify.IdentifyMessage) -> None:
            link.agent = message.agent_version[:128]

        return IdentifyPush(stream, learnt)

    def produces(self, producer: PerfAnswer) -> None:
        self.producers[producer] = None

    @property
    def producing(self) -> bool:
        """Whether something is to be made as soon as may be."""
        return any(not producer.stream.session.connection.blocked for producer in self.producers)

    def produce(self) -> None:
        """A chunk of each stream whose socket takes it."""
        for producer in list(self.producers):
            if producer.stream.closed or (not producer.stream.session.connection.blocked and not producer.produce()):
                del self.producers[producer]
