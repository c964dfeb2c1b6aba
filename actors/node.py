"""`python -m actors.node`: one relay node, from its settings to its last good-bye.

This is the wiring: which actors there are, on which runtime they run, which ports they are given, and what the person
or program that started the node is told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from actors import keeper
from actors.actor import Send
from actors.circuit_forwarder import CircuitForwarder
from actors.desk import DESK
from actors.logs import configure_logging
from actors.network_names import listeners, services, tracker
from actors.node_base import EXIT_SETTINGS, NodeBase, RestartFailed
from actors.policies import forwarder_policy, host_policy, relay_server_policy, restart_policy
from actors.ports.addresses import BindError, bind_all
from actors.ports.clock import steady_clock, told_by
from actors.ports.handover import Departure, Moved
from actors.ports.host import Host, random_bytes
from actors.ports.open_files import check_open_files
from actors.ports.storage import IdentityError, load_or_create_identity
from actors.ports.telemetry import FLUSH, Telemetry, log_scrubber, telemetry_config
from actors.relay_server import REPORT_WAIT, RelayServer
from actors.runtime.heap import settle_heap
from actors.runtime.local import LocalRuntime
from actors.self_description import AGENT
from actors.serving import run_loop, serve
from actors.settings import PROGRAM, Settings, SettingsError, load_settings, print_settings, warn_of_contradictions
from actors.upgrade import Former, KnownAs, Upgrade, UpgradeFailed, former_process
from protocol.identity import Identity
from protocol.messages import AddressesChanged, StatusAnswer
from protocol.noise import StaticKey
from protocol.quota_messages import TermsSet
from tracing.otlp import ExportError
from tracing.sampling import SamplerError

if TYPE_CHECKING:
    from actors.ports.metrics_port import NodeMetrics

# Not __name__: run as a module that is "__main__".
log = logging.getLogger("actors.node")

FORWARDER: Final = "forwarder/0"
RELAY_SERVER: Final = "relay_server"

#: Seconds that RelayServer waits for the forwarder's report in a process that takes over: that report ends it.
ADOPTION_WAIT: Final = 3600.0

#: Turns of the loop in which signals that came before they were blocked are heard.
TURNS: Final = 4


class Node(NodeBase):
    """The actors in this one process, and the sockets they are reached by.  ``former``: leads to the process that this
    one takes over from."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        report: Callable[[dict[str, Any]], None],
        telemetry: Telemetry | None = None,
        former: socket.socket | None = None,
    ) -> None:
        super().__init__(settings, identity, report)
        self.telemetry = telemetry or Telemetry(telemetry_config(settings, {}))
        self._static = StaticKey(identity, random_bytes(32))
        self._former = None if former is None else Former(former, identity, AGENT)
        self._adopting = former is not None
        self._upgrade: Upgrade | None = None
        self._known_as: KnownAs | None = None
        self._listening: list[tuple[str, socket.socket]] = []
        self._forwarder: CircuitForwarder | None = None
        self._server: RelayServer | None = None
        self._metrics: NodeMetrics | None = None
        self.runtime = LocalRuntime(
            clock=steady_clock(),
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
        if self._former is not None:
            self._static = StaticKey(self.identity, (await self._former.greet()).static)
        try:
            self._bound += bind_all(self.settings.listen, self._listen)
        except BindError as error:
            if self._former is not None:
                await self._former.refuse(str(error))
            await self.host.close(0)
            raise
        self.find_addresses()
        self.telemetry.start()
        self.runtime.add(RELAY_SERVER, self._relay_server)
        self.runtime.add(FORWARDER, self._circuit_forwarder, after_handle=self.host.end_turn)
        self.runtime.add(DESK, lambda: self.desk)
        if self.settings.discovery:
            # Only now, here and below: what it imports is not needed otherwise.
            from actors.network import specs

            for name, spec in specs(self.settings, self.identity, self._own_addresses).items():
                self.runtime.add(name, spec)
        if self.settings.metrics_port:
            from actors.ports.metrics_port import NodeMetrics

            self._metrics = NodeMetrics(self.settings, self.runtime, self.runtime.depths, self.telemetry.counts)
            self._metrics.add()
        await self.runtime.start()
        if self._metrics is not None:
            # The former process has the port until it has ended.
            await self._metrics.start(patient=self._former is not None)
        settle_heap()

    @property
    def kept(self) -> bool:
        return self._former is not None

    def _listen(self, address: str, port: int) -> tuple[str, int]:
        wanted = f"{address} {port}"
        sock = self._former.listener(wanted) if self._former is not None else None
        if sock is None:
            sock = self.host.bind(address, port)
        self.host.take_listener(sock, accept=self._former is None)
        self._listening.append((wanted, sock))
        bound, number = sock.getsockname()[:2]
        return bound, number

    async def begin(self) -> dict[str, Any]:
        """Take over from the former process, if there is one.  HandoverRefused: that one goes on."""
        if self._former is None or self._forwarder is None:
            return self.ready()
        moved = await self._former.take_over(self.host, self._forwarder, self.runtime.now, self._flush)
        self._former.watch_keeper(self.stopping.set)
        self._reported_bytes = self._sums.take("bytes", self._forwarder.arena.bytes_switched)
        self.tell_addresses()
        log.info("took over %s", moved)
        return {**self.ready(), "event": "upgraded", **moved.figures()}

    async def upgrade(self) -> None:
        """Hand everything to a new process of the same command.  What goes wrong is told, and the node goes on."""
        if self._upgrade is not None and (self._upgrade.done or not self.stopping.is_set()):
            log.warning("an upgrade is under way already: the next one comes behind it")
            self._upgrade.repeat()
            return
        try:
            await self._succeed()
        except RestartFailed as error:
            log.error("the upgrade failed, this process goes on: %s", error)
            self._report({"event": "upgrade_failed", "reason": str(error)})

    async def restart_forwarders(self, settings: Settings) -> dict[str, Any]:
        """See NodeBase.  A new process, which reads the settings anew, takes all, as by :meth:`upgrade`."""
        if self._upgrade is not None:
            self._upgrade.repeat()  # once it has taken over
            return {"pid": self._upgrade.successor, "again": True}
        return await self._succeed()

    async def _succeed(self) -> dict[str, Any]:
        forwarder = self._forwarder
        if self.stopping.is_set() or forwarder is None or forwarder.adopting:
            raise RestartFailed("the node is starting or stopping")
        moved = Moved(len(forwarder.links), len(forwarder.circuits))
        try:
            if self._known_as is None:
                self._known_as = KnownAs.ourselves() if self._former is None else self._former.known_as
            assert self._known_as is not None
            upgrade = self._upgrade = Upgrade(self._known_as)
            departure = Departure(
                upgrade.channel,
                self.host,
                forwarder,
                self._static,
                self.runtime.now,
                agent=AGENT,
                timeout=self.settings.handover_timeout,
                flush=self._flush,
            )
            moved.pauses += await upgrade.run(departure, self._listening, self._own_addresses)
        except Exception as error:
            self._upgrade = None
            if not isinstance(error, UpgradeFailed | OSError):
                log.exception("a fault in an upgrade")
            raise RestartFailed(str(error)) from error
        if self.stopping.is_set():
            upgrade.give_up()
        self.stopping.set()
        return {"pid": upgrade.successor, **moved.figures()}

    def _flush(self) -> None:
        self.host.end_turn()
        self.runtime.wake(FORWARDER)

    def tell_addresses(self) -> None:
        if self._forwarder is not None:
            self._forwarder.set_addresses(self._told_addresses, self.runtime.now())
            self.runtime.wake(FORWARDER)
        for name in listeners(self.settings):
            self.runtime.post(DESK, name, AddressesChanged(tuple(self._own_addresses)))

    def running(self) -> LocalRuntime:
        return self.runtime

    def rose(self, actor: str) -> list[Send]:
        told = AddressesChanged(tuple(self._own_addresses))
        return [Send(actor, told)] if actor in listeners(self.settings) else []

    def fell(self, actor: str) -> None:
        pass  # what it had is gone, and the runtime makes another

    def tell_terms(self, terms: TermsSet) -> None:
        self.runtime.post("node", RELAY_SERVER, terms)

    def handed_over(self) -> bool:
        if self._upgrade is None or not self._upgrade.done:
            return False
        self._upgrade.give_up()
        return True

    async def close(self) -> None:
        if self._upgrade is not None and not self._upgrade.done:
            self._upgrade.give_up()
        # After a hand-over there is nobody left to say good-bye to but those whose last bytes are on their way.
        grace, began = self.settings.shutdown_grace, self.runtime.now()
        if self._metrics is not None:
            await self._metrics.close()
        await self.host.close(grace)
        if self._upgrade is not None and self._upgrade.done:
            # What others know of us (a router's mapping, a name in mDNS) is the new process's: nothing is taken back.
            self.runtime.drop()
            await self.runtime.stop()
        else:
            await self.runtime.close(max(grace - (self.runtime.now() - began), 0.0))
        await self.telemetry.stop(max(grace - (self.runtime.now() - began), 0.0) + FLUSH)

    async def run(self) -> int:
        code = await super().run()
        if self.kept:
            keeper.block()  # an echo would be taken for a reason to end otherwise
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self._upgrade is not None and self._upgrade.done:
            self._upgrade.end()
        elif self.kept:  # blocked in this thread alone, an echo would end the process by another of its threads
            for number in keeper.PASSED_ON:
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        return code

    async def status(self, interval: float) -> dict[str, Any]:
        forwarder = self._forwarder
        if forwarder is None:
            return {"event": "status"}
        now, server = self.runtime.now(), self._server
        told = StatusAnswer(
            0,
            reservations=sum(1 for link in forwarder.links.values() if link.reserved_until > now),
            circuits=len(forwarder.circuits),
            connections=len(forwarder.links),
            bytes_forwarded=forwarder.arena.bytes_switched,
            refusals=dict(forwarder.refusals),
            refused_here=server.refused_here if server is not None else {},
            bytes_last_hour=server.bytes_last_hour(now) if server is not None else 0,
        )
        return self.told_status(told, interval)

    def processes(self) -> dict[str, Any]:
        pid = os.getpid()
        return {"pid": pid, "actors": dict.fromkeys(self.runtime.depths(), pid)}

    def _relay_server(self) -> RelayServer:
        wait = ADOPTION_WAIT if self._adopting else REPORT_WAIT
        self._server = RelayServer(
            relay_server_policy(self.settings),
            forwarders=(FORWARDER,),
            tracer=self.telemetry.tracer,
            report_wait=wait,
            terms=self.mode.terms(),
            tracker=tracker(self.settings),
        )
        return self._server

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
            wall=told_by(self.runtime.now),
            note=log.debug,
            addresses=self._former.addresses if self._adopting and self._former is not None else self._own_addresses,
            relay_server=RELAY_SERVER,
            tracer=self.telemetry.tracer,
            adopting=self._adopting,
            metrics="metrics" if self.settings.metrics_port else "",
            services=services(self.settings),
        )
        self._adopting = False
        self._forwarder = forwarder
        self.host.attach(forwarder)
        # What it has to say at once (its report) leaves when its first turn ends.
        asyncio.get_running_loop().call_soon(self.host.end_turn)
        return forwarder


def main(argv: Sequence[str] | None = None, *, prog: str = PROGRAM) -> int:
    """The command.  2: a setting or the identity is wrong; 69: a port cannot be had; 70: an actor kept failing; 75: it
    was to take over from another process, and cannot."""
    former = former_process(os.environ)
    given = sys.argv[1:] if argv is None else list(argv)

    def reload() -> Settings:
        return load_settings(given, os.environ, prog=prog)

    try:
        settings = reload()
        if settings.print_settings:
            print_settings(settings)
            return 0
        telemetry = telemetry_config(settings, os.environ)
        configure_logging(settings.log_level, log_scrubber(telemetry, (*settings.listen, *settings.announce)).scrub)
        warn_of_contradictions(settings)
        check_open_files(settings)
        if settings.runtime == "ray":
            # Only now: it is not needed otherwise, and maybe not installed.
            from actors.ray_node import run

            return run(settings, telemetry, reload)
        identity = load_or_create_identity(settings.data_dir)
        exporting = Telemetry(telemetry)
    except (SettingsError, IdentityError, ExportError, SamplerError) as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    return run_loop(
        serve(settings, lambda report: Node(settings, identity, report, exporting, former), sys.stdout, reload)
    )


if __name__ == "__main__":
    sys.exit(main())
