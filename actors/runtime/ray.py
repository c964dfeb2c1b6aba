"""The Ray runtime: every actor in a process of its own, on one host or several.  The one file that imports ray.

Ray carries decisions between processes and tells of their death; the bytes of circuits never come near it.  A call
costs about 1 ms and 0.5 ms of the caller's CPU, so what is said is batched (actors/runtime/outlet.py).

It runs as lean and as closed as it can be made: on loopback alone, with a token that each call must carry, without
dashboard, autoscaler, log collection and usage statistics.  Everything of it lives in a private run folder that goes
with the node (actors/runtime/run_folder.py).  Measured with Ray 2.60: 1.8 s to start, 280 MB of resident memory beside
the actors, 85 MB an actor (much of both shared), 0.3 s for a further process.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from actors.actor import Actor
from actors.ports.clock import uptime
from actors.runtime.directory import News, State
from actors.runtime.fleet import Fleet, FleetPolicy
from actors.runtime.janitor import MARK
from actors.runtime.run_folder import RunFolder
from actors.runtime.spec import HERE, ActorSpec, Site
from actors.runtime.station import Station
from actors.runtime.worker import SUPERVISOR, Worker
from actors.supervisor import RestartPolicy

log = logging.getLogger(__name__)

#: Bytes of Ray's shared memory, the least that it takes: nothing of ours goes there.
OBJECT_STORE: Final = 80 << 20

#: What Ray's processes are told in their environment, before ray is imported.
ENVIRONMENT: Final = {
    "RAY_enable_worker_prestart": "0",
    # It would kill a worker when the host's memory is nearly used, whoever uses it.
    "RAY_memory_monitor_refresh_ms": "0",
    # A record of each call, kept by the gcs_server, and figures that nobody reads.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    # Its own is 15: whatever else the host does would come before the circuits.
    "RAY_worker_niceness": "0",
    "RAY_BACKEND_LOG_LEVEL": "warning",
    "RAY_ROTATION_MAX_BYTES": str(4 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # The death of a worker is seen and said by the supervisor.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_DEDUP_LOGS": "0",
}

#: And when it is not a cluster's: without clusters Ray binds to loopback.  The name is of two systems on which that is
#: the default.
ALONE: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

#: Resources of a cluster's hosts that begin with this are the hosts that may run forwarders.
HOST: Final = "relay-host"

#: What a worker takes of it: it is to be there, not to use it up.
HOST_SHARE: Final = 0.0001

#: Seconds in which a host of the cluster must take a connection to count as there.
REACHABLE: Final = 0.5

#: Seconds in which Ray must say what hosts there are.
ANSWER_TIMEOUT: Final = 10.0

#: Connections in a row that the head of a cluster must refuse to count as gone.
REFUSALS: Final = 4

#: Methods of Ray's node that start what a node of one program does without: the autoscaler's monitor, the collection of
#: logs, and an API server that starts although no dashboard is asked for.  250 MB and 1.2 s.
NEEDLESS: Final = ("start_monitor", "start_log_monitor", "start_api_server")

#: Processes without which Ray does not work.
VITAL: Final = ("gcs_server", "raylet")


class RayMissing(Exception):
    """Ray is not installed: the message says what to install."""


class RayFailed(Exception):
    """Ray could not be started, or lost one of its own processes."""


class RaySession:
    """Ray's own processes, started for this program and ended with it; or with ``address``, a cluster's."""

    def __init__(self, modules: Sequence[str] = (), log_level: int = logging.INFO, address: str = "") -> None:
        """``modules``: what every worker imports before it is needed.  Blocks for about two seconds.  RayMissing,
        RayFailed."""
        self._modules = tuple(modules)
        self._log_level = log_level
        self._address = address
        self._watched: list[int] = []
        self._watching: asyncio.Task[None] | None = None
        check_installed()
        self.folder = RunFolder()
        try:
            self._ray = self._start()
            self.vital = {} if address else _children(VITAL)
        except BaseException:
            self.folder.close()
            raise
        self._worker = self._ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(Worker)

    def _start(self) -> Any:
        folder = self.folder.path
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        os.environ.update(ENVIRONMENT)
        options: dict[str, Any] = {"address": self._address}
        if not self._address:
            token = folder / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            os.environ.update(ALONE, RAY_AUTH_TOKEN_PATH=str(token))
            options = {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": str(folder / "ray"),
            }
        with _surrounded(folder):
            ray: Any = importlib.import_module("ray")
            _make_lean()
            try:
                # On the main thread: its processes end with the thread that started them.
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:
                what = f"cannot join the cluster at {self._address}" if self._address else "did not start"
                raise RayFailed(f"Ray {what}: {type(error).__name__}: {error}") from error
        for number, handler in handlers.items():
            # Ray's own ends the program on the spot: whoever had it before is to have it again.
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        return ray

    async def hosts(self) -> list[Site]:
        """Where workers can be started now, this host first.  RayFailed: nowhere."""
        if not self._address:
            return [HERE]
        own = self._ray.get_runtime_context().get_node_id()
        found: list[tuple[bool, Site]] = []
        for node in await _aside(self._ray.nodes):
            names = [name for name in node["Resources"] if name.startswith(HOST)]
            address, port = node["NodeManagerAddress"], node["NodeManagerPort"]
            # Ray takes half a minute to notice that a host is gone.
            if node["Alive"] and names and await _answers(address, port):
                found.append((node["NodeID"] != own, Site(names[0], address)))
        if not found:
            raise RayFailed(
                f"no host of the cluster has a resource {HOST}-NAME: start Ray there with "
                f"--resources '{{\"{HOST}-NAME\": 1}}', each with a NAME of its own"
            )
        return [host for _, host in sorted(found, key=lambda entry: (entry[0], entry[1].name))]

    def start(self, host: Site) -> _RayProcess:
        """A worker process."""
        placed = self._worker.options(resources={host.name: HOST_SHARE}) if host.name else self._worker
        return _RayProcess(self._ray, placed.remote(self._modules, self._log_level), host)

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Call ``on_lost`` when one of Ray's own processes ends, and keep the janitor alive."""
        self.folder.watch()
        loop = asyncio.get_running_loop()
        if self._address:
            self._watching = loop.create_task(self._watch_cluster(on_lost))
        for name, pid in self.vital.items():
            descriptor = os.pidfd_open(pid)
            self._watched.append(descriptor)
            loop.add_reader(descriptor, self._gone, descriptor, name, pid, on_lost)

    async def _watch_cluster(self, on_lost: Callable[[Exception], None]) -> None:
        """Hold a connection to the cluster's head.  Ray itself ends the program when that is gone, a minute later."""
        address, _, port = self._address.rpartition(":")
        refused = 0
        while refused < REFUSALS:
            try:
                reader, writer = await asyncio.open_connection(address, int(port))
            except OSError:
                refused += 1
                await asyncio.sleep(REACHABLE)
                continue
            refused = 0
            with suppress(OSError):
                while await reader.read(4096):
                    pass
            # It closes a connection on which nothing is said, too: then the next one is taken.
            writer.close()
        on_lost(RayFailed(f"the head of the Ray cluster, {self._address}, is gone, and nothing works without it"))

    def unwatch(self) -> None:
        self.folder.unwatch()
        if self._watching is not None:
            self._watching.cancel()
        for descriptor in self._watched:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._watched.clear()

    def _gone(self, descriptor: int, name: str, pid: int, on_lost: Callable[[Exception], None]) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._watched.remove(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        on_lost(RayFailed(f"Ray's {name} (process {pid}) ended, and nothing works without it"))

    def stop(self) -> None:
        """End Ray and all that it started, in order."""
        self._ray.shutdown()
        self.folder.close()

    def abandon(self) -> None:
        """End Ray and all that it started, at once: for a program that ends by os._exit."""
        self.folder.close()


async def _aside(ask: Callable[[], Any]) -> Any:
    """Ask Ray in a thread that nothing waits for: of a head that is gone Ray waits for minutes, and who asked must hear
    meanwhile that it is gone.  RayFailed."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if answer.done():
            return  # nobody waits any more
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(RayFailed(f"Ray does not say what there is: {type(error).__name__}: {error}"))

    def run() -> None:
        result, failure = None, None
        try:
            result = ask()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    try:
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT)
    except TimeoutError:
        raise RayFailed(f"Ray has not said within {ANSWER_TIMEOUT:g} s what there is: is its head gone?") from None


class _RayProcess:
    """A worker as the fleet sees it."""

    def __init__(self, ray: Any, handle: Any, host: Site) -> None:
        self._ray = ray
        self.where = handle
        self.host = host

    async def call(self, method: str, *arguments: Any) -> Any:
        return await getattr(self.where, method).remote(*arguments)

    def kill(self) -> None:
        self._ray.kill(self.where, no_restart=True)


class RayRuntime:
    """The interface of :class:`actors.runtime.spec.Runtime`.  Actors that are added as an ActorSpec get a process each,
    those that are added as a function live here, in the supervisor's.

    ``session``: Ray as it runs already; else it is started, and stopped with the runtime.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_fatal: Callable[[Exception], None],
        *,
        mailbox_capacity: int = 10_000,
        restarts: RestartPolicy | None = None,
        session: RaySession | None = None,
        heartbeat_interval: float = 1.0,
        heartbeat_timeout: float = 5.0,
        spares: int = 1,
    ) -> None:
        self.now = clock
        self._on_fatal = on_fatal
        self._owned = session is None
        self.session = session if session is not None else RaySession()
        restarts = restarts or RestartPolicy()
        self._home = Station(
            clock,
            on_fatal,
            self._call,
            mailbox_capacity=mailbox_capacity,
            restarts=restarts,
            fell=self._fell_at_home,
            rose=self._rose_at_home,
        )
        self.fleet = Fleet(
            self.session,
            self._home,
            FleetPolicy(heartbeat_interval, heartbeat_timeout, mailbox_capacity, spares),
            restarts,
            clock,
            clock() - uptime(),
            on_fatal,
        )

    @property
    def restarted(self) -> int:
        return self.fleet.restarted + self._home.runtime.restarted

    @property
    def refused(self) -> int:
        return self.fleet.refused + self._home.runtime.refused

    @property
    def expired(self) -> int:
        return self.fleet.expired + self._home.runtime.expired

    def add(
        self, name: str, source: Callable[[], Actor] | ActorSpec, after_handle: Callable[[], None] | None = None
    ) -> None:
        """See Runtime."""
        if name in self.fleet or name in self.fleet.at_home:
            raise ValueError(f"there is an actor {name} already")
        if isinstance(source, ActorSpec) and not source.with_node:
            self.fleet.add(name, source)
        else:
            self._home.runtime.add(name, source, after_handle)
            self.fleet.at_home[name] = News(name, 1, State.UP, SUPERVISOR)

    async def start(self) -> None:
        """See Runtime.  ActorFailed: one could not be started."""
        self.session.watch(self._on_fatal)
        await self._home.runtime.start()
        await self.fleet.start()

    async def stop(self, grace: float = 0.0) -> None:
        """See Runtime.  ``grace``: seconds that the actors' ports have to take leave."""
        self._home.halt()
        await self._home.runtime.close(grace)
        await self.fleet.stop(grace)
        self.session.unwatch()
        if self._owned:
            self.session.stop()

    def post(self, sender: str, receiver: str, message: Any, *, deadline: float = 0.0, traceparent: str = "") -> None:
        """See Runtime."""
        self._home.runtime.post(sender, receiver, message, deadline=deadline, traceparent=traceparent)

    def wake(self, name: str) -> None:
        """See Runtime."""
        self._home.runtime.wake(name)

    def depth(self, name: str) -> int:
        """See Runtime."""
        if name in self.fleet.at_home:
            return self._home.runtime.depth(name)
        return self._home.outlet.depth(name) + self.fleet.waiting(name)

    async def _call(self, where: Any, incarnation: int, batch: list[bytes]) -> None:
        await where.deliver.remote(incarnation, batch)

    def _fell_at_home(self, name: str, incarnation: int, error: Exception) -> bool:
        self.fleet.tell(News(name, incarnation, State.FALLEN, SUPERVISOR))
        return False

    def _rose_at_home(self, name: str, incarnation: int) -> None:
        self.fleet.tell(News(name, incarnation, State.UP, SUPERVISOR))


