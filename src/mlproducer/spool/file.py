"""The SQLite file: how it is opened, and what its faults mean in words. `sharing` knows who else uses it."""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

from mlproducer.errors import SpoolNotMade, SpoolUnavailable
from mlproducer.ports import Clock
from mlproducer.spool import sharing
from mlproducer.spool.file_time import FileTime
from mlproducer.spool.forks import Connections, refuse_spoiled
from mlproducer.spool.holders import claims_of, release_all, release_held_by
from mlproducer.spool.migrations import VERSION, check, check_for_visitor, migrate, version_of
from mlproducer.spool.sharing import Membership, Turn
from mlproducer.spool.transaction import Transaction

_BUSY_MS: Final = 5_000
"""How long a statement waits for another process's short transaction."""
_OVERDUE: Final = 2.5
"""With a turn (`sharing.TURN`) and a try after it, still less than a caller's own deadline (ML_ACCEPT_TIMEOUT)."""
_PRAGMAS: Final = (
    "synchronous=FULL",  # a commit is on the disk when it returns, not only in the kernel
    "journal_size_limit=67108864",  # bytes: a log that a burst blew up is cut again
)

_WRITING_CACHE: Final = 32_768
_READING_CACHE: Final = 4_096
"""KiB a connection. Where callers choose random ids, the whole index of a full spool is in use; what of it is not
here is in the kernel's cache, which nobody counts as ours.
"""

_LOG_BYTES: Final = 32 * 1024 * 1024
"""Of the write-ahead log, until it is copied back: a page that many commits change is copied once."""
_RESERVE: Final = 2 * _LOG_BYTES
"""Bytes of the disk that new rows leave free. To remove what was published takes room first: for the log, and for the
file as the log is copied back. A spool that took the last of its disk could never be emptied."""
_RESERVED_SHARE: Final = 8
"""Of a small disk an eighth is kept, and its log is as much shorter: better than to refuse everything there."""

_UNUSED: Final = ("freelist_count", "page_size")

_HINTS: Final = {
    "SQLITE_FULL": "the disk is full: make room, or move it with ML_DATA_DIR",
    "SQLITE_READONLY": "the file or its folder is read-only: see ML_DATA_DIR",
    "SQLITE_BUSY": "another process holds it for long, perhaps a stopped one (SIGSTOP, a debugger): end that one, let "
    "it go on, or name another file in ML_SPOOL_URL",
    "SQLITE_NOTADB": "the file is something else: see ML_SPOOL_URL",
    "SQLITE_CORRUPT": "the file is damaged: restore it, or name another in ML_SPOOL_URL",
    "SQLITE_IOERR": "does the disk work, and is there room? Move it with ML_DATA_DIR",
    "SQLITE_CANTOPEN": "may this user read and write the file and its folder? See ML_DATA_DIR",
}


