"""A peer at the privacy level LOW (actors/ports/peer.py): its client, its one port, and its hole punching."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from actors.ports.client import Client, Handler
from actors.ports.connections import DialError, PeerConnection
from actors.ports.diallers import PortDialler
from actors.ports.hole_punch import HolePuncher
from actors.ports.peer_terms import PeerPolicy, Router
from actors.ports.reachable import Reachable
from actors.ports.resolver import Resolver
from actors.served_protocols import AGENT
from protocol import dcutr
from protocol.identity import Identity


class LowSide:
    """See the module; as of Peer."""

    def __init__(
        self,
        identity: Identity,
        router: Router,
        handlers: Mapping[str, Handler],
        policy: PeerPolicy,
        resolver: Callable[[], Resolver],
        accepted: Callable[[PeerConnection], None],
        before_use: Callable[[PeerConnection], Awaitable[None]],
    ) -> None:
        self._accepted = accepted
        dialler = PortDialler(resolver())
        self._puncher = HolePuncher(dialler, private=policy.private_network, allowed=policy.meets)
        self.client = Client(
            identity,
            policy=policy.client,
            dialler=dialler,
            padded=policy.padded,
            handlers=handlers,
            # Here and nowhere else: at HIGH and MAXIMUM it would tell the other where we are.
            offered={dcutr.PROTOCOL: self._puncher.answer},
            accepted=self._accept,
            before_use=before_use,
        )
        self._puncher.client = self.client
        self.reachable = Reachable(self.client, None, router, identity, policy.relays)

    async def direct(self, relayed: PeerConnection) -> PeerConnection:
        """See Peer.direct."""
        if not self.client.has(relayed):
            raise DialError("only a connection at the privacy level low is led on to a direct one")
        said = await relayed.identify()
        # It is the other who begins, and rust names only what it answers: so it is waited for, but for one of ours.
        if dcutr.PROTOCOL not in said.protocols and said.agent_version == AGENT:
            raise DialError("the peer does not punch holes (/libp2p/dcutr), and a relay alone was not allowed")
        return await self._puncher.direct(relayed)

    async def lead_on(self, relayed: PeerConnection) -> PeerConnection:
        """The same; ``relayed`` was made for that alone, and is closed."""
        try:
            return await self.direct(relayed)
        finally:
            await relayed.close()

    async def close(self) -> None:
        await self.reachable.close()
        await self._puncher.close()
        await self.client.close()

    def _accept(self, connection: PeerConnection) -> None:
        self._puncher.accepted(connection)
        self._accepted(connection)
