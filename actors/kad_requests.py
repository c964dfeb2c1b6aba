"""Requests that this node makes of other peers: one stream each, so many at a time, each with an end.

A forwarder opens the stream and has its own time-out; a deadline here is for a forwarder that fell silent itself.  The
same peer is asked through the same forwarder, so that there is one connection to it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.actor import Send
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted

#: Requests under way: three look-ups' worth.  Each may be a dial.
MAX_UNDER_WAY: Final = 32

#: Requests that wait for one of those places.
MAX_QUEUED: Final = 1024

#: Seconds until the answer has come, dial and handshake included (go's dhtReadMessageTimeout).
TIMEOUT: Final = 10.0

#: Seconds beyond that after which a forwarder is not believed to answer.
GRACE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request.  ``message``: None when it failed, or (``code`` ``finished``) when there is no answer.
    ``code``: "" or a StreamOver's."""

    peer: bytes
    message: StreamMessage | None
    code: str = ""


#: ``done(reply, now)``, called once.
Done = Callable[[Reply, float], None]


@dataclass(slots=True)
class _Request:
    wanted: StreamWanted
    forwarder: str
    done: Done
    end: float


class Requests:
    """See the module.  ``name``: our actor's.  ``sends``: what is to be sent, taken by the actor."""

    def __init__(self, name: str) -> None:
        self.sends: list[Send] = []
        #: Where peers reach us through each forwarder, binary multiaddrs.
        self.forwarders: dict[str, tuple[bytes, ...]] = {}
        self._name = name
        self._next = 1
        self._queue: deque[_Request] = deque()
        self._under_way: dict[int, _Request] = {}
        self._failed: deque[tuple[Done, Reply]] = deque()

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def ask(
        self,
        peer: bytes,
        addresses: tuple[bytes, ...],
        protocol: str,
        payload: bytes | None,
        done: Done,
        now: float,
        *,
        forwarder: str = "",
        unanswered: bool = False,
    ) -> None:
        """Open a stream of ``protocol`` to ``peer``, send ``payload``, and give ``done`` what comes back.

        ``forwarder``: the one that has a connection, if it is known.  ``unanswered``: no answer is expected.
        """
        if not self.forwarders or len(self._queue) >= MAX_QUEUED:
            self._failed.append((done, Reply(peer, None, "gone")))
            return
        wanted = StreamWanted(self._next, self._name, peer, addresses, protocol, payload, TIMEOUT, finish=unanswered)
        self._next += 1
        self._queue.append(_Request(wanted, forwarder, done, now))
        self._start(now)

    def message(self, message: StreamMessage, now: float) -> None:
        """An answer to one of ours: the stream has served its purpose."""
        request = self._under_way.pop(message.request_id, None)
        # A second answer, or one that comes when it was given up, ends the stream for good.
        self.sends.append(
            Send(message.forwarder, StreamAnswer(message.stream, None, finish=True, reset=request is None))
        )
        if request is not None:
            request.done(Reply(message.peer, message), now)
        self._start(now)

    def over(self, over: StreamOver, now: float) -> None:
        request = self._under_way.pop(over.request_id, None)
        if request is not None:
            request.done(Reply(request.wanted.peer, None, over.code), now)
        self._start(now)

    def lost(self, forwarder: str, now: float) -> None:
        """It is gone, and all that it was asked."""
        self.forwarders.pop(forwarder, None)
        for number in [number for number, one in self._under_way.items() if one.forwarder == forwarder]:
            request = self._under_way.pop(number)
            self._failed.append((request.done, Reply(request.wanted.peer, None, "gone")))
        if not self.forwarders:
            self._failed.extend((one.done, Reply(one.wanted.peer, None, "gone")) for one in self._queue)
            self._queue.clear()
        self._start(now)

    def settle(self, now: float) -> None:
        """Tell those whose requests could not be made; they may ask anew."""
        for _ in range(len(self._failed)):
            done, reply = self._failed.popleft()
            done(reply, now)

    def next_deadline(self) -> float | None:
        if self._failed:
            return 0.0
        return next(iter(self._under_way.values())).end if self._under_way else None

    def handle_deadline(self, now: float) -> None:
        while self._under_way:
            number, request = next(iter(self._under_way.items()))
            if request.end > now:  # all have the same time, so the first is the earliest
                break
            del self._under_way[number]
            request.done(Reply(request.wanted.peer, None, "gone"), now)
        self._start(now)
        self.settle(now)

    def _start(self, now: float) -> None:
        while self._queue and self.forwarders and len(self._under_way) < MAX_UNDER_WAY:
            request = self._queue.popleft()
            if request.forwarder not in self.forwarders:
                request.forwarder = self._choose(request.wanted.peer)
            request.end = now + TIMEOUT + GRACE
            self._under_way[request.wanted.request_id] = request
            self.sends.append(Send(request.forwarder, request.wanted))

    def _choose(self, peer: bytes) -> str:
        names = sorted(self.forwarders)
        return names[int.from_bytes(hashlib.sha256(peer).digest()[:4], "big") % len(names)]
