"""DHTAdvertisers on a simulated network, and peers that lie to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from actors.actor import Send
from actors.dht_advertiser import DHTAdvertiser, DhtPolicy
from actors.record_store import MemoryStore
from protocol import kad
from protocol.addresses import encode_tcp
from protocol.discovery_messages import DescriptorChanged, RelayFound, RelaysSearched, RelaysWanted
from protocol.identity import Identity
from protocol.kad import KadMessage, KadPeer
from protocol.service_messages import ForwarderReady, ProtocolsServed, StreamAnswer, StreamMessage
from tests.simulation.network import FORWARDER, SERVICE, Host, Network, Weather
from tests.support.descriptors import descriptor, validate
from tests.support.peers import seeded

#: Seconds for which a descriptor holds.
LIFE = 7200.0


class Kademlia:
    """A network of nodes that join one after the other.  ``stores``: what each keeps over a restart."""

    def __init__(self, seed: int, weather: Weather | None = None, policy: DhtPolicy | None = None) -> None:
        self.network = Network(seed, weather)
        self.nodes: list[Host] = []
        self.stores: dict[Host, MemoryStore] = {}
        self._policy = policy
        self._number = 0
        self._request = 0

    def join(self, count: int, *, server: bool = True, spacing: float = 0.5) -> list[Host]:
        """So many more nodes, each with an address of a network block of its own."""
        joined = []
        for _ in range(count):
            self._number += 1
            ip = f"{20 + self._number % 80}.{self._number // 80}.1.2"
            node = self.network.add(f"node {self._number}", ip, lambda host: self._make(host, server=server))
            self.nodes.append(node)
            joined.append(node)
            self.network.run(spacing)
        return joined

    def leave(self, node: Host) -> None:
        self.network.stop(node)
        self.nodes.remove(node)

    def restart(self, node: Host) -> None:
        """With what it had stored."""
        self.network.stop(node)
        self.network.start(node, lambda host: self._make(host, server=True))

    def relay(self, node: Host, sequence: int = 1) -> None:
        """``node`` is a relay, and says so, from now on."""
        expires_at = self.network.now + LIFE
        node.post(DescriptorChanged(descriptor(node.identity, sequence, expires_at, (node.address,))))

    def search(self, node: Host, timeout: float = 20.0) -> list[RelayFound]:
        """The relays that ``node`` finds."""
        self._request += 1
        number = self._request
        node.post(RelaysWanted(number, "directory", timeout))
        over = self.network.run_until(
            lambda: any(one.request_id == number for one in node.heard(RelaysSearched)), timeout + 1
        )
        assert over, "a search always ends"
        return [one for one in node.heard(RelayFound) if one.request_id == number]

    def core(self, node: Host) -> DHTAdvertiser:
        assert isinstance(node.core, DHTAdvertiser)
        return node.core

    def _make(self, host: Host, *, server: bool) -> DHTAdvertiser:
        others = [node for node in self.nodes if node is not host]
        known = self.network.random.sample(others, min(3, len(others)))
        bootstrap = [(node.peer.bytes, (node.address,)) for node in known]
        store = self.stores.setdefault(host, MemoryStore())
        return DHTAdvertiser(
            SERVICE,
            host.peer,
            validate,
            host.random_bytes,
            store,
            bootstrap=bootstrap,
            server=server,
            policy=self._policy,
        )


#: What a liar answers to a request; None: it resets the stream; b"": it says nothing.
Lie = Callable[[Host, KadMessage], bytes | None]


class Liar:
    """Looks like a server, and answers as ``lie`` says."""

    def __init__(self, host: Host, lie: Lie) -> None:
        self._host = host
        self._lie = lie
        self.asked = 0

    def handle(self, message: object, now: float) -> list[Send]:
        match message:
            case ForwarderReady():
                return [Send(FORWARDER, ProtocolsServed(SERVICE, (kad.PROTOCOL,)))]
            case StreamMessage(stream=stream, payload=payload, request_id=0):
                self.asked += 1
                answer = self._lie(self._host, kad.decode_request(payload))
                if answer == b"":
                    return []
                return [Send(FORWARDER, StreamAnswer(stream, answer, reset=answer is None))]
        return []

    def next_deadline(self) -> float | None:
        return None

    def handle_deadline(self, now: float) -> list[Send]:
        return []


def junk(host: Host, request: KadMessage) -> bytes | None:
    return host.random_bytes(200)


def silence(host: Host, request: KadMessage) -> bytes | None:
    return b""


def refusal(host: Host, request: KadMessage) -> bytes | None:
    return None


def made_up_peers(host: Host, request: KadMessage) -> bytes | None:
    """Peers that are nowhere, on many addresses, as closer peers and as providers."""
    return kad.encode(KadMessage(request.type, request.key, closer=_nobody(host, 20), providers=_nobody(host, 40)))


def inward(host: Host, request: KadMessage) -> bytes | None:
    """Peers at this host's own ports, and in private networks."""
    peers = _nobody(host, 20)
    addresses = tuple(
        bytes((4, *ip)) + b"\x06\x00\x16" for ip in ((127, 0, 0, 1), (10, 0, 0, 1), (169, 254, 169, 254), (0, 0, 0, 0))
    )
    told = tuple(KadPeer(peer.id, addresses) for peer in peers)
    return kad.encode(KadMessage(request.type, request.key, closer=told, providers=told))


def itself(host: Host, request: KadMessage) -> bytes | None:
    own = (KadPeer(host.peer.bytes, (host.address,)),)
    return kad.encode(KadMessage(request.type, request.key, closer=own, providers=own))


LIES: Sequence[Lie] = (junk, silence, refusal, made_up_peers, inward, itself)


def _nobody(host: Host, count: int) -> tuple[KadPeer, ...]:
    return tuple(
        KadPeer(
            b"\x12\x20" + host.random_bytes(32),
            (encode_tcp(IPv4Address(bytes((120 + number % 80, *host.random_bytes(3)))), 4001),),
        )
        for number in range(count)
    )


def stranger(number: int) -> Identity:
    return Identity.from_seed(seeded(f"stranger {number}"))
