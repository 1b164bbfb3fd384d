"""The embedded spool: SQLite through SQLAlchemy Core, in WAL mode with every commit on disk (`synchronous=FULL`)."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, exc

from mlproducer.errors import SpoolUnavailable
from mlproducer.ports import DeadFilter, DeadLetter, Lease, SpoolRow, SpoolSize, Verdict
from mlproducer.spool.file import OpenFile, explain, open_file
from mlproducer.spool.statements import (
    dead_rows,
    find_row,
    lease_rows,
    measure_rows,
    purge_rows,
    replay_rows,
    waiting_rows,
)
from mlproducer.spool.writer import Put, Run, Settle, Writer

T = TypeVar("T")


class SqliteSpool:
    """`ports.Spool` in one file. `owner=False` reads, replays and purges next to an owner.

    The id of a dead letter is taken: `put` of it answers False, since the task is kept, and `replay` brings it back.
    """

    def __init__(self, path: Path, *, owner: bool = True) -> None:
        self._path = path
        self._owner = owner
        self._file: OpenFile | None = None
        self._writer: Writer | None = None
        self._tokens = (f"{secrets.token_hex(4)}-{n}" for n in itertools.count(1))

    def __repr__(self) -> str:
        return f"<SqliteSpool {self._path} {'open' if self._writer is not None else 'closed'}>"

    async def open(self) -> None:
        """Raises: SpoolUnavailable, if the file cannot be used, is another's, or is of a newer version."""
        if self._writer is not None:
            return
        opening = asyncio.ensure_future(asyncio.to_thread(open_file, self._path, owner=self._owner))
        try:
            self._file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread opens it all the same: close it then, or we would hold the lock for as long as we live.
            opening.add_done_callback(_close_unwanted)
            raise
        self._writer = Writer(self._file)

    async def close(self) -> None:
        """Commit what is queued, then let go of the file. Cancelled, it still ends, in its thread."""
        writer, self._writer = self._writer, None
        file, self._file = self._file, None
        if writer is not None and file is not None:
            await asyncio.shield(asyncio.to_thread(_finish, writer, file))

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
        file = self._file
        if file is None:
            raise SpoolUnavailable(f"the spool {self._path} is not open")

        def read() -> T:
            with file.reading.connect() as connection:
                return query(connection)

        try:
            return await asyncio.to_thread(read)
        except exc.SQLAlchemyError as error:
            raise explain(file.path, error) from error


def _finish(writer: Writer, file: OpenFile) -> None:
    writer.end()
    file.close()


def _close_unwanted(opening: asyncio.Future[OpenFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
