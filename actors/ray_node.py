"""A node of several processes: this one supervises, RelayServer and each forwarder have their own, on Ray.

This process carries no byte of any circuit and no message between the others.  It holds the ports, so that they are the
node's even while every forwarder is being replaced; it watches the others and replaces what falls
(actors/runtime/fleet.py); and it says what the node is doing.  The forwarders share each port: the kernel gives a new
connection to one of them, which owns it to its end.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from actors.actor import Send
from actors.desk import DESK
from actors.network_names import listeners
from actors.node_base import EXIT_FAILED, EXIT_SETTINGS, NodeBase, RestartFailed
from actors.parts import FORWARDERS, RELAY_SERVER, Keys, Place, region
from actors.policies import not_applied, relay_server_policy, restart_policy
from actors.ports.addresses import bind_all
from actors.ports.clock import steady_clock
from actors.ports.handover import Moved
from actors.ports.host import random_bytes
from actors.ports.shared_crowd import CrowdFile
from actors.ports.storage import load_or_create_identity
from actors.ports.telemetry import TelemetryConfig
from actors.runtime import succession
from actors.runtime.local import ActorFailed
from actors.runtime.ray import RayFailed, RayMissing, RayRuntime, RaySession, check_installed
from actors.runtime.spec import HERE, ActorSpec
from actors.serving import run_loop, serve
from actors.settings import Settings
from protocol import messages
from protocol.identity import Identity
from protocol.quota_messages import TermsSet
from tracing.otlp import check_exporter

if TYPE_CHECKING:
    from actors.ports.metrics_port import NodeMetrics

log = logging.getLogger("actors.node")

#: Who makes the actors.
BUILDERS: Final = {RELAY_SERVER: "actors.parts:relay_server", FORWARDERS: "actors.parts:forwarder"}

#: Seconds that RelayServer has to say how the node is.
STATUS_PATIENCE: Final = 2.0


class RayNode(NodeBase):
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        report: Callable[[dict[str, Any]], None],
        telemetry: TelemetryConfig,
    ) -> None:
        super().__init__(settings, identity, report)
        self.forwarders = settings.forwarders
        self._telemetry = telemetry
        self._keys = Keys(identity.encode(), random_bytes(32))
        self._ports: list[socket.socket] = []
        self._session: RaySession | None = None
        self._runtime: RayRuntime | None = None
        self._crowd: CrowdFile | None = None
        self._metrics: NodeMetrics | None = None
        self._site = HERE

    async def start(self) -> None:
        """See NodeBase.  RayFailed, ActorFailed."""
        settings = self.settings
        self._bound += bind_all(settings.listen, self._hold)
        self.find_addresses()
        telemetry = self._telemetry
        modules = [
            "actors.parts",
            *(["actors.network"] if settings.discovery else []),
            *(telemetry.plan.modules if telemetry.plan is not None else ()),
        ]
        level = logging.getLevelName(settings.log_level.upper())
        session = self._session = RaySession(modules, level, settings.ray_address)
        folder = session.folder.path
        self._crowd = CrowdFile.create(folder / "crowd", settings.forwarders * 2)
        self._site = (await session.hosts())[0]
        runtime = self._runtime = RayRuntime(
            steady_clock(),
            self.failed,
            mailbox_capacity=settings.mailbox_capacity,
            restarts=restart_policy(settings),
            session=session,
            heartbeat_interval=settings.heartbeat_interval,
            heartbeat_timeout=settings.heartbeat_timeout,
        )
        runtime.add(DESK, lambda: self.desk)
        runtime.add(RELAY_SERVER, self._relay_server(settings))
        for number in range(settings.forwarders):
            runtime.add(f"{FORWARDERS}{number}", self._forwarder(settings))
        if settings.discovery:
            from actors.network import specs

            for name, spec in specs(settings, self.identity, self._own_addresses).items():
                runtime.add(name, spec)
        if settings.metrics_port:
            from actors.ports.metrics_port import NodeMetrics

            self._metrics = NodeMetrics(settings, runtime, dict)
            self._metrics.add()
        await runtime.start()
        if self._metrics is not None:
            await self._metrics.start()

    def _relay_server(self, settings: Settings) -> ActorSpec:
        arguments = {"settings": settings, "telemetry": self._telemetry, "terms": self.mode.terms()}
        return ActorSpec(BUILDERS[RELAY_SERVER], arguments, at_home=True)

    def _forwarder(self, settings: Settings) -> ActorSpec:
        session, crowd = self._session, self._crowd
        assert session is not None and crowd is not None
        folder = str(session.folder.path)
        place = Place(tuple(self._bound), tuple(self._own_addresses), self._site, folder, crowd)
        arguments = {"settings": settings, "telemetry": self._telemetry, "keys": self._keys, "place": place}
        return ActorSpec(BUILDERS[FORWARDERS], arguments, renamed=True)

    async def restart_forwarders(self, settings: Settings) -> dict[str, Any]:
        """See NodeBase.  Every forwarder gets a new process, with the code that is on disk now, and the settings;
        there are as many as these say.  RelayServer begins anew when its settings are others."""
        runtime, crowd, grace = self._runtime, self._crowd, settings.shutdown_grace
        if runtime is None or crowd is None or self.stopping.is_set():
            raise RestartFailed("the node is starting or stopping")
        fleet = runtime.fleet
        self.choose_mode(settings)
        began, moved = runtime.now(), Moved()
        before, wanted = self.forwarders, settings.forwarders
        self._crowd = crowd.grown(wanted * 2)
        try:
            if relay_server_policy(settings) != relay_server_policy(self.settings):
                await succession.renew(fleet, RELAY_SERVER, self._relay_server(settings), grace)
            for number in range(before - 1, wanted - 1, -1):
                name = f"{FORWARDERS}{number}"
                _add(moved, await succession.merge(fleet, name, self._neighbour(name, wanted), grace))
                self.forwarders = number
            for number in range(min(before, wanted)):
                name = f"{FORWARDERS}{number}"
                _add(moved, await succession.succeed(fleet, name, self._forwarder(settings), grace))
            for number in range(before, wanted):
                await succession.enlarge(fleet, f"{FORWARDERS}{number}", self._forwarder(settings))
                self.forwarders = number + 1
        except succession.HandoverFailed as error:
            raise RestartFailed(f"{error}; what was restarted before it has the new settings") from error
        finally:
            fleet.spawn(fleet.renew_spares())
        if left := not_applied(self.settings, settings):
            log.warning("%s: changed, and in force once the node itself is started anew", ", ".join(left))
        self.settings = settings
        self.look_at_addresses()  # announce may be another
        seconds = round(runtime.now() - began, 2)
        told = {"forwarders": wanted, "seconds": seconds, **moved.figures(), **self.processes()}
        self._report({"event": "restarted", **told})
        return told

    def _neighbour(self, name: str, kept: int) -> str:
        """Who is to take what a forwarder has whose place will be no more: the first of ``kept`` that it can reach."""
        assert self._runtime is not None
        slots = self._runtime.fleet.slots
        for number in range(kept):
            other = f"{FORWARDERS}{(number + int(name.removeprefix(FORWARDERS))) % kept}"
            if slots[other].host == slots[name].host:
                return other
        raise RestartFailed(
            f"{name} is the only one left on its host, and its circuits cannot be passed on to another: keep more "
            f"forwarders, or end Ray there"
        )

    def _hold(self, address: str, port: int) -> tuple[str, int]:
        """Make the port the node's.  It must be nobody's: a second node could share it with us unnoticed."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for shared in (False, True):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if shared:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind((address, port))
                port = sock.getsockname()[1]
                if shared:
                    self._ports.append(sock)
                else:
                    # With SO_REUSEADDR, only this shows that somebody listens there.
                    sock.listen(1)
                    sock.close()
            except OSError:
                sock.close()
                raise
        return address, port

    async def close(self) -> None:
        runtime, session = self._runtime, self._session
        if self._metrics is not None:
            await self._metrics.close()
        if runtime is not None:
            with suppress(Exception):  # what is left of it is ended below, whatever it is
                await runtime.stop(self.settings.shutdown_grace)
        if session is not None:
            session.abandon()
        for sock in self._ports:
            sock.close()

    def running(self) -> RayRuntime:
        assert self._runtime is not None
        return self._runtime

    def tell_addresses(self) -> None:
        runtime = self._runtime
        if runtime is not None:
            for name in runtime.fleet.pids():
                if name.startswith(FORWARDERS):
                    runtime.post(DESK, name, messages.AddressesChanged(tuple(self._told_addresses)))
            for name in listeners(self.settings):
                runtime.post(DESK, name, messages.AddressesChanged(tuple(self._own_addresses)))

    def tell_terms(self, terms: TermsSet) -> None:
        runtime = self._runtime
        if runtime is None:
            return  # those that are made by and by are told when they are
        # Whoever takes the place of one that falls goes by them from its first moment.
        for slot in runtime.fleet.slots.values():
            if slot.root == RELAY_SERVER:
                slot.spec = self._relay_server(self.settings)
            elif slot.root.startswith(FORWARDERS):
                slot.spec = self._forwarder(self.settings)
        runtime.post(DESK, RELAY_SERVER, terms)

    async def status(self, interval: float) -> dict[str, Any]:
        runtime = self.running()
        told = await self.desk.ask(RELAY_SERVER, lambda number: messages.StatusAsked(number, DESK), STATUS_PATIENCE)
        if told is None:
            log.warning("RelayServer does not say how the node is")
            return {"event": "status"}
        return {**self.told_status(told, interval), "restarted": runtime.restarted}

    def processes(self) -> dict[str, Any]:
        runtime, session = self._runtime, self._session
        assert runtime is not None and session is not None
        return {
            "pid": os.getpid(),
            "actors": runtime.fleet.pids(),
            "processes": {"janitor": session.folder.janitor, **session.vital},
            "run_folder": str(session.folder.path),
        }

    def rose(self, actor: str) -> list[Send]:
        self._report({"event": "actors", "actor": actor, **self.processes()})
        if actor == RELAY_SERVER:
            return [Send(actor, self.mode.terms())]
        if not actor.startswith(FORWARDERS) and actor not in listeners(self.settings):
            return []
        told = self._told_addresses if actor.startswith(FORWARDERS) else self._own_addresses
        return [Send(actor, messages.AddressesChanged(tuple(told)))]

    def fell(self, actor: str) -> None:
        if actor.startswith(FORWARDERS) and self._crowd is not None:
            self._crowd.clear(region(actor))


