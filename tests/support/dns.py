"""A DNS server on 127.0.0.1 that answers over UDP what a test tells it, right or wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, TXT, A, DNSRecord

_RECORDS: dict[str, Callable[[str], Any]] = {"A": A, "AAAA": AAAA, "TXT": TXT, "CNAME": CNAME}


class NameServer(asyncio.DatagramProtocol):
    """``zone``: (name, type) -> records as text.  ``ttl``: of all.  ``asked``: how often each was asked.

    ``answers``: given a question, makes the records of a zone without end.  ``silent``: says nothing.  ``raw``: what
    is sent in place of an answer, behind the question's id.
    """

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.ttl = 300
        self.asked: Counter[tuple[str, str]] = Counter()
        self.answers: Callable[[str, str], list[str]] | None = None
        self.silent = False
        self.raw: bytes | None = None
        self.address = ""
        self._transport: asyncio.DatagramTransport

    async def __aenter__(self) -> NameServer:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        question = DNSRecord.parse(data)
        name, kind = str(question.q.qname).rstrip(".").lower(), QTYPE[question.q.qtype]
        self.asked[name, kind] += 1
        if self.silent:
            return
        if self.raw is not None:
            self._transport.sendto(data[:2] + self.raw, source)
            return
        answer = question.reply()
        told = self.answers(name, kind) if self.answers is not None else self.zone.get((name, kind), [])
        for text in told:
            rdata = TXT([text[at : at + 255].encode() for at in range(0, len(text), 255)]) if kind == "TXT" else None
            answer.add_answer(RR(name, question.q.qtype, ttl=self.ttl, rdata=rdata or _RECORDS[kind](text)))
        if not told and not any(known == name for known, _ in self.zone):
            answer.header.rcode = RCODE.NXDOMAIN
        self._transport.sendto(answer.pack(), source)
