"""A py-libp2p peer for the relay's interoperability tests: TCP, Noise, yamux, identify, ping, relay client.

control.py says how it is spoken to. Environment: DESCORD_PEER_SEED (optional, hex), its Ed25519 seed.

Everything goes through the library's public classes, as its users' programs do; what that means on the wire:

* ``CircuitV2Transport.dial`` reserves for the dialer too before the first CONNECT to a target (its client
  role), on a hop stream of its own, and repeats that reservation inside the CONNECT message.
* RESERVE carries the peer's own id in the message, though the connection says whose it is.
* ``reserve`` answers true or false and keeps neither addresses nor limits: RecordedStream listens in.
* Its refresher asks again as soon as 30 s or less remain, without a pause: reservations must last longer.
* A writer gives up when its window stays shut for 5 s.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from importlib.metadata import version
from typing import Any

import trio
from control import emit, serve_commands
from libp2p import new_host
from libp2p.abc import IHost, INetConn, INetStream, INetwork, INotifee
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING_ID
from libp2p.host.ping import perform_ping_roundtrip
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.rcmgr.manager import ResourceLimits, new_resource_manager
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP_ID
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import decode_varint_with_size, read_length_prefixed_protobuf
from multiaddr import Multiaddr
from traffic import HALF_CLOSE, LISTENERS, PULL, PUSH, STALL, ask, echo_half_close, flood, pull, push, stall

CIRCUIT = "/p2p-circuit"
STATUS_OK = 100


class RecordedStream:
    """A hop stream that remembers what the relay answered, while the library reads it."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._received = bytearray()

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def read(self, n: int | None = None) -> bytes:
        piece = await self._stream.read(n)
        self._received += piece
        return piece

    def answer(self) -> HopMessage:
        """The one message read; empty if none came."""
        message = HopMessage()
        if self._received:
            length, start = decode_varint_with_size(bytes(self._received))
            message.ParseFromString(bytes(self._received[start : start + length]))
        return message


def is_relayed(connection: INetConn) -> bool:
    return connection.get_connection_type() == ConnectionType.RELAYED


class Announcer(INotifee):
    """Connections that come and go, as events on stdout."""

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        peer = str(conn.muxed_conn.peer_id)
        emit("connection", peer=peer, relayed=is_relayed(conn), direction=str(conn.direction))

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        emit("disconnection", peer=str(conn.muxed_conn.peer_id), relayed=is_relayed(conn))

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not an event of this peer's."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not an event of this peer's."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not an event of this peer's."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not an event of this peer's."""


