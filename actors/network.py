"""The actors by which a node is one of a network of relays: what there is of them, and how each is made.

    dht           DHTAdvertiser       publishes our descriptor, finds those of others, keeps records for them
    directory     RelayDirectory      every relay that is known, tried and rated
    issuer        DescriptorIssuer    what this relay says of itself
    mdns          MdnsDiscovery       relays on the same network
    port_mapper   PortMapper          has the router of a home network pass our port on to us
    privacy       PrivacyRouter       by which way a peer is reached at a privacy level
    public        PublicRelays        relays that a person has configured
    extension     ExtensionService    who may have a circuit extended through this relay, and to which other one
    reachability  Reachability        whether others reach us, and whether we reach others that ask
    reputation    ReputationTracker   how good relays are, by what we saw, and what we did for others
    whereabouts   WhereaboutsService  looks for peers in the DHT, for those who would not show themselves there

They are made the same way on every runtime (actors/runtime/spec.py).  On Ray, DHTAdvertiser has a process of its own,
for strangers keep it busy, and so has ReputationTracker, which hears each second what was relayed; the others live in
the node's, for they are asked now and then.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Literal

from actors.desk import DESK
from actors.dht_advertiser import DHTAdvertiser
from actors.extension_service import ExtensionService
from actors.mdns_discovery import MdnsDiscovery
from actors.network_names import (
    DHT,
    DIRECTORY,
    EXTENSION,
    ISSUER,
    MDNS,
    PORT_MAPPER,
    PRIVACY,
    PUBLIC,
    REACHABILITY,
    REPUTATION,
    WHEREABOUTS,
    sources,
)
from actors.own_descriptor import DescriptorIssuer, DescriptorPolicy
from actors.parts import RELAY_SERVER
from actors.port_mapper import PortMapper
from actors.ports import record_storage
from actors.ports.asn import system_of
from actors.ports.gateway import Gateway
from actors.ports.host import random_bytes
from actors.ports.multicast import Multicast
from actors.ports.names import Names
from actors.ports.record_storage import OtherVersion, RecordFile, RecordStorage
from actors.ports.relay_cache import RelayCacheFile
from actors.ports.resolver import Resolver, ResolverPolicy
from actors.privacy_router import PrivacyRouter
from actors.public_relays import PublicRelays
from actors.reachability import Reachability, ReachabilityPolicy
from actors.record_store import MemoryStore, RecordStore
from actors.relay_directory import RelayDirectory
from actors.relay_mode import CLIENT_ONLY
from actors.reputation_tracker import ReputationTracker
from actors.runtime.spec import ActorSpec, Part, Surroundings
from actors.self_description import AGENT
from actors.settings import Settings
from actors.whereabouts_service import WhereaboutsService
from protocol.descriptor import Terms, open_descriptor
from protocol.identity import Identity, PeerId

log = logging.getLogger("actors.node")


def specs(settings: Settings, identity: Identity, addresses: Sequence[bytes]) -> dict[str, ActorSpec]:
    """All of them, by name.  ``addresses``: the node's own, binary multiaddrs."""
    if not settings.discovery:
        return {}
    own = identity.peer_id.bytes
    where = "actors.network:"
    made = {
        DHT: ActorSpec(where + "dht", {"settings": settings, "own": own}, at_home=True),
        REPUTATION: ActorSpec(
            where + "reputation", {"settings": settings, "identity": identity.encode()}, at_home=True
        ),
        DIRECTORY: ActorSpec(where + "directory", {"settings": settings, "own": own}, with_node=True),
        ISSUER: ActorSpec(
            where + "issuer",
            {"settings": settings, "identity": identity.encode(), "addresses": tuple(addresses)},
            with_node=True,
        ),
        REACHABILITY: ActorSpec(where + "reachability", {"settings": settings, "own": own}, with_node=True),
        EXTENSION: ActorSpec(where + "extension", {"settings": settings}, with_node=True),
        PRIVACY: ActorSpec(where + "privacy", {"settings": settings}, with_node=True),
        WHEREABOUTS: ActorSpec(where + "whereabouts", {"settings": settings}, with_node=True),
    }
    if settings.mdns:
        arguments = {"settings": settings, "own": own, "addresses": tuple(addresses)}
        made[MDNS] = ActorSpec(where + "mdns", arguments, at_home=True)
    if settings.port_mapping:
        arguments = {"settings": settings, "identity": identity.encode(), "addresses": tuple(addresses)}
        made[PORT_MAPPER] = ActorSpec(where + "port_mapper", arguments, with_node=True)
    if settings.public_relays:
        made[PUBLIC] = ActorSpec(where + "public", {"settings": settings}, with_node=True)
    return made


def public(surroundings: Surroundings, settings: Settings) -> Part:
    actor = PublicRelays(settings.public_relays, [DHT, DIRECTORY, REACHABILITY])
    resolver = Resolver(ResolverPolicy(timeout=settings.resolver_timeout))
    names = Names(actor, resolver, surroundings.post, surroundings.name)

    async def close(grace: float) -> None:
        await names.close()

    return Part(actor, after_handle=names.look, close=close, drop=names.drop)


