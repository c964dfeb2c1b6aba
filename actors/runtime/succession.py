"""What is planned with a fleet: a successor takes over from an actor that lives, and nothing is lost.

    succeed   a new process, with what is on disk now, takes the actor's place and all that it has
    merge     another actor of its kind takes all that it has, and the place is no more
    enlarge   one more place
    renew     a new process, and the actor begins anew as after a fall: for one whose state is rebuilt from others'

A successor is a place of its own until it has taken over, so that whatever happens to either meanwhile is seen by the
same supervision; what that means is decided here (:class:`Succession`), when the two have told how it went:

    successor has all                  it takes the place, and the former process ends
    successor has part, former fell    the same; what the former still had is lost with it
    successor fell, or took nothing    the former goes on; what the successor had is lost with it
    both fell                          the place is filled as after any fall

Nothing passes through this process but the path at which the two meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actors.runtime.crew import Crew, Slot
from actors.runtime.directory import News, State
from actors.runtime.local import ActorFailed
from actors.runtime.spec import ActorSpec

if TYPE_CHECKING:
    from actors.runtime.fleet import Fleet

log = logging.getLogger(__name__)

#: What a part tells of a hand-over that ended before all was handed over; "": it did not.
BROKEN = "broken"


ENDED = "its process ended"


class HandoverFailed(Exception):
    """The place is filled by whom it was filled, or by the supervision; the message says what went wrong."""


class Succession:
    """What became of those that hand over and take over, in place of what supervision does about it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.fallen: dict[Slot, str] = {}

    def fell(self, slot: Slot, reason: str) -> None:
        """See Fleet.fell."""
        self.fallen[slot] = reason
        self.gone(slot)

    def gone(self, slot: Slot) -> None:
        """Nobody will have its name again."""
        if slot.up:
            slot.up = False
            self._fleet.announce(News(slot.name, slot.incarnation, State.GONE))


async def succeed(fleet: Fleet, root: str, spec: ActorSpec, grace: float) -> Mapping[str, Any]:
    """Have a new process take over from the actor of a place: what its part tells of it (Part.take_in).  ``grace``:
    seconds that the former one has to end.  HandoverFailed."""
    leaving = _leaving(fleet, root)
    assert leaving.host is not None
    heir = Slot(root, spec, leaving.supervision)
    heir.incarnation, heir.generation = leaving.incarnation, leaving.generation
    heir.begin(leaving.next_generation())
    heir.host = leaving.host
    leaving.last_generation = heir.generation
    succession = leaving.succession = heir.succession = Succession(fleet)
    fleet.slots[heir.name] = heir
    heir.crew = fleet.hire(leaving.host)
    heir.crew.slot = heir
    fleet.watch(heir.crew)
    await heir.crew.ready.wait()
    told, failure = await _hand_over(fleet, leaving, heir, fresh=True)
    # Nothing is awaited from here on: nobody sees half of it.
    del fleet.slots[heir.name]
    broken, fallen = told.get(BROKEN, ""), succession.fallen
    if failure or heir in fallen or (broken and leaving not in fallen):
        reason = failure or fallen.get(heir) or str(broken)
        succession.gone(heir)
        leaving.succession = None
        _dismiss(fleet, heir)
        if leaving in fallen:
            fleet.fell(leaving, fallen[leaving])
        raise HandoverFailed(f"{leaving.name}: {reason}")
    fleet.slots[root] = heir
    heir.succession = None
    fleet.spawn(_retire(fleet, leaving, succession, grace))
    if leaving in fallen:
        _count_fall(fleet, heir, fallen[leaving])
    return told


async def merge(fleet: Fleet, root: str, into: str, grace: float) -> Mapping[str, Any]:
    """Have the actor of another place, on the same host, take all that one has, whose place is no more.
    HandoverFailed."""
    leaving, heir = _leaving(fleet, root), fleet.slots[into]
    succession = leaving.succession = Succession(fleet)
    told, failure = await _hand_over(fleet, leaving, heir, fresh=False)
    broken = told.get(BROKEN, "")
    if (failure or broken) and leaving not in succession.fallen:
        leaving.succession = None
        raise HandoverFailed(f"{leaving.name}: {failure or broken}")
    del fleet.slots[root]
    fleet.former[root] = leaving
    fleet.spawn(_retire(fleet, leaving, succession, grace))
    if leaving in succession.fallen:
        raise HandoverFailed(f"{leaving.name}: {succession.fallen[leaving]}")
    return told


