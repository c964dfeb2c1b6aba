"""From names in multiaddrs to addresses that can be dialled.

`/dns4`, `/dns6` and `/dns` stand for the A and AAAA records of a name; `/dnsaddr` for the multiaddrs in its TXT
records, which may be names again.  Whoever owns the name decides what comes back, so everything is bounded: how deep
names nest, how many questions one address costs, how many addresses it yields, how long that takes, how much is kept.
Addresses of private networks are passed on: whether to dial one is the dialler's choice.

Source: https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiodns
from multiaddr import Multiaddr

#: The record types that a component asks for.
_QUESTIONS: Final = {"dns": ("A", "AAAA"), "dns4": ("A",), "dns6": ("AAAA",), "dnsaddr": ("TXT",)}

#: Longest TXT entry that is read: a DNS name (253), a peer id and a transport fit several times.
_MAX_ENTRY: Final = 1024


class ResolveError(Exception):
    """No address was found: the message names the address and says why."""


@dataclass(frozen=True, slots=True)
class ResolverPolicy:
    """``max_depth``: names behind names.  ``max_questions``: DNS questions for one address.  ``max_addresses``: of the
    answer; more are left out.  ``timeout``: s for one address in all.  ``max_cached``: answers kept, each for as long
    as its records allow, but at most ``max_ttl`` s, and ``failure_ttl`` s for a name that has no such record."""

    max_depth: int = 4
    max_questions: int = 32
    max_addresses: int = 64
    timeout: float = 5.0
    max_cached: int = 1024
    max_ttl: float = 3600.0
    failure_ttl: float = 10.0


class _Search:
    """What is found for one address, and what may still be asked."""

    __slots__ = ("failures", "found", "questions")

    def __init__(self, questions: int) -> None:
        self.questions = questions
        self.found: dict[str, Multiaddr] = {}
        self.failures: list[str] = []


class Resolver:
    """Resolves through the system's DNS servers, or ``nameservers`` (``"IP"`` or ``"IP:port"``).

    Belongs to the running loop; :meth:`close` it.  The hosts file is honoured, search domains are not: a multiaddr's
    name is complete.
    """

    def __init__(self, policy: ResolverPolicy | None = None, nameservers: Sequence[str] | None = None) -> None:
        self._policy = policy or ResolverPolicy()
        # A server that is silent is asked once more, within the time that one address may take.
        self._dns = aiodns.DNSResolver(nameservers, timeout=self._policy.timeout / 4, tries=2, domains=[])
        self._cache: OrderedDict[tuple[str, str], tuple[float, tuple[str, ...]]] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    async def resolve(self, address: Multiaddr) -> list[Multiaddr]:
        """The addresses that ``address`` stands for: itself if it does not begin with a name.  ResolveError if none.

        Where some names fail or time runs out, what was found until then is the answer.
        """
        search = _Search(self._policy.max_questions)
        try:
            async with asyncio.timeout(self._policy.timeout):
                await self._expand(address, 0, search)
        except TimeoutError:
            search.failures.append(f"no answer within {self._policy.timeout:g} s")
        if not search.found:
            raise ResolveError(f"{address}: {search.failures[0] if search.failures else 'no address'}")
        return list(search.found.values())

    async def close(self) -> None:
        """Call off what is being asked."""
        await self._dns.close()

    async def _expand(self, address: Multiaddr, depth: int, search: _Search) -> None:
        if len(search.found) >= self._policy.max_addresses:
            return
        protocol, name = next(iter(address.items()))
        kinds = _QUESTIONS.get(protocol.name)
        if kinds is None:
            search.found.setdefault(str(address), address)
            return
        rest = address.split()[1:]
        if protocol.name == "dnsaddr" and depth >= self._policy.max_depth:
            search.failures.append(f"names are nested more than {self._policy.max_depth} deep")
            return
        for kind in kinds:
            for text in await self._ask(str(name), kind, search):
                candidate = _from_entry(text, rest) if kind == "TXT" else _from_ip(text, rest)
                if candidate is not None:
                    await self._expand(candidate, depth + 1, search)

    async def _ask(self, name: str, kind: str, search: _Search) -> tuple[str, ...]:
        """The records of ``kind``; none if there are none, with a line in ``search.failures``."""
        if search.questions <= 0:
            search.failures.append(f"more than {self._policy.max_questions} questions")
            return ()
        search.questions -= 1
        key = (name.lower().rstrip("."), kind)
        now = self._loop.time()
        kept = self._cache.get(key)
        if kept is not None and kept[0] > now:
            self._cache.move_to_end(key)
            answer = kept[1]
        else:
            try:
                ttl, answer = await (self._texts(key[0]) if kind == "TXT" else self._ips(key[0], kind))
            except aiodns.error.DNSError as error:
                if error.args[0] not in (aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA):
                    search.failures.append(f"{name} ({kind}): {error.args[-1]}")
                    return ()
                ttl, answer = self._policy.failure_ttl, ()
            self._keep(key, now + min(ttl, self._policy.max_ttl), answer)
        if not answer:
            search.failures.append(f"{name} has no {kind} record")
        return answer

    def _keep(self, key: tuple[str, str], until: float, answer: tuple[str, ...]) -> None:
        self._cache[key] = (until, answer)
        self._cache.move_to_end(key)
        while len(self._cache) > self._policy.max_cached:
            self._cache.popitem(last=False)

    async def _ips(self, name: str, kind: str) -> tuple[float, tuple[str, ...]]:
        family = socket.AF_INET if kind == "A" else socket.AF_INET6
        result = await self._dns.getaddrinfo(name, family=family, type=socket.SOCK_STREAM)
        nodes = [node for node in result.nodes if node.family == family][: self._policy.max_addresses]
        texts = [node.addr[0].decode() if isinstance(node.addr[0], bytes) else node.addr[0] for node in nodes]
        return min((float(node.ttl) for node in nodes), default=0.0), tuple(texts)

    async def _texts(self, name: str) -> tuple[float, tuple[str, ...]]:
        """The ``dnsaddr=`` entries of a name, without that prefix; other TXT records may stand beside them."""
        result = await self._dns.query_dns(f"_dnsaddr.{name}", "TXT")
        found: list[str] = []
        ttl = self._policy.max_ttl
        for record in result.answer:
            data = getattr(record.data, "data", b"")
            if data.startswith(b"dnsaddr=") and len(data) <= _MAX_ENTRY and len(found) < self._policy.max_addresses:
                found.append(data.removeprefix(b"dnsaddr=").decode("utf-8", "replace"))
                ttl = min(ttl, float(record.ttl))
        return (ttl if found else self._policy.failure_ttl), tuple(found)


def _from_ip(ip: str, rest: Sequence[Multiaddr]) -> Multiaddr:
    address = Multiaddr(f"/ip6/{ip}" if ":" in ip else f"/ip4/{ip}")
    for part in rest:
        address = address.encapsulate(part)
    return address


def _from_entry(entry: str, suffix: Sequence[Multiaddr]) -> Multiaddr | None:
    """The address of a TXT entry; None if it is none, or does not end as the address that was asked for does."""
    try:
        address = Multiaddr(entry)
        parts = address.split()
    except Exception:  # multiaddr raises many types for one thing: the entry is no multiaddr
        return None
    if not parts or (suffix and parts[-len(suffix) :] != list(suffix)):
        return None
    return address
