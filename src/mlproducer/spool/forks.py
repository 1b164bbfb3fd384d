"""What a fork does to SQLite: the child has a copy of what the library knows of its files, but none of its locks.

A child's own connection to the same file would then take no lock, since the library believes that the process has it.
The last of the others would take itself for alone, and remove the log that the child commits to: receipts for nothing.
So a fork waits until nobody uses a connection, and the child closes its copies as its first act. With them goes what
the library knew, and a spool that the child opens is like anybody's.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine, event

from mlproducer.errors import SpoolUnavailable

PATIENCE: Final = 10.0
"""Seconds that a fork waits; SQLite's own waits are shorter."""


class Connections:
    """Those of one spool to its file, whose `identity` is device and inode."""

    def __init__(self, identity: tuple[int, int]) -> None:
        self.identity = identity
        self._changed = threading.Condition()
        self._open: set[sqlite3.Connection] = set()
        self._in_use = 0
        self._paused = False
        _OPEN.add(self)

    def watch(self, engine: Engine, set_up: Callable[[sqlite3.Connection], None]) -> None:
        """The engine's connections are ours, from their `set_up` on, which uses the file too. What SQLAlchemy asks of
        its first one before that takes no lock.
        """

        def opens(connection: sqlite3.Connection, _record: object) -> None:
            self._begins()
            self._open.add(connection)
            try:
                set_up(connection)
            except BaseException:
                # The pool forgets a connection whose set-up failed: nobody else would close it.
                self._open.discard(connection)
                connection.close()
                raise
            finally:
                self._ends()

        event.listen(engine, "connect", opens)
        event.listen(engine, "checkout", self._begins)
        event.listen(engine, "checkin", self._ends)
        event.listen(engine, "close", self._closes)

    def pause(self) -> None:
        """Until nobody uses one; nobody begins to before `resume`."""
        with self._changed:
            self._paused = True
            self._changed.wait_for(lambda: not self._in_use, PATIENCE)

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def forget(self) -> None:
        """In a child."""
        if self._in_use:
            _SPOILED.add(self.identity)  # to close what is in use could wait for a thread that is no more
            return
        for each in self._open:
            each.close()

    def _closes(self, connection: sqlite3.Connection, _record: object) -> None:
        self._open.discard(connection)

    def _begins(self, *_: object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._paused)
            self._in_use += 1

    def _ends(self, *_: object) -> None:
        with self._changed:
            self._in_use -= 1
            self._changed.notify_all()


def refuse_spoiled(identity: tuple[int, int]) -> None:
    """Raises: SpoolUnavailable."""
    if identity in _SPOILED:
        raise SpoolUnavailable(
            "this process was forked while its parent was writing to the spool, and cannot lock the file: fork before "
            "the producer is started, or start the process anew (multiprocessing: spawn)"
        )


_OPEN: Final[weakref.WeakSet[Connections]] = weakref.WeakSet()
_SPOILED: Final[set[tuple[int, int]]] = set()
"""Globals, since a fork is of the whole process and its hooks are never taken away."""
_pausing: Final[list[Connections]] = []


def _before() -> None:
    _pausing[:] = list(_OPEN)
    for each in _pausing:
        each.pause()


def _in_parent() -> None:
    for each in _pausing:
        each.resume()
    _pausing.clear()


def _in_child() -> None:
    for each in _pausing:
        each.forget()
    _pausing.clear()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):  # not where there is no fork
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
