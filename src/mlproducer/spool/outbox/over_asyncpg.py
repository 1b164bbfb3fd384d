"""The outbox on a connection of asyncpg, a pool's proxy included."""

from __future__ import annotations

from typing import Any, Final, Protocol

from sqlalchemy.dialects.postgresql import asyncpg as dialects

from mlproducer.errors import NoTransaction
from mlproducer.spool.outbox.statements import POSTGRESQL, in_order, text_for
from mlproducer.spool.outbox.steps import NO_TRANSACTION, Adding, Rows, Step, run_async

_DIALECT: Final = dialects.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own


class AsyncpgConnection(Protocol):
    """What is used of it. asyncpg ships no types."""

    def is_in_transaction(self) -> bool: ...
    async def fetch(self, query: str, *args: Any) -> list[Any]: ...  # noqa: ANN401  # its own signature


async def add_async(connection: AsyncpgConnection, adding: Adding) -> None:
    if not connection.is_in_transaction():
        raise NoTransaction(NO_TRANSACTION)

    async def execute(step: Step) -> Rows:
        given = in_order(step.statement, _DIALECT, step.parameters)
        found: Rows = [tuple(row) for row in await connection.fetch(text_for(step.statement, _DIALECT), *given)]
        return found

    await run_async(adding(POSTGRESQL), execute)
