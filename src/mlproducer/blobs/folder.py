"""Blobs in a local folder, or one that several machines have mounted.

    folder/.lock                    held for a moment by each write and each removal
    folder/incoming/<random>        being written
    folder/ab/cd/abcd…              a blob, for this user only

Race: the cleaning reads that a blob is old; a producer publishes the same payload again and finds it there; the
cleaning removes it. So removals hold the lock alone and look at the age again under it, and writes share the lock.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final

from mlproducer.blobs.port import FRESH, Blob
from mlproducer.envelope.reference import is_key
from mlproducer.errors import BlobStoreUnavailable, NotFound
from mlproducer.posix import fcntl

_INCOMING: Final = "incoming"
_HINTS: Final = {
    errno.ENOSPC: "the disk is full: make room, or name another place in ML_BLOB_URL",
    errno.EDQUOT: "the quota is used up: make room, or name another place in ML_BLOB_URL",
    errno.EROFS: "it is read-only: see ML_BLOB_URL",
    errno.EACCES: "may this user read and write there? See ML_BLOB_URL",
    errno.EPERM: "may this user read and write there? See ML_BLOB_URL",
    errno.ENOENT: "is it mounted? See ML_BLOB_URL",
    errno.EEXIST: "a part of the path is a file: see ML_BLOB_URL",
    errno.ENOTDIR: "a part of the path is a file: see ML_BLOB_URL",
}


class FolderBlobs:
    """A `BlobStore`. The folder is made when it is first written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"FolderBlobs({str(self._folder)!r})"

    def put(self, key: str, data: bytes | memoryview) -> None:
        place = self._place(key)
        with self._explained("written"):
            _make_folders(self._folder, place.parent)
            with self._locked(fcntl.LOCK_SH):
                if not _is_fresh(place, len(data)):
                    self._write(place, data)
                # Also if another has just renamed it to its place and has not come to this line yet: who returns
                # from here promises that it is on the disk.
                _sync(place.parent)

    def get(self, key: str, limit: int) -> bytes:
        place = self._place(key)
        with self._explained("read"):
            try:
                with place.open("rb") as file:
                    return file.read(limit)
            except FileNotFoundError:
                self._folder.stat()  # not there at all is another matter: is it mounted?
                raise NotFound(f"no blob {key} in {self._folder}") from None

    def delete(self, key: str, *, older_than: float) -> bool:
        place = self._folder / key if key.startswith(f"{_INCOMING}/") else self._place(key)
        with self._explained("cleaned"), self._locked(fcntl.LOCK_EX):
            try:
                if place.stat().st_mtime >= older_than:
                    return False
                place.unlink()
            except FileNotFoundError:
                return False
            return True

    def older_than(self, moment: float) -> Iterator[Blob]:
        """What a crash left in `incoming` counts as a blob here, so that cleaning finds it."""
        with self._explained("read"):
            for path in chain(
                self._folder.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"), self._folder.glob("incoming/*")
            ):
                key = path.relative_to(self._folder).as_posix()
                if not is_key(key) and path.parent.name != _INCOMING:
                    continue
                with suppress(FileNotFoundError):  # another cleaning was quicker
                    found = path.stat()
                    if found.st_mtime < moment:
                        yield Blob(key, found.st_size, found.st_mtime)

    def _place(self, key: str) -> Path:
        if not is_key(key):
            raise ValueError("no key of a blob")
        return self._folder / key

    def _write(self, place: Path, data: bytes | memoryview) -> None:
        """Under another name first: a crash leaves no half of a blob under its key."""
        incoming = self._folder / _INCOMING
        _make_folders(self._folder, incoming)
        half = incoming / secrets.token_hex(16)
        try:
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            half.replace(place)
        except BaseException:
            with suppress(OSError):  # the first error counts, and cleaning finds what is left
                half.unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)  # and with it goes the lock

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "see ML_BLOB_URL")
            said = error.strerror or type(error).__name__
            raise BlobStoreUnavailable(f"the blob folder {self._folder} cannot be {what} ({said}): {hint}") from error


def _is_fresh(place: Path, size: int) -> bool:
    try:
        found = place.stat()
    except FileNotFoundError:
        return False
    return found.st_size == size and 0 <= time.time() - found.st_mtime < FRESH


def _make_folders(top: Path, deepest: Path) -> None:
    """For this user only: payloads hold users' content. Each is on the disk before something is put into it."""
    missing = []
    folder = deepest
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        # Those above the store are made as the user's umask says; they hold nothing of ours but the way.
        each.mkdir(mode=0o700 if each.is_relative_to(top) else 0o777, exist_ok=True)
        _sync(each.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
