"""The outbox on a connection of psycopg 3, sync or async."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy.dialects.postgresql import psycopg as dialects

from mlproducer.errors import NoTransaction
from mlproducer.spool.outbox.statements import POSTGRESQL, text_for
from mlproducer.spool.outbox.steps import NO_TRANSACTION, Adding, Rows, Step, run, run_async

_DIALECT: Final = dialects.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own


def add_on(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], adding: Adding
) -> Coroutine[Any, Any, None] | None:
    if isinstance(connection, psycopg.AsyncConnection):
        return _add_async(connection, adding)
    _add(connection, adding)
    return None


def _add(connection: psycopg.Connection[Any], adding: Adding) -> None:
    _check(connection)
    # Of our own class and row factory: the connection's may want other placeholders, or make no tuples.
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:

        def execute(step: Step) -> Rows:
            cursor.execute(_text(step), step.parameters)
            return cursor.fetchall()

        run(adding(POSTGRESQL), execute)


async def _add_async(connection: psycopg.AsyncConnection[Any], adding: Adding) -> None:
    _check(connection)
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:

        async def execute(step: Step) -> Rows:
            await cursor.execute(_text(step), step.parameters)
            return await cursor.fetchall()

        await run_async(adding(POSTGRESQL), execute)


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    # Not in autocommit, it says BEGIN by itself before our first statement.
    if connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE:
        raise NoTransaction(NO_TRANSACTION)


def _text(step: Step) -> bytes:
    return text_for(step.statement, _DIALECT).encode()  # bytes, because as `str` only literals would be typed