async def enlarge(fleet: Fleet, root: str, spec: ActorSpec) -> None:
    """One more place, with its actor.  HandoverFailed."""
    slot = Slot(root, spec, fleet.supervision())
    if (former := fleet.former.pop(root, None)) is not None:
        # There was such a place before, and its last actor's name must not come again.
        slot.incarnation, slot.generation = former.incarnation, former.generation
        slot.begin(former.next_generation())
    slot.host = fleet.place(slot, await fleet.processes.hosts())
    succession = slot.succession = Succession(fleet)
    slot.crew = fleet.hire(slot.host)
    slot.crew.slot = slot
    fleet.slots[root] = slot
    fleet.watch(slot.crew)
    failure = await fleet.assume(slot)
    if failure is None and slot not in succession.fallen:
        slot.succession = None
        return
    del fleet.slots[root]
    fleet.former[root] = slot
    succession.gone(slot)
    _dismiss(fleet, slot)
    raise HandoverFailed(f"{slot.name}: {failure or succession.fallen[slot]}")


async def renew(fleet: Fleet, root: str, spec: ActorSpec, grace: float) -> None:
    """Have a new process, and the actor begin anew in it.  HandoverFailed: the former one goes on; once that has ended,
    what goes wrong is supervision's."""
    slot = _leaving(fleet, root)
    assert slot.host is not None
    crew = fleet.hire(slot.host)
    fleet.watch(crew)
    await crew.ready.wait()
    if crew.lost or not slot.up or slot.crew is None:
        raise HandoverFailed(f"{slot.name}: the process that was to take its place did not start, or it fell itself")
    former, slot.crew, crew.slot = slot.crew, crew, slot
    former.slot = None
    slot.up = False
    fleet.announce(News(slot.name, slot.incarnation, State.FALLEN))
    slot.begin(slot.generation)
    slot.spec = spec
    fleet.spawn(fleet.dismiss(former, grace))
    if (failure := await fleet.assume(slot)) is not None and slot.crew is crew:
        fleet.fell(slot, failure)


def _leaving(fleet: Fleet, root: str) -> Slot:
    slot = fleet.slots[root]
    if not slot.up or slot.crew is None or slot.succession is not None:
        raise HandoverFailed(f"{slot.name} is not up: try again when it is")
    return slot


async def _hand_over(fleet: Fleet, leaving: Slot, heir: Slot, *, fresh: bool) -> tuple[Mapping[str, Any], str]:
    """What the heir tells of it; why it came to nothing, "": it did not."""
    crew, others = leaving.crew, heir.crew
    if crew is None or others is None:
        return {}, ENDED
    former = crew.process
    going: asyncio.Future[str] | None = None
    told: Mapping[str, Any] = {}
    failure = ""
    try:
        path = await former.call("meet")
        going = asyncio.ensure_future(former.call("hand_over", heir.name))
        if fresh and (reason := await fleet.assume(heir, adopting=True)) is not None:
            failure = reason
        else:
            told, failure = await _taken(fleet, others, path, leaving.name)
    except Exception as error:  # whatever a call to a process that ended may raise
        log.debug("nothing came of a hand-over: %s", error)
        failure = ENDED
    if failure:
        with contextlib.suppress(Exception):  # it ended itself
            await former.call("stay")
    if going is not None:
        try:
            said = await going
        except Exception as error:
            log.debug("who hands over is lost: %s", error)
            fleet.lose(crew, ENDED)  # supervision may not have seen it yet
        else:
            # The successor knows better what it has; of why it has nothing the other side knows more.
            failure = said if failure and said else failure
    return told, failure


async def _taken(fleet: Fleet, crew: Crew, path: str, predecessor: str) -> tuple[Mapping[str, Any], str]:
    try:
        told: Mapping[str, Any] = await crew.process.call("take_in", path, predecessor)
    except Exception as error:
        log.debug("who takes over is lost: %s", error)
        fleet.lose(crew, ENDED)
        return {}, ENDED
    return told, told.get("failure", "")


async def _retire(fleet: Fleet, slot: Slot, succession: Succession, grace: float) -> None:
    if slot.crew is not None:
        await fleet.dismiss(slot.crew, grace)
    succession.gone(slot)


def _dismiss(fleet: Fleet, slot: Slot) -> None:
    if slot.crew is not None:
        fleet.spawn(fleet.dismiss(slot.crew))


def _count_fall(fleet: Fleet, slot: Slot, reason: str) -> None:
    log.error("actor %s failed while it handed over: %s", slot.root, reason)
    fleet.restarted += 1
    if slot.supervision.failed(fleet.clock()) is None:
        fleet.on_fatal(ActorFailed(f"actor {slot.root} failed too often (max_restarts, restart_window): {reason}"))
