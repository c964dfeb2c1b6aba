"""What a client answers to peers that open streams to it: who it is, pings, circuits, its application's protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from actors.client_streams import ByteStream, IdentifyRequest, StopAnswer
from actors.inbound_streams import IdentifyAnswer, IdentifyPush, OwnerFactory, PingAnswer, StreamOwner
from actors.peer_link import PeerLink, link_of
from protocol import identify, ping, relay_stop
from protocol.identity import PeerId
from protocol.relay_hop import Limit
from protocol.yamux import Stream

AGENT: Final = "descord-relay-client/0.1.0"
PROTOCOL_VERSION: Final = "descord/0.1.0"

Handler = Callable[[PeerLink, ByteStream], None]
Incoming = Callable[[StopAnswer, PeerId, Limit | None], None]


class ServedProtocols:
    """``handlers``: by protocol, what is done with a stream that a peer opens; ``direct``: also on connections that no
    relay is between.  ``incoming``: accepts or refuses a circuit.  ``addresses``: at which others reach us, binary
    multiaddrs: those of our reservations."""

    def __init__(self, handlers: Mapping[str, Handler], incoming: Incoming, *, direct: bool = True) -> None:
        self.addresses: tuple[bytes, ...] = ()
        everywhere: dict[str, OwnerFactory] = {
            identify.PROTOCOL: self._answer_identify,
            identify.PUSH_PROTOCOL: _take_push,
            ping.PROTOCOL: PingAnswer,
        }
        self._within = everywhere | {protocol: _serve(protocol, handler) for protocol, handler in handlers.items()}
        # Nobody can relay to us through a circuit, so STOP is spoken on direct connections alone.
        self._direct = {
            **(self._within if direct else everywhere),
            relay_stop.PROTOCOL: lambda stream: StopAnswer(stream, incoming),
        }

    def on(self, link: PeerLink) -> Mapping[str, OwnerFactory]:
        """The protocols that are served on a connection."""
        return self._direct if link.relay is None else self._within

    def _answer_identify(self, stream: Stream) -> StreamOwner:
        link = link_of(stream)
        message = identify.IdentifyMessage(
            public_key=link.identity.public_key.encode(),
            listen_addrs=self.addresses,
            protocols=tuple(self.on(link)),
            observed_addr=link.observed,
            protocol_version=PROTOCOL_VERSION,
            agent_version=AGENT,
        )
        return IdentifyAnswer(stream, identify.encode_identify(message))


def ask_identity(stream: Stream, _: str) -> StreamOwner:
    """The owner of a stream on which we ask the peer who it is."""
    return IdentifyRequest(stream, lambda message: _identified(link_of(stream), message))


def _take_push(stream: Stream) -> StreamOwner:
    return IdentifyPush(stream, lambda message: _identified(link_of(stream), message))


def _identified(link: PeerLink, message: identify.IdentifyMessage) -> None:
    link.identified = message
    link.changed()


def _serve(protocol: str, handler: Handler) -> OwnerFactory:
    def serve(stream: Stream) -> StreamOwner:
        view = ByteStream(stream, protocol)
        handler(link_of(stream), view)
        return view

    return serve
