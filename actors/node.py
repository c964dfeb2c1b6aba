"""`python -m actors.node`: one relay node, from its settings to its last good-bye.

This is the wiring: which actors there are, on which runtime they run, which ports they are given, and what the person
or program that started the node is told.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from actors.actor import Send
from actors.circuit_forwarder import CircuitForwarder
from actors.links import ForwarderPolicy
from actors.logs import configure_logging
from actors.ports.addresses import BindError, announced, bind_targets, reachable
from actors.ports.host import Host, HostPolicy, random_bytes, wall_clock
from actors.ports.storage import IdentityError, load_or_create_identity
from actors.relay_server import RelayServer, RelayServerPolicy
from actors.runtime.local import LocalRuntime
from actors.self_description import AGENT
from actors.settings import Settings, SettingsError, load_settings, print_settings
from actors.supervisor import RestartPolicy
from protocol.connection import ConnectionLimits
from protocol.identity import Identity
from protocol.noise import StaticKey
from protocol.yamux import YamuxLimits

# Not __name__: run as a module that is "__main__".
log = logging.getLogger("actors.node")

FORWARDER: Final = "forwarder/0"
RELAY_SERVER: Final = "relay_server"

#: Allocations between two collections of the youngest objects.
GC_THRESHOLD: Final = 20_000

#: Exit codes: a wrong setting or identity (another start will not cure it), a port that cannot be had now, and an actor
#: that keeps failing.
EXIT_SETTINGS: Final = 2
EXIT_UNAVAILABLE: Final = 69
EXIT_FAILED: Final = 70


class Node:
    """The actors of one process and the sockets they are reached by."""

    def __init__(self, settings: Settings, identity: Identity, report: Callable[[dict[str, Any]], None]) -> None:
        self.settings = settings
        self.identity = identity
        self.failure: str | None = None
        self.stopping = asyncio.Event()
        self.addresses: list[str] = []
        self._report = report
        self._static = StaticKey(identity, random_bytes(32))
        self._bound: list[tuple[str, int]] = []
        self._own_addresses: list[bytes] = []
        self._forwarder: CircuitForwarder | None = None
        self._last_bytes = 0
        self.runtime = LocalRuntime(
            clock=wall_clock(),
            on_fatal=self._failed,
            mailbox_capacity=settings.mailbox_capacity,
            restarts=RestartPolicy(settings.max_restarts, settings.restart_window),
        )
        self.host = Host(
            HostPolicy(
                max_backlog=settings.max_backlog,
                max_backlog_total=settings.max_backlog_total,
                reserved_files=settings.max_open_files_reserve,
            ),
            post=self._post,
            wake=lambda: self.runtime.wake(FORWARDER),
            now=self.runtime.now,
        )

    async def start(self) -> None:
        """Bind the ports, start the actors.  BindError when a port cannot be had."""
        bound = self._bound
        for target in bind_targets(self.settings.listen):
            try:
                bound.append(self.host.listen(target.address, target.port))
            except OSError as error:
                if target.optional:
                    log.warning("not listening on %s: %s", target.text, error.strerror)
                    continue
                raise BindError(f"listen = {target.text}: {error.strerror}; choose another with --listen") from error
        if not bound:
            raise BindError("none of the addresses to listen on can be had; choose others with --listen")
        self._find_addresses()
        self.runtime.add(RELAY_SERVER, self._relay_server)
        self.runtime.add(FORWARDER, self._circuit_forwarder, after_handle=self.host.end_turn)
        await self.runtime.start()

    def _find_addresses(self) -> bool:
        """Look at what the interfaces have, unless addresses were given; True when that changed."""
        own = announced(self.settings.announce) or reachable(self._bound)
        known, self._own_addresses = self._own_addresses, [address.binary for address in own]
        self.addresses = [f"{address.text}/p2p/{self.identity.peer_id}" for address in own]
        return known != self._own_addresses

    def look_at_addresses(self) -> None:
        """Tell peers, and whoever started the node, when the addresses have changed: a laptop moved, a lease ended."""
        if self.stopping.is_set():
            return
        if self._find_addresses() and self._forwarder is not None:
            self._forwarder.set_addresses(self._own_addresses, self.runtime.now())
            self.runtime.wake(FORWARDER)
            self._report({"event": "addresses", "addresses": self.addresses})
        self._watch_addresses()

    def _watch_addresses(self) -> None:
        interval = self.settings.address_interval
        if interval and not self.settings.announce:
            asyncio.get_running_loop().call_later(interval, self.look_at_addresses)

    async def run(self) -> int:
        """Until a signal or a failure; the exit code."""
        self._watch_addresses()
        interval = self.settings.status_interval
        while not self.stopping.is_set():
            try:
                await asyncio.wait_for(self.stopping.wait(), interval or None)
            except TimeoutError:
                self._report(self.status(interval))
        await self.host.close(self.settings.shutdown_grace)
        await self.runtime.stop()
        if self.failure is not None:
            log.error("%s", self.failure)
            return EXIT_FAILED
        return 0

    def status(self, interval: float) -> dict[str, Any]:
        forwarder = self._forwarder
        if forwarder is None:
            return {"event": "status"}
        total = forwarder.arena.bytes_switched
        rate = (total - self._last_bytes) / interval if interval else 0.0
        self._last_bytes = total
        now = self.runtime.now()
        return {
            "event": "status",
            "connections": len(forwarder.links),
            "reservations": sum(1 for link in forwarder.links.values() if link.reserved_until > now),
            "circuits": len(forwarder.circuits),
            "bytes": total,
            "bytes_per_second": round(rate),
            "refusals": dict(forwarder.refusals),
        }

    def ready(self) -> dict[str, Any]:
        pid = os.getpid()
        return {
            "event": "ready",
            "peer_id": str(self.identity.peer_id),
            "addresses": self.addresses,
            "pid": pid,
            "actors": dict.fromkeys((RELAY_SERVER, FORWARDER), pid),
            "version": AGENT,
        }

    def _relay_server(self) -> RelayServer:
        s = self.settings
        policy = RelayServerPolicy(
            max_reservations=s.max_reservations,
            max_reservations_per_ip=s.max_reservations_per_ip,
            max_reservations_per_group=s.max_reservations_per_group,
            max_circuits=s.max_circuits,
            max_circuits_per_peer=s.max_circuits_per_peer,
            circuit_data=s.circuit_data,
            circuit_duration=s.circuit_duration,
            reservation_duration=s.reservation_duration,
            rate_limits=s.rate_limits,
            reserve_rate_per_peer=s.reserve_rate_per_peer,
            reserve_rate_per_ip=s.reserve_rate_per_ip,
            connect_rate_per_peer=s.connect_rate_per_peer,
            connect_rate_per_ip=s.connect_rate_per_ip,
        )
        return RelayServer(policy, forwarders=(FORWARDER,))

    def _circuit_forwarder(self) -> CircuitForwarder:
        s = self.settings
        rates = s.rate_limits
        policy = ForwarderPolicy(
            max_connections=s.max_connections,
            max_connections_per_ip=s.max_connections_per_ip,
            connection_rate_per_ip=s.connection_rate_per_ip,
            rate_limits=rates,
            idle_timeout=s.idle_timeout,
            stream_timeout=s.stream_timeout,
            stop_timeout=s.stop_timeout,
            circuit_window=s.circuit_window,
            serve_perf=s.serve_perf,
            connection=ConnectionLimits(
                handshake_timeout=s.handshake_timeout,
                keepalive_interval=s.keepalive_interval,
                keepalive_timeout=s.keepalive_timeout,
                yamux=YamuxLimits(
                    max_inbound_streams=s.max_inbound_streams,
                    max_unacknowledged=s.max_unacked_streams,
                    max_frame=s.max_frame,
                    pings_per_second=int(s.ping_rate_per_connection) if rates else 0,
                    streams_per_second=int(s.stream_rate_per_connection) if rates else 0,
                ),
            ),
        )
        forwarder = CircuitForwarder(
            FORWARDER,
            policy,
            self._static,
            random_bytes,
            pid=os.getpid(),
            now=self.runtime.now(),
            addresses=self._own_addresses,
            relay_server=RELAY_SERVER,
        )
        self._forwarder = forwarder
        self.host.attach(forwarder)
        # What it has to say at once (its report) leaves when its first turn ends.
        asyncio.get_running_loop().call_soon(self.host.end_turn)
        return forwarder

    def _post(self, send: Send) -> None:
        self.runtime.post(FORWARDER, send.receiver, send.message)

    def _failed(self, error: BaseException | str) -> None:
        self.failure = str(error)
        self.stopping.set()


def line(report: dict[str, Any]) -> str:
    """A report as a person reads it."""
    if "addresses" in report:
        addresses = "\n".join(f"  {address}" for address in report["addresses"])
        if report["event"] == "ready":
            return f"{report['version']} is ready. Peers reserve and dial through:\n{addresses}"
        return f"The addresses have changed. Peers reserve and dial through:\n{addresses}"
    return (
        f"{report['circuits']} circuits, {report['bytes_per_second'] / 1e6:.1f} MB/s, "
        f"{report['reservations']} reservations, {report['connections']} connections, "
        f"{report['bytes'] / 1e9:.2f} GB relayed"
    )


async def serve(settings: Settings, identity: Identity) -> int:
    """Run a node until it is told to stop; the exit code."""

    listening = True

    def report(event: dict[str, Any]) -> None:
        nonlocal listening
        if not listening:
            return
        try:
            print(json.dumps(event) if settings.json else line(event), flush=True)
        except OSError as error:
            # Whoever started the node stopped reading.  Its peers did not.
            listening = False
            log.warning("stdout is gone (%s): reporting stops, relaying goes on", error.strerror)

    node = Node(settings, identity, report)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if node.stopping.is_set():
            os._exit(130)  # the second signal ends at once
        node.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await node.start()
    except BindError as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        await node.host.close(0)
        return EXIT_UNAVAILABLE
    # What was made so far stays: it need not be looked through.  And connections make cycles by the thousand that live
    # for hours, so a full collection costs tens of milliseconds and finds nothing: let it be rare.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    report(node.ready())
    return await node.run()


def main(argv: Sequence[str] | None = None) -> int:
    """The command.  2: a setting or the identity is wrong; 69: a port cannot be had; 70: an actor kept failing."""
    try:
        settings = load_settings(sys.argv[1:] if argv is None else list(argv), os.environ)
        if settings.print_settings:
            print_settings(settings)
            return 0
        configure_logging(settings.log_level)
        identity = load_or_create_identity(settings.data_dir)
    except (SettingsError, IdentityError) as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop serves, at a fifth more CPU
        return asyncio.run(serve(settings, identity))
    return uvloop.run(serve(settings, identity))


if __name__ == "__main__":
    sys.exit(main())
