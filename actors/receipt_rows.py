"""Receipts that peers have signed for this node, on disk: the latest of each peer."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from actors.record_store import RecordStore
from actors.vouching import WORD_LIFE
from protocol import receipts
from protocol.codec import decode_untrusted
from protocol.receipts import Receipt

#: Peers whose receipt is kept.  A kB each; no more than a few count where they are shown.
MAX_RECEIPTS: Final = 1024

#: Bytes of a row: two envelopes and what is read without opening them.
MAX_ROW: Final = 2 * receipts.MAX_ENVELOPE + 64

_KEY: Final = b"r"


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """``offer``: signed by us, ``envelope``: by the peer.  ``at``: Unix time."""

    offer: Annotated[bytes, Meta(max_length=receipts.MAX_ENVELOPE)]
    envelope: Annotated[bytes, Meta(max_length=receipts.MAX_ENVELOPE)]
    at: Annotated[int, Meta(ge=0, le=2**40)]
    shown: bool


class ReceiptRows:
    """Keys are ``r`` and the peer's id.  Those that are older than any word counts are forgotten."""

    def __init__(self, store: RecordStore, max_receipts: int = MAX_RECEIPTS) -> None:
        self._store = store
        self._max = max_receipts
        self._rows: dict[bytes, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, key: bytes, row: bytes) -> None:
        """What was on disk under ``key``.  CodecError."""
        self._rows[key[1:]] = decode_untrusted(row, _Row, MAX_ROW)

    def put(self, offer: bytes, envelope: bytes, receipt: Receipt, now: float, *, shown: bool) -> None:
        """A receipt that may not be shown does not replace one that may, while that one counts; nor does one of
        circuits of which none worked, for it says nothing for us."""
        before = self._rows.get(receipt.client)
        if before is not None and before.shown and not (shown and receipt.worked) and not _old(before, now):
            return
        row = _Row(offer, envelope, int(now), shown and bool(receipt.worked))
        self._rows.pop(receipt.client, None)
        self._rows[receipt.client] = row
        self._store.put(_KEY + receipt.client, msgspec.msgpack.encode(row))
        self.tidy(now)

    def tidy(self, now: float) -> None:
        """Forget what is too old or too much, the oldest first."""
        old = [peer for peer, row in self._rows.items() if _old(row, now)]
        rest = len(self._rows) - len(old) - self._max
        if rest > 0:
            kept = sorted((row.shown, row.at, peer) for peer, row in self._rows.items() if not _old(row, now))
            old += [peer for _, _, peer in kept[:rest]]
        for peer in old:
            del self._rows[peer]
            self._store.delete(_KEY + peer)

    def to_show(self, most: int, now: float) -> list[bytes]:
        """The newest that may be shown, as their peers signed them."""
        usable = [row for row in self._rows.values() if row.shown and not _old(row, now)]
        return [row.envelope for row in sorted(usable, key=lambda row: -row.at)[:most]]


def _old(row: _Row, now: float) -> bool:
    return now - row.at > WORD_LIFE
