"""The processes that use one SQLite file: who lives, who died, and whose turn it is to write.

Beside `spool.db` lie

- `spool.db.lock`: all hold it together, for as long as they live. Whoever changes old tables holds it alone. So does a
  producer of an older version, which shared with nobody: it keeps us out, and we keep it out.
- `spool.db.live/`: a file for each process, locked by it. Its name is in the leases and claims of that process, so who
  finds it unlocked knows that they are of the dead, and ends them. It says its own inode: a file that was copied,
  brought back or made anew proves nothing, and what it is about ends by time.
- `spool.db.live/turn`: held while a transaction writes. SQLite alone lets one write at a time; but who waits there
  sleeps ever longer between two looks, and with four at work one waits for seconds, or for ever. The turn is for
  fairness: who does not get it in time goes on to SQLite's own lock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlproducer.errors import SpoolUnavailable
from mlproducer.spool.locks import FileLock

PATIENCE: Final = 5.0
"""Seconds for the lock that all hold."""
TURN: Final = 2.0
"""Seconds for a turn."""
_LOOK: Final = 0.001
"""Seconds between two looks for a turn: about what a commit takes, and the same for all who wait, which makes it fair.
To wait in the kernel instead could not be bounded, and a process that is stopped in its turn would stop all."""
_LOOK_FOR_LOCK: Final = 0.02
_SUFFIX: Final = ".process"


class Turn:
    """For any process, a visitor's too. `path` is the spool's. Raises: OSError."""

    def __init__(self, path: Path) -> None:
        folder = _live(path)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(folder / "turn")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Blocks for `TURN` seconds at most."""
        until = time.monotonic() + TURN
        mine = self._lock.take()
        while not mine and time.monotonic() < until:
            time.sleep(_LOOK)
            mine = self._lock.take()
        try:
            yield
        finally:
            if mine:
                self._lock.give_back()

    def close(self) -> None:
        self._lock.close()


class Membership:
    """This process among those that use the file. All calls may block on the disk.

    Raises: SpoolUnavailable, if another has the file for itself; OSError. Then nothing stays open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._common = _common(path)
        try:
            self._own = _enlist(_live(path))
        except BaseException:
            self._common.close()
            raise
        self._released: set[str] = set()
        self.alone = False
        """At the last look nobody else lived."""
        self.met = False
        """Another process lived at some look, or lived and ended between two."""
        self._looked = False
        self.refusal: str | None = None
        """Why this process may not go on, if so."""

    @property
    def who(self) -> str:
        """This process, apart from all others of now and before."""
        return self._own.path.stem

    @contextmanager
    def try_alone(self) -> Iterator[bool]:
        """Whether nobody else lives; if so, nobody can begin to before the end. Raises: SpoolUnavailable."""
        alone = self._common.take()
        try:
            if not alone:
                # Who tried in vain has lost the lock, and leaves others who try a moment without it.
                time.sleep(_LOOK_FOR_LOCK * (1 + secrets.randbelow(100) / 100))
            yield alone
        finally:
            if not _within_patience(self._common):
                raise SpoolUnavailable(_for_itself(self._path))

    def look(self) -> Sequence[str]:
        """Whose leases and claims are to be released: processes that ended. Notes too if we are `alone`."""
        try:
            self._keep_in_place()
            return self._look()
        except OSError:  # the folder is gone, or full; the spool's own refusal tells of that
            self.alone = False
            return ()

    def _look(self) -> Sequence[str]:
        dead, alive = [], 0
        others = [path for path in _live(self._path).glob(f"*{_SUFFIX}") if path != self._own.path]
        self._released.intersection_update(path.stem for path in others)
        for path in others:
            match _is_dead(path):
                case False:
                    alive += 1
                case True if path.stem not in self._released:
                    dead.append(path.stem)
                case _:
                    path.unlink(missing_ok=True)
        self.alone = not alive
        self.met = self.met or bool(alive) or (self._looked and bool(dead))
        self._looked = True
        return dead

    def released(self, dead: Sequence[str]) -> None:
        """Nothing is held in their names any more, and that is committed: the next look removes their files."""
        self._released.update(dead)

    def close(self) -> None:
        """Its file stays: whoever looks next ends what is held in its name."""
        self._own.close()
        self._common.close()

    def _keep_in_place(self) -> None:
        """Somebody removed our files: take part again, or others would think that we are not there."""
        if not self._own.in_place():
            before, self._own = self._own, _enlist(_live(self._path))
            before.close()
        if self._common.in_place():
            return
        before = self._common
        try:
            self._common = _common(self._path)
        except SpoolUnavailable as error:
            self.refusal = f"the lock file was removed under the running producer, and {error}"
        else:
            self.refusal = None
            before.close()


def _live(path: Path) -> Path:
    return path.with_name(f"{path.name}.live")


def _common(path: Path) -> FileLock:
    while True:
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        taken = _within_patience(lock)
        if taken and lock.in_place():
            return lock
        lock.close()  # or it was removed while we waited
        if not taken:
            raise SpoolUnavailable(_for_itself(path))


def _within_patience(lock: FileLock) -> bool:
    until = time.monotonic() + PATIENCE
    while not lock.take(shared=True):
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_FOR_LOCK)
    return True


def _for_itself(path: Path) -> str:
    return (
        f"another producer uses the spool {path} for itself alone: it is of an older mlproducer, which shares with "
        "nobody, or it is just bringing the file up to date: stop it or wait, or give each its own ML_DATA_DIR or "
        "ML_SPOOL_URL"
    )


def _enlist(folder: Path) -> FileLock:
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        lock = FileLock(folder / f"{secrets.token_hex(8)}{_SUFFIX}", os.O_CREAT | os.O_EXCL)
        # Race: somebody looks at the file before it is locked, finds nobody's, and removes it. Then once more.
        if lock.take() and lock.in_place():
            lock.write(b"%d %d\n" % (lock.inode, os.getpid()))  # the number of the process is for people
            return lock
        lock.close()


def _is_dead(path: Path) -> bool | None:
    """True: its process died. False: it lives, or was looked at just now. None: the file proves nothing."""
    try:
        lock = FileLock(path, 0)
    except OSError:
        return False  # it ended just now, or is another user's
    with contextlib.closing(lock):
        # Together: two who look at the same moment both see it.
        if not lock.take(shared=True):
            return False
        return lock.read().split()[:1] == [b"%d" % lock.inode] or None
