"""The router of this network, asked to pass a port on: PCP, else NAT-PMP, else UPnP (miniupnpc, extra ``upnp``).

PCP and NAT-PMP go to the default gateway, which Linux tells in /proc; elsewhere UPnP alone is tried, which finds the
router by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.actor import Send
from actors.port_mapper import PortMapper
from actors.ports.daemon_thread import in_daemon_thread
from protocol import port_mapping
from protocol.errors import RemoteProtocolError
from protocol.mapping_messages import MappingResult, MappingWanted, PortMapping
from protocol.port_mapping import Mapped

log = logging.getLogger("actors.node")

#: Seconds in which routers answer a search of UPnP.
UPNP_DISCOVERY: Final = 2.0

#: Seconds for ending the mappings when the node ends.
CLOSE_TIME: Final = 2.0

ROUTES: Final = Path("/proc/net/route")
_UP_GATEWAY: Final = 0x3  # RTF_UP | RTF_GATEWAY

DESCRIPTION: Final = "descord-relay"

T = TypeVar("T")


class MappingFailed(Exception):
    """Why this way did not lead to a mapping."""


def default_gateway(routes: Path = ROUTES) -> IPv4Address | None:
    """The IPv4 router through which everything else is reached; None: there is none, or the system does not say."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 3 and fields[1] == "00000000" and int(fields[3], 16) & _UP_GATEWAY == _UP_GATEWAY:
            return IPv4Address(struct.pack("<I", int(fields[2], 16)))
    return None


class Gateway:
    """The port of ``actor``, whose name is ``name``.  ``secret``: of this node; whoever knows it could change its
    mappings."""

    def __init__(self, actor: PortMapper, post: Callable[[Send], None], name: str, secret: bytes) -> None:
        self._actor = actor
        self._post = post
        self._name = name
        self._secret = secret
        self._task: asyncio.Task[None] | None = None
        self._mapped: tuple[PortMapping, ...] = ()

    def look(self) -> None:
        """After each turn of the actor: do what it wants, and no longer what it wanted before."""
        wanted, self._actor.wanted = self._actor.wanted, None
        if wanted is not None:
            self.drop()
            self._task = asyncio.get_running_loop().create_task(self._do(wanted))

    async def close(self) -> None:
        """End the mappings."""
        self.drop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._end(), CLOSE_TIME)

    def drop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _do(self, wanted: MappingWanted) -> None:
        if not wanted.ports:
            await self._end()
            return
        problems: list[str] = []
        mapped: list[PortMapping] = []
        for way in (self._pcp, self._pmp, self._upnp):
            try:
                mapped = [await way(ours, outer, wanted.lease) for ours, outer in wanted.ports]
                break
            except (MappingFailed, RemoteProtocolError, OSError) as error:
                problems.append(str(error))
        if mapped and not self._mapped:
            log.info("the router passes port %d on to us, by %s", mapped[0].external_port, mapped[0].method)
        self._mapped = tuple(mapped)
        result = MappingResult(wanted.number, self._mapped, "" if mapped else "; ".join(dict.fromkeys(problems)))
        self._post(Send(self._name, result))

    async def _end(self) -> None:
        mapped, self._mapped = self._mapped, ()
        ways = {"PCP": self._pcp, "NAT-PMP": self._pmp, "UPnP": self._upnp}
        for one in mapped:
            with suppress(MappingFailed, RemoteProtocolError, OSError):
                await ways[one.method](one.internal_port, one.external_port, 0)

    # PCP and NAT-PMP.

    async def _pcp(self, ours: int, outer: int, lease: int) -> PortMapping:
        nonce = hashlib.sha256(b"pcp nonce" + self._secret + ours.to_bytes(2, "big")).digest()[: port_mapping.NONCE]

        def request(client: IPv4Address) -> bytes:
            return port_mapping.pcp_request(nonce, client, ours, outer, lease)

        told = await self._ask(request, lambda data: port_mapping.pcp_answer(data, nonce, ours))
        return _told(told, told.address, "PCP")

    async def _pmp(self, ours: int, outer: int, lease: int) -> PortMapping:
        told = await self._ask(
            lambda _: port_mapping.pmp_request(ours, outer, lease), lambda data: port_mapping.pmp_answer(data, ours)
        )
        address = None
        if lease:
            address = await self._ask(lambda _: port_mapping.pmp_external_request(), port_mapping.pmp_external_answer)
        return _told(told, address, "NAT-PMP")

    async def _ask(self, request: Callable[[IPv4Address], bytes], read: Callable[[bytes], T | None]) -> T:
        """The router's answer.  MappingFailed when there is none; what ``read`` raises."""
        gateway = default_gateway()
        if gateway is None:
            raise MappingFailed("no default router is known")
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            # Connected: nobody else's datagrams are read, and a router that takes none says so at once.
            sock.connect((str(gateway), port_mapping.PORT))
            data = request(IPv4Address(sock.getsockname()[0]))
            for number in range(port_mapping.SENDINGS):
                end = loop.time() + port_mapping.FIRST_WAIT * 2**number
                try:
                    await loop.sock_sendall(sock, data)
                    while (left := end - loop.time()) > 0:
                        async with asyncio.timeout(left):
                            answer = await loop.sock_recv(sock, port_mapping.MAX_DATAGRAM + 1)
                        if (found := read(answer)) is not None:
                            return found
                except TimeoutError:
                    continue
                except ConnectionRefusedError:
                    raise MappingFailed(f"the router at {gateway} speaks neither PCP nor NAT-PMP") from None
        raise MappingFailed(f"the router at {gateway} does not answer (PCP, NAT-PMP)")

    # UPnP.

    async def _upnp(self, ours: int, outer: int, lease: int) -> PortMapping:
        if importlib.util.find_spec("miniupnpc") is None:
            raise MappingFailed("UPnP is not tried: pip install 'descord-relay[upnp]'")
        if not lease:
            # One that is taken back answered before: the end of the process waits until the mapping is gone.
            return await asyncio.to_thread(_upnp, ours, outer, lease)
        return await in_daemon_thread(_upnp, ours, outer, lease)


def _told(told: Mapped, address: object, method: str) -> PortMapping:
    text = "" if address is None else str(address)
    return PortMapping(told.internal_port, told.external_port, text, told.lifetime, method)


def _upnp(ours: int, outer: int, lease: int) -> PortMapping:
    """In a thread: the library waits for answers.  MappingFailed."""
    import miniupnpc

    router: Any = miniupnpc.UPnP()
    router.discoverdelay = int(UPNP_DISCOVERY * 1000)
    try:
        found = router.discover()
    except Exception:  # so it is raised where nobody answers
        found = 0
    if not found:
        raise MappingFailed("no router answers by UPnP")
    try:
        router.selectigd()
        if not lease:
            router.deleteportmapping(outer, "TCP")
            return PortMapping(ours, outer, "", 0, "UPnP")
        address = router.externalipaddress() or ""
        router.addportmapping(outer, "TCP", router.lanaddr, ours, DESCRIPTION, "", lease)
    except Exception as error:  # it raises Exception itself, with the router's words
        raise MappingFailed(f"the router refuses by UPnP: {error}") from error
    with suppress(ValueError):
        return PortMapping(ours, outer, str(ip_address(address)), lease, "UPnP")
    return PortMapping(ours, outer, "", lease, "UPnP")
