"""Multicast DNS for MdnsDiscovery, by zeroconf: it answers for us, asks now and then, and tells what it hears.

A network without multicast, a port that cannot be had, an interface that goes away: each is a line in the log, and the
node goes on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import ifaddr
from zeroconf import (
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    ServiceListener,
    Zeroconf,
)
from zeroconf._dns import DNSQuestion, DNSText  # which the package itself offers, but not to type checkers
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf
from zeroconf.const import _CLASS_IN, _TYPE_PTR

from actors.actor import Send
from actors.mdns_discovery import MdnsDiscovery
from protocol.addresses import decode_tcp
from protocol.mdns import MAX_TXT, SERVICE, read_txt
from protocol.mdns_messages import TxtHeard

log = logging.getLogger(__name__)

#: Seconds between two looks at the interfaces: a laptop joins another network.
INTERFACES_INTERVAL: Final = 30.0

#: Seconds that good-byes have to leave.
CLOSE_TIME: Final = 1.0


def interfaces(addresses: Iterable[str]) -> list[str]:
    """Those of ``addresses`` (IPv4) that an interface of this host has now."""
    have = {one.ip for adapter in ifaddr.get_adapters() for one in adapter.ips if one.is_IPv4}
    return sorted(set(addresses) & {ip for ip in have if isinstance(ip, str)})


class _Listener(RecordUpdateListener):
    def __init__(self, heard: Callable[[TxtHeard], None]) -> None:
        super().__init__()
        self._heard = heard

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        for update in records:
            record = update.new
            if isinstance(record, DNSText) and record.name.lower().endswith(SERVICE) and len(record.text) <= MAX_TXT:
                self._heard(TxtHeard(record.name, record.text, 0.0 if record.is_expired(now) else float(record.ttl)))


class _Quiet(ServiceListener):
    """Services that come and go are known by their TXT records alone."""

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...
    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...
    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...


class Multicast:
    """The port of ``actor``.  ``post``: says something in its name."""

    def __init__(self, actor: MdnsDiscovery, post: Callable[[Send], None], *, name: str) -> None:
        self._actor = actor
        self._post = post
        self._name = name
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: ServiceInfo | None = None
        self._on: Sequence[str] = ()
        self._published = b""
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._warned = False

    def start(self) -> None:
        self._look()

    def sync(self) -> None:
        """After each turn of the actor: publish what it wants to be published."""
        if self._actor.announcement != self._published:
            self._spawn()

    def drop(self) -> None:
        self._stop_looking()
        for task in self._tasks:
            task.cancel()
        if self._zeroconf is not None:
            self._zeroconf.zeroconf.close()

    async def close(self) -> None:
        """Say that we are gone."""
        self._stop_looking()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._end(), CLOSE_TIME)

    def _stop_looking(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(INTERFACES_INTERVAL, self._look)
        if self._wanted() != list(self._on):
            self._spawn()

    def _wanted(self) -> list[str]:
        """The networks to be on: those in which this node is to be found."""
        record = self._actor.announcement
        if not record:
            return []
        found = (decode_tcp(one) for one in read_txt(record).addresses)
        return interfaces(ip for ip, _ in filter(None, found))

    def _spawn(self) -> None:
        task = asyncio.get_running_loop().create_task(self._change())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _change(self) -> None:
        """Be on the interfaces that there are, and publish what is wanted."""
        async with self._changing:
            on = self._wanted()
            try:
                if on != list(self._on):
                    await self._end()
                    self._on = on
                    if on:
                        await self._begin(on)
                await self._publish()
                self._warned = False
            except Exception as error:  # zeroconf and the kernel have many; none of them ends the node
                if not self._warned:
                    self._warned = True
                    log.warning("multicast DNS does not work on %s: %s", ", ".join(on) or "any network", error)

    async def _begin(self, on: Sequence[str]) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=list(on), ip_version=IPVersion.V4Only)
        await self._zeroconf.zeroconf.async_wait_for_start()
        listener = _Listener(lambda heard: self._post(Send(self._name, heard)))
        question = DNSQuestion(SERVICE, _TYPE_PTR, _CLASS_IN)
        self._zeroconf.zeroconf.async_add_listener(listener, question)
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, listener=_Quiet())

    async def _publish(self) -> None:
        wanted, zeroconf = self._actor.announcement, self._zeroconf
        self._published = wanted
        if zeroconf is None:
            return
        if not wanted:
            if self._info is not None:
                info, self._info = self._info, None
                await zeroconf.async_unregister_service(info)
            return
        info = self._service(wanted)
        if self._info is None:
            await zeroconf.async_register_service(info, cooperating_responders=True)
        else:
            await zeroconf.async_update_service(info)
        self._info = info

    def _service(self, record: bytes) -> ServiceInfo:
        """Port and addresses are in the TXT record; those that look for SRV are told the first."""
        found = [told for one in read_txt(record).addresses if (told := decode_tcp(one)) is not None]
        return ServiceInfo(
            SERVICE,
            f"{self._actor.instance}.{SERVICE}",
            port=found[0][1],
            properties=record,
            server=f"{self._actor.instance}.local.",
            parsed_addresses=list(dict.fromkeys(ip for ip, _ in found)),
        )

    async def _end(self) -> None:
        zeroconf, self._zeroconf, self._info, self._published = self._zeroconf, None, None, b""
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()
