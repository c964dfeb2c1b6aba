"""Run by test_maximum.py in a network namespace: a private Tor network, and peers that talk by it alone.

Writes what it found as a line of JSON.  The capture runs from when Tor is ready to when the last peer has gone; what
both peers decrypted is beside it.  Each leak of TOLD is planted between two of the meetings, and what was decrypted
then is kept apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from multiaddr import Multiaddr

from actors.dial_address import DialAddress
from actors.ports.client import Client, ClientError, PeerConnection, PeerStream, StreamError
from actors.ports.diallers import TorDialler
from actors.ports.padded import PaddedStream
from actors.ports.peer import NoPath, Peer, PeerPolicy
from actors.private_node import NoNode
from protocol.addresses import encode_tcp
from protocol.identity import Identity
from protocol.privacy_messages import Level
from protocol.wire import frame
from tests.privacy.high_peer import CURIOUS, pry, recorded, take, told
from tests.support.peers import seeded
from tests.support.private_tor import Node, PrivateTorNetwork

ECHO = "/test/echo/1.0.0"
TIMES = 6

#: Where this host would be in the world: the namespace's loopback interface has this address too.
HOST = "198.51.100.7"

#: Leaks that are told to the other end.  The last is what the other end of Tor's circuit looks like to its host.
TOLD = ("identify", "push", "signed record", "dcutr", "autonat", "dht", "observed")

#: Which of the meetings has a padded stream.
PADDED = 2

#: Before which of them the Tor that hosts the onion is killed and started again.
RESTARTED = 4


async def converse(network: PrivateTorNetwork, folder: Path) -> dict[str, Any]:
    seen: list[str] = []
    observed: list[str] = []
    spoken: list[str] = []

    async def echo(connection: PeerConnection, stream: PeerStream) -> None:
        seen.append(str(connection.peer))
        observed.append((await connection.identify()).observed_addr.hex())
        if len(seen) == 1:
            spoken.extend(await pry(connection))
        while data := await stream.read():
            await stream.write(data)

    dialling, hosting = network.clients
    at_dialler = PeerPolicy(tor_socks=f"127.0.0.1:{dialling.socks_port}")
    at_host = PeerPolicy(tor_socks=f"127.0.0.1:{hosting.socks_port}", tor_control=f"127.0.0.1:{hosting.control_port}")
    alice = Identity.from_seed(seeded("alice"))
    served = {ECHO: echo, **dict.fromkeys(CURIOUS, take)}
    found: dict[str, Any] = {"alice": str(alice.peer_id), "seconds": []}
    async with Peer(Identity.from_seed(seeded("bob")), NoNode(), handlers=served, policy=at_host) as bob:
        (onion,) = await bob.listen(Level.MAXIMUM)
        found |= {"bob": str(bob.peer_id), "onion_peer": str(bob.onion_peer), "onion": onion.partition("/p2p/")[0]}
        assert bob._onion is not None
        found["listener"] = bob._onion.client._servers[0].sockets[0].getsockname()[1]
        data = bytes(range(250)) * 4000
        for number in range(TIMES):
            if number == TIMES - 1:
                for leak in TOLD:
                    with recorded(folder / f"{leak}.told"):
                        await tell(leak, alice, at_dialler, bob, onion)
            if number == RESTARTED:
                assert hosting.proc is not None
                hosting.proc.kill()
                hosting.proc.wait()
                network._spawn(hosting)
                await asyncio.to_thread(bootstrapped, network, hosting)
            async with Peer(alice, NoNode(), policy=at_dialler) as peer:
                began = time.monotonic()
                async with asyncio.timeout(120):
                    while True:
                        try:
                            stream = await peer.open(onion, ECHO, level=Level.MAXIMUM, padded=number == PADDED)
                            break
                        except NoPath:
                            if 0 < number < RESTARTED:  # the others wait until the onion is known everywhere
                                raise
                            began = time.monotonic()
                found["seconds"].append(time.monotonic() - began)
                connection = await peer.connect(onion, level=Level.MAXIMUM)
                said = await connection.identify()
                found["listening"] = [str(Multiaddr(one)) for one in said.listen_addrs]
                writing = asyncio.ensure_future(stream.write(data))
                found.setdefault("padded", []).append(isinstance(stream, PaddedStream))
                found["echoed"] = len(await stream.read_exactly(len(data)))
                await writing
                if number == TIMES - 1:
                    found["after_kill"] = await without_tor(network, peer, stream, onion)
    async with Peer(Identity.from_seed(seeded("bob")), NoNode(), policy=at_host) as again:
        # Given up before it is known: Tor forgets it, and would not make it a second time if it had not.
        found["given up"] = await give_up_listening(again, bob.onion_key)
        (same,) = await again.listen(Level.MAXIMUM, key=bob.onion_key)
        found["same"] = same == onion
    return found | {"seen": seen, "observed": sorted(set(observed)), "spoken": spoken}


async def give_up_listening(peer: Peer, key: str) -> bool:
    """Once Tor was reached, and before the onion is known.  Whether it was cancelled."""
    connect, connected, loop = peer._tor._connected, asyncio.Event(), asyncio.get_running_loop()

    def reached(gone: Callable[[], None]) -> Any:
        controller = connect(gone)
        loop.call_soon_threadsafe(connected.set)
        return controller

    peer._tor._connected = reached  # type: ignore[method-assign]
    listening = asyncio.ensure_future(peer.listen(Level.MAXIMUM, key=key))
    await connected.wait()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return listening.cancelled()


async def tell(leak: str, identity: Identity, policy: PeerPolicy, bob: Peer, onion: str) -> None:
    """A meeting in which one of the two says where it is."""
    address = encode_tcp(ip_address(HOST), 4001)
    async with Peer(identity, NoNode(), policy=policy) as peer:
        assert bob._onion is not None
        bob._onion.client.observes = leak == "observed"
        async with asyncio.timeout(120):
            while True:
                try:
                    connection = await peer.connect(onion, level=Level.MAXIMUM)
                    break
                except NoPath:
                    continue  # its Tor was started again not long ago
        if leak == "identify":
            (context,) = peer._ways.contexts.values()
            context.announce([address])
        await connection.identify()
        if (leaking := told(leak, identity, address)) is not None:
            protocol, message = leaking
            by = await connection.open(protocol)
            await by.write(frame(message))
            await by.finish()
        stream = await connection.open(ECHO)  # bob asks who is there before he answers
        await stream.write(b"and you?")
        await stream.read_exactly(8)
        bob._onion.client.observes = False


def bootstrapped(network: PrivateTorNetwork, node: Node) -> None:
    while network.bootstrap_percent(node) < 100:
        time.sleep(0.2)  # nobody tells, before its control port is there


async def without_tor(network: PrivateTorNetwork, peer: Peer, stream: PeerStream, onion: str) -> list[str]:
    """What becomes of a stream when Tor is killed, and of the next one."""
    tor = network.clients[0].proc
    assert tor is not None
    tor.kill()
    told = []
    try:
        async with asyncio.timeout(20):
            while True:
                await stream.read_exactly(1)
    except StreamError:
        told.append("stream")
    try:
        await peer.open(onion, ECHO, level=Level.MAXIMUM)
    except NoPath as error:
        told.append("start Tor" if "start Tor" in str(error) else str(error))
    return told


class DiallingDirectly(TorDialler):
    """A leak that the capture must show: the address is tried without Tor first."""

    async def open(self, address: DialAddress, wire: Callable[[], Any]) -> Any:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", 4001)
        return await super().open(address, wire)


class LookingUpNames(TorDialler):
    """Another one: the name is looked up."""

    async def open(self, address: DialAddress, wire: Callable[[], Any]) -> Any:
        asked, dns = asyncio.get_running_loop(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        dns.setblocking(False)
        await asked.sock_sendto(dns, b"where is it?", ("127.0.0.1", 53))
        dns.close()
        return await super().open(address, wire)


async def leak(dialler: type[TorDialler], network: PrivateTorNetwork) -> None:
    nobody = "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:4001"
    async with Client(
        Identity.from_seed(seeded("leaky")), dialler=dialler(f"127.0.0.1:{network.clients[0].socks_port}")
    ) as client:
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(3):
                await client.connect(nobody)


@contextlib.contextmanager
def captured(pcap: Path) -> Iterator[None]:
    capture = subprocess.Popen(
        ["tcpdump", "-i", "any", "-n", "-U", "-B", "65536", "-Z", "root", "--immediate-mode", "-w", str(pcap)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert capture.stderr is not None
    while "listening on" not in capture.stderr.readline():
        pass
    try:
        yield
    finally:
        capture.send_signal(signal.SIGINT)
        capture.communicate(timeout=20)


def main() -> int:
    folder = Path(sys.argv[1])
    with PrivateTorNetwork(identity_dir=Path.home() / ".cache" / "descord-relay-ci" / "tor-keys") as network:
        network.wait_ready()
        for dialler in (DiallingDirectly, LookingUpNames):
            with captured(folder / f"{dialler.__name__}.pcap"):
                asyncio.run(leak(dialler, network))
        with captured(folder / "all.pcap"), recorded(folder / "decrypted"):
            found = asyncio.run(converse(network, folder))
        ports = [port for node in network.nodes
                 for port in (node.control_port, node.or_port, node.dir_port, node.socks_port) if port]  # fmt: skip
    print(json.dumps({**found, "tor_ports": ports}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
