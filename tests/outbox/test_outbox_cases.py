"""What one driver or one database does differently, and where two transactions meet."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, assert_type

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from mlproducer import NoTransaction, Outbox, Settings, SpoolUnavailable, Task
from mlproducer.core.digest import content_digest
from mlproducer.spool.schema import CHANNEL
from outbox_ways import over
from private_postgres import PrivatePostgres

OUTBOX = Outbox(Settings.load(ml_spool_url="memory://"))


def task(content: str = "Call me Ishmael.", **given: Any) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": "7", "content": content}, **given)


def create_tables(url: str) -> None:
    engine = create_engine(over(url, "sqlite" if url.startswith("sqlite") else "postgresql+psycopg"))
    OUTBOX.create_tables(engine)
    engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    create_tables(f"sqlite:///{tmp_path / 'shop.db'}")
    return tmp_path / "shop.db"


@pytest.fixture(scope="module")
def made(postgres: PrivatePostgres) -> str:
    url = postgres.url(postgres.new_database())
    create_tables(url)
    return url


@pytest.fixture
def url(made: str) -> str:
    """Of a PostgreSQL with the tables, empty."""
    with psycopg.connect(made) as connection:
        connection.execute("TRUNCATE mlproducer_waiting, mlproducer_dead_letters, mlproducer_records")
    return made


def ids_in(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT task_id FROM mlproducer_waiting ORDER BY task_id")]


def ids_in_file(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute("SELECT task_id FROM mlproducer_waiting ORDER BY task_id")]


class TestWithoutATransaction:
    """The INSERT would be committed by itself, whatever becomes of the rest."""

    def test_sqlite3_in_autocommit_is_refused(self, file: Path) -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            with pytest.raises(NoTransaction, match="begin a transaction"):
                OUTBOX.add(connection, task())
            assert ids_in_file(file) == []
            connection.execute("BEGIN")
            OUTBOX.add(connection, task(id="a"))
            connection.execute("COMMIT")
        assert ids_in_file(file) == ["a"]

    def test_sqlalchemy_in_autocommit_is_refused_on_sqlite(self, file: Path) -> None:
        engine = create_engine(f"sqlite:///{file}")
        with engine.connect() as connection:
            plain = connection.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(NoTransaction):
                OUTBOX.add(plain, task())
            assert not connection.in_transaction(), "as it was before"
        assert ids_in_file(file) == []
        engine.dispose()

    def test_an_engine_that_says_begin_itself_is_in_a_transaction(self, file: Path) -> None:
        engine = create_engine(f"sqlite:///{file}")
        _say_begin(engine)
        with engine.connect() as connection:
            OUTBOX.add(connection, task(id="a"))
            connection.rollback()
            OUTBOX.add(connection, task(id="b"))
            connection.commit()
        assert ids_in_file(file) == ["b"]
        engine.dispose()

    def test_sqlalchemy_in_autocommit_is_refused_on_postgresql(self, url: str) -> None:
        engine = create_engine(over(url, "postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with Session(engine) as session, pytest.raises(NoTransaction):
            OUTBOX.add(session, task())
        assert ids_in(url) == []
        engine.dispose()

    async def test_async_sqlalchemy_in_autocommit_is_refused(self, url: str) -> None:
        engine = create_async_engine(over(url, "postgresql+asyncpg"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            with pytest.raises(NoTransaction):
                await OUTBOX.add(connection, task())
        assert ids_in(url) == []
        await engine.dispose()

    def test_psycopg_in_autocommit_is_refused(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            with pytest.raises(NoTransaction):
                OUTBOX.add(connection, task())
            with connection.transaction():
                OUTBOX.add(connection, task(id="a"))
        assert ids_in(url) == ["a"]

    async def test_async_psycopg_in_autocommit_is_refused(self, url: str) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            with pytest.raises(NoTransaction):
                await OUTBOX.add(connection, task())
        assert ids_in(url) == []

    async def test_asyncpg_outside_of_a_transaction_is_refused(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        with pytest.raises(NoTransaction):
            await OUTBOX.add(connection, task())
        async with connection.transaction():
            await OUTBOX.add(connection, task(id="a"))
        await connection.close()
        assert ids_in(url) == ["a"]


def _say_begin(engine: Engine) -> None:
    """What SQLAlchemy's manual advises for SQLite: its driver is told to begin nothing."""

    @event.listens_for(engine, "connect")
    def _connected(dbapi: Any, _record: object) -> None:
        dbapi.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begins(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


class TestConnectionsOfTheUsersOwnKind:
    def test_sqlite3_with_factories_of_rows_and_texts(self, file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = bytes
            OUTBOX.add(connection, task(id="a"))
            OUTBOX.add(connection, task(id="a"))
            assert connection.row_factory is sqlite3.Row
        assert ids_in_file(file) == ["a"]

    @pytest.mark.parametrize("cursor", [psycopg.RawCursor, psycopg.ClientCursor])
    def test_psycopg_with_rows_as_mappings_and_other_placeholders(self, url: str, cursor: Any) -> None:
        with psycopg.connect(url, row_factory=dict_row, cursor_factory=cursor) as connection:
            OUTBOX.add(connection, task(id="a"))
            OUTBOX.add(connection, task(id="a"))
        assert ids_in(url) == ["a"]

    def test_psycopg_in_pipeline_mode(self, url: str) -> None:
        with psycopg.connect(url) as connection, connection.pipeline():
            OUTBOX.add(connection, task(id="a"))
            OUTBOX.add(connection, task(id="b"))
        assert ids_in(url) == ["a", "b"]

    def test_a_savepoint_that_is_rolled_back_takes_its_tasks_along(self, url: str) -> None:
        engine = create_engine(over(url, "postgresql+psycopg"))
        with Session(engine) as session, session.begin():
            OUTBOX.add(session, task(id="a"))
            with session.begin_nested() as nested:
                OUTBOX.add(session, task(id="b"))
                nested.rollback()
        assert ids_in(url) == ["a"]
        engine.dispose()

    def test_what_is_no_connection_is_named_and_refused(self) -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            things: list[Any] = [create_engine("sqlite://"), object(), connection.cursor()]
            for thing in things:
                with pytest.raises(TypeError, match="is no connection that the outbox knows"):
                    OUTBOX.add(thing, task())
        with pytest.raises(TypeError, match="is no Engine"):
            OUTBOX.create_tables("sqlite://")  # type: ignore[call-overload]

    def test_another_database_is_named_and_refused(self) -> None:
        engine = create_engine("sqlite://")
        engine.dialect.name = "oracle"
        with engine.connect() as connection:
            with pytest.raises(TypeError, match="PostgreSQL and SQLite, not for oracle"):
                OUTBOX.add(connection, task())
            with pytest.raises(TypeError, match="oracle"):
                OUTBOX.create_tables(connection)
        engine.dispose()


class TestTables:
    def test_of_a_newer_version_that_still_takes_our_rows_are_used(self, file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("ALTER TABLE mlproducer_waiting ADD COLUMN newer TEXT")
            connection.execute("UPDATE mlproducer_schema_version SET version = 99")
            OUTBOX.add(connection, task(id="a"))
        assert ids_in_file(file) == ["a"]

    def test_of_another_version_are_refused_on_sqlite(self, file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("ALTER TABLE mlproducer_waiting RENAME COLUMN counted TO numbered")
            with pytest.raises(SpoolUnavailable, match="another version"):
                OUTBOX.add(connection, task())

    @pytest.mark.parametrize(
        "change", ["RENAME COLUMN counted TO numbered", "ADD COLUMN newer TEXT NOT NULL"], ids=["renamed", "required"]
    )
    def test_of_another_version_are_refused_on_postgresql(self, url: str, change: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(f"ALTER TABLE mlproducer_waiting {change}".encode())
            with pytest.raises(SpoolUnavailable, match="another version"):
                OUTBOX.add(connection, task())
            connection.execute("SELECT 1")
            connection.rollback()

    def test_that_a_role_may_not_write_are_told_with_what_to_grant(self, postgres: PrivatePostgres, url: str) -> None:
        database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        postgres.sql("CREATE ROLE shop LOGIN PASSWORD 'shop'")
        with psycopg.connect(postgres.url_as("shop", "shop", str(database))) as connection:
            with pytest.raises(SpoolUnavailable, match="GRANT") as refused:
                OUTBOX.add(connection, task())
            postgres.sql("GRANT SELECT, INSERT, DELETE ON mlproducer_waiting TO shop", str(database))
            postgres.sql("GRANT SELECT ON mlproducer_dead_letters, mlproducer_records TO shop", str(database))
            OUTBOX.add(connection, task(id="a"))
        assert ids_in(url) == ["a"]
        assert "SELECT, INSERT, DELETE on mlproducer_waiting" in str(refused.value)

    def test_are_made_twice_without_harm_and_a_producer_opens_them(self, file: Path) -> None:
        create_tables(f"sqlite:///{file}")
        assert ids_in_file(file) == []

    def test_made_in_a_transaction_of_the_users_are_rolled_back_with_it(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
        with engine.connect() as connection:
            OUTBOX.create_tables(connection)
            OUTBOX.add(connection, task())
            connection.rollback()
            assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
        engine.dispose()

    async def test_are_made_on_async_engines_and_connections(self, postgres: PrivatePostgres, tmp_path: Path) -> None:
        url = postgres.url(postgres.new_database())
        for engine in (
            create_async_engine(over(url, "postgresql+asyncpg")),
            create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"),
        ):
            await OUTBOX.create_tables(engine)
            async with engine.begin() as connection:
                await OUTBOX.create_tables(connection)
                await OUTBOX.add(connection, task(id="a"))
            await engine.dispose()
        assert ids_in(url) == ids_in_file(tmp_path / "shop.db") == ["a"]


class TestTwoTransactions:
    """The second one adds an id that the first has touched and not committed yet."""

    @pytest.fixture
    async def two(self, url: str) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], psycopg.AsyncConnection[Any]]]:
        async with (
            await psycopg.AsyncConnection.connect(url) as first,
            await psycopg.AsyncConnection.connect(url) as second,
        ):
            yield first, second

    async def _waiting(self, second: psycopg.AsyncConnection[Any], given: Task) -> asyncio.Task[str]:
        """Its add, waiting for the first transaction's end."""

        async def add() -> str:
            return await OUTBOX.add(second, given)

        adding = asyncio.create_task(add())
        done, _ = await asyncio.wait([adding], timeout=0.3)
        assert not done, "it waits"
        return adding

    async def test_adds_once_if_the_first_one_added_and_commits(self, two: Any, url: str) -> None:
        first, second = two
        await OUTBOX.add(first, task(id="a"))
        adding = await self._waiting(second, task(id="a"))
        await first.commit()
        assert await adding == "a"
        await second.commit()
        assert ids_in(url) == ["a"]

    async def test_adds_if_the_first_one_added_and_rolls_back(self, two: Any, url: str) -> None:
        first, second = two
        await OUTBOX.add(first, task(id="a"))
        adding = await self._waiting(second, task("other", id="a"))
        await first.rollback()
        assert await adding == "a"
        await second.commit()
        assert ids_in(url) == ["a"]

    async def test_adds_nothing_if_the_first_one_is_the_drain_that_settles_it(self, two: Any, url: str) -> None:
        first, second = two
        await self._put_and_settle(first, task(id="a"))
        adding = await self._waiting(second, task(id="a"))
        await first.commit()
        assert await adding == "a"
        await second.commit()
        assert ids_in(url) == [], "it was confirmed meanwhile"

    async def test_a_serialization_failure_comes_as_the_driver_raises_it(self, two: Any, url: str) -> None:
        first, second = two
        await second.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await second.execute("SELECT 1")
        await OUTBOX.add(first, task(id="a"))
        await first.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            await OUTBOX.add(second, task(id="a"))
        await second.rollback()
        assert ids_in(url) == ["a"]

    async def _put_and_settle(self, first: psycopg.AsyncConnection[Any], given: Task) -> None:
        """As the drain's transaction leaves it before its commit: the row gone, its record there."""
        await OUTBOX.add(first, given)
        await first.commit()
        await first.execute("DELETE FROM mlproducer_waiting")
        await first.execute(
            "INSERT INTO mlproducer_records (task_id, task_type, digest, accepted_at, keep_until, confirmed_at, "
            "attempts, token) VALUES (%s, 'embed_vectors', %s, 1, 4e9, 2, 0, '')",
            (given.id, content_digest(OUTBOX._encoder.encode(given))),
        )

    def test_a_locked_file_is_the_drivers_error_without_any_content(self, file: Path) -> None:
        engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0.01})
        with closing(sqlite3.connect(file)) as first, engine.connect() as second:
            first.execute("BEGIN IMMEDIATE")
            with pytest.raises(OperationalError, match="locked") as failed:
                OUTBOX.add(second, task("a secret"))
            assert "[parameters" not in str(failed.value)
            second.rollback()
            first.rollback()
            OUTBOX.add(second, task(id="a"))
            second.commit()
        assert ids_in_file(file) == ["a"]
        engine.dispose()


class TestNotify:
    """PostgreSQL tells of the commit, and of nothing else."""

    @pytest.fixture
    def heard(self, url: str) -> Iterator[Callable[[], list[str]]]:
        with psycopg.connect(url, autocommit=True) as listener:
            listener.execute(f"LISTEN {CHANNEL}".encode())
            yield lambda: [note.channel for note in listener.notifies(timeout=0.3)]

    def test_at_the_commit(self, url: str, heard: Callable[[], list[str]]) -> None:
        with psycopg.connect(url) as connection:
            OUTBOX.add(connection, task())
            OUTBOX.add(connection, task())
            assert heard() == []
        assert heard() == [CHANNEL], "once a transaction"

    def test_not_at_a_rollback(self, url: str, heard: Callable[[], list[str]]) -> None:
        with psycopg.connect(url) as connection:
            OUTBOX.add(connection, task())
            connection.rollback()
        assert heard() == []

    def test_not_if_told_so(self, url: str, heard: Callable[[], list[str]]) -> None:
        quiet = Outbox(Settings.load(ml_spool_url="memory://"), notify=False)
        with psycopg.connect(url) as connection:
            quiet.add(connection, task())
        assert heard() == []
        assert len(ids_in(url)) == 1


def what_type_checkers_make_of_it(
    session: Session,
    connection: Connection,
    file: sqlite3.Connection,
    sync: psycopg.Connection[Any],
    async_session: AsyncSession,
    async_connection: AsyncConnection,
    not_sync: psycopg.AsyncConnection[Any],
) -> None:
    """Never run: mypy reads it."""
    for each in (session, connection, file):
        assert_type(OUTBOX.add(each, task()), str)
    assert_type(OUTBOX.add(sync, task()), str)
    assert_type(OUTBOX.add(async_session, task()), Awaitable[str])
    assert_type(OUTBOX.add(async_connection, task()), Awaitable[str])
    assert_type(OUTBOX.add(not_sync, task()), Awaitable[str])
