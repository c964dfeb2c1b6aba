"""What the actors of the network of relays are called (actors/network.py), for those who only speak to them."""

from __future__ import annotations

from typing import Final

from actors.settings import Settings

DHT: Final = "dht"
DIRECTORY: Final = "directory"
EXTENSION: Final = "extension"
ISSUER: Final = "issuer"
MDNS: Final = "mdns"
PRIVACY: Final = "privacy"
PORT_MAPPER: Final = "port_mapper"
PUBLIC: Final = "public"
REACHABILITY: Final = "reachability"
REPUTATION: Final = "reputation"
WHEREABOUTS: Final = "whereabouts"


def services(settings: Settings) -> tuple[str, ...]:
    """Those that speak protocols over the forwarders' connections."""
    return (DHT, DIRECTORY, EXTENSION, REACHABILITY, REPUTATION, WHEREABOUTS) if settings.discovery else ()


def sources(settings: Settings) -> tuple[str, ...]:
    """Those that look for relays."""
    if not settings.discovery:
        return ()
    return (DHT, *((MDNS,) if settings.mdns else ()), *((PUBLIC,) if settings.public_relays else ()))


def listeners(settings: Settings) -> tuple[str, ...]:
    """Those that are told when the node's addresses change."""
    mapping = (PORT_MAPPER,) if settings.port_mapping else ()
    return (ISSUER, REACHABILITY, *((MDNS,) if settings.mdns else ()), *mapping) if settings.discovery else ()


def mode_listeners(settings: Settings) -> tuple[str, ...]:
    """Those that are told the node's mode (ModeTold)."""
    return (REPUTATION, WHEREABOUTS, EXTENSION, *((MDNS,) if settings.mdns else ())) if settings.discovery else ()


def counting(settings: Settings) -> tuple[str, ...]:
    """Those that say what they did when they are asked (CountsAsked)."""
    return (DHT, DIRECTORY, REACHABILITY, REPUTATION) if settings.discovery else ()


def tracker(settings: Settings) -> str:
    """The one that is told what was relayed, "": nobody is."""
    return REPUTATION if settings.discovery else ""
