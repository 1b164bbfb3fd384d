"""What the outbox promises, on every kind of connection that it takes, against the real databases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Executable, create_engine, delete, select, text

from mlproducer import InvalidTask, Outbox, Settings, SpoolUnavailable, Task, TaskConflict, TaskTooLarge
from mlproducer.core.digest import content_digest
from mlproducer.ports import Spool
from mlproducer.rows import Bury, Claim, Done, SpoolRow
from mlproducer.spool import open_spool
from mlproducer.spool.schema import dead_letters, records, totals, waiting
from mlproducer.task import Envelope
from outbox_ways import POSTGRESQL, SQLITE, Way, over
from private_postgres import PrivatePostgres

LATER = 4_000_000_000.0


def task(content: str = "Call me Ishmael.", **given: Any) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": "7", "content": content}, **given)


class UsersFaultError(Exception):
    """Something in the user's own code."""


@dataclass(frozen=True)
class Database:
    """The user's database, with a table of the user's, and the spool that is in it or not."""

    url: str
    way: Way
    settings: Settings
    engine: Engine
    """For a look from outside."""

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.settings)

    def encoded(self, given: Task) -> Envelope:
        return self.outbox._encoder.encode(given)

    def transaction(self) -> Any:
        return self.way(self.url, self.outbox)

    def query(self, statement: Executable) -> list[Any]:
        with self.engine.begin() as connection:
            found = connection.execute(statement)
            return list(found.all()) if found.returns_rows else []

    def waiting(self) -> dict[str, str]:
        """Contents by task id."""
        rows = self.query(select(waiting.c.task_id, waiting.c.body))
        return {task_id: json.loads(body)[1]["content"]["text"] for task_id, body in rows}

    def orders(self) -> int:
        return int(self.query(text("SELECT count(*) FROM orders"))[0][0])

    @asynccontextmanager
    async def spool(self) -> AsyncIterator[Spool]:
        spool = open_spool(self.url)
        await spool.open()
        try:
            yield spool
        finally:
            await spool.close()


# Each driver once; the other ways differ from one of these in how a transaction begins, and in nothing after that.
DRIVERS = [
    "sqlite3",
    "SQLAlchemy Session, SQLite",
    "SQLAlchemy AsyncSession, aiosqlite",
    "psycopg",
    "psycopg async",
    "asyncpg",
    "SQLAlchemy Session, psycopg",
    "SQLAlchemy AsyncSession, asyncpg",
]
each_driver = pytest.mark.parametrize("way", DRIVERS)
each_way = pytest.mark.parametrize("way", [*SQLITE, *POSTGRESQL])


@pytest.fixture(scope="module")
def two_databases(postgres: PrivatePostgres) -> tuple[str, str]:
    """Their URLs, the second one with the tables. To make one for each test would take longer than the tests."""
    bare, made = postgres.url(postgres.new_database()), postgres.url(postgres.new_database())
    create_tables(made)
    return bare, made


def create_tables(url: str) -> None:
    engine = engine_on(url)
    Outbox(Settings.load(ml_spool_url=url)).create_tables(engine)
    engine.dispose()


def engine_on(url: str) -> Engine:
    return create_engine(over(url, "sqlite" if url.startswith("sqlite") else "postgresql+psycopg"))


@contextmanager
def database_for(way: str, request: pytest.FixtureRequest, folder: Path, which: int) -> Iterator[Database]:
    if way in SQLITE:
        url, through = f"sqlite:///{folder / 'shop.db'}", SQLITE[way]
    else:
        url, through = request.getfixturevalue("two_databases")[which], POSTGRESQL[way]
    found = Database(url, through, Settings.load(ml_spool_url=url, ml_data_dir=folder), engine_on(url))
    found.query(text("DROP TABLE IF EXISTS orders"))
    found.query(text("CREATE TABLE orders (id INTEGER)"))
    yield found
    found.engine.dispose()


