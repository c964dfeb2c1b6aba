"""What the ends of a circuit cost, at the privacy level High: `python -m tests.benchmarks.ends`.

Peers of ours, of go-libp2p and of js-libp2p (tests/interop) push and pull through one relay of ours, and ours through
two and three in a row, each relay a process, all on loopback and on all cores.  Both ends hash what passes, as the
peers of tests/interop do.  Printed, as a table: CPU-seconds a GiB of either end and of the relays, and MB a second.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from actors.lookout import settings_to_look
from actors.ports.client import PeerConnection, PeerStream
from actors.ports.peer import Peer
from actors.private_node import PrivateNode
from protocol.identity import Identity
from protocol.padding import Padder
from protocol.privacy_messages import Level
from tests.benchmarks.procfs import cpu_seconds, rest
from tests.interop.conftest import cache_folder
from tests.interop.peer import TOOLCHAINS, running
from tests.support.peers import seeded
from tests.support.process import REPOSITORY, NodeProcess, readable

PUSH, PULL = "/descord-interop/push/1.0.0", "/descord-interop/pull/1.0.0"
CHUNK = 256 * 1024
GIB = 1 << 30

#: Moves so many bytes, by push or pull.
Move = Callable[[str, int], None]

# An end of ours, as a process.


async def take_push(_: PeerConnection, stream: PeerStream) -> None:
    await stream.read_exactly(8)
    digest = hashlib.sha256()
    while part := await stream.read():
        digest.update(part)
    await stream.write(digest.digest())


async def answer_pull(_: PeerConnection, stream: PeerStream) -> None:
    left = int.from_bytes(await stream.read_exactly(8), "big")
    await stream.write(await written(stream, left))


async def written(stream: PeerStream, left: int) -> bytes:
    """``left`` bytes go out; their hash."""
    chunk, digest = hashlib.shake_128(b"bytes").digest(CHUNK), hashlib.sha256()
    while left:
        part = memoryview(chunk)[: min(left, CHUNK)]
        digest.update(part)
        await stream.write(part)
        left -= len(part)
    return digest.digest()


async def push(stream: PeerStream, size: int) -> bool:
    await stream.write(size.to_bytes(8, "big"))
    digest = await written(stream, size)
    await stream.finish()
    return await stream.read_exactly(32) == digest


async def pull(stream: PeerStream, size: int) -> bool:
    await stream.write(size.to_bytes(8, "big"))
    await stream.finish()
    digest = hashlib.sha256()
    while size:
        part = await stream.read(min(size, CHUNK))
        digest.update(part)
        size -= len(part)
    return await stream.read_exactly(32) == digest.digest()


async def end(name: str, folder: str, relays: str) -> None:
    environment = {
        "DESCORD_RELAY_PUBLIC_RELAYS": relays,
        "DESCORD_RELAY_PRIVATE_NETWORK": "on",
        "XDG_CONFIG_HOME": folder,
    }
    settings = dataclasses.replace(settings_to_look(environment, Path(folder)), stream_timeout=120.0)
    handlers = {PUSH: take_push, PULL: answer_pull}
    async with (
        PrivateNode.start(settings) as node,
        Peer(Identity.from_seed(seeded(name)), node, handlers=handlers) as peer,
    ):
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print(json.dumps({"peer_id": str(peer.peer_id)}), flush=True)
        while line := await reader.readline():
            asked = json.loads(line)
            if asked["do"] == "listen":
                answer: object = list(await peer.listen(Level.HIGH))
            elif asked["do"] == "dial":
                answer = bool(await peer.connect(asked["to"], level=Level.HIGH, hops=asked["hops"]))
            else:
                transfer, protocol = (push, PUSH) if asked["do"] == "push" else (pull, PULL)
                how = {"hops": asked["hops"], "padded": asked["padded"]}
                stream = await peer.open(asked["to"], protocol, level=Level.HIGH, **how)
                answer = await transfer(stream, asked["size"])
            print(json.dumps({"answer": answer}), flush=True)


class Ours:
    def __init__(self, name: str, folder: Path, relays: list[str]) -> None:
        (folder / name).mkdir()
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.benchmarks.ends", "--end", name, str(folder / name), ",".join(relays)]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, bufsize=0)
        self.pid = self.process.pid
        self.peer_id = str(self._line()["peer_id"])

    def ask(self, **what: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        return self._line()["answer"]

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None and readable(120, self.process.stdout)
        line = self.process.stdout.readline()
        assert line, "an end of ours ended"
        return dict(json.loads(line))


# The runs.


@contextmanager
def ends(
    kind: str, hops: int, folder: Path, relays: list[NodeProcess], padded: bool
) -> Iterator[tuple[int, int, Move]]:
    """(the dialer's and the target's pid, what moves bytes)."""
    addresses = [one.ready["addresses"][0] for one in relays]
    with ExitStack() as stack:
        if kind == "ours":
            target, dialer = Ours("target", folder, addresses), Ours("dialer", folder, addresses)
            for one in (target, dialer):
                stack.callback(one.process.wait)
                stack.callback(one.process.stdin.close)  # type: ignore[union-attr]
            listening = target.ask(do="listen")
            to = listening[0] if hops == 1 else target.peer_id
            dialer.ask(do="dial", to=to, hops=hops)

            def ask(do: str, size: int) -> None:
                checked(dialer.ask(do=do, to=to, hops=hops, size=size, padded=padded))

            yield dialer.pid, target.pid, ask
            return
        cache = cache_folder()
        TOOLCHAINS[kind].build(cache)
        other, asking = (
            stack.enter_context(running(kind, cache, folder / f"{name}.log")) for name in ("target", "dialer")
        )
        other.call("reserve", relay=addresses[0])
        asking.call("connect", addr=f"{addresses[0]}/p2p-circuit/p2p/{other.peer_id}")

        def move(do: str, size: int) -> None:
            seed = {"seed": 7} if do == "push" else {}
            said = asking.start("send" if do == "push" else "fetch", peer=other.peer_id, bytes=size, **seed).result(300)
            checked(said["sha256_local"] == said["sha256_remote"])

        yield asking.pid, other.pid, move


def checked(equal: bool) -> None:
    assert equal, "other bytes came than were sent"


def measure(kind: str, hops: int, size: int, repeats: int, padded: bool) -> list[list[str]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        relays: list[NodeProcess] = []
        for number in range(hops + (hops > 1)):
            known = [word for one in relays for word in ("--public-relays", one.ready["addresses"][0])]
            flags = ["--private-network", "on", "--assume-reachable", "on", "--mdns", "off", "--rate-limits", "off",
                     "--listen", f"/ip4/127.{number + 1}.0.1/tcp/0", *known]  # fmt: skip
            relays.append(NodeProcess(folder / f"relay-{number}", *flags))
            stack.callback(relays[-1].stop)
        dialer, target, move = stack.enter_context(ends(kind, hops, folder, relays, padded))
        rows = []
        passing = [one.process.pid for one in relays]
        for do in ("push", "pull"):
            move(do, size // 8)
            found = []
            for _ in range(repeats):
                groups = ([dialer], [target], passing)
                rest([dialer, target, *passing])
                before, began = [cpu_seconds(one) for one in groups], time.monotonic()
                move(do, size)
                seconds = time.monotonic() - began
                rest([dialer, target, *passing])
                found.append([(cpu_seconds(one) - was) * GIB / size for one, was in zip(groups, before, strict=True)]
                             + [size / seconds / 1e6])  # fmt: skip
            medians = [statistics.median(column) for column in zip(*found, strict=True)]
            rows.append(
                [
                    kind + ", padded" * padded,
                    str(hops),
                    do,
                    *(f"{value:.2f}" for value in medians[:3]),
                    f"{medians[3]:.0f}",
                ]
            )
        return rows


#: What a message's frame gets beside it on the link to one relay: a yamux header and a Noise length and tag, each
#: within the circuit and around it.
BESIDE = 2 * (12 + 2 + 16)


def messages() -> None:
    """A table of what one message of so many bytes costs on a link, without padding and with it."""
    print("| message, bytes | on the link | padded |\n| ---: | ---: | ---: |")
    for length in (1, 64, 252, 253, 1020, 1021, 1200, 4092, 4096):
        padded = sum(len(frame) for frame in Padder().frames(bytes(length)))
        print(f"| {length} | {length + BESIDE} | {padded + BESIDE} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--end", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", default="ours,go,js")
    parser.add_argument("--hops", default="1,2,3", help="of ours")
    parser.add_argument("--padded", action="store_true", help="ours with and without padding, and what messages cost")
    arguments = parser.parse_args()
    if arguments.end:
        import uvloop

        uvloop.run(end(*arguments.end))
        return
    if arguments.padded:
        messages()
    print("| ends | relays | | dialer, CPU-s/GiB | target, CPU-s/GiB | relays, CPU-s/GiB | MB/s |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for kind in arguments.kinds.split(","):
        for hops in [int(one) for one in arguments.hops.split(",")] if kind == "ours" else [1]:
            for padded in (False, True) if arguments.padded and kind == "ours" else (False,):
                for row in measure(kind, hops, arguments.megabytes << 20, arguments.repeats, padded):
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
