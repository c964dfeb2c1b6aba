"""A DNS server on loopback that answers from a zone in memory and counts what it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dnslib import QTYPE, RCODE, RR, DNSRecord


@dataclass(slots=True)
class DnsServer(asyncio.DatagramProtocol):
    """``zone``: records as a zone file has them.  ``silent``: names that get no answer.  ``asked``: (name, type)."""

    zone: str
    silent: frozenset[str] = frozenset()
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    address: str = ""
    _transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = DNSRecord.parse(data)
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        self.asked[name, kind] += 1
        if name in self.silent:
            return
        records = [record for record in RR.fromZone(self.zone) if str(record.rname).rstrip(".") == name]
        reply = request.reply()
        if not records:
            reply.header.rcode = RCODE.NXDOMAIN
        for record in records:
            if record.rtype == request.q.qtype:
                reply.add_answer(record)
        assert self._transport is not None
        self._transport.sendto(reply.pack(), addr)


@asynccontextmanager
async def dns_server(zone: str, silent: frozenset[str] = frozenset()) -> AsyncIterator[DnsServer]:
    server = DnsServer(zone, silent)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
