"""Records on disk: there after a restart and a kill, in batches, and never in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from actors.ports import record_storage
from actors.ports.record_storage import DHT, REPUTATION, OtherVersion, RecordFile, RecordStorage

FILE = DHT.name


def reopened(folder: Path, file: RecordFile = DHT) -> dict[bytes, bytes]:
    storage = RecordStorage(folder, file)
    try:
        return dict(storage.load())
    finally:
        storage.close()


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    storage = RecordStorage(tmp_path, DHT)
    storage.put(b"a", b"1")
    storage.put(b"b", b"2")
    storage.put(b"a", b"3")
    storage.delete(b"b")
    storage.delete(b"never there")
    assert dict(storage.load()) == {b"a": b"3"}, "also before it is written"
    storage.close()
    assert reopened(tmp_path) == {b"a": b"3"}
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_changes_of_a_moment_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = record_storage._write
    monkeypatch.setattr(
        record_storage, "_write", lambda connection, rows: (written.append(len(rows)), write(connection, rows))
    )
    storage = RecordStorage(tmp_path, DHT, batch=3600)
    for number in range(100):
        storage.put(b"%d" % number, b"value")
    assert written == []
    storage.flush()
    assert written == [100]
    storage.close()


def test_the_batch_ends_by_itself(tmp_path: Path) -> None:
    storage = RecordStorage(tmp_path, DHT, batch=0.01)
    storage.put(b"a", b"1")
    with storage._changed:
        assert storage._changed.wait_for(lambda: not (storage._waiting or storage._writing), 30)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert connection.execute("SELECT * FROM records").fetchall() == [(b"a", b"1")]
    storage.close()


WRITER = """
import sys
from pathlib import Path
from actors.ports.record_storage import REPUTATION, RecordStorage
storage = RecordStorage(Path(sys.argv[1]), REPUTATION, batch=0.01)
number = 0
while True:
    for _ in range(50):
        storage.put(number.to_bytes(4, "big"), bytes(500) + number.to_bytes(4, "big"))
        if number >= 100:
            storage.delete((number - 100).to_bytes(4, "big"))
        number += 1
    storage.flush()
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", (1, 3, 10))
def test_a_kill_loses_nothing_that_was_written_and_damages_nothing(tmp_path: Path, after: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = 0
    for _ in range(after):
        written = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    more = process.stdout.read().split()
    written = int(more[-1]) if more else written
    assert process.wait() == -signal.SIGKILL
    with closing(sqlite3.connect(tmp_path / REPUTATION.name)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = reopened(tmp_path, REPUTATION)
    numbers = {int.from_bytes(key, "big") for key in rows}
    # What came after the last word of the process may be there too; of what came before nothing is lost.
    assert max(numbers) + 1 >= written
    assert numbers == set(range(min(numbers), max(numbers) + 1)), "transactions are whole, and in order"
    assert len(numbers) in (min(max(numbers) + 1, 100), 101)
    assert all(value == bytes(500) + key for key, value in rows.items())


DAMAGE = (b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4096))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_moved_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    storage = RecordStorage(tmp_path, DHT)
    storage.put(b"a", b"1")
    storage.close()
    assert reopened(tmp_path) == {b"a": b"1"}
    assert (tmp_path / "dht.damaged").read_bytes() == damage


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damaged_file_that_nobody_else_has_is_kept(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        (tmp_path / REPUTATION.name).write_bytes(damage + bytes([number]))
        assert reopened(tmp_path, REPUTATION) == {}
    kept = [tmp_path / f"reputation.damaged{end}" for end in ("", "-1", "-2")]
    assert [path.read_bytes() for path in kept] == [damage + bytes([number]) for number in range(3)]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert "reputation.damaged-2" in caplog.text


def test_a_file_of_a_later_version_that_nobody_else_has_is_left_as_it_is(tmp_path: Path) -> None:
    later = RecordFile(REPUTATION.name, 2, precious=True)
    storage = RecordStorage(tmp_path, later)
    storage.put(b"a", b"of a newer node")
    storage.close()
    with pytest.raises(OtherVersion, match="version 2, this node writes 1"):
        RecordStorage(tmp_path, REPUTATION)
    assert reopened(tmp_path, later) == {b"a": b"of a newer node"}
    assert not list(tmp_path.glob("*damaged*"))


def test_a_file_of_a_later_version_is_moved_aside(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert reopened(tmp_path) == {}
    assert (tmp_path / "dht.damaged").exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        RecordStorage(tmp_path / "nowhere", DHT)


def test_rows_wait_for_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = record_storage._write

    def full(connection: sqlite3.Connection, rows: dict[bytes, bytes | None]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(record_storage, "_write", full)
    monkeypatch.setattr(record_storage, "MAX_WAITING", 10)
    storage = RecordStorage(tmp_path, DHT, batch=0.001)
    storage.put(b"old", b"1")
    storage.flush()
    for number in range(12):
        storage.put(b"%02d" % number, b"2")
    monkeypatch.setattr(record_storage, "_write", write)
    storage.put(b"last", b"3")
    storage.close()
    rows = reopened(tmp_path)
    assert rows[b"last"] == b"3" and b"11" in rows
