"""Actors with a file: they do without when there can be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import network
from actors.ports.record_storage import REPUTATION, RecordFile, RecordStorage
from actors.runtime.spec import Part, Surroundings
from actors.settings import load_settings
from protocol.discovery_messages import Observed, RatingsWanted
from protocol.identity import Identity
from protocol.reputation_messages import Contributed, ContributionWanted

NOW = 1_782_864_000.0


def made(folder: Path) -> Part:
    settings = load_settings(["--data-dir", str(folder)], {"HOME": str(folder)})
    surroundings = Surroundings("reputation", now=lambda: NOW, post=lambda send: None, wake=lambda: None)
    return network.reputation(surroundings, settings, Identity.from_seed(bytes(32)).encode())


def carried(part: Part) -> int:
    (send,) = part.actor.handle(ContributionWanted(1, "node"), NOW)
    size: int = send.message.month.carried
    return size


async def test_what_it_saw_and_did_is_there_after_a_restart(tmp_path: Path) -> None:
    part = made(tmp_path)
    part.actor.handle(Contributed(1000, 1), NOW)
    part.actor.handle(Observed(b"relay", "probe", 0.5), NOW)
    assert part.close is not None
    await part.close(1.0)
    part = made(tmp_path)
    assert carried(part) == 1000
    (send,) = part.actor.handle(RatingsWanted(1, "directory", (b"relay",)), NOW)
    assert send.message.ratings[0].latency == 0.5
    assert part.drop is not None
    part.drop()


def test_a_file_of_a_newer_node_is_left_alone_and_the_node_does_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = RecordFile(REPUTATION.name, 2, precious=True)
    storage = RecordStorage(tmp_path, newer)
    storage.put(b"a", b"1")
    storage.close()
    part = made(tmp_path)
    part.actor.handle(Contributed(7, 1), NOW)
    assert carried(part) == 7
    assert part.drop is not None
    part.drop()
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "version 2" in caplog.text and str(tmp_path / REPUTATION.name) in caplog.text
    storage = RecordStorage(tmp_path, newer)
    assert dict(storage.load()) == {b"a": b"1"}
    storage.close()


def test_a_folder_that_cannot_be_written_is_no_reason_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = made(tmp_path / "nowhere")
    part.actor.handle(Contributed(7, 1), NOW)
    assert carried(part) == 7 and "not kept over restarts" in caplog.text
