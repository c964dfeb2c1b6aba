"""Whereabouts of peers in the DHT: found for those who look for one, kept for those who want to be found.

The record is at the peers nearest to its key, as a relay's descriptor is; it is the signature that is believed.  A part
of DHTAdvertiser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from actors.actor import Send
from actors.kad_lookup import Candidate
from actors.kad_records import SignedRecords
from actors.kad_region import Region
from actors.kad_walks import Walk, Walks
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.kad import KadMessage, KadRecord, MessageType, rfc3339
from protocol.kad_keys import whereabouts_key
from protocol.whereabouts import Whereabouts, open_whereabouts
from protocol.whereabouts_messages import WhereaboutsFound, WhereaboutsGiven, WhereaboutsSought, WhereaboutsStored

#: Copies of a record after which no more are looked for: the latest of them counts.
ENOUGH_COPIES: Final = 3

#: Seconds in which nobody answers any more, after which a copy will do: of the peers near a key some have always gone
#: without a word, and whoever asks would wait for them.  As long as answers come, a later one may be among them.
LATER: Final = 0.5


class WhereaboutsWalks:
    """``kept``: records that are kept here for others.  ``sends``: what is to be sent, taken by the actor."""

    def __init__(self, walks: Walks, region: Region, kept: SignedRecords, counts: Counter[str]) -> None:
        self.sends: list[Send] = []
        self._walks = walks
        self._region = region
        self._kept = kept
        self._counts = counts

    def seek(self, sought: WhereaboutsSought, now: float) -> None:
        """Answered once, by WhereaboutsFound."""
        try:
            peer = PeerId(sought.peer)
        except RemoteProtocolError as error:
            self._found(sought, b"", str(error))
            return
        key = whereabouts_key(peer)
        best: tuple[bytes, Whereabouts] | None = None
        copies = 0
        walk: Walk | None = None

        def take(record: bytes, now: float) -> bool:
            nonlocal best
            try:
                said = open_whereabouts(record, now)
            except RemoteProtocolError as error:
                self._counts[f"whereabouts not believed: {error.code}"] += 1
                return False
            if said.peer != peer:
                self._counts["whereabouts not believed: foreign"] += 1
                return False
            if best is None or said.sequence > best[1].sequence:
                best = record, said
            return True

        def answered(answer: KadMessage, teller: bytes, address: str, now: float) -> None:
            nonlocal copies
            copies += answer.record is not None and take(answer.record.value, now)
            if copies and walk is not None:
                walk.lookup.be_over(now + LATER)
                if copies >= ENOUGH_COPIES:
                    self._walks.stop(walk, now)

        def done(over: Walk, now: float) -> None:
            if best is not None:
                self._counts["whereabouts found"] += 1
                self._found(sought, best[0])
                return
            self._counts["whereabouts not found"] += 1
            nobody = "nobody in the DHT knows where it is reached" if over.lookup.asked else "the DHT is not joined yet"
            self._found(sought, b"", nobody)

        held = self._kept.find(key, now)
        if held is not None and take(held[0], now):
            copies = 1
        request = KadMessage(MessageType.GET_VALUE, key)
        walk = self._walks.start(request, now, done, answered=answered, timeout=sought.timeout)
        if copies:
            walk.lookup.be_over(now + LATER)

    def keep(self, given: WhereaboutsGiven, now: float) -> None:
        """Answered once, by WhereaboutsStored."""
        try:
            said = open_whereabouts(given.record, now)
        except RemoteProtocolError as error:
            self._stored(given, 0, str(error))
            return
        key = whereabouts_key(said.peer)
        record = KadRecord(key, given.record, rfc3339(now))
        # Here too: who looks for it may well ask the relay through which it is reached.
        here = 0
        try:
            self._kept.put(record, given.origin, now)
            here = 1
        except RemoteProtocolError as error:
            self._counts[f"whereabouts not kept: {error.code}"] += 1

        def nearest(peers: Sequence[Candidate], now: float) -> None:
            left, copies = len(peers), here

            def stored(answer: KadMessage | None, peer: bytes, address: str, now: float) -> None:
                nonlocal left, copies
                left -= 1
                copies += answer is not None
                if not left:
                    self._counts["whereabouts stored"] += copies
                    self._stored(given, copies, "" if copies else "no peer of the DHT keeps such records")

            for one in peers:
                self._walks.ask(one.peer, one.addresses, KadMessage(MessageType.PUT_VALUE, key, record), stored, now)
            if not peers:
                self._stored(given, here, "" if here else "no peer of the DHT was reached")

        def walked(walk: Walk, now: float) -> None:
            self._region.around(walk, now, nearest)

        self._walks.start(KadMessage(MessageType.FIND_NODE, key), now, walked, timeout=given.timeout)

    def _found(self, sought: WhereaboutsSought, record: bytes, problem: str = "") -> None:
        self.sends.append(Send(sought.asker, WhereaboutsFound(sought.request_id, record, problem)))

    def _stored(self, given: WhereaboutsGiven, copies: int, problem: str) -> None:
        self.sends.append(Send(given.asker, WhereaboutsStored(given.request_id, copies, problem)))