def check_installed() -> None:
    """RayMissing, RayFailed."""
    if importlib.util.find_spec("ray") is None:
        raise RayMissing("the Ray runtime is not installed: pip install 'descord-relay[ray]', or use --runtime local")
    if "ray" in sys.modules and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # It reads some of them when it is imported: it would let anybody in.
        raise RayFailed("ray was imported before its environment was set")


@contextmanager
def _surrounded(folder: Path) -> Iterator[None]:
    """What processes inherit that are started in here: the run folder as their folder and in their environment, by
    which the janitor knows them; where to import this project from; and a mask that keeps others out of their files."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    inherited = {MARK: str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    before = {name: os.environ.get(name) for name in inherited}
    place = os.getcwd()
    mask = os.umask(0o077)
    os.environ.update(inherited)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(place)
        os.umask(mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _make_lean() -> None:
    """Keep Ray from starting what is not needed, and from printing to our stdout.  These are not of its public
    interface: where they are missing it runs all the same, with more memory and more words."""
    node: Any = importlib.import_module("ray._private.node")
    for name in NEEDLESS:
        if hasattr(node.Node, name):
            setattr(node.Node, name, lambda self, **options: None)
    worker: Any = importlib.import_module("ray._private.worker")
    if hasattr(worker, "listen_error_messages"):
        worker.listen_error_messages = lambda worker, threads_stopped: None


async def _answers(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), REACHABLE)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def _children(names: Sequence[str]) -> dict[str, int]:
    """The pids of child processes of these names."""
    found: dict[str, int] = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            with suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name in names:
                    found[name] = int(pid)
    if missing := set(names) - set(found):
        raise RayFailed(f"Ray runs without {', '.join(sorted(missing))} of its own: it cannot be watched")
    return found
