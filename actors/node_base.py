"""What every node does, wherever its actors run: it watches its addresses, says how it is, and ends."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from actors.actor import Send
from actors.desk import DESK, Desk
from actors.network_names import DIRECTORY, mode_listeners
from actors.node_mode import ModeKeeper, with_mode_of
from actors.ports.addresses import announced, private, reachable, told
from actors.ports.clock import steady_clock
from actors.ports.control import ControlServer
from actors.refusals import tell_apart
from actors.relay_mode import CLIENT_ONLY
from actors.runtime.spec import Runtime
from actors.self_description import AGENT
from actors.settings import Settings
from protocol.addresses import text_of
from protocol.discovery_messages import BestRelays, BestRelaysWanted
from protocol.identity import Identity
from protocol.messages import StatusAnswer
from protocol.quota_messages import ModeTold, TermsSet

if TYPE_CHECKING:
    from actors.bootstrap import Bootstrap

log = logging.getLogger("actors.node")

#: Exit codes: a wrong setting or identity (another start will not cure it), a port that cannot be had now, and an actor
#: that keeps failing or a part of the node that is lost.
EXIT_SETTINGS: Final = 2
EXIT_UNAVAILABLE: Final = 69
EXIT_FAILED: Final = 70
EXIT_REFUSED: Final = 75


#: Seconds that the directory has beyond those of its search: for the scores, and the way there and back.
ANSWER_PATIENCE: Final = 2.0

ONLY_PRIVATE: Final = (
    "only private addresses are known: peers on the internet do not reach this relay. Forward the port in the router, "
    "and start it with --announce /ip4/YOUR.PUBLIC.IP/tcp/4001"
)


class Sums:
    """Counts that never go back, of counters that may begin anew: the difference is kept."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}
        self._before: Counter[tuple[str, str]] = Counter()

    def of(self, kind: str, name: str = "") -> int:
        """What it was last."""
        return self._before[kind, name] + self._last.get((kind, name), 0)

    def take(self, kind: str, value: float, name: str = "") -> int:
        """What it is, now that its counter says ``value``."""
        key = (kind, name)
        self._before[key] += max(self._last.get(key, 0) - int(value), 0)
        self._last[key] = int(value)
        return self.of(kind, name)

    def take_all(self, kind: str, values: Mapping[str, float]) -> dict[str, int]:
        """The same for counters by name; one that is not there has begun anew."""
        known = [name for one, name in self._last if one == kind]
        return {name: self.take(kind, values.get(name, 0), name) for name in dict.fromkeys([*known, *values])}


class RestartFailed(Exception):
    """The node goes on with what it has; the message says why and what to do."""


class DiscoveryOff(Exception):
    """Other relays are not looked for; the message says why."""


