"""A forwarder's part in what the node's owner lets it do: whether it relays at all, and how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actors.deadlines import Deadlines
from actors.inbound_streams import OwnerFactory
from actors.links import ForwarderPolicy
from actors.quota import Quota
from protocol import messages, relay_hop
from protocol.quota_messages import QuotaForwarderMessage, TermsChanged
from protocol.switching import Circuit, Switch


class ForwarderTerms:
    """``policy``: the terms at first.  ``served``: what the forwarder answers, by protocol, to which ``serve_hop`` is
    added while it relays.  ``tell``: takes what RelayServer is to hear.  ``tell_peers``: has them told what is served.
    """

    __slots__ = ("_serve_hop", "_served", "_tell_peers", "quota")

    def __init__(
        self,
        name: str,
        policy: ForwarderPolicy,
        switch: Switch,
        circuits: Mapping[int, Circuit],
        deadlines: Deadlines,
        tell: Callable[[messages.RelayServerMessage], None],
        served: dict[str, OwnerFactory],
        serve_hop: OwnerFactory,
        tell_peers: Callable[[], None],
    ) -> None:
        self.quota = Quota(name, switch, circuits, deadlines, tell, policy.rate)
        self._served = served
        self._serve_hop = serve_hop
        self._tell_peers = tell_peers
        self._serve(policy.serves)

    @property
    def serves(self) -> bool:
        """Whether peers may ask for reservations and circuits."""
        return relay_hop.PROTOCOL in self._served

    def told(self) -> dict[str, Any]:
        """For the forwarder's report."""
        return {"serves": self.serves, "rate": self.quota.rate}

    def handle(self, message: QuotaForwarderMessage, now: float) -> None:
        if not isinstance(message, TermsChanged):
            self.quota.granted(message, now)
            return
        self.quota.set_rate(message.rate)
        if self.serves != message.serves:
            # Circuits go on, and reservations until they expire: that no more come is what drains both.
            self._serve(message.serves)
            self._tell_peers()

    def _serve(self, serves: bool) -> None:
        if serves:
            self._served[relay_hop.PROTOCOL] = self._serve_hop
        else:
            self._served.pop(relay_hop.PROTOCOL, None)
