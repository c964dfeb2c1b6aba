"""How soon peers at High go on when their relay is lost: `python -m tests.benchmarks.lost_relay`.

Three relays, each a process, bob reached through two of them and alice who talks to him.  The relay in use is killed
(SIGKILL) while bytes pass; or, with --silent, stopped (SIGSTOP): as a host that vanishes, it says nothing any more, and
no connection ends.  Then it is started anew, and others take the places of alice and bob.  Printed, in milliseconds
from the loss:

- alice: until a stream that she opens then echoes, by another relay;
- bob: killed, until he is reached through as many relays as he wants to be, and a peer who never spoke with him before
  has an echo through the new one; silent, until such a peer has an echo, whom relays tell where bob is.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from actors.lookout import settings_to_look
from actors.ports.connections import ClientError, PeerConnection, PeerStream
from actors.ports.peer import Peer, PeerPolicy
from actors.private_node import PrivateNode
from protocol.identity import Identity, PeerId
from protocol.privacy_messages import Level
from tests.support.peers import seeded
from tests.support.process import NodeProcess

ECHO = "/test/echo/1.0.0"
KEPT = 2
RELAYS = 3

#: Seconds for one loss: more is a failure and not a figure.
PATIENCE = 60.0


async def echo(_: PeerConnection, stream: PeerStream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def echoed(peer: Peer, target: str) -> PeerConnection:
    """A new stream there, by whatever relay will do."""
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                stream = await peer.open(target, ECHO, level=Level.HIGH)
                await stream.write(b"anybody?")
                await stream.read_exactly(8)
                return await peer.connect(target, level=Level.HIGH)
        except ClientError:
            await asyncio.sleep(0)


async def anew(peer: Peer, target: str, lost: str = "") -> float:
    """When ``peer`` has an echo from there, not through the relay ``lost``."""
    connection = await echoed(peer, target)
    assert str(connection.relay) != lost
    return time.monotonic()


async def by_another(peer: Peer, bob: Peer, before: set[PeerId]) -> float:
    """When ``peer`` has an echo from ``bob`` through a relay that was none of his ``before``."""
    assert bob.reachable is not None
    while not (new := set(bob.reachable.relays) - before):
        await bob.reachable.changed()
    return await anew(peer, next(one for one in bob.addresses if str(next(iter(new))) in one))


async def busy(stream: PeerStream) -> None:
    """Bytes pass until the stream is gone."""
    try:
        while True:
            await stream.write(bytes(16384))
            await stream.read()
    except ClientError:
        pass


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.relays: list[NodeProcess] = []

    def start(self, number: int, listen: str) -> NodeProcess:
        known = [word for one in self.relays for word in ("--public-relays", one.ready["addresses"][0])]
        return NodeProcess(self.folder / f"relay-{number}", "--private-network", "on", "--mdns", "off",
                           "--rate-limits", "off", "--assume-reachable", "on", "--listen", listen, *known)  # fmt: skip

    async def peer(self, stack: AsyncExitStack, name: str) -> Peer:
        (self.folder / name).mkdir()
        environment = {
            "DESCORD_RELAY_PUBLIC_RELAYS": ",".join(one.ready["addresses"][0] for one in self.relays),
            "DESCORD_RELAY_PRIVATE_NETWORK": "on",
            "DESCORD_RELAY_MDNS": "off",
            "XDG_CONFIG_HOME": str(self.folder),
        }
        node = await stack.enter_async_context(PrivateNode.start(settings_to_look(environment, self.folder / name)))
        identity = Identity.from_seed(seeded(name))
        policy = PeerPolicy(relays=KEPT)
        return await stack.enter_async_context(Peer(identity, node, handlers={ECHO: echo}, policy=policy))

    def running(self, peer_id: str) -> int:
        return next(number for number, one in enumerate(self.relays) if one.ready["peer_id"] == peer_id)


async def lose(runs: int, *, silent: bool = False) -> tuple[list[float], list[float]]:
    """Milliseconds: until alice has a new stream; until bob is reached through a relay that he was not."""
    dialling, listening = [], []
    async with AsyncExitStack() as stack:
        bench = Bench(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for number in range(RELAYS):
            bench.relays.append(await asyncio.to_thread(bench.start, number, f"/ip4/127.{number + 1}.0.1/tcp/0"))
        stack.callback(lambda: [one.stop() for one in bench.relays])
        for run in range(runs):
            # Others each time: who has just lost a relay does not take it again for a while, and there are three.
            here = await stack.enter_async_context(AsyncExitStack())
            bob, alice, stranger = [await bench.peer(here, f"{name}-{run}") for name in ("bob", "alice", "stranger")]
            await bob.listen(Level.HIGH)
            assert bob.reachable is not None
            async with asyncio.timeout(PATIENCE):
                while len(before := set(bob.reachable.relays)) < KEPT:
                    await bob.reachable.changed()
                connection = await echoed(alice, str(bob.peer_id))
            moving = asyncio.create_task(busy(await connection.open(ECHO)))
            await asyncio.sleep(0)
            number = bench.running(str(connection.relay))
            lost = bench.relays[number]
            killed = time.monotonic()
            lost.process.send_signal(signal.SIGSTOP if silent else signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                if not silent:
                    await moving
                took = await asyncio.gather(
                    anew(alice, str(bob.peer_id), lost.ready["peer_id"]),
                    anew(stranger, str(bob.peer_id)) if silent else by_another(stranger, bob, before),
                )
            for ended, times in zip(took, (dialling, listening), strict=True):
                times.append((ended - killed) * 1e3)
            lost.process.kill()
            await moving
            await here.aclose()
            port = lost.ready["addresses"][0].split("/")[4]
            lost.stop()
            bench.relays[number] = await asyncio.to_thread(bench.start, number, f"/ip4/127.{number + 1}.0.1/tcp/{port}")
            print(f"{run + 1}: alice {dialling[-1]:.0f} ms, bob {listening[-1]:.0f} ms", file=sys.stderr, flush=True)
    return dialling, listening


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--silent", action="store_true")
    asked = parser.parse_args()
    dialling, listening = asyncio.run(lose(asked.runs, silent=asked.silent))
    how = "that fell silent" if asked.silent else "killed"
    print(f"| {asked.runs} relays {how} in mid-stream | median, ms | worst, ms |\n| --- | ---: | ---: |")
    for name, found in (("a new stream, by another relay", dialling), ("reached through another relay", listening)):
        print(f"| {name} | {statistics.median(found):.0f} | {max(found):.0f} |")


if __name__ == "__main__":
    main()
