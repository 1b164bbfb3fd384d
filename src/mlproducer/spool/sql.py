"""The spool over SQLAlchemy Core, for SQLite and PostgreSQL: one behaviour, two stores (`file`, `server`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec.structs import replace
from sqlalchemy import Connection, exc

from mlproducer.clock import SystemClock
from mlproducer.errors import SpoolUnavailable
from mlproducer.jobs import heard, shielded
from mlproducer.ports import Clock
from mlproducer.rows import (
    Audit,
    Claim,
    Counts,
    DeadEntry,
    DeadFilter,
    Known,
    Lease,
    NewRow,
    Settlement,
    SpoolSize,
    Tally,
    WaitingEntry,
)
from mlproducer.spool import counters, holders, leases, queries, repairs, statements
from mlproducer.spool.columns import token_of
from mlproducer.spool.commands import CLAIM, CONFIRM, COUNT, PUT, RUN, SETTLE
from mlproducer.spool.file import SqliteStore, open_file
from mlproducer.spool.listening import Listening
from mlproducer.spool.server import PostgresStore, open_server
from mlproducer.spool.server_address import Address, parse
from mlproducer.spool.store import Store
from mlproducer.spool.transaction import Transaction
from mlproducer.spool.turns import check_shares
from mlproducer.spool.writer import Writer
from mlproducer.task import Flow

T = TypeVar("T")
S = TypeVar("S", bound=Store)


class SqlSpool(Generic[S]):
    """`ports.CountingSpool` in a database that `opening` opens, on a thread; `name` is for people."""

    def __init__(self, name: str, opening: Callable[[], S]) -> None:
        self._name = name
        self._opening = opening
        self._store: S | None = None
        self._writer: Writer | None = None
        self._added: Callable[[], None] | None = None
        self._reading: set[asyncio.Future[Any]] = set()
        self._leases = itertools.count(1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} {'open' if self._writer is not None else 'closed'}>"

    async def open(self) -> None:
        """Raises: SpoolUnavailable, if the store cannot be used, is another's, or is of a newer version."""
        if self._writer is not None:
            return
        opening = asyncio.ensure_future(asyncio.to_thread(self._opening))
        try:
            self._store = await shielded(opening)
        except asyncio.CancelledError:
            # The thread opens it all the same: close it then, or we would hold the lock for as long as we live.
            opening.add_done_callback(_close_unwanted)
            raise
        self._writer = Writer(self._store)

    async def close(self) -> None:
        """Commit what is queued, then let go of the store. Cancelled, it still ends, in its thread."""
        writer, self._writer = self._writer, None
        store, self._store = self._store, None
        if writer is not None and store is not None:
            await shielded(heard(asyncio.ensure_future(self._finish(writer, store))))

    def watch(self, added: Callable[[], None]) -> None:
        self._added = added

    def put(self, row: NewRow) -> asyncio.Future[bool]:
        return self._writes().ask(PUT, row)

    def claim(self, claim: Claim, *, hold: float) -> asyncio.Future[Known | None]:
        # Its token tells whose it is, so that others can release it when we are dead.
        token = token_of(self._opened().who, claim.token)
        return self._writes().ask(CLAIM, (replace(claim, token=token), hold))

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        await self._writes().ask(CONFIRM, (claim, confirmed_at, keep))

    async def release(self, task_id: str, token: str) -> None:
        whole = token_of(self._opened().who, token)
        await self._run(lambda tx: statements.release_claim(tx, task_id, whole))

    async def flows(self) -> Sequence[Flow]:
        return await self._read(lambda connection: leases.due_flows(connection, self._opened().time))

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        token = token_of(self._opened().who, str(next(self._leases)))
        check_shares(shares, expired=expired)

        def take(tx: Transaction) -> list[Lease]:
            if shares is None:
                return leases.lease_rows(tx, limit, hold, token, expired=expired)
            return leases.lease_shares(tx, limit, hold, token, shares)

        taken: list[Lease] = await self._run(take)
        return taken

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await self._writes().ask(SETTLE, settlements) if settlements else []

    async def measure(self) -> SpoolSize:
        return await self._read(lambda connection: queries.measure_rows(connection, self._opened().time))

    async def find(self, task_id: str) -> Known | None:
        return await self._read(lambda connection: queries.find_row(connection, self._opened().time, task_id))

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[WaitingEntry]:
        return await self._read(lambda connection: queries.waiting_rows(connection, self._opened().time, limit, offset))

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadEntry]:
        return await self._read(lambda connection: queries.dead_rows(connection, where, limit, offset))

    async def count_dead(self, where: DeadFilter) -> int:
        return await self._read(lambda connection: queries.count_dead_rows(connection, where))

    async def replay(self, audit: Audit) -> int:
        return int(await self._run(lambda tx: repairs.replay_rows(tx, audit)))

    async def purge(self, audit: Audit) -> int:
        return int(await self._run(lambda tx: repairs.purge_rows(tx, audit)))

    async def audits(self, *, limit: int, offset: int = 0) -> Sequence[Audit]:
        return await self._read(lambda connection: queries.audit_rows(connection, limit, offset))

    async def forget(self, *, limit: int) -> int:
        return int(await self._run(lambda tx: statements.forget_records(tx, limit)))

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        return await self._writes().ask(COUNT, tallies) if tallies else []

    async def counts(self, *, since: int, until: int, hourly: bool) -> Counts:
        return await self._read(lambda connection: counters.read_counts(connection, since, until, hourly=hourly))

    async def forget_counts(self, *, before: int, limit: int) -> int:
        return int(await self._run(lambda tx: counters.forget_counts(tx, before, limit)))

    def _writes(self) -> Writer:
        if self._writer is None:
            raise SpoolUnavailable(f"the spool {self._name} is not open")
        return self._writer

    def _opened(self) -> S:
        if self._store is None:
            raise SpoolUnavailable(f"the spool {self._name} is not open")
        return self._store

    async def _run(self, work: Callable[[Transaction], Any]) -> Any:  # noqa: ANN401  # its own result
        return await self._writes().ask(RUN, work)

    async def _finish(self, writer: Writer, store: Store) -> None:
        await asyncio.gather(*self._reading, return_exceptions=True)
        writer.hand_over()
        await asyncio.to_thread(_end, writer, store)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        store = self._opened()

        def read() -> T:
            with store.reading.begin() as connection:
                return query(connection)

        # Race: the caller is cancelled, the thread reads on, and the store is closed: its connection would then go back
        # into a pool that is no more, and stay open. So what reads is known to `close`, and has its end in any case.
        reading = asyncio.ensure_future(asyncio.to_thread(read))
        self._reading.add(reading)
        reading.add_done_callback(self._read_ended)
        if store.patience is not None:
            cut = asyncio.get_running_loop().call_later(store.patience, store.cut, store.reading)
            reading.add_done_callback(lambda _: cut.cancel())
        try:
            return await shielded(reading)
        except exc.SQLAlchemyError as error:
            told = store.explain(error)
            raise told from told.__cause__

    def _read_ended(self, reading: asyncio.Future[Any]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()  # its caller may be gone


class SqliteSpool(SqlSpool[SqliteStore]):
    """In one file, WAL mode, every commit on disk (`synchronous=FULL`), that processes of one machine share.

    `owner=False` reads, replays and purges, with or without them. The file cannot tell of what others put: `watch`
    never calls.
    """

    def __init__(self, path: Path, *, owner: bool = True, clock: Clock | None = None) -> None:
        super().__init__(str(path), lambda: open_file(path, owner=owner, clock=clock or SystemClock()))

    async def measure(self) -> SpoolSize:
        """And look after the dead: what they held is free again, a second after they died."""
        store = self._opened()
        size, dead, claims = await self._read(
            lambda connection: (queries.measure_rows(connection, store.time), *store.look(connection))
        )
        if dead:
            with contextlib.suppress(SpoolUnavailable):  # a full disk, perhaps; the next look comes
                await self._run(lambda tx: holders.release_held_by(tx, dead, claims))
                store.released(dead)
        return replace(size, met_others=store.met_others)


class PostgresSpool(SqlSpool[PostgresStore]):
    """In a database that many instances share. `owner=False` makes no tables; else it is the same.

    Raises: SettingsError, if `url` is none or the driver is not installed.
    """

    def __init__(self, url: str, *, owner: bool = True) -> None:
        address: Address = parse(url)
        super().__init__(str(address), lambda: open_server(address, owner=owner))
        self._address = address
        self._listening: Listening | None = None

    async def open(self) -> None:
        await super().open()
        if self._added is not None and self._listening is None and self._store is not None:
            self._listening = Listening(self._address, self._store.who, self._added)

    async def close(self) -> None:
        listening, self._listening = self._listening, None
        try:
            if listening is not None:
                await listening.stop()
        finally:
            await super().close()


def _end(writer: Writer, store: Store) -> None:
    writer.end()
    store.close()


def _close_unwanted(opening: asyncio.Future[S]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
