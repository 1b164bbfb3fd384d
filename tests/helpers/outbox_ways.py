"""Every kind of connection that the outbox takes, behind one face, so that one test runs on each of them."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from mlproducer import Outbox, Task

Execute = Callable[[str], Any]


@dataclass(frozen=True)
class Inside:
    """Within a transaction of the user's: it commits at the end of the block, and is rolled back by an exception."""

    connection: Any
    execute: Execute
    outbox: Outbox

    async def add(self, task: Task) -> str:
        added: Any = self.outbox.add(self.connection, task)
        done: str = await added if inspect.isawaitable(added) else added
        return done

    async def sql(self, statement: str) -> None:
        done = self.execute(statement)
        if inspect.isawaitable(done):
            await done


Way = Callable[[str, Outbox], AbstractAsyncContextManager[Inside]]


def over(url: str, driver: str) -> URL:
    """The spool's URL as SQLAlchemy wants it for this driver."""
    return make_url(url).set(drivername=driver)


@asynccontextmanager
async def _engine(url: str, driver: str) -> AsyncIterator[Engine]:
    engine = create_engine(over(url, driver))
    try:
        yield engine
    finally:
        engine.dispose()


@asynccontextmanager
async def _async_engine(url: str, driver: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(over(url, driver))
    try:
        yield engine
    finally:
        await engine.dispose()


def _on_connection(connection: Connection, outbox: Outbox) -> Inside:
    return Inside(connection, lambda statement: connection.execute(text(statement)), outbox)


def _on_async(connection: AsyncConnection | AsyncSession, outbox: Outbox) -> Inside:
    return Inside(connection, lambda statement: connection.execute(text(statement)), outbox)


def session(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _engine(url, driver) as engine:
            with Session(engine) as made, made.begin():
                yield Inside(made, lambda statement: made.execute(text(statement)), outbox)

    return way


def registry_of_sessions(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _engine(url, driver) as engine:
            registry = scoped_session(sessionmaker(engine))
            with registry.begin():
                yield Inside(registry, lambda statement: registry.execute(text(statement)), outbox)
            registry.remove()

    return way


def connection(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _engine(url, driver) as engine:
            with engine.begin() as made:
                yield _on_connection(made, outbox)

    return way


def connection_begun_by_its_first_statement(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _engine(url, driver) as engine:
            with engine.connect() as made:
                yield _on_connection(made, outbox)
                made.commit()

    return way


def async_session(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _async_engine(url, driver) as engine, AsyncSession(engine) as made, made.begin():
            yield _on_async(made, outbox)

    return way


def async_registry_of_sessions(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _async_engine(url, driver) as engine:
            registry = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: None)
            async with registry.begin():
                yield Inside(registry, lambda statement: registry.execute(text(statement)), outbox)
            await registry.remove()

    return way


def async_connection(driver: str) -> Way:
    @asynccontextmanager
    async def way(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
        async with _async_engine(url, driver) as engine, engine.begin() as made:
            yield _on_async(made, outbox)

    return way


@asynccontextmanager
async def over_sqlite3(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    with closing(sqlite3.connect(make_url(url).database or "")) as made, made:
        yield Inside(made, made.execute, outbox)


@asynccontextmanager
async def over_sqlite3_that_says_begin(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    with closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as made, made:
        made.execute("BEGIN IMMEDIATE")
        yield Inside(made, made.execute, outbox)


@asynccontextmanager
async def over_psycopg(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    with psycopg.connect(url) as made:
        yield Inside(made, made.execute, outbox)


@asynccontextmanager
async def over_psycopg_in_a_block(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    with psycopg.connect(url, autocommit=True) as made, made.transaction():
        yield Inside(made, made.execute, outbox)


@asynccontextmanager
async def over_async_psycopg(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    async with await psycopg.AsyncConnection.connect(url) as made:
        yield Inside(made, made.execute, outbox)


@asynccontextmanager
async def over_asyncpg(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    made = await asyncpg.connect(url)
    try:
        async with made.transaction():
            yield Inside(made, made.execute, outbox)
    finally:
        await made.close()


@asynccontextmanager
async def over_pool_of_asyncpg(url: str, outbox: Outbox) -> AsyncIterator[Inside]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as made, made.transaction():
        yield Inside(made, made.execute, outbox)


SQLITE: dict[str, Way] = {
    "sqlite3": over_sqlite3,
    "sqlite3, BEGIN said": over_sqlite3_that_says_begin,
    "SQLAlchemy Session, SQLite": session("sqlite"),
    "SQLAlchemy scoped_session, SQLite": registry_of_sessions("sqlite"),
    "SQLAlchemy Connection, SQLite": connection("sqlite"),
    "SQLAlchemy Connection not begun, SQLite": connection_begun_by_its_first_statement("sqlite"),
    "SQLAlchemy AsyncSession, aiosqlite": async_session("sqlite+aiosqlite"),
    "SQLAlchemy AsyncConnection, aiosqlite": async_connection("sqlite+aiosqlite"),
}
POSTGRESQL: dict[str, Way] = {
    "psycopg": over_psycopg,
    "psycopg, transaction block": over_psycopg_in_a_block,
    "psycopg async": over_async_psycopg,
    "asyncpg": over_asyncpg,
    "asyncpg pool": over_pool_of_asyncpg,
    "SQLAlchemy Session, psycopg": session("postgresql+psycopg"),
    "SQLAlchemy Connection, psycopg": connection("postgresql+psycopg"),
    "SQLAlchemy Connection not begun, psycopg": connection_begun_by_its_first_statement("postgresql+psycopg"),
    "SQLAlchemy AsyncSession, asyncpg": async_session("postgresql+asyncpg"),
    "SQLAlchemy async_scoped_session, asyncpg": async_registry_of_sessions("postgresql+asyncpg"),
    "SQLAlchemy AsyncConnection, psycopg": async_connection("postgresql+psycopg"),
}
