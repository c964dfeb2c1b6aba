"""Whether the node takes on reservations and circuits now: what its owner chose, and how the machine is.

    client-only   it relays for nobody; circuits that it has go on
    cooperative   it relays within ``max_bandwidth``, and when ``run_when`` says: always, while the machine is charging
                  (or has no battery), or while it is idle
    dedicated     it relays always

While it does not, whoever asks is refused with the reason and, where it is known, when to come back; circuits that it
has go on.  ``run_when`` is a promise to the owner, ``uptime_target`` a wish: where the one keeps the node below the
other, the status says so, and the owner chooses.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from protocol.quota_messages import TermsSet

CLIENT_ONLY: Final = "client-only"
COOPERATIVE: Final = "cooperative"
DEDICATED: Final = "dedicated"
MODES: Final = (CLIENT_ONLY, COOPERATIVE, DEDICATED)

ALWAYS: Final = "always"
CHARGING: Final = "charging"
IDLE: Final = "idle"
RUN_WHEN: Final = (ALWAYS, CHARGING, IDLE)

INCENTIVES: Final = ("priority", "credits", "volunteer")

#: Who may see the receipts that this node signs: whoever the relay shows them to; nobody else; none are signed.
CONSENTS: Final = ("shown", "kept", "off")

#: Cores that other programs keep busy above which somebody uses the machine.  A desktop at rest takes a tenth, a film
#: or a call half.  Whether somebody moves a mouse is not asked: many machines that relay have none.
BUSY_CORES: Final = 0.3

#: Seconds without that after which the machine counts as idle.
IDLE_AFTER: Final = 300.0

#: Seconds after which who is refused because of the battery is told to come back: nobody knows when it charges.
CHARGING_RETRY: Final = 600

#: Seconds over which the share of time is taken in which the node relayed: people have days.
DAY: Final = 86_400.0

#: Seconds that must have passed before that share is held against the target.
SETTLED: Final = 600.0

MEGABYTE: Final = 1_000_000
HOUR: Final = 3600


def rate_of(max_bandwidth: int) -> float:
    """MB an hour as bytes a second."""
    return max_bandwidth * MEGABYTE / HOUR


@dataclass(frozen=True, slots=True)
class ModePolicy:
    """What the owner chose, each a setting of the same name (actors/settings_table.py)."""

    mode: str = COOPERATIVE
    max_bandwidth: int = 0
    max_circuits: int = 2048
    uptime_target: float = 0.0
    run_when: str = ALWAYS
    public: bool = True
    incentive: str = "volunteer"

    @property
    def conditional(self) -> bool:
        """Whether it depends on how the machine is."""
        return self.mode == COOPERATIVE and self.run_when != ALWAYS


@dataclass(frozen=True, slots=True)
class MachineState:
    """``charging``: or without a battery.  ``busy``: cores that other programs used on average since the last look,
    None: not known yet."""

    charging: bool
    busy: float | None


class RelayMode:
    """See the module."""

    def __init__(self, policy: ModePolicy, now: float) -> None:
        self.policy = policy
        self._charging = True
        self._quiet_since: float | None = None
        self._began = now
        self._open_since: float | None = None
        self._spans: deque[tuple[float, float]] = deque()
        self._note(now)

    def choose(self, policy: ModePolicy, now: float) -> None:
        """The owner chose something else."""
        self.policy = policy
        self._note(now)

    def observe(self, state: MachineState, now: float) -> None:
        """The machine is like this now."""
        self._charging = state.charging
        if state.busy is None or state.busy >= BUSY_CORES:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        self._note(now)

    def terms(self, now: float) -> TermsSet:
        """What RelayServer is to go by from now on."""
        policy = self.policy
        refusal, setting, retry_after = self._refusal(now)
        return TermsSet(
            serves=policy.mode != CLIENT_ONLY,
            refusal=refusal,
            setting=setting,
            retry_after=retry_after,
            rate=rate_of(policy.max_bandwidth),
            max_circuits=policy.max_circuits,
            # One that takes on nothing would only cost those who find it a question.
            listed="" if refusal or (policy.mode == DEDICATED and not policy.public) else policy.mode,
        )

    def uptime(self, now: float) -> float:
        """The share of the last day, or since the node began if that is later, in which it relayed: 0 to 1."""
        begin = max(self._began, now - DAY)
        spans = list(self._spans) if self._open_since is None else [*self._spans, (self._open_since, now)]
        if now <= begin:
            return float(bool(spans))
        return sum(max(end - max(start, begin), 0.0) for start, end in spans) / (now - begin)

    def below_target(self, now: float) -> bool:
        """Whether ``run_when`` keeps the node below what it aims at."""
        policy = self.policy
        return policy.conditional and now - self._began >= SETTLED and self.uptime(now) < policy.uptime_target

    def _refusal(self, now: float) -> tuple[str, str, int]:
        """Reason, setting and seconds to wait; "": nothing is refused."""
        policy = self.policy
        if policy.mode == CLIENT_ONLY:
            return "this node does not relay", "mode", 0
        if not policy.conditional:
            return "", "", 0
        if policy.run_when == CHARGING:
            if self._charging:
                return "", "", 0
            return "the relay runs only while its machine is charging", "run_when", CHARGING_RETRY
        left = IDLE_AFTER if self._quiet_since is None else self._quiet_since + IDLE_AFTER - now
        if left <= 0:
            return "", "", 0
        return "the relay runs only while its machine is idle", "run_when", math.ceil(left)

    def _note(self, now: float) -> None:
        """Keep in mind since when it relays, or does not."""
        relays = not self._refusal(now)[0]
        if relays and self._open_since is None:
            self._open_since = now
        elif not relays and self._open_since is not None:
            self._spans.append((self._open_since, now))
            self._open_since = None
        while self._spans and self._spans[0][1] <= now - DAY:
            self._spans.popleft()
