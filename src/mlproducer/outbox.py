"""The transactional outbox: a task is committed together with what it is about, or not at all.

    outbox = Outbox(settings)
    with Session(engine) as session, session.begin():
        session.add(order)
        outbox.add(session, Task(task_type="embed_vectors", payload={"share_id": order.id, "content": order.text}))

The row goes into the spool's tables, which are in the same database then (`ML_SPOOL_URL` names it), and the drain of
any producer on it publishes the task: at once on PostgreSQL, which tells it of the commit, and at the next
`ML_DRAIN_POLL` on SQLite.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, overload

from mlproducer.clock import SystemClock
from mlproducer.envelope.types import TaskType, TaskTypes
from mlproducer.errors import InvalidTask, RefusedTask
from mlproducer.settings import Settings
from mlproducer.spool.outbox.drivers import add_on, create_tables_on
from mlproducer.spool.outbox.steps import adding
from mlproducer.task import Envelope, Task
from mlproducer.wiring import encoder_for, tenants_for, tracing_for

if TYPE_CHECKING:  # none of these needs to be installed, or loaded, by who does not use it
    import sqlite3

    import psycopg
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from mlproducer.spool.outbox.over_asyncpg import AsyncpgConnection


_CLOCK: Final = SystemClock()


class Outbox:
    """Adds tasks inside the caller's own transactions. Has no state that changes: one serves all threads and loops.

    `task_types` as for `Producer`. `notify=False` leaves PostgreSQL's NOTIFY out, and tasks wait for `ML_DRAIN_POLL`:
    PostgreSQL lets transactions that notify commit one at a time, in the whole server, which an application with many
    thousand commits a second will notice.

    Raises: SettingsError.
    """

    def __init__(
        self, settings: Settings | None = None, *, task_types: Sequence[TaskType] = (), notify: bool = True
    ) -> None:
        settings = settings if settings is not None else Settings.load()
        types = TaskTypes.chosen(settings, task_types)
        self._encoder = encoder_for(types, settings.ml_max_message_bytes, tenants_for(settings))
        self._tracing = tracing_for(settings, types)
        self._notify = notify

    @overload
    def add(self, connection: Session | scoped_session[Any] | Connection | sqlite3.Connection, task: Task) -> str: ...
    @overload
    def add(
        self, connection: AsyncSession | async_scoped_session[Any] | AsyncConnection, task: Task
    ) -> Awaitable[str]: ...
    @overload
    def add(self, connection: psycopg.Connection[Any], task: Task) -> str: ...
    @overload
    def add(self, connection: psycopg.AsyncConnection[Any] | AsyncpgConnection, task: Task) -> Awaitable[str]: ...
    def add(self, connection: Any, task: Task) -> str | Awaitable[str]:  # for all of these
        """Put the task into the caller's transaction, and return its id; to be awaited on an async connection.

        It returns no receipt, because nothing is accepted yet: the caller's commit accepts the task, and a rollback
        leaves no trace of it. The same task added again, in this transaction or a later one, is one task. The spool's
        limits (`ML_SPOOL_MAX_TASKS` …) are not asked: the caller's commit is not ours to refuse.

        After any error raised here the transaction is as usable as before. Errors of the database itself, such as a
        lost connection or a serialization failure, come as its driver raises them.

        Raises:
            InvalidTask, TaskTooLarge: as `Producer.publish`, before anything is written.
            TaskConflict: the id is known with other content, or is a dead letter.
            NoTransaction: the connection commits each statement by itself, and no transaction is open.
            SpoolUnavailable: the spool's tables are not in this database, or are not ours to write.
            TypeError: it is no connection or session of a driver that we know.
        """
        envelope = self._encode(task, _CLOCK.now())
        waiting = add_on(connection, partial(adding, envelope=envelope, clock=_CLOCK, notify=self._notify))
        return task.id if waiting is None else _then(waiting, task.id)

    def _encode(self, task: Task, now: float) -> Envelope:
        """With the trace context that the caller is in. The span of it ends here: whether and when the transaction is
        committed is not ours to know.
        """
        trace = self._tracing.call(task)
        try:
            envelope = self._encoder.encode(task, None if trace is None else trace.headers)
            if envelope.expires_at is not None and envelope.expires_at <= now:
                raise InvalidTask("is in the past: the task could never run", field="expires")
        except RefusedTask as error:
            if trace is not None:
                trace.refused(error)
                trace.end(None, "refused")
            raise
        if trace is not None:
            trace.end(envelope, "added")
        return envelope

    @overload
    def create_tables(self, where: Engine | Connection) -> None: ...
    @overload
    def create_tables(self, where: AsyncEngine | AsyncConnection) -> Awaitable[None]: ...
    def create_tables(self, where: Engine | Connection | AsyncEngine | AsyncConnection) -> Awaitable[None] | None:
        """Create the spool's tables, or bring them up to date, so that tasks can be added before a producer has
        started. On an engine in a transaction of its own; on a connection in the caller's, for migration tools.

        Raises: SpoolUnavailable, if they are of a newer version.
        """
        return create_tables_on(where)


async def _then(waiting: Awaitable[None], task_id: str) -> str:
    await waiting
    return task_id
