"""A py-libp2p host with our transport alone, and go, rust, js and py peers, through a node: dialled and dialling."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import trio

pytest.importorskip("libp2p", reason="py-libp2p is in the dev extra")

from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from actors.py_libp2p import LISTEN, DescordTransport
from tests.support.process import NodeProcess

from .conftest import MIB, StartPeer
from .py.traffic import LISTENERS, PULL, PUSH, pull, push

PATIENCE = 120.0
BYTES = 4 * MIB


@pytest.mark.parametrize("implementation", ["go", "rust", "js", "py"])
def test_a_py_libp2p_host_reaches_others_and_is_reached_through_our_relay(
    implementation: str, start_peer: StartPeer, tmp_path: Path
) -> None:
    other = start_peer(implementation)
    node = NodeProcess(tmp_path / "relay", "--private-network", "on", "--mdns", "off", "--rate-limits", "off",
                       "--listen", "/ip4/127.0.0.1/tcp/0", "--assume-reachable", "on")  # fmt: skip
    try:
        trio.run(_talk, other, node.ready["addresses"][0], tmp_path)
    finally:
        node.stop()


async def _talk(other, relay: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    key_pair = create_new_key_pair()
    transport = DescordTransport(
        key_pair,
        environment={
            "DESCORD_RELAY_PUBLIC_RELAYS": relay,
            "DESCORD_RELAY_PRIVATE_NETWORK": "on",
            "XDG_CONFIG_HOME": str(folder),
        },
    )
    host = new_host(key_pair, transports=[transport], disable_identify_address_discovery=True)
    for protocol, handler in LISTENERS.items():
        host.set_stream_handler(protocol, handler)

    async def ask(command: str, **arguments: object) -> dict[str, object]:
        return await trio.to_thread.run_sync(lambda: other.call(command, **arguments))

    with trio.fail_after(PATIENCE):
        async with host.run(listen_addrs=[LISTEN]):
            # Dialled by it: it knows us by the peer id that our host has, at the address that our host tells.
            (address,) = map(str, host.get_addrs())
            assert (await ask("connect", addr=address))["relayed"]
            own = str(host.get_id())
            for _ in range(2):
                sent = await ask("send", peer=own, bytes=BYTES, seed=7)
                assert sent["sha256_local"] == sent["sha256_remote"]
            fetched = await ask("fetch", peer=own, bytes=BYTES)
            assert fetched["sha256_local"] == fetched["sha256_remote"]
            assert (await ask("echo_half_close", peer=own, bytes=600_000))["equal"]
            assert (await ask("ping", peer=own))["rtt_ms"]
            told = await ask("identify", peer=own)
            assert all("/p2p-circuit" in one for one in told["listen_addrs"]), told  # type: ignore[attr-defined]
            assert PUSH in told["protocols"] and not _shows_an_ip(told["observed"])  # type: ignore[operator]
            await ask("disconnect", peer=own)

            # Dialling it, by an address that names the relay.
            await ask("reserve", relay=relay)
            there = ID.from_base58(other.peer_id)
            while host.get_network().get_connections(there):  # its good-bye is under way
                await host.disconnect(there)
            await host.connect(transport.peer(f"{relay}/p2p-circuit/p2p/{there}"))
            await _exchange(host, there)
            (connection,) = host.get_network().get_connections(there)
            assert f"/p2p/{connection.muxed_conn.relay}" in relay

            # And no other connection than that to the relay.
            dialled = Multiaddr(relay)
            at = (dialled.value_for_protocol("ip4"), int(dialled.value_for_protocol("tcp")))
            assert {tuple(one.raddr) for one in psutil.Process().net_connections("tcp") if one.raddr} == {at}


async def _exchange(host: IHost, there: ID) -> None:
    async def stream(protocol: object) -> INetStream:
        return await host.new_stream(there, [protocol])  # type: ignore[list-item]

    for result in (await push(await stream(PUSH), BYTES, 5), await pull(await stream(PULL), BYTES)):
        assert result["sha256_local"] == result["sha256_remote"]
        print(f"{BYTES / MIB / result['seconds']:.1f} MiB/s")


def _shows_an_ip(address: object) -> bool:
    return address is not None and "/ip" in str(address)