def dht(surroundings: Surroundings, settings: Settings, own: bytes) -> Part:
    kept = _Kept(settings, record_storage.DHT, "records of the DHT")
    actor = DHTAdvertiser(
        surroundings.name,
        PeerId(own),
        open_descriptor,
        random_bytes,
        kept.store,
        protocol=settings.dht_protocol,
        observer=REACHABILITY,
    )
    return Part(actor, close=kept.close, drop=kept.drop)


def reputation(surroundings: Surroundings, settings: Settings, identity: bytes) -> Part:
    kept = _Kept(settings, record_storage.REPUTATION, "the reputation of relays, and what this node contributed,")
    actor = ReputationTracker(
        surroundings.name,
        kept.store,
        Identity.decode(identity),
        relay_server=RELAY_SERVER,
        consent=settings.receipts,
        incentive=settings.incentive,
    )
    return Part(actor, close=kept.close, drop=kept.drop)


class _Kept:
    """A store on disk; if there can be none, in memory, and the log says that ``what`` is lost at the end: no reason
    for a relay to end."""

    def __init__(self, settings: Settings, file: RecordFile, what: str) -> None:
        self._storage: RecordStorage | None = None
        try:
            self._storage = RecordStorage(settings.data_dir, file)
        except (OSError, sqlite3.Error, OtherVersion) as error:
            log.error("%s are not kept over restarts: %s: %s", what, settings.data_dir / file.name, error)
        self.store: RecordStore = MemoryStore() if self._storage is None else self._storage

    def drop(self) -> None:
        if self._storage is not None:
            self._storage.close()

    async def close(self, grace: float) -> None:
        self.drop()


def directory(surroundings: Surroundings, settings: Settings, own: bytes) -> Part:
    cache = RelayCacheFile(settings.data_dir)
    actor = RelayDirectory(
        surroundings.name, own, sources(settings), REPUTATION, random_bytes, cache, private=settings.private_network
    )

    async def close(grace: float) -> None:
        actor.close()
        cache.close()

    return Part(actor, close=close, drop=cache.close)


def mdns(surroundings: Surroundings, settings: Settings, own: bytes, addresses: tuple[bytes, ...]) -> Part:
    told = [DIRECTORY, DHT, REACHABILITY]
    actor = MdnsDiscovery(
        surroundings.name, PeerId(own), told, random_bytes, addresses, loopback=settings.private_network
    )
    port = Multicast(actor, surroundings.post, name=surroundings.name)
    port.start()

    async def close(grace: float) -> None:
        await port.close()

    return Part(actor, after_handle=port.sync, close=close, drop=port.drop)


def port_mapper(surroundings: Surroundings, settings: Settings, identity: bytes, addresses: tuple[bytes, ...]) -> Part:
    actor = PortMapper(REACHABILITY, addresses, private=settings.private_network)
    port = Gateway(actor, surroundings.post, surroundings.name, identity)

    async def close(grace: float) -> None:
        await port.close()

    return Part(actor, after_handle=port.look, close=close, drop=port.drop)


def issuer(
    surroundings: Surroundings, settings: Settings, identity: bytes, addresses: tuple[bytes, ...]
) -> DescriptorIssuer:
    mode: Literal["", "cooperative", "dedicated"] = "cooperative"
    policy = DescriptorPolicy(
        mode,
        settings.max_reservations,
        settings.max_circuits,
        Terms(settings.circuit_data, int(settings.circuit_duration), int(settings.reservation_duration)),
        AGENT,
        assume_reachable=settings.assume_reachable,
        private=settings.private_network,
    )
    return DescriptorIssuer(surroundings.name, Identity.decode(identity), policy, [DHT], RELAY_SERVER, addresses)


def reachability(surroundings: Surroundings, settings: Settings, own: bytes) -> Reachability:
    """On a network of one's own one peer's word will do: nobody there is a stranger, and there may be no second."""
    private = settings.private_network
    policy = ReachabilityPolicy(quorum=1 if private else 2, private=private)
    dht = "" if settings.assume_reachable else DHT
    return Reachability(surroundings.name, own, [ISSUER, DESK], dht, [DHT], random_bytes, policy)


def whereabouts(surroundings: Surroundings, settings: Settings) -> WhereaboutsService:
    return WhereaboutsService(surroundings.name, DHT, serves=settings.mode != CLIENT_ONLY)


def extension(surroundings: Surroundings, settings: Settings) -> ExtensionService:
    serves, metered = settings.mode != CLIENT_ONLY, settings.max_bandwidth > 0
    return ExtensionService(surroundings.name, DIRECTORY, serves=serves, metered=metered)


def privacy(surroundings: Surroundings, settings: Settings) -> PrivacyRouter:
    """SettingsError: the file of ``asn_database`` cannot be used."""
    return PrivacyRouter(surroundings.name, DIRECTORY, random_bytes, system_of(settings))
