"""Run by test_high.py on a host of its own: our peer at the privacy level High, and all that it decrypts.

Commands come a line each, answers go out as JSON.  ``--leak`` makes it do what it must not, for the tests to catch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from actors.lookout import settings_to_look
from actors.ports.client import Client, PeerConnection, PeerStream, StreamError
from actors.ports.diallers import RelayDialler, TorDialler
from actors.ports.peer import Peer
from actors.private_node import PrivateNode
from protocol import identify
from protocol.addresses import encode_tcp
from protocol.connection import Connection
from protocol.envelope import seal_peer_record
from protocol.identity import Identity
from protocol.privacy_messages import Level
from protocol.proto import autonat_pb2, dcutr_pb2, identify_pb2, kad_pb2
from protocol.wire import frame
from protocol.yamux import DataReceived
from tests.support.peers import seeded

HALF_CLOSE = "/descord-interop/halfclose/1.0.0"
DCUTR = "/libp2p/dcutr"
DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
KAD = "/descord/kad/1.0.0"

#: What a peer serves that would like to be told where others are: it takes whatever comes.
CURIOUS = (DCUTR, DIAL_REQUEST, KAD)

#: What a peer asks of another who should tell nothing.
PRY = (*CURIOUS, "/libp2p/autonat/1.0.0", "/libp2p/autonat/2/dial-back", "/ipfs/kad/1.0.0",
       "/libp2p/circuit/relay/0.2.0/hop", "/descord/whereabouts/1.0.0", "/descord/extend/1.0.0")  # fmt: skip

_next_event = Connection.next_event

#: Connections on which others' streams came.
others: list[PeerConnection] = []


async def answer(connection: PeerConnection, stream: PeerStream) -> None:
    others.append(connection)
    received = bytearray()
    while part := await stream.read():
        received += part
    await stream.write(received)
    await stream.finish()


async def take(_: PeerConnection, stream: PeerStream) -> None:
    while await stream.read():
        pass


async def pry(connection: PeerConnection) -> list[str]:
    """Those of PRY that the other end speaks."""
    spoken = []
    for protocol in PRY:
        with contextlib.suppress(StreamError):
            spoken.append((await connection.open(protocol)).protocol)
    return spoken


def told(leak: str, identity: Identity, address: bytes) -> tuple[str, bytes] | None:
    """(protocol, message) by which an address is told on a stream that should not be there."""
    match leak:
        case "push":
            return identify.PUSH_PROTOCOL, identify_pb2.Identify(listenAddrs=[address]).SerializeToString()
        case "signed record":
            record = seal_peer_record(identity, 1, [address])
            return identify.PUSH_PROTOCOL, identify_pb2.Identify(signedPeerRecord=record).SerializeToString()
        case "dcutr":
            return DCUTR, dcutr_pb2.HolePunch(type="CONNECT", ObsAddrs=[address]).SerializeToString()
        case "autonat":
            request = autonat_pb2.DialRequest(addrs=[address], nonce=1)
            return DIAL_REQUEST, autonat_pb2.Message(dial_request=request).SerializeToString()
        case "dht":
            peer = kad_pb2.Peer(id=identity.peer_id.bytes, addrs=[address])
            message = kad_pb2.Message(type=2, key=bytes(34), provider_peers=[peer])  # ADD_PROVIDER
            return KAD, message.SerializeToString()
    return None


@contextlib.contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Every byte of every stream that any connection of this process decrypts, to ``path``."""
    before = Connection.next_event
    with path.open("wb", buffering=0) as file:

        def next_event(self: Connection) -> Any:
            event = _next_event(self)
            if isinstance(event, DataReceived):
                file.write(bytes(event.data))
            return event

        Connection.next_event = next_event  # type: ignore[method-assign]
        try:
            yield
        finally:
            Connection.next_event = before  # type: ignore[method-assign]


def plant(leak: str, own: str, other: str, peer: Peer) -> None:
    if leak == "identify":
        peer._ways.high.announce([encode_tcp(ip_address(own), 4001)])
    elif leak in ("context", "same"):  # through several relays
        make = peer._ways.context

        def leaking(dialler: RelayDialler | TorDialler) -> Client:
            made = make(dialler)
            if leak == "context":
                made.announce([encode_tcp(ip_address(own), 4001)])
            else:
                made.core._passing = lambda: made.core._static
            return made

        peer._ways.context = leaking  # type: ignore[method-assign]
    elif leak == "direct":
        with socket.socket() as direct:
            direct.setblocking(False)
            with contextlib.suppress(BlockingIOError, OSError):
                direct.connect((other, 4001))
    elif leak in ("dns", "mdns"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
            asking.sendto(b"where?", (other, 53) if leak == "dns" else ("224.0.0.251", 5353))


async def run(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.folder)
    environment = {
        "DESCORD_RELAY_PUBLIC_RELAYS": arguments.relay,
        "XDG_CONFIG_HOME": str(folder),
    }
    identity = Identity.from_seed(seeded(arguments.name))
    handlers = {HALF_CLOSE: answer, **(dict.fromkeys(CURIOUS, take) if arguments.curious else {})}
    async with (
        PrivateNode.start(settings_to_look(environment, folder)) as node,
        Peer(identity, node, handlers=handlers) as peer,
    ):
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say({"peer_id": str(peer.peer_id)})
        while line := await reader.readline():
            command, *words = line.decode().split()
            if command == "listen":
                addresses = await peer.listen(Level.HIGH)
                plant(arguments.leak, arguments.own, arguments.other, peer)
                say({"addresses": addresses})
            elif command == "look":  # for relays, as long as it takes to know all that there are
                while len((await node.relays(Level.HIGH, 8, 5.0, ())).relays) < int(words[0]):
                    pass
                say({})
            elif command == "pry":  # of the last who talked to us
                say({"speaks": await pry(others[-1])})
            else:
                plant(arguments.leak, arguments.own, arguments.other, peer)
                connection = await peer.connect(words[0], level=Level.HIGH, hops=int(words[1]) if words[1:] else 1)
                await connection.identify()
                at = encode_tcp(ip_address(arguments.own), 4001)
                if (leaking := told(arguments.leak, identity, at)) is not None:
                    protocol, message = leaking
                    by = await connection.open(protocol)
                    await by.write(frame(message))
                    await by.finish()
                stream = await connection.open(HALF_CLOSE)
                data = os.urandom(300_000)
                await stream.write(data)
                await stream.finish()
                echoed = await stream.read_exactly(len(data)) == data
                chain, link = [], connection.link.relay
                while link is not None:
                    chain.append({"relay": str(link.peer), "as": str(link.identity.peer_id)})
                    link = link.relay
                say({"relay": str(connection.relay), "echoed": echoed, "chain": chain[::-1]})


def say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("name", "folder", "relay", "own", "other"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--leak", default="")
    parser.add_argument("--curious", action="store_true")
    arguments = parser.parse_args()
    with recorded(Path(arguments.folder) / "decrypted"):
        asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
