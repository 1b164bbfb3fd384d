"""The embedded spool: SQLite through SQLAlchemy Core, in WAL mode with every commit on disk (`synchronous=FULL`).

One process owns the file: it holds a lock beside it for as long as it lives, which the kernel lets go of when it dies,
however it dies. So whoever gets the lock knows that leases in the file are of a dead owner, and ends them.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

from mlproducer.errors import SpoolUnavailable
from mlproducer.ports import DeadFilter, DeadLetter, Lease, SpoolRow, SpoolSize, Verdict
from mlproducer.spool.migrations import check, migrate, version_of
from mlproducer.spool.statements import (
    dead_rows,
    find_row,
    lease_rows,
    measure_rows,
    purge_rows,
    release_all,
    replay_rows,
    waiting_rows,
)
from mlproducer.spool.writer import Put, Run, Settle, Writer

T = TypeVar("T")

_BUSY_MS: Final = 5_000
"""How long a statement waits for another process's short transaction."""


class SqliteSpool:
    """`ports.Spool` in one file. `owner=False` reads, replays and purges next to an owner."""

    def __init__(self, path: Path, *, owner: bool = True) -> None:
        self._path = path
        self._owner = owner
        self._lock: int | None = None
        self._writing: Engine | None = None
        self._reading: Engine | None = None
        self._writer: Writer | None = None
        self._tokens = (f"{secrets.token_hex(4)}-{n}" for n in itertools.count(1))

    async def open(self) -> None:
        """Raises: SpoolUnavailable, if the file cannot be used, is another's, or is of a newer version."""
        if self._writer is not None:
            return
        try:
            await asyncio.to_thread(self._prepare)
        except BaseException:
            self._dispose()
            raise
        if self._writing is not None:
            self._writer = Writer(self._writing, self._explain)

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
        self._dispose()

    async def put(self, row: SpoolRow) -> bool:
        return bool(await self._write(Put(row)))

    async def lease(self, limit: int, *, now: float, until: float) -> Sequence[Lease]:
        token = next(self._tokens)
        leases: list[Lease] = await self._write(
            Run(lambda connection: lease_rows(connection, limit, now, until, token))
        )
        return leases

    async def settle(self, lease: Lease, verdict: Verdict) -> bool:
        return bool(await self._write(Settle(lease, verdict)))

    async def measure(self) -> SpoolSize:
        return await self._read(measure_rows)

    async def find(self, task_id: str) -> SpoolRow | DeadLetter | None:
        return await self._read(lambda connection: find_row(connection, task_id))

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[SpoolRow]:
        return await self._read(lambda connection: waiting_rows(connection, limit, offset))

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadLetter]:
        return await self._read(lambda connection: dead_rows(connection, where, limit, offset))

    async def replay(self, task_ids: Sequence[str], *, now: float) -> int:
        return int(await self._write(Run(lambda connection: replay_rows(connection, task_ids, now))))

    async def purge(self, task_ids: Sequence[str]) -> int:
        return int(await self._write(Run(lambda connection: purge_rows(connection, task_ids))))

    async def _write(self, command: Put | Settle | Run) -> Any:  # noqa: ANN401  # the command's own result
        if self._writer is None:
            raise SpoolUnavailable(f"the spool {self._path} is not open")
        return await self._writer.do(command)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        engine = self._reading
        if engine is None:
            raise SpoolUnavailable(f"the spool {self._path} is not open")

        def read() -> T:
            with engine.connect() as connection:
                return query(connection)

        try:
            return await asyncio.to_thread(read)
        except exc.DBAPIError as error:
            raise self._explain(error) from error

    def _prepare(self) -> None:
        try:
            if self._owner:
                self._make_file()
            elif not self._path.exists():
                raise SpoolUnavailable(
                    f"there is no spool at {self._path}: is ML_SPOOL_URL or ML_DATA_DIR another one for the producer?"
                )
            self._writing = _engine(self._path, begin="BEGIN IMMEDIATE")
            self._reading = _engine(self._path, begin="BEGIN")
            with self._writing.begin() as connection:
                if self._owner:
                    migrate(connection)
                    release_all(connection)
                else:
                    check(version_of(connection))
        except exc.DBAPIError as error:
            raise self._explain(error) from error
        except OSError as error:
            raise SpoolUnavailable(
                f"the spool {self._path} cannot be used: {error.strerror}: see ML_SPOOL_URL or ML_DATA_DIR"
            ) from error

    def _make_file(self) -> None:
        """The file and its folder, for this user only: tasks hold users' content."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SpoolUnavailable(
                f"another producer uses the spool {self._path}: give each its own ML_DATA_DIR or ML_SPOOL_URL"
            ) from None
        self._lock = lock
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _dispose(self) -> None:
        for engine in (self._reading, self._writing):
            if engine is not None:
                engine.dispose()
        self._reading = self._writing = None
        if self._lock is not None:
            os.close(self._lock)  # and with it goes the lock
            self._lock = None

    def _explain(self, error: exc.DBAPIError) -> SpoolUnavailable:
        what = str(error.orig)
        hints = {
            "full": "the disk is full: make room, or move it with ML_DATA_DIR",
            "readonly": "the file or its folder is read-only: see ML_DATA_DIR",
            "read-only": "the file or its folder is read-only: see ML_DATA_DIR",
            "locked": "another process holds it for long",
            "no such table": "it is no spool, or a producer has not opened it yet",
            "not a database": "the file is something else: see ML_SPOOL_URL",
            "malformed": "the file is damaged: restore it, or name another in ML_SPOOL_URL",
        }
        hint = next((text for word, text in hints.items() if word in what), "see ML_SPOOL_URL or ML_DATA_DIR")
        return SpoolUnavailable(f"the spool {self._path} cannot be used ({what}): {hint}")


def _engine(path: Path, *, begin: str) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), pool_size=2, max_overflow=2)

    @event.listens_for(engine, "connect")
    def _connected(dbapi: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own type
        dbapi.isolation_level = None  # we say BEGIN ourselves, below
        cursor = dbapi.cursor()
        for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begins(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
