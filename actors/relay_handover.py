"""RelayServer's part when one forwarder takes over from another: which questions wait, and until when.

From HandoverBegins on nothing is answered to the old forwarder, for nobody knows where a request of its is by the time
the answer comes; and no circuit is begun to a peer that it had.  Its own questions are dropped: whoever has the request
in the end asks again.  The others' wait.  It ends with a report: the successor's, which replaces the old one's, or one
of the old forwarder, when nothing came of it.  When either falls, the other reports what it has; when both do, or
neither reports in time, what the old one had is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol import messages

#: Seconds after which a hand-over of which nothing is heard has failed.
HANDOVER_WAIT: Final = 60.0

Asked = messages.ReserveAsked | messages.ConnectAsked


@dataclass(slots=True)
class _Handover:
    successor: str
    ends_at: float
    fell: bool = False
    successor_fell: bool = False


class Handovers:
    """Those that are under way, by the name of the forwarder that hands over."""

    __slots__ = ("_held", "_under_way")

    def __init__(self) -> None:
        self._under_way: dict[str, _Handover] = {}
        self._held: dict[tuple[str, int], messages.ConnectAsked] = {}

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def begin(self, message: messages.HandoverBegins, now: float) -> None:
        self._under_way[message.forwarder] = _Handover(message.successor, now + HANDOVER_WAIT)

    def drops(self, asked: Asked) -> bool:
        """Whether ``asked`` is a question of one that hands over."""
        return asked.forwarder in self._under_way

    def holds(self, asked: Asked, target_forwarder: str | None) -> bool:
        """Keep a question whose answer is not known before a hand-over is done; False: answer it."""
        if target_forwarder not in self._under_way or not isinstance(asked, messages.ConnectAsked):
            return False
        self._held[asked.forwarder, asked.request_id] = asked
        return True

    def reported(self, report: messages.ForwarderReport) -> None:
        """A report ends the hand-over that it is about."""
        self._under_way.pop(report.forwarder, None)
        self._under_way.pop(report.replaces, None)

    def fell(self, forwarder: str) -> bool:
        """A forwarder fell.  True: it was handing over, and its successor will say what is left of it."""
        for key in [key for key in self._held if key[0] == forwarder]:
            del self._held[key]
        handover = self._under_way.get(forwarder)
        if handover is None:
            for one in self._under_way.values():
                if one.successor == forwarder:
                    one.successor_fell = True
                    if one.fell:
                        one.ends_at = 0.0
            return False
        handover.fell = True
        if handover.successor_fell:
            handover.ends_at = 0.0
        return True

    def next_deadline(self) -> float | None:
        return min((handover.ends_at for handover in self._under_way.values()), default=None)

    def expire(self, now: float) -> list[str]:
        """Give up those whose time is over; the forwarders that are lost with them."""
        over = {name: one for name, one in self._under_way.items() if one.ends_at <= now}
        for name in over:
            del self._under_way[name]
        return [name for name, one in over.items() if one.fell]

    def take_held(self) -> list[messages.ConnectAsked]:
        """The questions that waited, once."""
        held, self._held = self._held, {}
        return list(held.values())
