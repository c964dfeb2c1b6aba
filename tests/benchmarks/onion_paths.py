"""How long a stream at Maximum takes, once Tor is ready: `python -m tests.benchmarks.onion_paths` (needs tor).

A private Tor network on loopback (tests/support/private_tor.py), bob at an onion of one of its clients.  Each stream is
another peer's, with a new peer id and circuits of its own in Tor, as each context at Maximum has; the time is that from
the call to the first byte back.  Before the first, the onion is waited for until it is known everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from actors.ports.connections import PeerConnection, PeerStream
from actors.ports.peer import NoPath, Peer, PeerPolicy
from actors.private_node import NoNode
from protocol.identity import Identity
from protocol.privacy_messages import Level
from tests.support.peers import seeded
from tests.support.private_tor import PrivateTorNetwork

ECHO = "/test/echo/1.0.0"

#: Seconds for the onion to be known, and for a stream: more is a failure and not a figure.
PATIENCE = 120.0


async def echo(_: PeerConnection, stream: PeerStream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def one(onion: str, policy: PeerPolicy) -> float:
    """Seconds until a new peer has its first byte back.  NoPath."""
    async with Peer(Identity.from_seed(seeded("alice")), NoNode(), policy=policy) as alice:
        began = time.monotonic()
        stream = await alice.open(onion, ECHO, level=Level.MAXIMUM)
        await stream.write(b"!")
        await stream.read_exactly(1)
        return time.monotonic() - began


async def streams(count: int, network: PrivateTorNetwork) -> list[float]:
    """Seconds of each."""
    dialling, hosting = network.clients
    at_dialler = PeerPolicy(tor_socks=f"127.0.0.1:{dialling.socks_port}")
    at_host = PeerPolicy(tor_socks=f"127.0.0.1:{hosting.socks_port}", tor_control=f"127.0.0.1:{hosting.control_port}")
    async with Peer(Identity.from_seed(seeded("bob")), NoNode(), handlers={ECHO: echo}, policy=at_host) as bob:
        (onion,) = await bob.listen(Level.MAXIMUM)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await one(onion, at_dialler)
                    break
                except NoPath:
                    continue  # Tor itself takes its time to say that an onion is not known yet
        found = []
        for number in range(count):
            async with asyncio.timeout(PATIENCE):
                found.append(await one(onion, at_dialler))
            print(f"{number + 1}: {found[-1] * 1e3:.0f} ms", file=sys.stderr, flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=40)
    count = parser.parse_args().streams
    with PrivateTorNetwork(identity_dir=Path.home() / ".cache" / "descord-relay-ci" / "tor-keys") as network:
        network.wait_ready()
        found = sorted(asyncio.run(streams(count, network)))
    print(f"| {count} streams at Maximum | median, s | 9 of 10 below, s | worst, s |\n| --- | ---: | ---: | ---: |")
    ninth = found[min(len(found) - 1, len(found) * 9 // 10)]
    print(f"| each with circuits of its own | {statistics.median(found):.2f} | {ninth:.2f} | {found[-1]:.2f} |")


if __name__ == "__main__":
    main()
