"""Records on disk: SQLite, written by a thread of its own, so that the event loop never waits for the disk.

What is put is remembered at once and written within half a second, many rows in one transaction.  The journal is a
write-ahead log: whatever kills the process, a transaction is there whole or not at all.

A file that is damaged is moved aside and begun anew.  Of one that can be learnt again from others the last such is
kept; of one that nobody else has, each, and the log says so as an error.  That one is also left alone when it is of
another version: a newer node made it, and may want it back.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Seconds from the first change that is not written until it is.
BATCH: Final = 0.5

#: Rows that wait to be written: all that a node keeps.  More wait only for a disk that fails; then the oldest are lost.
MAX_WAITING: Final = 32_768

#: Seconds for which the end of the writer is waited for.
CLOSE_TIMEOUT: Final = 5.0

#: Seconds for which a writer waits for another process that has the file.
BUSY_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)


class OtherVersion(Exception):
    """The file is of a version that this node does not know, and is left as it is."""


class _Damaged(Exception):
    pass


@dataclass(frozen=True, slots=True)
class RecordFile:
    """``name``: in the data folder.  ``version``: of what is in it, as SQLite's ``user_version``.  ``precious``: nobody
    else has what it holds."""

    name: str
    version: int
    precious: bool


#: What DHTAdvertiser keeps for others (actors/kad_records.py): they publish it anew within a day.
DHT: Final = RecordFile("dht.sqlite", 1, precious=False)

#: What ReputationTracker saw, over weeks (actors/reputation_tracker.py).
REPUTATION: Final = RecordFile("reputation.sqlite", 1, precious=True)


class RecordStorage:
    """A RecordStore (actors/record_store.py) in ``data_dir``.  OSError or sqlite3.Error when it cannot be opened,
    OtherVersion.

    ``batch``: seconds.  After an error of the disk the rows wait, and are written with later ones."""

    def __init__(self, data_dir: Path, file: RecordFile, *, batch: float = BATCH) -> None:
        self._path = data_dir / file.name
        self._batch = batch
        self._waiting: dict[bytes, bytes | None] = {}
        self._writing: dict[bytes, bytes | None] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._flushes = 0
        self._failed = False
        # One connection, in turns: SQLite keeps the files of a second one open until the first ends (POSIX locks).
        self._turn = threading.Lock()
        try:
            self._connection = _open(self._path, file)
        except (sqlite3.DatabaseError, _Damaged) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk, or its rights: nothing that a new file mends
            aside = _move_aside(self._path, file)
            level = logging.ERROR if file.precious else logging.WARNING
            _log.log(level, "%s cannot be used (%s): it is %s now, and a new one begun", self._path, error, aside.name)
            self._connection = _open(self._path, file)
        self._thread = threading.Thread(target=self._run, name=f"{file.name} writer", daemon=True)
        self._thread.start()

    def load(self) -> Iterable[tuple[bytes, bytes]]:
        """What is there, with what is not written yet.  It reads the disk: for the start.  sqlite3.Error, also once it
        is closed."""
        with self._changed:
            later = self._writing | self._waiting
        with self._turn:
            rows: dict[bytes, bytes | None] = dict(self._connection.execute("SELECT key, value FROM records"))
        return [(key, value) for key, value in (rows | later).items() if value is not None]

    def put(self, key: bytes, value: bytes) -> None:
        self._change(key, value)

    def delete(self, key: bytes) -> None:
        self._change(key, None)

    def flush(self) -> None:
        """Wait until all that was put is written, or cannot be.  Not from an event loop."""
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._writing) or self._failed or self._ended())
            self._flushes -= 1

    def close(self) -> None:
        """Write what is left, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT)

    def _ended(self) -> bool:
        return not self._thread.is_alive()

    def _change(self, key: bytes, value: bytes | None) -> None:
        with self._changed:
            first = not self._waiting
            self._waiting.pop(key, None)
            self._waiting[key] = value
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            if first:
                self._changed.notify_all()

    # The writer's thread.

    def _run(self) -> None:
        with closing(self._connection):
            while self._take():
                try:
                    with self._turn:
                        _write(self._connection, self._writing)
                    failed = False
                except sqlite3.Error as error:
                    failed = True
                    if not self._failed:
                        _log.error("%s cannot be written: %s", self._path, error)
                with self._changed:
                    if failed:
                        self._waiting = self._writing | self._waiting
                    self._failed = failed
                    self._writing = {}
                    self._changed.notify_all()
                    if failed and self._closing:
                        return

    def _take(self) -> bool:
        """Wait for changes, and a moment for more; False: there are none, and nothing more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(lambda: self._closing or (self._flushes and not self._failed), self._batch)
            self._writing, self._waiting = self._waiting, {}
            return bool(self._writing)


def _move_aside(path: Path, file: RecordFile) -> Path:
    """Where it is then, with what SQLite had beside it: its log may hold what the file does not."""
    aside = path.with_suffix(".damaged")
    number = 1
    while file.precious and aside.exists():
        aside = path.with_suffix(f".damaged-{number}")
        number += 1
    for end in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{end}", f"{aside}{end}")
    return aside


def _open(path: Path, file: RecordFile) -> sqlite3.Connection:
    """With its table, made if there is none.  sqlite3.DatabaseError or _Damaged when the file is of no use,
    OtherVersion."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with ExitStack() as opened:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        opened.enter_context(closing(connection))
        connection.execute("PRAGMA journal_mode = WAL")
        # A transaction is whole whatever kills the process; the last ones may be lost if the machine goes down.
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, file.version):
            reason = f"version {version}, this node writes {file.version}"
            raise OtherVersion(reason) if file.precious else _Damaged(reason)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Damaged(verdict)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA user_version = {file.version}")
        connection.execute("COMMIT")
        opened.pop_all()
    return connection


def _write(connection: sqlite3.Connection, rows: dict[bytes, bytes | None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "INSERT INTO records VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [(key, value) for key, value in rows.items() if value is not None],
        )
        connection.executemany(
            "DELETE FROM records WHERE key = ?", [(key,) for key, value in rows.items() if value is None]
        )
        connection.execute("COMMIT")
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