@pytest.fixture
def bare(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Without the spool's tables."""
    with database_for(way, request, tmp_path, 0) as found:
        yield found


@pytest.fixture
def database(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_for(way, request, tmp_path, 1) as found:
        if way in SQLITE:
            create_tables(found.url)
        for table in (waiting, dead_letters, records, totals):
            found.query(delete(table))
        yield found


async def order_with(database: Database, *tasks: Task, fault: Exception | None = None) -> None:
    async with database.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (1)")
        for each in tasks:
            assert await inside.add(each) == each.id
        if fault is not None:
            raise fault


@each_way
async def test_the_task_is_in_the_spool_when_the_transaction_is_committed(database: Database) -> None:
    given = task()
    await order_with(database, given)
    assert database.orders() == 1
    async with database.spool() as spool:
        row = await spool.find(given.id)
        assert isinstance(row, SpoolRow)
        assert row.envelope == database.encoded(given)
        assert (row.cause, row.attempts, row.due_at) == ("outbox", 0, row.accepted_at)
        size = await spool.measure()
        assert (size.tasks, size.bytes) == (1, row.envelope.size), "it counts before anybody leased it"
        (lease,) = await spool.lease(10, hold=60)
        assert await spool.settle([(lease, Done(row.due_at, 60))]) == [True]
        assert (await spool.measure()).tasks == 0


@each_way
async def test_nothing_of_it_stays_when_the_transaction_is_rolled_back(database: Database) -> None:
    given = task()
    with pytest.raises(UsersFaultError):
        await order_with(database, given, fault=UsersFaultError())
    assert database.orders() == 0
    assert database.waiting() == {}


@each_driver
async def test_before_the_commit_no_drain_sees_it(database: Database) -> None:
    given = task()
    async with database.transaction() as inside:
        await inside.add(given)
        assert database.waiting() == {}
    assert list(database.waiting()) == [given.id]


@each_driver
async def test_a_wrong_task_is_refused_and_the_transaction_goes_on(database: Database) -> None:
    good = task()
    wrong = {
        "task_type": task().model_copy(update={"task_type": "no_such_type"}),
        "payload.share_id": task().model_copy(update={"payload": {"content": "text"}}),
        "expires": task(expires=datetime(2020, 1, 1, tzinfo=UTC)),
    }
    async with database.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (1)")
        for field, given in wrong.items():
            with pytest.raises(InvalidTask) as refused:
                await inside.add(given)
            assert refused.value.field == field
        await inside.add(good)
    assert database.orders() == 1
    assert list(database.waiting()) == [good.id]


@each_driver
async def test_a_task_that_is_too_large_is_refused_before_it_is_written(database: Database) -> None:
    large = task("x" * 9_000_000)
    async with database.transaction() as inside:
        with pytest.raises(TaskTooLarge, match="ML_MAX_MESSAGE_BYTES"):
            await inside.add(large)
    assert database.waiting() == {}


@each_driver
async def test_the_same_task_added_again_is_one_task(database: Database) -> None:
    given = task(id="order-1")
    await order_with(database, given, given, task(id="order-1"))
    await order_with(database, given)
    assert list(database.waiting()) == ["order-1"]


@each_driver
async def test_the_same_id_with_other_content_is_a_conflict_and_the_transaction_goes_on(database: Database) -> None:
    await order_with(database, task("first", id="order-1"))
    async with database.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (2)")
        with pytest.raises(TaskConflict, match="order-1"):
            await inside.add(task("second", id="order-1"))
        await inside.add(task("third", id="order-2"))
        with pytest.raises(TaskConflict, match="order-2"):
            await inside.add(task("fourth", id="order-2"))
    assert database.orders() == 2
    assert database.waiting() == {"order-1": "first", "order-2": "third"}


@each_driver
async def test_a_task_that_was_confirmed_before_is_not_published_again(database: Database) -> None:
    given = task(id="order-1")
    await order_with(database, given)
    await _settle(database, "order-1", Done(1.0, LATER))
    async with database.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (2)")
        assert await inside.add(given) == "order-1"
        with pytest.raises(TaskConflict):
            await inside.add(task("other", id="order-1"))
    assert database.orders() == 2
    assert database.waiting() == {}


@each_driver
async def test_the_id_of_a_dead_letter_is_a_conflict(database: Database) -> None:
    given = task(id="order-1")
    await order_with(database, given)
    await _settle(database, "order-1", Bury(1.0, 3, "returned", 312, "NO_ROUTE"))
    async with database.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (2)")
        with pytest.raises(TaskConflict, match="dead letter"):
            await inside.add(given)
    assert database.orders() == 2
    assert database.waiting() == {}


@each_driver
async def test_an_id_that_is_being_published_is_taken_unless_it_is_for_other_content(database: Database) -> None:
    now = datetime.now(UTC).timestamp()
    digest = content_digest(database.encoded(task("same")))
    async with database.spool() as spool:
        for task_id, hold in {"mine": 60, "not-mine": 60, "lapsed": 0}.items():
            claim = Claim(task_id, "embed_vectors", digest, now, token="another")
            assert await spool.claim(claim, hold=hold) is None
    async with database.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (1)")
        await inside.add(task("same", id="mine"))
        with pytest.raises(TaskConflict):
            await inside.add(task("other", id="not-mine"))
        await inside.add(task("other", id="lapsed"))
    assert database.orders() == 1
    assert database.waiting() == {"mine": "same", "lapsed": "other"}


@each_driver
async def test_a_delayed_task_is_due_at_its_eta(database: Database) -> None:
    eta = datetime.now(UTC) + timedelta(hours=1)
    given = task(eta=eta)
    await order_with(database, given)
    assert database.query(select(waiting.c.due_at, waiting.c.free_at)) == [(eta.timestamp(), eta.timestamp())]


@each_way
async def test_without_the_tables_the_error_says_how_they_come_and_the_transaction_goes_on(bare: Database) -> None:
    async with bare.transaction() as inside:
        await inside.sql("INSERT INTO orders VALUES (1)")
        with pytest.raises(SpoolUnavailable, match=r"ML_SPOOL_URL.*create_tables"):
            await inside.add(task())
        await inside.sql("INSERT INTO orders VALUES (2)")
    assert bare.orders() == 2


async def _settle(database: Database, task_id: str, verdict: Done | Bury) -> None:
    async with database.spool() as spool:
        (lease,) = await spool.lease(10, hold=1)
        assert lease.row.envelope.task_id == task_id
        assert await spool.settle([(lease, verdict)]) == [True]
