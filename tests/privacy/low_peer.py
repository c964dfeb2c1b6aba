"""Run by test_low.py on a host of its own: our peer at the privacy level Low.  Commands come a line each, answers
go out as JSON."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from actors.lookout import settings_to_look
from actors.ports.connections import ClientError
from actors.ports.peer import Peer, PeerPolicy
from actors.private_node import PrivateNode
from protocol.identity import Identity
from protocol.privacy_messages import Level
from tests.privacy.high_peer import HALF_CLOSE, answer, say
from tests.support.peers import seeded


async def run(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.folder)
    environment = {"DESCORD_RELAY_PUBLIC_RELAYS": arguments.relay, "XDG_CONFIG_HOME": str(folder)}
    identity = Identity.from_seed(seeded(arguments.name))
    async with (
        PrivateNode.start(settings_to_look(environment, folder)) as node,
        Peer(identity, node, handlers={HALF_CLOSE: answer}, policy=PeerPolicy(relays=1)) as peer,
    ):
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say({"peer_id": str(peer.peer_id)})
        while line := await reader.readline():
            command, *words = line.decode().split()
            if command == "listen":
                say({"addresses": await peer.listen(Level(words[0]))})
                continue
            started = time.monotonic()
            try:
                level = Level.HIGH if command == "high" else Level.LOW
                connection = await peer.connect(words[0], level=level, relayed=command == "relayed")
                first = connection.relay
                seconds = time.monotonic() - started
                stream = await connection.open(HALF_CLOSE)
                data = os.urandom(300_000)
                await stream.write(data)
                await stream.finish()
                echoed = await stream.read_exactly(len(data)) == data
                say(
                    {"relay": first and str(first), "punched": connection.punched, "seconds": seconds, "echoed": echoed}
                )
            except ClientError as error:
                say({"error": str(error), "seconds": time.monotonic() - started})


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("name", "folder", "relay"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    Path(arguments.folder).mkdir(exist_ok=True)
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