@dataclass(frozen=True, slots=True)
class SqliteStore:
    """An opened and migrated spool file: a `store.Store`."""

    path: Path
    writing: Engine
    reading: Engine
    turns: Turn
    membership: Membership | None
    """None for a visitor, which holds nothing that others would have to wait for."""
    connections: Connections
    time: FileTime
    visitor: str = field(default_factory=lambda: secrets.token_hex(8))
    slot: int = 0  # one for all: they write one after the other
    patience: float | None = None  # its waits are bounded: see `_BUSY_MS`
    overdue: float = field(default_factory=lambda: _OVERDUE)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def who(self) -> str:
        return self.visitor if self.membership is None else self.membership.who

    @property
    def met_others(self) -> bool:
        """Another process has used the file since we opened it."""
        return self.membership is not None and self.membership.met

    def close(self) -> None:
        self.reading.dispose()
        self.writing.dispose()
        self.turns.close()
        if self.membership is not None:
            self.membership.close()

    def turn(self) -> AbstractContextManager[None]:
        """Who is alone does not ask for it: each wait gives the interpreter's lock to the event loop, for
        milliseconds. Who came within the last second is met by SQLite's own lock.
        """
        alone = self.membership is not None and self.membership.alone
        return nullcontext() if alone else self.turns.taken()

    def released(self, dead: Sequence[str]) -> None:
        """That is committed."""
        if self.membership is not None:
            self.membership.released(dead)

    def look(self, connection: Connection) -> tuple[Sequence[str], Sequence[str]]:
        """Whose leases and claims are to be released now, because their process ended; and the ids of those claims."""
        dead = () if self.membership is None else self.membership.look()
        return dead, (claims_of(connection, dead) if dead else ())

    def cut(self, engine: Engine) -> None:
        """Nothing is far away here."""

    def explain(self, error: Exception) -> SpoolUnavailable:
        return explain(self.path, error)

    def blames_the_store(self, error: Exception) -> bool:
        return isinstance(error, exc.OperationalError) or type(error) is exc.DatabaseError

    def may_pass(self, error: Exception) -> bool:  # noqa: ARG002  # the answer is the same for each
        """Nobody else writes at the same time."""
        return False

    def refusal(self) -> str | None:
        """SQLite goes on writing to a file that was moved or removed, and says that all is well."""
        try:
            if _identity(self.path) == self.connections.identity:
                lost = self.membership and self.membership.refusal
                return lost or self._short_of_room()
        except OSError:
            pass  # it is not there
        return (
            f"the spool {self.path} was moved or removed under the running producer: put it back, "
            "or restart with another ML_DATA_DIR or ML_SPOOL_URL"
        )

    def _short_of_room(self) -> str | None:
        free, kept = _room(self.path)
        if free < kept:
            with self.reading.connect() as connection:  # a file does not shrink: what was taken out makes room in it
                unused, page = (connection.exec_driver_sql(f"PRAGMA {what}").scalar() for what in _UNUSED)
            free += (unused or 0) * (page or 0)
        if free >= kept:
            return None
        return (
            f"the spool {self.path} takes nothing new, since the last {max(1, kept >> 20)} MiB of its disk are kept "
            f"for publishing what waits: {_HINTS['SQLITE_FULL']}"
        )


def open_file(path: Path, *, owner: bool, clock: Clock) -> SqliteStore:
    """Blocks on the disk, and on others who just open it. Raises: SpoolUnavailable; then nothing stays open."""
    with ExitStack() as opened:
        try:
            path = path.resolve()  # a symbolic link's log and locks would lie beside the link
            if not owner and not path.exists():
                raise _not_there(path)
            store = _open(path, opened, FileTime(clock), owner=owner)
        except exc.SQLAlchemyError as error:
            raise explain(path, error) from error
        except OSError as error:
            raise _unusable(path, error) from error
        opened.pop_all()
        return store