def _add(moved: Moved, told: Mapping[str, Any]) -> None:
    moved.connections += told["connections"]
    moved.circuits += told["circuits"]
    moved.pauses += [pause / 1e3 for pause in told["pauses_ms"]]


def run(settings: Settings, telemetry: TelemetryConfig, reload: Callable[[], Settings]) -> int:
    """Run the node; the exit code.  ``reload``: see serve().  SettingsError, IdentityError, ExportError."""
    if telemetry.plan is not None:
        check_exporter(telemetry.plan)
    try:
        check_installed()
    except RayMissing as error:
        print(f"descord-relay: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    identity = load_or_create_identity(settings.data_dir)
    # Whatever Ray prints on stdout, a program that reads our reports must not read it.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    nodes: list[RayNode] = []

    def make(report: Callable[[dict[str, Any]], None]) -> RayNode:
        nodes.append(RayNode(settings, identity, report, telemetry))
        return nodes[-1]

    async def serving() -> int:
        try:
            return await serve(settings, make, out, reload)
        except (RayFailed, ActorFailed) as error:
            print(f"descord-relay: {error}", file=sys.stderr)
            await nodes[0].close()
            return EXIT_FAILED

    code = run_loop(serving())
    out.flush()
    sys.stderr.flush()
    # Ray has ended, and what it would do at an ordinary end could wait a minute for a part of it that is gone.
    os._exit(code)
