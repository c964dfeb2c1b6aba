"""The relays that served, on disk: so that a node that starts has some to try before any source has answered."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from actors.relay_directory import SAVED, CachedRelay
from protocol.codec import CodecError, decode_untrusted
from protocol.descriptor import MAX_SIZE

log = logging.getLogger(__name__)

FILE: Final = "relays.cache"

#: Bytes of the file: SAVED relays with the largest descriptors, and as much again.
MAX_FILE: Final = SAVED * MAX_SIZE * 2

#: Of the file's form.
VERSION: Final = 1


class _Relay(msgspec.Struct, frozen=True, array_like=True):
    peer: Annotated[bytes, Meta(max_length=64)]
    addresses: Annotated[tuple[Annotated[bytes, Meta(max_length=128)], ...], Meta(max_length=16)]
    envelope: Annotated[bytes, Meta(max_length=MAX_SIZE)]
    latency: Annotated[float, Meta(ge=0)] | None
    reached_at: Annotated[float, Meta(ge=0)]


class _File(msgspec.Struct, frozen=True, array_like=True):
    version: int
    relays: Annotated[tuple[_Relay, ...], Meta(max_length=SAVED * 2)]


class RelayCacheFile:
    """``relays.cache`` in a node's data folder.  A file that cannot be read is put aside; one that cannot be written is
    logged, once: the node does without."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        # The disk may be slow, and circuits share the caller's thread.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="relay-cache")
        self._failed = False

    def load(self) -> Sequence[CachedRelay]:
        """What was saved; nothing when there is none, or it is damaged."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            log.warning("%s cannot be read: %s", self._path, error.strerror)
            return ()
        try:
            found = decode_untrusted(data, _File, MAX_FILE)
            if found.version != VERSION:
                raise CodecError(f"version {found.version}, this is {VERSION}")
        except CodecError as error:
            aside = self._path.with_suffix(".damaged")
            log.warning("%s is of no use (%s): it is %s now, and relays are looked for anew", self._path, error, aside)
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            return ()
        return [CachedRelay(one.peer, one.addresses, one.envelope, one.latency, one.reached_at) for one in found.relays]

    def save(self, relays: Sequence[CachedRelay]) -> None:
        """Write them in place of what was there, soon."""
        rows = tuple(
            _Relay(one.peer, one.addresses, one.envelope, one.latency, one.reached_at) for one in relays[:SAVED]
        )
        self._writer.submit(self._write, msgspec.msgpack.encode(_File(VERSION, rows)))

    def close(self) -> None:
        """What was to be written has been."""
        self._writer.shutdown()

    def _write(self, data: bytes) -> None:
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{FILE}.", dir=self._path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                os.replace(temporary, self._path)  # mkstemp made it 0600
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("%s cannot be written: %s", self._path, error.strerror)