def _not_there(path: Path) -> SpoolUnavailable:
    words = f"there is no spool at {path}"
    folder = next(each for each in path.parents if each.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return SpoolNotMade(f"{words}: is ML_SPOOL_URL or ML_DATA_DIR another one for the producer?")
    return SpoolUnavailable(f"{words}, and this user can make none: {folder} is no folder to write in. See ML_DATA_DIR")


def _open(path: Path, opened: ExitStack, keeping: FileTime, *, owner: bool) -> SqliteStore:
    """What it opens is for `opened` to close."""
    if owner:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    turns = Turn(path)
    opened.callback(turns.close)
    membership = Membership(path) if owner else None
    if membership is not None:
        opened.callback(membership.close)
        _make(path)
    _refuse_names(path)
    refuse_spoiled(_identity(path))
    connections = Connections(_identity(path))
    writing = _engine(path, connections, owner=owner, begin="BEGIN IMMEDIATE", cache=_WRITING_CACHE)
    opened.callback(writing.dispose)
    reading = _engine(path, connections, owner=owner, begin="BEGIN", cache=_READING_CACHE)
    opened.callback(reading.dispose)
    store = SqliteStore(path, writing, reading, turns, membership, connections, keeping)
    if membership is None:
        with turns.taken(), store.writing.begin() as connection:
            check_for_visitor(version_of(connection))
            keeping.begin(connection, owner=False)
    else:
        _bring_up(store, membership)
    return store


def _bring_up(store: SqliteStore, membership: Membership) -> None:
    """Tables as they are to be, and nothing held in the name of the dead."""
    until = time.monotonic() + sharing.PATIENCE
    while found := _older(store):
        with membership.try_alone() as alone:
            if alone:
                with store.turns.taken(), store.writing.begin() as connection:
                    migrate(connection)
                    release_all(Transaction(connection, store.time))
        if not alone and time.monotonic() >= until:
            raise SpoolUnavailable(
                f"the spool {store.path} was written by an older mlproducer (its schema is version {found}), and a "
                "producer of that version uses it: stop that one, then start this one"
            )
    with store.turns.taken(), store.writing.begin() as connection:
        dead, claims = store.look(connection)
        release_held_by(Transaction(connection, store.time), dead, claims)
        store.time.begin(connection, owner=True)
    membership.released(dead)


def _older(store: SqliteStore) -> int:
    """The version of tables that others may be using; 0 if they are as they are to be. New ones are made."""
    # In turn: while SQLite changes the journal's mode it lets nobody into the file, and others would not wait for that.
    with store.turns.taken(), store.writing.begin() as connection:
        found = version_of(connection)
        check(found)
        if not found:
            migrate(connection)
    return 0 if found in {0, VERSION} else found


def explain(path: Path, error: Exception) -> SpoolUnavailable:
    """See `Store.explain`."""
    fault = error.orig if isinstance(error, exc.DBAPIError) else None
    if not isinstance(error, exc.SQLAlchemyError):
        told = SpoolUnavailable(f"the spool {path} cannot store this ({type(error).__name__})")
    elif fault is None:
        told = SpoolUnavailable(f"the spool {path} cannot be used now ({type(error).__name__})")
    else:
        code = str(getattr(fault, "sqlite_errorname", ""))
        hint = next((words for prefix, words in _HINTS.items() if code.startswith(prefix)), "see ML_SPOOL_URL")
        told = SpoolUnavailable(f"the spool {path} cannot be used ({fault}): {hint}")
    told.__cause__ = error
    return told


def _make(path: Path) -> None:
    """The file, for this user only: tasks hold users' content."""
    # Never opened if it is there: POSIX drops all of a process's locks on a file, such as those of another producer's
    # SQLite in this process, when any of its descriptors of that file is closed.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o600)


def _refuse_names(path: Path) -> None:
    """SQLite keeps its log beside the name: two names have two logs for one file, which destroy it."""
    names = path.stat().st_nlink
    if names > 1:
        raise SpoolUnavailable(
            f"the spool {path} has {names} names (hard links), and to use it by two of them would destroy it: remove "
            "the others, or copy it and name the copy in ML_SPOOL_URL"
        )


def _unusable(path: Path, error: OSError) -> SpoolUnavailable:
    return SpoolUnavailable(f"the spool {path} cannot be used: {error.strerror}: see ML_DATA_DIR or ML_SPOOL_URL")


def _room(path: Path) -> tuple[int, int]:
    """Bytes that are free on its disk, and how many of them new rows leave free."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize, min(_RESERVE, disk.f_blocks * disk.f_frsize // _RESERVED_SHARE)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _engine(path: Path, connections: Connections, *, owner: bool, begin: str, cache: int) -> Engine:
    # Errors must not quote the parameters: they are users' content.
    engine = create_engine(URL.create("sqlite", database=str(path)), pool_size=2, max_overflow=2, hide_parameters=True)
    # A visitor takes the journal mode as the owner left it: the file may be something else than a spool.
    pragmas = (f"busy_timeout={_BUSY_MS}", *(("journal_mode=WAL",) if owner else ()), f"cache_size=-{cache}", *_PRAGMAS)
    log = min(_LOG_BYTES, _room(path)[1] // 2)

    def set_up(dbapi: sqlite3.Connection) -> None:
        dbapi.isolation_level = None  # we say BEGIN ourselves, below
        cursor = dbapi.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        page = cursor.execute("PRAGMA page_size").fetchone()[0]
        cursor.execute(f"PRAGMA wal_autocheckpoint={max(1, log // page)}")
        cursor.close()

    connections.watch(engine, set_up)

    @event.listens_for(engine, "begin")
    def _begins(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
