"""Run by test_maximum_others.py in a network namespace: a private Tor network, and peers of ours that talk by it alone.

Asked by a line, it answers with one of JSON:

    onion PORT        an onion that leads to a port here, of another implementation's peer
    bridge ONION      a port here that leads to an onion, for a peer that knows no Tor
    listen            a peer of ours, reached at an onion
    dial ADDRESS      another one, which calls, and is to be answered by an echo
    hang up           the two end
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex
from typing import Any

from multiaddr import Multiaddr
from python_socks import ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from actors.ports.client import Client
from actors.ports.peer import NoPath, Peer, PeerPolicy
from actors.ports.tor import TorControl
from actors.private_node import NoNode
from protocol.addresses import encode_tcp
from protocol.identity import Identity
from protocol.privacy_messages import Level
from tests.privacy.high_peer import HALF_CLOSE, answer, say
from tests.privacy.onion_peers import HOST, captured
from tests.support.peers import seeded
from tests.support.private_tor import PrivateTorNetwork

#: Seconds in which an onion is found everywhere.
PATIENCE = 120.0

#: And in which one way to it is made, if it is.
ONE_TRY = 15.0


class Lab:
    """``leak``: "identify": ours say where this host is."""

    def __init__(self, network: PrivateTorNetwork, leak: str, stack: AsyncExitStack) -> None:
        self.dialling, self.hosting = network.clients
        self.leak = leak
        self.stack = stack
        self.peers = AsyncExitStack()

    async def onion(self, port: str) -> dict[str, Any]:
        control = TorControl(f"127.0.0.1:{self.hosting.control_port}")
        self.stack.push_async_callback(control.close)
        name, _ = await control.publish(int(port))
        return {"onion": f"/onion3/{name}:4001"}

    async def bridge(self, onion: str) -> dict[str, Any]:
        name = onion.split("/")[2].partition(":")[0]

        async def there() -> socket.socket:
            proxy: Any = Proxy(ProxyType.SOCKS5, "127.0.0.1", self.dialling.socks_port, circuits, circuits, rdns=True)
            found: socket.socket = await proxy.connect(f"{name}.onion", 4001, timeout=ONE_TRY)
            return found

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = await there()
            far_reader, far_writer = await asyncio.open_connection(sock=sock)
            await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer), return_exceptions=True)

        # Others give a handshake a few seconds, and Tor's first way to an onion may take more.
        async with asyncio.timeout(PATIENCE):
            while True:
                circuits = token_hex(8)  # what hangs is not waited for: each try has its own
                try:
                    (await there()).close()
                    break
                except (ProxyError, ProxyTimeoutError):
                    continue  # not known everywhere yet
        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        self.stack.callback(server.close)
        return {"port": server.sockets[0].getsockname()[1]}

    async def listen(self) -> dict[str, Any]:
        peer = await self.peer("bob")
        (address,) = await peer.listen(Level.MAXIMUM)
        assert peer._onion is not None
        self.tell(peer._onion.client)
        return {"address": address, "port": peer._onion.client._servers[0].sockets[0].getsockname()[1]}

    async def dial(self, address: str) -> dict[str, Any]:
        peer = await self.peer("alice")
        make = peer._ways.context
        peer._ways.context = lambda dialler: self.tell(make(dialler))  # type: ignore[method-assign]
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    stream = await peer.open(address, HALF_CLOSE, level=Level.MAXIMUM)
                    break
                except NoPath:
                    continue  # not known everywhere yet
        data = os.urandom(300_000)
        await stream.write(data)
        await stream.finish()
        (context,) = peer._ways.contexts.values()
        return {"echoed": await stream.read_exactly(len(data)) == data, "as": str(context.peer_id)}

    async def hang_up(self) -> dict[str, Any]:
        await self.peers.aclose()
        self.peers = AsyncExitStack()
        return {}

    async def peer(self, name: str) -> Peer:
        policy = PeerPolicy(
            tor_socks=f"127.0.0.1:{self.dialling.socks_port}", tor_control=f"127.0.0.1:{self.hosting.control_port}"
        )
        made = Peer(Identity.from_seed(seeded(name)), NoNode(), handlers={HALF_CLOSE: answer}, policy=policy)
        return await self.peers.enter_async_context(made)

    def tell(self, client: Client) -> Client:
        if self.leak:
            client.announce([encode_tcp(ip_address(HOST), 4001), *client._announced])
        return client


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def run(network: PrivateTorNetwork, leak: str) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with AsyncExitStack() as stack:
        lab = Lab(network, leak, stack)
        ports = [port for node in network.nodes
                 for port in (node.control_port, node.or_port, node.dir_port, node.socks_port) if port]  # fmt: skip
        say({"tor_ports": ports})
        while line := await reader.readline():
            match line.decode().split():
                case ["onion", port]:
                    say(await lab.onion(port))
                case ["bridge", onion]:
                    say(await lab.bridge(onion))
                case ["listen"]:
                    say(await lab.listen())
                case ["dial", address]:
                    say(await lab.dial(str(Multiaddr(address))))
                case _:
                    say(await lab.hang_up())
        await lab.hang_up()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pcap", required=True)
    parser.add_argument("--leak", default="")
    arguments = parser.parse_args()
    with PrivateTorNetwork(identity_dir=Path.home() / ".cache" / "descord-relay-ci" / "tor-keys") as network:
        network.wait_ready()
        with captured(Path(arguments.pcap)):
            asyncio.run(run(network, arguments.leak))
    print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main()
