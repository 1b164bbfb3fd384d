"""The outbox on a connection of the standard library's `sqlite3`."""

from __future__ import annotations

import sqlite3
from typing import Final, Protocol

from sqlalchemy.dialects.sqlite import pysqlite

from mlproducer.errors import NoTransaction
from mlproducer.spool.outbox.statements import SQLITE, in_order, text_for
from mlproducer.spool.outbox.steps import NO_TRANSACTION, Adding, Rows, Step, run

_DIALECT: Final = pysqlite.dialect()


class _Transactional(Protocol):
    """`sqlite3.Connection`, and aiosqlite's, which has the same two."""

    @property
    def in_transaction(self) -> bool: ...
    @property
    def isolation_level(self) -> str | None: ...


def commits_at_once(connection: _Transactional) -> bool:
    """An INSERT would be committed by itself: no transaction is open, and the driver will not open one."""
    if connection.in_transaction:
        return False
    autocommit = getattr(connection, "autocommit", None)  # Python 3.12: True, False, or -1 for what 3.11 does
    if autocommit in {True, False}:
        return bool(autocommit)
    return connection.isolation_level is None


def add(connection: sqlite3.Connection, adding: Adding) -> None:
    if commits_at_once(connection):
        raise NoTransaction(NO_TRANSACTION)
    cursor = connection.cursor()
    cursor.row_factory = None

    def execute(step: Step) -> Rows:
        found = cursor.execute(text_for(step.statement, _DIALECT), in_order(step.statement, _DIALECT, step.parameters))
        return found.fetchall()

    try:
        run(adding(SQLITE), execute)
    finally:
        cursor.close()
