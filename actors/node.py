"""`python -m actors.node`: one relay node, from its settings to its last good-bye.

This is the wiring: which actors there are, on which runtime they run, which ports they are given, and what the person
or program that started the node is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TextIO

from actors.circuit_forwarder import CircuitForwarder
from actors.logs import configure_logging
from actors.node_base import EXIT_SETTINGS, EXIT_UNAVAILABLE, NodeBase
from actors.policies import forwarder_policy, host_policy, relay_server_policy, restart_policy
from actors.ports.addresses import BindError, bind_all
from actors.ports.host import Host, random_bytes, wall_clock
from actors.ports.storage import IdentityError, load_or_create_identity
from actors.ports.telemetry import FLUSH, Telemetry, log_scrubber, telemetry_config
from actors.relay_server import RelayServer
from actors.runtime.heap import settle_heap
from actors.runtime.local import LocalRuntime
from actors.settings import Settings, SettingsError, load_settings, print_settings
from protocol.identity import Identity
from protocol.noise import StaticKey
from tracing.otlp import ExportError
from tracing.sampling import SamplerError

# Not __name__: run as a module that is "__main__".
log = logging.getLogger("actors.node")

FORWARDER: Final = "forwarder/0"
RELAY_SERVER: Final = "relay_server"


class Node(NodeBase):
    """The actors in this one process, and the sockets they are reached by."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        report: Callable[[dict[str, Any]], None],
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(settings, identity, report)
        self.telemetry = telemetry or Telemetry(telemetry_config(settings, {}))
        self._static = StaticKey(identity, random_bytes(32))
        self._forwarder: CircuitForwarder | None = None
        self.runtime = LocalRuntime(
            clock=wall_clock(),
            on_fatal=self.failed,
            mailbox_capacity=settings.mailbox_capacity,
            restarts=restart_policy(settings),
            tracer=self.telemetry.tracer,
        )
        self.host = Host(
            host_policy(settings),
            post=lambda send: self.runtime.post(FORWARDER, send.receiver, send.message, traceparent=send.traceparent),
            wake=lambda: self.runtime.wake(FORWARDER),
            now=self.runtime.now,
        )

    async def start(self) -> None:
        """Bind the ports, start the actors.  BindError when a port cannot be had."""
        try:
            self._bound += bind_all(self.settings.listen, self.host.listen)
        except BindError:
            await self.host.close(0)
            raise
        self.find_addresses()
        self.telemetry.start()
        self.runtime.add(RELAY_SERVER, self._relay_server)
        self.runtime.add(FORWARDER, self._circuit_forwarder, after_handle=self.host.end_turn)
        await self.runtime.start()
        settle_heap()

    def tell_addresses(self) -> None:
        if self._forwarder is not None:
            self._forwarder.set_addresses(self._own_addresses, self.runtime.now())
            self.runtime.wake(FORWARDER)

    async def close(self) -> None:
        grace, began = self.settings.shutdown_grace, self.runtime.now()
        await self.host.close(grace)
        await self.runtime.stop()
        await self.telemetry.stop(max(grace - (self.runtime.now() - began), 0.0) + FLUSH)

    async def status(self, interval: float) -> dict[str, Any]:
        forwarder = self._forwarder
        if forwarder is None:
            return {"event": "status"}
        total = forwarder.arena.bytes_switched
        now = self.runtime.now()
        return {
            "event": "status",
            "connections": len(forwarder.links),
            "reservations": sum(1 for link in forwarder.links.values() if link.reserved_until > now),
            "circuits": len(forwarder.circuits),
            "bytes": total,
            "bytes_per_second": self.rate(total, interval),
            "refusals": dict(forwarder.refusals),
        }

    def processes(self) -> dict[str, Any]:
        pid = os.getpid()
        return {"pid": pid, "actors": dict.fromkeys((RELAY_SERVER, FORWARDER), pid)}

    def _relay_server(self) -> RelayServer:
        return RelayServer(relay_server_policy(self.settings), forwarders=(FORWARDER,), tracer=self.telemetry.tracer)

    def _circuit_forwarder(self) -> CircuitForwarder:
        if self._forwarder is not None:
            self._forwarder.steps.fell(self.runtime.now())
        forwarder = CircuitForwarder(
            FORWARDER,
            forwarder_policy(self.settings),
            self._static,
            random_bytes,
            pid=os.getpid(),
            now=self.runtime.now(),
            addresses=self._own_addresses,
            relay_server=RELAY_SERVER,
            tracer=self.telemetry.tracer,
        )
        self._forwarder = forwarder
        self.host.attach(forwarder)
        # What it has to say at once (its report) leaves when its first turn ends.
        asyncio.get_running_loop().call_soon(self.host.end_turn)
        return forwarder


def line(report: dict[str, Any]) -> str:
    """A report as a person reads it."""
    if report["event"] == "actors":
        return "Actors: " + ", ".join(f"{name} ({pid})" for name, pid in report["actors"].items())
    if "circuits" not in report and "addresses" not in report:
        return "RelayServer does not answer"
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


async def serve(settings: Settings, make: Callable[[Callable[[dict[str, Any]], None]], NodeBase], out: TextIO) -> int:
    """Run the node that ``make`` makes until it is told to stop; the exit code.  Its reports go to ``out``."""

    listening = True

    def report(event: dict[str, Any]) -> None:
        nonlocal listening
        if not listening:
            return
        try:
            print(json.dumps(event) if settings.json else line(event), file=out, flush=True)
        except OSError as error:
            # Whoever started the node stopped reading.  Its peers did not.
            listening = False
            log.warning("stdout is gone (%s): reporting stops, relaying goes on", error.strerror)

    node = make(report)

    def stop() -> None:
        if node.stopping.is_set():
            os._exit(130)  # the second signal ends at once
        node.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await node.start()
    except BindError as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    report(node.ready())
    return await node.run()


def main(argv: Sequence[str] | None = None) -> int:
    """The command.  2: a setting or the identity is wrong; 69: a port cannot be had; 70: an actor kept failing."""
    try:
        settings = load_settings(sys.argv[1:] if argv is None else list(argv), os.environ)
        if settings.print_settings:
            print_settings(settings)
            return 0
        telemetry = telemetry_config(settings, os.environ)
        configure_logging(settings.log_level, log_scrubber(telemetry, (*settings.listen, *settings.announce)).scrub)
        if settings.runtime == "ray":
            # Only now: it is not needed otherwise, and maybe not installed.
            from actors.ray_node import run

            return run(settings, telemetry)
        identity = load_or_create_identity(settings.data_dir)
        exporting = Telemetry(telemetry)
    except (SettingsError, IdentityError, ExportError, SamplerError) as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    return run_loop(serve(settings, lambda report: Node(settings, identity, report, exporting), sys.stdout))


def run_loop(serving: Coroutine[Any, Any, int]) -> int:
    """On uvloop if it is there."""
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop serves, at a fifth more CPU
        return asyncio.run(serving)
    return uvloop.run(serving)


if __name__ == "__main__":
    sys.exit(main())
