"""What the node's owner lets it relay, between actors.

node        -> RelayServer   TermsSet: from now on
node        -> those of the network of relays   ModeTold
RelayServer -> forwarder     TermsChanged: the part of it that is a forwarder's affair
forwarder   -> RelayServer   QuotaWanted, answered by QuotaGranted when there is some; QuotaReturned
"""

from __future__ import annotations

from protocol.message_base import Message


class TermsSet(Message, frozen=True):
    """``serves``: False: the node relays for nobody, HOP is not spoken.  ``refusal``: why nothing new is taken on for
    now, as peers are told it, "": it is; ``setting``: which one says so; ``retry_after``: seconds, 0: not known.
    ``rate``: bytes of circuits that may pass in a second, both directions and all forwarders together, 0: any number.
    ``max_circuits``: at a time.  ``listed``: as what others may find this relay, "": not at all."""

    serves: bool
    refusal: str
    setting: str
    retry_after: int
    rate: float
    max_circuits: int
    listed: str = "cooperative"


class TermsChanged(Message, frozen=True):
    """See TermsSet."""

    serves: bool
    rate: float


class QuotaWanted(Message, frozen=True):
    """``owed``: bytes that are held until there is quota for them, in directions of circuits that weigh ``weight``
    together; 0: nothing is, and a little ahead is wanted.  ``unspent``: quota that is left.  A later one takes the
    place of one that is not answered."""

    forwarder: str
    owed: int
    weight: int
    unspent: int


class QuotaGranted(Message, frozen=True):
    """``amount`` bytes more may pass."""

    amount: int


class QuotaReturned(Message, frozen=True):
    """``amount`` bytes, all that was left, are not needed."""

    forwarder: str
    amount: int


class ModeTold(Message, frozen=True):
    """``relays``: the node relays for others at all.  ``incentive``: what for, as in the settings.
    ``metered``: a cap on bandwidth holds."""

    relays: bool
    incentive: str
    metered: bool = False


#: To ReputationTracker, MdnsDiscovery, WhereaboutsService and ExtensionService.
ModeMessage = ModeTold

QuotaRelayServerMessage = TermsSet | QuotaWanted | QuotaReturned

QuotaForwarderMessage = TermsChanged | QuotaGranted
