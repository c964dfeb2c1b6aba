"""`python -m tests.support.two_forwarders FOLDER [unix|tcp|moves]`: a relay of two forwarders in one process.

Each forwarder has a port of its own, so that a test says which of them a peer is on.  Prints what a node prints when it
is ready, with the two addresses; ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import uvloop

from actors.actor import Send
from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy
from actors.ports import bridge_sockets, move_sockets
from actors.ports.clock import steady_clock
from actors.ports.endpoint import HostPolicy
from actors.ports.host import Host, random_bytes
from actors.relay_server import RelayServer, RelayServerPolicy
from actors.runtime.local import LocalRuntime
from protocol.identity import Identity
from protocol.noise import StaticKey

NAMES = ("forwarder/0", "forwarder/1")


async def main(folder: Path, kind: str) -> None:
    identity = Identity.from_seed(os.urandom(32))
    static = StaticKey(identity, os.urandom(32))
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    runtime = LocalRuntime(clock=steady_clock(), on_fatal=ended.set_exception)
    policy = ForwarderPolicy(rate_limits=False, max_connections_per_ip=100_000)
    hosts: list[Host] = []
    ports: list[int] = []

    def add(name: str) -> None:
        def post(send: Send) -> None:
            runtime.post(name, send.receiver, send.message)

        host = Host(HostPolicy(), post=post, wake=lambda: runtime.wake(name), now=runtime.now)
        unix = kind != "tcp"
        path = f"{folder}/{name[-1]}"
        listener = bridge_sockets.listen_unix(path) if unix else bridge_sockets.listen_tcp("127.0.0.1")
        host.neighbours.listen(listener)
        addresses = [bridge_sockets.address_of(listener)]
        if kind == "moves":
            arrivals = move_sockets.listen(path + "-moves")
            host.neighbours.listen(arrivals)
            addresses.append(bridge_sockets.address_of(arrivals))
        ports.append(host.listen("127.0.0.1", 0)[1])
        forwarder = CircuitForwarder(
            name,
            policy,
            static,
            random_bytes,
            now=runtime.now(),
            host="here" if unix else name,
            bridges=addresses,
        )
        host.attach(forwarder)
        hosts.append(host)
        runtime.add(name, lambda: forwarder, after_handle=host.end_turn)

    for name in NAMES:
        add(name)
    relay_policy = RelayServerPolicy(
        rate_limits=False, max_reservations=100_000, max_reservations_per_ip=100_000, max_reservations_per_group=100_000
    )
    runtime.add("relay_server", lambda: RelayServer(relay_policy, forwarders=NAMES, randomness=random_bytes))
    await runtime.start()
    for host in hosts:
        host.end_turn()
    addresses = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}" for port in ports]
    print(json.dumps({"event": "ready", "peer_id": str(identity.peer_id), "addresses": addresses}), flush=True)

    def stdin_ended() -> None:
        if not os.read(0, 4096) and not ended.done():
            ended.set_result(None)

    asyncio.get_running_loop().add_reader(0, stdin_ended)
    await ended
    print(json.dumps({"event": "end", "moved": [host.neighbours.moved_out for host in hosts]}), flush=True)
    for host in hosts:
        await host.close(0.5)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "unix"))
