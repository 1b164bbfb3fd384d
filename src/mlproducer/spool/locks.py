"""A lock on a file, which the kernel takes back when its process dies, however it dies.

It is `flock`, which belongs to the open file and not to the process. So two producers in one process exclude each
other; but a child that was forked has the same open file, and would keep a lock that its parent let go of, or died
with. Against that, a lock that is given back is unlocked by name, and a child closes its copies as its first act.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Final

from mlproducer.posix import fcntl


class FileLock:
    """Opens `path`; `how` adds to the flags, and says so what if it is there or not. Raises: OSError."""

    def __init__(self, path: Path, how: int = os.O_CREAT) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | how, 0o600)
        _OPEN.add(self)

    def take(self, *, shared: bool = False) -> bool:
        """Without waiting. What was held before is lost if it fails."""
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def give_back(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def in_place(self) -> bool:
        """The path still names this very file: nobody removed it, or put another there, and can lock that one.

        Raises: OSError, if that cannot be told now.
        """
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    @property
    def inode(self) -> int:
        return os.fstat(self._file).st_ino

    def read(self) -> bytes:
        return os.pread(self._file, 64, 0)

    def write(self, content: bytes) -> None:
        """At the start of the file, which is empty."""
        os.pwrite(self._file, content, 0)

    def close(self) -> None:
        _OPEN.discard(self)
        file, self._file = self._file, -1
        if file >= 0:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child may have the open file still
            os.close(file)

    def forget(self) -> None:
        """In a child: close the copy, and leave the lock to the parent."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


_OPEN: Final[weakref.WeakSet[FileLock]] = weakref.WeakSet()
"""Of this process; the kernel has no other way to ask for them after a fork."""


def _forget_all() -> None:
    for lock in list(_OPEN):
        lock.forget()
    _OPEN.clear()


os.register_at_fork(after_in_child=_forget_all)
