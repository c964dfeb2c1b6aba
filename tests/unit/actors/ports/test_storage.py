"""An identity is made once and never replaced: whatever is wrong with the key is an error that says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.ports.storage import FILE, IdentityError, load_identity, load_or_create_identity


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "relay"
    identity = load_or_create_identity(folder)
    key = folder / FILE
    assert key.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in folder.iterdir()] == [FILE]
    assert key.read_bytes() == identity.encode()


def test_the_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_identity(tmp_path / "relay")
    finally:
        os.umask(before)
    assert (tmp_path / "relay" / FILE).stat().st_mode & 0o777 == 0o600


def test_later_starts_have_the_same_identity(tmp_path: Path) -> None:
    assert load_or_create_identity(tmp_path).peer_id == load_or_create_identity(tmp_path).peer_id


def test_nodes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_or_create_identity(tmp_path).peer_id, range(8)))
    assert len(set(found)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_a_key_missing_beside_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "reputation.db").touch()
    with pytest.raises(IdentityError, match=r"is missing, but .* holds reputation\.db"):
        load_or_create_identity(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_what_a_crash_left_while_the_key_was_made_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f".{FILE}.abc"
    left.write_bytes(b"half")
    identity = load_or_create_identity(tmp_path)
    assert load_or_create_identity(tmp_path).peer_id == load_identity(tmp_path).peer_id == identity.peer_id
    # It may be another node's that starts at this moment.
    assert left.read_bytes() == b"half"
    assert {entry.name for entry in tmp_path.iterdir()} == {FILE, left.name}


def test_an_identity_that_is_only_looked_for_is_not_made(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "no such folder"):
        with pytest.raises(IdentityError, match=f"no identity in {folder}"):
            load_identity(folder)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="Not a directory"):
        load_identity(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    load_or_create_identity(tmp_path)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_or_create_identity(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path)
    os.chown(tmp_path / FILE, 12345, -1)
    with pytest.raises(IdentityError, match="belongs to user 12345"):
        load_or_create_identity(tmp_path)


def test_every_damage_is_found_and_the_file_left_as_it_is(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path)
    key = tmp_path / FILE
    good = key.read_bytes()
    damaged = [good[:length] for length in range(len(good))]
    damaged += [good + b"\0", good * 20, b"\xff" * len(good)]
    # The public half says what the private half must give: one changed bit in either is seen.
    damaged += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(4, len(good))]
    for content in damaged:
        key.write_bytes(content)
        with pytest.raises(IdentityError, match="damaged"):
            load_or_create_identity(tmp_path)
        assert key.read_bytes() == content


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "relay"
    load_or_create_identity(elsewhere)
    folder.mkdir()
    (folder / FILE).symlink_to(elsewhere / FILE)
    with pytest.raises(IdentityError, match="not a regular file"):
        load_or_create_identity(folder)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_in_place_of_the_key_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / FILE)
    with pytest.raises(IdentityError, match="not a regular file"):
        load_or_create_identity(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "relay").touch()
    with pytest.raises(IdentityError, match="--data-dir"):
        load_or_create_identity(tmp_path / "relay")