class NodeBase(ABC):
    """See the module.  ``report``: tells whoever started the node, an event at a time."""

    def __init__(self, settings: Settings, identity: Identity, report: Callable[[dict[str, Any]], None]) -> None:
        self.settings = settings
        self.identity = identity
        self.failure: str | None = None
        self.stopping = asyncio.Event()
        self.addresses: list[str] = []
        self.hidden = False
        self._report = report
        self._bound: list[tuple[str, int]] = []
        self._own_addresses: list[bytes] = []
        #: Of a router that passes our port on, say: those that others have confirmed.
        self._confirmed: tuple[bytes, ...] = ()
        self._sums = Sums()
        self._reported_bytes = 0
        self.control: ControlServer | None = None
        self.desk = Desk(self.running, self._rose, self.fell, self._reached)
        self.bootstrap: Bootstrap | None = None
        self.mode = ModeKeeper(settings, steady_clock(), self.tell_terms)
        self._next_look: asyncio.TimerHandle | None = None

    # What differs.

    @abstractmethod
    async def start(self) -> None:
        """Bind the ports, start the actors.  BindError when a port cannot be had."""

    @abstractmethod
    async def status(self, interval: float) -> dict[str, Any]:
        """What the node does, after ``interval`` seconds without a report; 0: somebody asks in between."""

    @abstractmethod
    def processes(self) -> dict[str, Any]:
        """For `ready`: the pid of the node, and of each actor by its name."""

    @abstractmethod
    async def close(self) -> None:
        """Say good-bye to peers and end the actors."""

    @abstractmethod
    def tell_addresses(self) -> None:
        """Have the forwarders tell peers that the addresses are others now."""

    @abstractmethod
    def running(self) -> Runtime:
        """What the actors run on."""

    @abstractmethod
    def rose(self, actor: str) -> list[Send]:
        """An actor runs again: what to tell whom."""

    @abstractmethod
    def fell(self, actor: str) -> None:
        """An actor fell."""

    async def discover_relays(self, count: int = 5, within: float = 10.0, *, search: bool = True) -> BestRelays:
        """The best relays of all that can be found ``within`` seconds; ``search`` False: of those that are known.
        DiscoveryOff, when this node does not look for any."""
        if not self.settings.discovery:
            raise DiscoveryOff("this node looks for no relays (discovery is off)")
        told = await self.desk.ask(
            DIRECTORY,
            lambda number: BestRelaysWanted(number, DESK, count, within, search),
            within + ANSWER_PATIENCE,
        )
        return told if isinstance(told, BestRelays) else BestRelays(0, (), ("the directory does not answer",))

    @abstractmethod
    def tell_terms(self, terms: TermsSet) -> None:
        """Have RelayServer go by ``terms`` from now on."""

    async def begin(self) -> dict[str, Any]:
        """Everything is started: what to tell of that."""
        return self.ready()

    async def upgrade(self) -> None:
        """Have a new process take over."""
        log.warning("not upgrading: only a node of one process takes over from itself (SIGUSR2)")

    async def restart_forwarders(self, settings: Settings) -> dict[str, Any]:
        """Replace the forwarders one by one without losing a circuit, with ``settings`` as they are now; what to
        report.  RestartFailed."""
        raise RestartFailed("this node cannot restart its forwarders")

    def handed_over(self) -> bool:
        """A signal to stop has come; True: another process runs the node by now, and was told."""
        return False

    @property
    def kept(self) -> bool:
        """Whether signals come through a keeper (actors/keeper.py)."""
        return False

    # What does not.

    def find_addresses(self) -> bool:
        """Look at what the interfaces have, unless addresses were given; True when that changed."""
        own = announced(self.settings.announce) or told(reachable(self._bound))
        known, self._own_addresses = self._own_addresses, [address.binary for address in own]
        texts = [address.text for address in own] + [text_of(one) for one in self._outer]
        self.addresses = [f"{text}/p2p/{self.identity.peer_id}" for text in texts]
        self.hidden = not self.settings.announce and not self._outer and private(own)
        return known != self._own_addresses

    @property
    def _outer(self) -> list[bytes]:
        """Confirmed addresses that are none of our own interfaces."""
        return [one for one in self._confirmed if one not in self._own_addresses]

    @property
    def _told_addresses(self) -> list[bytes]:
        """Where peers are told that they reach us."""
        return [*self._own_addresses, *self._outer]

    def _reached(self, addresses: tuple[bytes, ...]) -> None:
        """Others have confirmed that they reach us there, and nowhere else."""
        before, self._confirmed = self._outer, addresses
        if self._outer != before:
            self.find_addresses()
            self.tell_addresses()
            self._report(self.changed())

    def look_at_addresses(self) -> None:
        """Tell peers, and whoever started the node, when the addresses have changed: a laptop moved, a lease ended."""
        if self.stopping.is_set():
            return
        if self.find_addresses():
            self.tell_addresses()
            self._report(self.changed())
        self._watch_addresses()

    def _watch_addresses(self) -> None:
        interval = self.settings.address_interval
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if interval and not self.settings.announce:
            self._next_look = asyncio.get_running_loop().call_later(interval, self.look_at_addresses)

    def choose_mode(self, settings: Settings) -> None:
        """The mode is what ``settings`` say; other settings stay as they are."""
        self.settings = with_mode_of(self.settings, settings)
        self.mode.choose(self.settings)
        for name in mode_listeners(self.settings):
            self.running().post(DESK, name, self._mode_told())

    def _mode_told(self) -> ModeTold:
        return ModeTold(
            self.settings.mode != CLIENT_ONLY, self.settings.incentive, metered=self.settings.max_bandwidth > 0
        )

    def _rose(self, actor: str) -> list[Send]:
        """An actor has begun, maybe in the place of another."""
        told = [Send(actor, self._mode_told())] if actor in mode_listeners(self.settings) else []
        return told + self.rose(actor)

    async def run(self) -> int:
        """Until a signal or a failure; the exit code."""
        self._watch_addresses()
        self.mode.start()
        interval = self.settings.status_interval
        while not self.stopping.is_set():
            try:
                await asyncio.wait_for(self.stopping.wait(), interval or None)
            except TimeoutError:
                self._report(await self.status(interval))
        self.mode.stop()
        await self.close()
        if self.control is not None:
            await self.control.close()
        if self.failure is not None:
            log.error("%s", self.failure)
            return EXIT_FAILED
        return 0

    def told_status(self, told: StatusAnswer, interval: float) -> dict[str, Any]:
        """What to report, after ``interval`` seconds without a report.  What is counted goes on where it was when the
        actor that counts begins anew."""
        reasons = tell_apart(told.refusals)
        refusals = Counter(reasons.limits)
        refusals.update(told.refused_here or {})
        total = self._sums.take("bytes", told.bytes_forwarded)
        rate = 0
        if interval:
            rate = round((total - self._reported_bytes) / interval)
            self._reported_bytes = total
        return {
            "event": "status",
            "connections": told.connections,
            "reservations": told.reservations,
            "circuits": told.circuits,
            "bytes": total,
            **({"bytes_per_second": rate} if interval else {}),
            "refusals": self._sums.take_all("refused", refusals),
            "failures": self._sums.take_all("failed", reasons.failures),
            "lost": self._sums.take_all("lost", reasons.lost),
            "errors": self._sums.take_all("broke", {" ".join(kind): n for kind, n in reasons.errors.items()}),
            **self.mode.report(told.bytes_last_hour),
        }

    def ready(self) -> dict[str, Any]:
        return {
            "event": "ready",
            "peer_id": str(self.identity.peer_id),
            "addresses": self.addresses,
            "mode": self.settings.mode,
            **self._warning(),
            **self.processes(),
            "version": AGENT,
        }

    def changed(self) -> dict[str, Any]:
        """To report when the addresses are others now."""
        return {"event": "addresses", "addresses": self.addresses, **self._warning()}

    def _warning(self) -> dict[str, str]:
        """Behind NAT nothing shows that the relay is of no use to others: it is ready, and idle."""
        if not self.hidden or self.settings.mode == CLIENT_ONLY:
            return {}
        if self.settings.json:  # whoever reads the lines for people has read it
            log.warning("%s", ONLY_PRIVATE)
        return {"warning": ONLY_PRIVATE}

    def failed(self, error: BaseException | str) -> None:
        """The node cannot go on: it says so, and ends."""
        if self.failure is None:
            self.failure = str(error)
        self.stopping.set()
