"""How this relay is kept findable: provider records for the directory's key, and its descriptor under its own.

Every hour it looks who is nearest to each key by now.  Newcomers there are told at once, so that churn does not thin
the copies out; everybody is told again before the record's life is over.  A new descriptor goes out soon, but not more
often than once a minute.  Failures are tried again after a growing, random time.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "Content provider advertisement" (22 h).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from actors.kad_lookup import Candidate
from actors.kad_records import Validate
from actors.kad_region import Region
from actors.kad_walks import Walk, Walks
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad import MAX_VALUE, KadMessage, KadPeer, KadRecord, MessageType, rfc3339
from protocol.kad_keys import RELAYS, descriptor_key, provider_key


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """Seconds.  ``provide``: a peer is told again that we provide (the specification's 22 h).  ``look``: between looks
    at who is nearest.  ``least``: between two descriptors.  ``retry``, ``most_retry``: after a failure, doubling."""

    provide: float = 22 * 3600.0
    look: float = 3600.0
    least: float = 60.0
    retry: float = 30.0
    most_retry: float = 900.0


#: Part of a time that is taken at random, so that relays started together do not publish together.
_JITTER: Final = 0.1

#: Part of what is left of a descriptor's life after which it is put again at the latest.
_REFRESH_AT: Final = 0.5


@dataclass(slots=True)
class _Task:
    """``due``: when it is next, None: not."""

    due: float | None = None
    running: bool = False
    failures: int = 0


class RelayPublisher:
    """``own``: our peer id.  ``jitter()``: a random number from 0 to 1."""

    def __init__(
        self,
        own: PeerId,
        walks: Walks,
        validate: Validate,
        jitter: Callable[[], float],
        counts: Counter[str],
        region: Region,
        policy: PublishPolicy | None = None,
    ) -> None:
        self.envelope = b""
        #: Where our forwarders say that peers reach us.
        self.reached_at: tuple[bytes, ...] = ()
        self._own = own
        self._walks = walks
        self._validate = validate
        self._jitter = jitter
        self._counts = counts
        self._region = region
        self._policy = policy or PublishPolicy()
        self._addresses: tuple[bytes, ...] = ()
        self._expires_at = 0.0
        self._provide = _Task()
        self._put = _Task()
        self._told: dict[bytes, float] = {}
        self._put_at: float | None = None

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Ours: where the descriptor says that we are, which others have confirmed, if there is one."""
        return (self._addresses if self.envelope else ()) or self.reached_at

    def changed(self, envelope: bytes, now: float) -> None:
        """Publish ``envelope`` from now on; b"": nothing any more.  One that is not ours, or not valid, is nothing."""
        if envelope:
            try:
                validated = self._validate(envelope, now)
                if validated.peer != self._own or len(envelope) > MAX_VALUE:
                    raise RemoteProtocolError("a descriptor that cannot be ours", "foreign")
            except RemoteProtocolError as error:
                self._counts[f"own descriptor: {error.code}"] += 1
                envelope = b""
            else:
                self._expires_at = validated.expires_at
                self._addresses = tuple(validated.addresses)
        was, self.envelope = self.envelope, envelope
        if not envelope:
            self._provide.due = self._put.due = None
            self._told.clear()
            return
        if not was:
            self._provide.due = now
        if envelope != was:
            self._put.due = now if self._put_at is None else max(now, self._put_at + self._policy.least)

    def again(self, now: float) -> None:
        """Peers are known now: what had failed for want of them need not wait."""
        for task in (self._provide, self._put):
            if task.due is not None and task.failures:
                task.due, task.failures = now, 0

    def next_deadline(self) -> float | None:
        times = [one.due for one in (self._provide, self._put) if one.due is not None and not one.running]
        return min([*times, self._expires_at]) if self.envelope else None

    def handle_deadline(self, now: float) -> None:
        if self.envelope and self._expires_at <= now:
            self._counts["own descriptor: expired"] += 1
            self.changed(b"", now)
        for task, key, publish in (
            (self._provide, provider_key(RELAYS), self._add_provider),
            (self._put, descriptor_key(self._own), self._put_value),
        ):
            if task.due is not None and task.due <= now and not task.running:
                self._look(task, key, publish, now)

    def _look(self, task: _Task, key: bytes, publish: Callable[[Sequence[Candidate], float], int], now: float) -> None:
        task.running = True

        def done(nearest: Sequence[Candidate], now: float) -> None:
            task.running = False
            if not self.envelope:
                return
            if nearest:
                task.failures = 0
                self._counts["published"] += publish(nearest, now)
                left = (self._expires_at - now) * _REFRESH_AT if task is self._put else self._policy.look
                wait = min(self._policy.look, left) * (1 - _JITTER * self._jitter())
                task.due = now + max(wait, self._policy.least)
                return
            task.failures += 1
            self._counts["publishing failed"] += 1
            wait = min(self._policy.retry * 2.0 ** min(task.failures - 1, 16), self._policy.most_retry)
            task.due = now + wait * (0.5 + self._jitter() / 2)

        def walked(walk: Walk, now: float) -> None:
            self._region.around(walk, now, done)

        self._walks.start(KadMessage(MessageType.FIND_NODE, key), now, walked)

    def _add_provider(self, nearest: Sequence[Candidate], now: float) -> int:
        message = KadMessage(
            MessageType.ADD_PROVIDER,
            provider_key(RELAYS),
            providers=(KadPeer(self._own.bytes, self.addresses),),
        )
        told = {}
        count = 0
        for one in nearest:
            last = self._told.get(one.peer)
            if last is None or last + self._policy.provide * (1 - _JITTER) <= now:
                self._walks.tell(one.peer, one.addresses, message, now)
                last, count = now, count + 1
            told[one.peer] = last
        self._told = told
        return count

    def _put_value(self, nearest: Sequence[Candidate], now: float) -> int:
        key = descriptor_key(self._own)
        record = KadRecord(key, self.envelope, rfc3339(now))
        self._put_at = now

        def stored(answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
            self._counts["descriptor stored" if answer is not None else "descriptor refused"] += 1

        for one in nearest:
            self._walks.ask(one.peer, one.addresses, KadMessage(MessageType.PUT_VALUE, key, record), stored, now)
        return len(nearest)
