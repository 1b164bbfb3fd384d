"""Connections to a PostgreSQL server: how each is made, begins a transaction, is left for another server, or is cut.

**No state of a session**, since a pooler of transactions may stand in between: limits are set within each transaction,
in the message that begins it. Statements are prepared only where no pooler is met.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, MutableMapping
from typing import Any, Final
from weakref import WeakKeyDictionary, finalize

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry

from mlproducer.spool.server_address import Address

_LEFT: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
"""Codes of a server that takes no more work of ours: read-only, or on its way down or up."""
_BEGIN: Final = "BEGIN"
_PREPARED_AFTER: Final = 5
"""Runs of a statement on one connection, until it is prepared there."""


class Sockets:
    """A descriptor of our own for each open connection, so that another thread can break it.

    Not the driver's: it might close it, and the kernel give its number to a stranger, just before we act.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: MutableMapping[object, socket.socket] = WeakKeyDictionary()

    def watch(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._connected, insert=True)  # before SQLAlchemy asks its first questions
        event.listen(engine, "close", self._closed)

    def cut(self) -> None:
        with self._lock:
            for each in self._of.values():
                with contextlib.suppress(OSError):  # it is broken already
                    each.shutdown(socket.SHUT_RDWR)

    def _connected(self, dbapi: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own type
        ours = socket.socket(fileno=os.dup(dbapi.fileno()))
        # One whose set-up fails, ours or SQLAlchemy's, is given up without a word to us.
        finalize(dbapi, ours.close)
        with self._lock:
            self._of[dbapi] = ours

    def _closed(self, dbapi: object, _record: object) -> None:
        with self._lock:
            ours = self._of.pop(dbapi, None)
        if ours is not None:
            ours.close()


class Moves:
    """A server that takes no more work of ours is left with all connections: those that are idle look well, and who
    reads there would see what was. Each connection that is older than the last move is given up when it is next used.
    """

    def __init__(self) -> None:
        self._number = 0

    def watch(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "handle_error", self._failed)

    def _failed(self, context: ExceptionContext) -> None:
        if str(getattr(context.original_exception, "sqlstate", None)) in _LEFT:
            context.is_disconnect = True
            self._number += 1

    def _connected(self, _dbapi: object, record: ConnectionPoolEntry) -> None:
        record.info[Moves] = self._number

    def _checked_out(self, _dbapi: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info.get(Moves) != self._number:
            raise exc.DisconnectionError("the server was left")


def engine(address: Address, isolation: str, connections: int, *, writes: bool) -> Engine:
    made = create_engine(
        address.url,
        # We say BEGIN ourselves: the driver's is a way there and back of its own.
        connect_args={**address.connect_args, "autocommit": True},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=address.timeout,
        # A connection that died while nobody used it is replaced: who reads asks first, which is a way there and back,
        # and who writes runs the transaction again (`begin_failed`).
        pool_pre_ping=not writes,
        hide_parameters=True,  # errors must not quote them: they are users' content
    )
    event.listen(made, "connect", _prepare_statements)
    event.listen(made, "begin", _begins(f"{_BEGIN} ISOLATION LEVEL {isolation}; {_limits(address, durable=writes)}"))
    return made


def begin_failed(error: Exception) -> bool:
    """On a connection that was lost before, so nothing was done on it."""
    return (
        isinstance(error, exc.DBAPIError) and error.connection_invalidated and str(error.statement).startswith(_BEGIN)
    )


def _prepare_statements(dbapi: Any, _record: object) -> None:  # noqa: ANN401  # the driver's own type
    """Where this connection has the session for itself. A pooler tells its clients an id of its own making."""
    try:
        if dbapi.execute("SELECT pg_backend_pid()").fetchone() == (dbapi.info.backend_pid,):
            dbapi.prepare_threshold = _PREPARED_AFTER
    except BaseException:
        dbapi.close()  # the pool forgets a connection whose set-up failed: nobody else would close it
        raise


def _begins(statement: str) -> Callable[[Connection], None]:
    """Without parameters the driver sends several statements as they are: one message, and one way there and back."""

    def begins(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begins


def _limits(address: Address, *, durable: bool) -> str:
    limits = {
        "statement_timeout": address.timeout,
        "lock_timeout": address.timeout / 3,
        # What a hung or paused producer holds is let go.
        "idle_in_transaction_session_timeout": address.timeout * 2,
    }
    set_ = [f"set_config('{name}', '{max(1, round(seconds * 1_000))}', true)" for name, seconds in limits.items()]
    if durable:
        # "Durable on return" is our promise; a server's weaker default is for its other users.
        weak = "current_setting('synchronous_commit') = 'off'"
        set_.append(f"CASE WHEN {weak} THEN set_config('synchronous_commit', 'on', true) END")
    return f"SELECT {', '.join(set_)}"
