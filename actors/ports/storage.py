"""The identity key on disk.

It is what peers know this relay by, so it is never replaced: a file that is missing where others are, that somebody
else could have written or read, or that is damaged, is an error that says what to do.  Only an empty data folder gets
a new key.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from actors.ports.control import SOCKET
from protocol.errors import LocalProtocolError
from protocol.identity import Identity
from protocol.privacy_messages import Level

FILE: Final = "identity.key"

#: Bytes of a key file: an Ed25519 private key's protobuf is 68.
MAX_FILE: Final = 1024


class IdentityError(Exception):
    """The identity cannot be used: the message says why and what to do."""


def load_or_create_identity(data_dir: Path) -> Identity:
    """The identity in ``data_dir``; a new one when the folder does not exist or is empty.  IdentityError."""
    path = data_dir / FILE
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            return _load(path)
        left = (f".{FILE}", SOCKET, f".{SOCKET}")  # by a node that was killed
        others = [entry.name for entry in data_dir.iterdir() if not entry.name.startswith(left)]
        if FILE in others:
            return _load(path)  # another node made it since
        if others:
            raise IdentityError(
                f"{path} is missing, but {data_dir} holds {', '.join(sorted(others)[:3])}: restore the key from a "
                f"backup, or choose an empty --data-dir for a new identity"
            )
        return _create(path)
    except OSError as error:
        raise IdentityError(
            f"data_dir = {data_dir}: {error.strerror or error}; choose another with --data-dir"
        ) from error


def folder_at(level: Level, folder: Path) -> Path:
    """Where a peer's identity for ``level`` is kept, in the folder that is its own.

    At LOW others see where it is: who it is there must tell nobody who it is at HIGH, and a Peer knows nothing of
    another one's past.  At MAXIMUM it is somebody new to each."""
    return folder / "low" if level is Level.LOW else folder


def load_identity(data_dir: Path) -> Identity:
    """The identity in ``data_dir``.  IdentityError, also when there is none."""
    path = data_dir / FILE
    try:
        return _load(path)
    except FileNotFoundError:
        raise IdentityError(f"no identity in {data_dir}: a node makes one at its first start") from None
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror or error}") from error


def _load(path: Path) -> Identity:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise IdentityError(f"{path} is not a regular file: put the key itself there")
    # Not following links, not waiting for a pipe: what was looked at may have been exchanged since.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(file.fileno())
        if info.st_uid != os.geteuid():
            raise IdentityError(f"{path} belongs to user {info.st_uid}, not to this one ({os.geteuid()}): chown it")
        if info.st_mode & 0o077:
            raise IdentityError(
                f"{path} can be read or written by others (mode {info.st_mode & 0o777:o}): chmod 600 it"
            )
        data = file.read(MAX_FILE + 1)
    try:
        return Identity.decode(data)
    except LocalProtocolError as error:
        raise IdentityError(f"{path} is damaged ({error}): restore it from a backup, or move it away") from error


def _create(path: Path) -> Identity:
    identity = Identity.from_seed(os.urandom(32))
    # Written whole or not at all: a crash leaves either no key or this one.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(identity.encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return _load(path)  # another node started at the same moment: its key is the one
    finally:
        os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return identity
