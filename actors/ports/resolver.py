"""Names in addresses become IP addresses: /dns, /dns4, /dns6 by A and AAAA records, /dnsaddr by TXT records.

    /dns4/relay.example/tcp/4001     A of relay.example            /ip4/192.0.2.1/tcp/4001
    /dnsaddr/relay.example/p2p/ID    TXT of _dnsaddr.relay.example  dnsaddr=/ip4/192.0.2.1/tcp/4001/p2p/ID
                                                                   dnsaddr=/dnsaddr/eu.relay.example/p2p/ID

A name is written by whoever owns it, and its records may lead to others, in a circle or a tree without end.  So each
resolution is bounded: in depth, in queries, in answers, in time; and so is what is remembered of them.

Source: https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import aiodns
import pycares

from actors.dial_address import DialAddress, DialAddressError, parse_dial_address

PREFIX: Final = "dnsaddr="

#: Families that a name of each kind is asked for.
_TYPES: Final = {"dns": ("A", "AAAA"), "dns4": ("A",), "dns6": ("AAAA",), "dnsaddr": ("TXT",)}
_FAMILIES: Final = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}

#: c-ares' error numbers (ares.h) of the failures that a person can do something about.
_MEANINGS: Final = {
    1: "it has no such record",
    2: "the DNS server could not read the question",
    3: "the DNS server failed; try again later",
    4: "there is no such name; check its spelling",
    6: "the DNS server refused; ask its operator, or use another",
    8: "it is no valid name",
    10: "the DNS server's answer makes no sense",
    11: "no DNS server can be reached; check the network",
    12: "the DNS server did not answer; check the network, or try again later",
}


#: The two that say that there is nothing, and will not be in a moment: ENODATA and ENOTFOUND.
_ABSENT: Final = (1, 4)


class ResolveError(Exception):
    """A name has no address that can be dialled; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class ResolverPolicy:
    """Bounds of one resolution: ``timeout`` in seconds (the setting resolver_timeout); ``max_depth``: /dnsaddr records
    that lead to others; ``max_queries``, those answered from memory included; ``max_answers``: of a resolution and of
    a record set.  Bounds of what is remembered: ``max_cached`` record sets, each for its TTL but at most ``max_ttl``
    seconds, and for ``absent_ttl`` that there is none."""

    timeout: float = 5.0
    max_depth: int = 4
    max_queries: int = 16
    max_answers: int = 32
    max_cached: int = 1024
    max_ttl: float = 3600.0
    absent_ttl: float = 10.0


@dataclass(slots=True)
class _Resolution:
    """What one call of :meth:`Resolver.resolve` has used up and found."""

    asked: str
    queries: int = 0
    found: dict[str, None] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


