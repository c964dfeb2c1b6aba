"""Autonomous systems, read from files as they are given away."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from actors.ports.asn import systems_in
from actors.settings import SettingsError
from protocol.addresses import encode_tcp


def database(folder: Path, key: str, value: object, *, version: int = 6) -> Path:
    writer = MMDBWriter(version, "ASN-Test", ipv4_compatible=version == 6)
    writer.insert_network(IPSet(["203.0.113.0/24"]), {key: value, "organisation": "Example"})
    if version == 6:
        writer.insert_network(IPSet(["2001:db8::/32"]), {key: value})
    path = folder / "asn.mmdb"
    writer.to_db_file(str(path))
    return path


@pytest.mark.parametrize(("key", "value"), [("autonomous_system_number", 64500), ("asn", "AS64500")])
def test_whose_network_an_address_is_in(key: str, value: object, tmp_path: Path) -> None:
    system_of = systems_in(database(tmp_path, key, value))
    for ip, system in (("203.0.113.9", "AS64500"), ("2001:db8::1", "AS64500"), ("198.51.100.1", ""), ("::1", "")):
        assert system_of(encode_tcp(ip_address(ip), 4001)) == system
    assert system_of(b"no address") == ""


def test_a_file_of_ipv4_knows_nothing_of_ipv6(tmp_path: Path) -> None:
    system_of = systems_in(database(tmp_path, "autonomous_system_number", 64500, version=4))
    assert system_of(encode_tcp(ip_address("203.0.113.9"), 1)) == "AS64500"
    assert system_of(encode_tcp(ip_address("2001:db8::1"), 1)) == ""


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"asn_database: .*none\.mmdb cannot be read"):
        systems_in(tmp_path / "none.mmdb")
    broken = tmp_path / "broken.mmdb"
    broken.write_bytes(bytes(1000))
    with pytest.raises(SettingsError, match="asn_database"):
        systems_in(broken)
