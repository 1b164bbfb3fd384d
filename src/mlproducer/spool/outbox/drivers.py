"""Which connection is of which driver. A driver that the application does not use is not imported, nor need it be
installed: a connection's own module is loaded by whoever made it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mlproducer.spool.outbox import over_asyncpg, over_sqlalchemy, over_sqlite3
from mlproducer.spool.outbox.steps import Adding

Added = Awaitable[None] | None
"""Something to await, which has done nothing yet; or None, and it is done."""


def add_on(connection: Any, adding: Adding) -> Added:  # noqa: ANN401  # of any driver
    """Raises: TypeError, if it is of no driver that we know; and what the steps raise."""
    for module, name, add in _CONNECTIONS:
        if _is_a(connection, module, name):
            return add(connection, adding)
    raise TypeError(
        f"{_named(connection)} is no connection that the outbox knows: give it a Session, AsyncSession, Connection or "
        "AsyncConnection of SQLAlchemy, a connection of psycopg 3 or asyncpg, or a sqlite3.Connection"
    )


def create_tables_on(where: Any) -> Added:  # noqa: ANN401  # of any kind
    """As `add_on`, on an engine or a connection of SQLAlchemy."""
    for module, name, create in _PLACES:
        if _is_a(where, module, name):
            return create(where)
    raise TypeError(f"{_named(where)} is no Engine, AsyncEngine, Connection or AsyncConnection of SQLAlchemy")


def _in_registry(registry: Callable[[], Any], adding: Adding) -> Added:
    return add_on(registry(), adding)


def _over_psycopg(connection: Any, adding: Adding) -> Added:  # noqa: ANN401  # typed where it goes
    from mlproducer.spool.outbox import over_psycopg  # noqa: PLC0415  # only where it is installed

    return over_psycopg.add_on(connection, adding)


def _is_a(thing: object, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(thing, getattr(loaded, name))


def _named(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


_CONNECTIONS: Final[tuple[tuple[str, str, Callable[[Any, Adding], Added]], ...]] = (
    ("sqlalchemy.orm", "Session", over_sqlalchemy.add_in_session),
    ("sqlalchemy.orm", "scoped_session", _in_registry),
    ("sqlalchemy.engine", "Connection", over_sqlalchemy.add),
    ("sqlalchemy.ext.asyncio", "AsyncSession", over_sqlalchemy.add_in_async_session),
    ("sqlalchemy.ext.asyncio", "async_scoped_session", _in_registry),
    ("sqlalchemy.ext.asyncio", "AsyncConnection", over_sqlalchemy.add_async),
    ("psycopg", "Connection", _over_psycopg),
    ("psycopg", "AsyncConnection", _over_psycopg),
    ("asyncpg", "Connection", over_asyncpg.add_async),
    ("asyncpg.pool", "PoolConnectionProxy", over_asyncpg.add_async),
    ("sqlite3", "Connection", over_sqlite3.add),
)
_PLACES: Final[tuple[tuple[str, str, Callable[[Any], Added]], ...]] = (
    ("sqlalchemy.engine", "Engine", over_sqlalchemy.create_tables_in_engine),
    ("sqlalchemy.engine", "Connection", over_sqlalchemy.create_tables),
    ("sqlalchemy.ext.asyncio", "AsyncEngine", over_sqlalchemy.create_tables_in_async_engine),
    ("sqlalchemy.ext.asyncio", "AsyncConnection", over_sqlalchemy.create_tables_async),
)
