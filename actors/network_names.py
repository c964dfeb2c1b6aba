"""What the actors of the network of relays are called (actors/network.py), for those who only speak to them."""

from __future__ import annotations

from typing import Final

from actors.settings import Settings

DHT: Final = "dht"
DIRECTORY: Final = "directory"
ISSUER: Final = "issuer"


def services(settings: Settings) -> tuple[str, ...]:
    """Those that speak protocols over the forwarders' connections."""
    return (DHT, DIRECTORY) if settings.discovery else ()


def listeners(settings: Settings) -> tuple[str, ...]:
    """Those that are told when the node's addresses change."""
    return (ISSUER,) if settings.discovery else ()
