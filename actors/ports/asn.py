"""Whose network an address is in: autonomous systems, from a database in a file.

Providers of hosts have many network blocks, so two relays of different /16 may be one provider's machines.  Who has a
database of autonomous systems (MMDB, as GeoLite2 ASN, DB-IP and IPinfo give away) names its file, and relays in a row
are of different ones.

Source: https://maxmind.github.io/MaxMind-DB/ (the format), read by maxminddb.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.settings import Settings, SettingsError
from protocol.addresses import decode_tcp


def system_of(settings: Settings) -> Callable[[bytes], str]:
    """By the file that the settings name; without one nothing is known.  SettingsError."""
    return systems_in(Path(settings.asn_database).expanduser()) if settings.asn_database else lambda _: ""


def systems_in(path: Path) -> Callable[[bytes], str]:
    """From a binary multiaddr to the autonomous system that it is in, "AS64500"; "": it is not known.
    SettingsError."""
    try:
        import maxminddb
    except ImportError:
        raise SettingsError("asn_database needs the extra asn: pip install 'descord-relay[asn]'") from None
    try:
        database = maxminddb.open_database(path)
    except (OSError, maxminddb.InvalidDatabaseError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"asn_database: {path} cannot be read: {why}") from error

    def system_of(address: bytes) -> str:
        end = decode_tcp(address)
        if end is None:
            return ""
        try:
            record: Any = database.get(end[0])
        except (ValueError, maxminddb.InvalidDatabaseError):  # IPv6 in a file of IPv4; a broken part of it
            return ""
        number = None
        if isinstance(record, dict):
            number = record.get("autonomous_system_number") or str(record.get("asn", "")).removeprefix("AS")
        return f"AS{number}" if number else ""

    return system_of
