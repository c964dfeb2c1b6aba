"""Changes of the settings file: what its owner wrote stays as it was, comments, order and all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class SettingsFileError(Exception):
    """The file cannot be changed, and was not; the message says why."""


def change(path: Path, values: Mapping[str, Any]) -> None:
    """Set ``values`` in the settings file ``path``, which need not be there yet.  SettingsFileError.

    It is written beside and renamed, so that whoever reads it reads all of the old or all of the new; a link to it
    stays a link, and who may read it may read it still.
    """
    # Only now: a node that is not asked to change anything does without.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = path.resolve()
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        for name, value in values.items():
            document[name] = value
        _write(path, tomlkit.dumps(document).encode())
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsFileError(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise SettingsFileError(f"{path} cannot be written: {error.strerror or error}") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            known = path.stat()
            os.chmod(temporary, known.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):  # not ours: what we write is
                os.chown(temporary, known.st_uid, known.st_gid)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
