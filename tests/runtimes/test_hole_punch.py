"""What a hole is punched to: only what the other may have us dial."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from actors.ports.client import Client
from actors.ports.connections import DialError
from actors.ports.diallers import PortDialler
from actors.ports.hole_punch import HolePuncher
from protocol.addresses import encode_tcp
from protocol.identity import Identity
from tests.support.peers import seeded

STRANGER = Identity.from_seed(seeded("stranger")).peer_id


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "192.168.1.1", "10.0.0.1", "169.254.1.1", "::1", "fd00::1", "0.0.0.0"]
)
async def test_nobody_has_us_dial_into_our_own_network(address: str) -> None:
    dialler = PortDialler()
    async with Client(Identity.from_seed(seeded("alice")), dialler=dialler) as client:
        puncher = HolePuncher(dialler, private=False)
        puncher.client = client
        with pytest.raises(DialError, match="no address that may be dialled"):
            await puncher._punch((encode_tcp(ip_address(address), 22),), STRANGER, server=False)
        assert not client.busy