class Resolver:
    """``nameservers``: ``127.0.0.1:5353``; those of the system when None.  ``now``: seconds that never go back."""

    def __init__(
        self,
        policy: ResolverPolicy | None = None,
        *,
        nameservers: Sequence[str] | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._policy = policy or ResolverPolicy()
        self._nameservers = nameservers
        self._now = now
        self._dns: aiodns.DNSResolver | None = None
        self._cache: OrderedDict[tuple[str, str], tuple[float, tuple[str, ...], str]] = OrderedDict()

    async def resolve(self, address: str) -> list[str]:
        """The ``/ip4|ip6/.../tcp/PORT[/p2p/ID]`` addresses of a multiaddr, in the order of their records.

        An address without a name is returned as it is.  ResolveError when there is none; what was found within the
        bounds is returned though they cut off the rest.
        """
        try:
            asked = parse_dial_address(address)
        except DialAddressError as error:
            raise ResolveError(str(error)) from error
        resolution = _Resolution(asked.value)
        try:
            async with asyncio.timeout(self._policy.timeout):
                await self._follow(resolution, asked, asked, 0)
        except TimeoutError:
            resolution.faults.append(
                f"DNS took longer than {self._policy.timeout:g} s (resolver_timeout); check the network, or try again"
            )
        if not resolution.found:
            why = "; ".join(dict.fromkeys(resolution.faults)) or "its records name no TCP address that can be dialled"
            raise ResolveError(f"cannot resolve {asked.value} (/{asked.host}): {why}")
        return list(resolution.found)

    async def close(self) -> None:
        """Ask no more."""
        if self._dns is not None:
            await self._dns.close()
            self._dns = None

    async def _follow(self, resolution: _Resolution, asked: DialAddress, address: DialAddress, depth: int) -> None:
        """Add what ``address`` stands for to what was found."""
        policy = self._policy
        if asked.peer is not None and address.peer is not None and address.peer != asked.peer:
            return
        if not address.named:
            if len(resolution.found) < policy.max_answers:
                resolution.found[str(address)] = None
            return
        if depth >= policy.max_depth:
            resolution.faults.append(
                f"{address.value} lies more than {policy.max_depth} names deep; its owner must fix it"
            )
            return
        seen = str(address).lower()
        if seen in resolution.seen:
            return
        resolution.seen.add(seen)
        for kind in _TYPES[address.host]:
            if len(resolution.found) >= policy.max_answers:
                return
            name = f"_dnsaddr.{address.value}" if kind == "TXT" else address.value
            for record in await self._records(resolution, name, kind):
                next_address = _dnsaddr(record) if kind == "TXT" else _at(address, record)
                if next_address is not None:
                    await self._follow(resolution, asked, next_address, depth + 1)

    async def _records(self, resolution: _Resolution, name: str, kind: str) -> tuple[str, ...]:
        # Counted before memory is asked: a tree of names that are remembered costs no query, and grows all the same.
        if resolution.queries >= self._policy.max_queries:
            resolution.faults.append(f"it takes more than {self._policy.max_queries} queries; its owner must fix it")
            return ()
        resolution.queries += 1
        key = (name.lower().rstrip("."), kind)
        until, records, fault = self._cache.get(key, (0.0, (), ""))
        if until <= self._now():
            fault = ""
            try:
                records, ttl = await self._ask(name, kind)
            except aiodns.error.DNSError as error:
                meaning = _MEANINGS.get(error.args[0], str(error.args[-1]))
                fault = f"{kind} of {name}: {meaning}"
                records, ttl = (), self._policy.absent_ttl if error.args[0] in _ABSENT else 0.0
            self._remember(key, ttl, records, fault)
        else:
            self._cache.move_to_end(key)
        if fault:
            resolution.faults.append(fault)
        return records

    def _remember(self, key: tuple[str, str], ttl: float, records: tuple[str, ...], fault: str) -> None:
        if ttl <= 0:
            self._cache.pop(key, None)
            return
        self._cache[key] = (self._now() + min(ttl, self._policy.max_ttl), records, fault)
        self._cache.move_to_end(key)
        if len(self._cache) > self._policy.max_cached:
            self._cache.popitem(last=False)

    async def _ask(self, name: str, kind: str) -> tuple[tuple[str, ...], float]:
        """(the records of ``kind``, the least TTL on the way to them), no more than a resolution may find."""
        most = self._policy.max_answers
        if kind == "TXT":
            answer = (await self._channel().query_dns(name, kind)).answer
            data = [record.data.data for record in answer if isinstance(record.data, pycares.TXTRecordData)]
            texts = [text.decode("ascii", "replace") for text in data]
            found = [text.removeprefix(PREFIX) for text in texts if text.startswith(PREFIX)]
            return tuple(found[:most]), min((record.ttl for record in answer), default=0.0)
        # The hosts file is honoured, search domains are not: a multiaddr's name is complete.
        result = await self._channel().getaddrinfo(name, _FAMILIES[kind], type=socket.SOCK_STREAM)
        found = [str(ipaddress.ip_address(node.addr[0].decode().partition("%")[0])) for node in result.nodes]
        return tuple(found[:most]), min(
            [node.ttl for node in result.nodes] + [alias.ttl for alias in result.cnames], default=0.0
        )

    def _channel(self) -> aiodns.DNSResolver:
        if self._dns is None:
            # A lost datagram is asked for again twice within the whole time.
            timeout = self._policy.timeout / 4
            self._dns = aiodns.DNSResolver(nameservers=self._nameservers, timeout=timeout, tries=3, domains=[])
        return self._dns


def _at(address: DialAddress, ip: str) -> DialAddress:
    version = "ip6" if ":" in ip else "ip4"
    return DialAddress(version, ip, address.port, address.peer)


def _dnsaddr(text: str) -> DialAddress | None:
    """What a record leads to; None for a transport that this node does not dial, or for what is no multiaddr."""
    try:
        address = parse_dial_address(text)
    except DialAddressError:
        return None
    return address if address.target is None else None
