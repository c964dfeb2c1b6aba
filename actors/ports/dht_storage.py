"""Records on disk: SQLite, written by a thread of its own, so that the event loop never waits for the disk.

What is put is remembered at once and written within half a second, many rows in one transaction.  The journal is a
write-ahead log: whatever kills the process, a transaction is there whole or not at all.  A file that is damaged, or of
another version, is moved aside and begun anew: what it held is learnt again from others.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

FILE: Final = "dht.sqlite"

#: Of the table's form, as SQLite's ``user_version``.
VERSION: Final = 1

#: Seconds from the first change that is not written until it is.
BATCH: Final = 0.5

#: Rows that wait to be written: all that a node keeps.  More wait only for a disk that fails; then the oldest are lost.
MAX_WAITING: Final = 32_768

#: Seconds for which the end of the writer is waited for.
CLOSE_TIMEOUT: Final = 5.0

#: Seconds for which a writer waits for another process that has the file.
BUSY_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)


class DhtStorage:
    """A RecordStore (actors/record_store.py) in ``data_dir``.  OSError or sqlite3.Error when it cannot be opened.

    ``batch``: seconds.  After an error of the disk the rows wait, and are written with later ones."""

    def __init__(self, data_dir: Path, *, batch: float = BATCH) -> None:
        self._path = data_dir / FILE
        self._batch = batch
        self._waiting: dict[bytes, bytes | None] = {}
        self._writing: dict[bytes, bytes | None] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._flushes = 0
        self._failed = False
        try:
            _prepare(self._path)
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk, or its rights: nothing that a new file mends
            aside = self._path.with_suffix(".damaged")
            _log.warning("%s cannot be used (%s): it is %s now, and a new one begun", self._path, error, aside.name)
            os.replace(self._path, aside)
            for end in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._path}{end}")
            _prepare(self._path)
        self._thread = threading.Thread(target=self._run, name="dht storage", daemon=True)
        self._thread.start()

    def load(self) -> Iterable[tuple[bytes, bytes]]:
        """What is there, with what is not written yet.  It reads the disk: for the start."""
        with self._changed:
            later = self._writing | self._waiting
        with closing(_connect(self._path)) as connection:
            rows: dict[bytes, bytes | None] = dict(connection.execute("SELECT key, value FROM records"))
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
        with closing(_connect(self._path)) as connection:
            while self._take():
                try:
                    _write(connection, self._writing)
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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # A transaction is whole whatever kills the process; the last ones may be lost if the machine goes down.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _prepare(path: Path) -> None:
    """Make the table if there is none.  ValueError when the file is of another version, sqlite3.DatabaseError when it
    is damaged."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with closing(_connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise ValueError(f"version {version}, this node writes {VERSION}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise ValueError(verdict)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")


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
