"""The outbox on SQLAlchemy's connections and sessions. Its async ones run the same code, by their own `run_sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import StatementError

from mlproducer.errors import NoTransaction
from mlproducer.spool.migrations import migrate
from mlproducer.spool.outbox import over_sqlite3
from mlproducer.spool.outbox.statements import POSTGRESQL, SQLITE
from mlproducer.spool.outbox.steps import NO_TRANSACTION, Adding, Rows, Step, run

if TYPE_CHECKING:  # it needs greenlet, and who has one of these has that
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

_BY_DIALECT: Final = {"postgresql": POSTGRESQL, "sqlite": SQLITE}


def add(connection: Connection, adding: Adding) -> None:
    ask = _BY_DIALECT.get(connection.dialect.name)
    if ask is None:
        raise TypeError(f"the outbox is for PostgreSQL and SQLite, not for {connection.dialect.name}")
    if _commits_at_once(connection):
        raise NoTransaction(NO_TRANSACTION)

    def execute(step: Step) -> Rows:
        try:
            return connection.execute(step.statement, step.parameters).all()
        except StatementError as error:
            error.hide_parameters = True  # they are users' content, which errors do not show
            raise

    run(adding(ask), execute)


def add_in_session(session: Session, adding: Adding) -> None:
    add(session.connection(), adding)  # its transaction begins by this, if it has not yet


async def add_async(connection: AsyncConnection, adding: Adding) -> None:
    await connection.run_sync(add, adding)


async def add_in_async_session(session: AsyncSession, adding: Adding) -> None:
    await session.run_sync(add_in_session, adding)


def create_tables(connection: Connection) -> None:
    """Raises: SpoolUnavailable, if they are of a newer version."""
    if connection.dialect.name not in _BY_DIALECT:
        raise TypeError(f"the outbox is for PostgreSQL and SQLite, not for {connection.dialect.name}")
    driver = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and driver is not None and not driver.in_transaction:
        # The driver says BEGIN before an INSERT, not before a CREATE TABLE: each would be committed by itself.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    migrate(connection)


def create_tables_in_engine(engine: Engine) -> None:
    with engine.begin() as connection:
        create_tables(connection)


async def create_tables_async(connection: AsyncConnection) -> None:
    await connection.run_sync(create_tables)


async def create_tables_in_async_engine(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await create_tables_async(connection)


def _commits_at_once(connection: Connection) -> bool:
    if connection.dialect.name != "sqlite":
        # `isolation_level="AUTOCOMMIT"`, set anywhere, ends up in this attribute of every PostgreSQL driver.
        return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))
    # An application that says BEGIN itself, in an event of its engine, says it when a transaction begins, as it would
    # with our first statement.
    begun = None if connection.in_transaction() else connection.begin()
    driver = connection.connection.driver_connection
    refused = driver is not None and over_sqlite3.commits_at_once(driver)
    if refused and begun is not None:
        begun.rollback()
    return refused