class Peer:
    """The commands, over one host."""

    def __init__(self, host: IHost, protocol: CircuitV2Protocol, nursery: trio.Nursery) -> None:
        self._host = host
        self._network = host.get_network()
        roles = RelayRole.STOP | RelayRole.CLIENT
        self._transport = CircuitV2Transport(host, protocol, RelayConfig(roles=roles))
        self._nursery = nursery
        self.commands = {
            "reserve": self.reserve,
            "refresh": self.reserve,
            "connect": self.connect,
            "ping": self.ping,
            "send": self.send,
            "fetch": self.fetch,
            "echo_half_close": self.echo_half_close,
            "ask": self.ask,
            "flood": self.flood,
            "stall": self.stall,
            "disconnect": self.disconnect,
            "connections": self.connections,
            "listen": self.listen,
            "identify": self.identify,
        }

    async def _reach(self, address: str) -> PeerInfo:
        """A connection to the peer at this very address, if there is none to that peer yet.

        ``host.connect`` dials what the peer store remembers instead, and after one failure refuses for a
        minute: a relay that came back on another port, or only now, would not be found.
        """
        info = info_from_p2p_addr(Multiaddr(address))
        if not self._network.get_connections(info.peer_id):
            await self._network.dial_addr(info.addrs[0], info.peer_id)
        return info

    async def reserve(self, relay: str) -> dict[str, Any]:
        info = await self._reach(relay)
        stream = await self._host.new_stream(info.peer_id, [HOP_ID])
        recorded = RecordedStream(stream)
        granted = await self._transport.reserve(recorded, info.peer_id, self._nursery)  # type: ignore[arg-type]
        answer = recorded.answer()
        if not granted:
            await stream.reset()
            raise ConnectionError(f"reservation refused with status {answer.status}")
        await stream.close()
        return {
            "expires": answer.reservation.expire,
            "addrs": [str(Multiaddr(address)) for address in answer.reservation.addrs],
            "limit_data": answer.limit.data,
            "limit_duration": answer.limit.duration,
            "voucher": bool(answer.reservation.voucher),
        }

    async def connect(self, addr: str) -> dict[str, Any]:
        relay, circuit, _ = addr.partition(CIRCUIT)
        info = await self._reach(relay)
        if circuit:
            connection = await self._transport.dial(Multiaddr(addr))
        else:
            connection = self._network.get_connections(info.peer_id)[0]
        return {"relayed": is_relayed(connection), "peer": str(connection.muxed_conn.peer_id)}

    async def _stream(self, peer: str, protocol: TProtocol) -> INetStream:
        peer_id = ID.from_base58(peer)
        if not self._network.get_connections(peer_id):
            raise ConnectionError(f"no connection to {peer}")
        return await self._host.new_stream(peer_id, [protocol])

    async def ping(self, peer: str) -> dict[str, Any]:
        stream = await self._stream(peer, PING_ID)
        started = time.perf_counter()
        await perform_ping_roundtrip(stream)  # its own figure is in whole milliseconds
        elapsed = time.perf_counter() - started
        await stream.close()
        return {"rtt_ms": elapsed * 1000}

    async def send(self, peer: str, bytes: int, seed: object = 0) -> dict[str, Any]:
        return await push(await self._stream(peer, PUSH), bytes, seed)

    async def fetch(self, peer: str, bytes: int) -> dict[str, Any]:
        return await pull(await self._stream(peer, PULL), bytes)

    async def echo_half_close(self, peer: str, bytes: int) -> dict[str, Any]:
        return await echo_half_close(await self._stream(peer, HALF_CLOSE), bytes)

    async def ask(self, peer: str, protocol: str, data: str) -> dict[str, Any]:
        try:
            stream = await self._stream(peer, TProtocol(protocol))
        except StreamFailure as error:
            if isinstance(error.__cause__, MultiselectClientError):
                return {"spoken": False, "said": ""}
            raise
        return {"spoken": True, "said": await ask(stream, bytes.fromhex(data))}

    async def flood(self, peer: str) -> dict[str, Any]:
        return await flood(await self._stream(peer, PUSH))

    async def stall(self, peer: str, bytes: int = 0, quiet: float = 2.0) -> dict[str, Any]:
        return await stall(await self._stream(peer, STALL), bytes, quiet)

    async def disconnect(self, peer: str) -> dict[str, Any]:
        await self._host.disconnect(ID.from_base58(peer))
        return {}

    async def connections(self) -> dict[str, Any]:
        return {
            "connections": [
                {
                    "peer": str(connection.muxed_conn.peer_id),
                    "addr": ", ".join(map(str, connection.get_transport_addresses())),
                    "relayed": is_relayed(connection),
                    "direction": str(connection.direction),
                    "streams": len(connection.get_streams()),
                }
                for connection in self._network.get_connections()
            ]
        }

    async def listen(self, addr: str) -> dict[str, Any]:
        await self._network.listen(Multiaddr(addr))
        return {"addrs": [str(address) for address in self._host.get_addrs()]}

    async def identify(self, peer: str) -> dict[str, Any]:
        stream = await self._stream(peer, IDENTIFY_ID)
        message = Identify()
        message.ParseFromString(await read_length_prefixed_protobuf(stream))
        await stream.close()
        return {
            "agent": message.agent_version,
            "protocol_version": message.protocol_version,
            "protocols": list(message.protocols),
            "listen_addrs": [str(Multiaddr(address)) for address in message.listen_addrs],
            "observed": str(Multiaddr(message.observed_addr)) if message.observed_addr else None,
            "signed_record": bool(message.signedPeerRecord),
        }


async def main() -> None:
    seed = bytes.fromhex(os.environ.get("DESCORD_PEER_SEED", "")) or secrets.token_bytes(32)
    key_pair = create_new_key_pair(seed)
    host = new_host(
        key_pair=key_pair,
        sec_opt={NOISE_ID: NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)},
        muxer_preference="YAMUX",
        # The library would dial known peers again by itself, and take many connections for an attack.
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0, max_connections_per_peer=64),
        resource_manager=new_resource_manager(
            limits=ResourceLimits(max_connections=10_000, max_memory_mb=8192, max_streams=100_000),
            enable_memory_limits=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
        ),
    )
    for protocol_id, handler in LISTENERS.items():
        host.set_stream_handler(protocol_id, handler)
    protocol = CircuitV2Protocol(host, allow_hop=False)
    async with host.run(listen_addrs=[]), background_trio_service(protocol):
        await protocol.event_started.wait()
        host.get_network().register_notifee(Announcer())
        async with trio.open_nursery() as nursery:
            peer = Peer(host, protocol, nursery)
            emit("ready", peer_id=str(host.get_id()), implementation="py", version=version("libp2p"))
            await serve_commands(peer.commands)
            # Stdin ended. The library's own shutdown waits for every open stream's task: not needed here.
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=os.environ.get("DESCORD_PEER_LOG", "WARNING"))
    trio.run(main)
