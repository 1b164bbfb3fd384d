"""Claims in SQL, over SQLAlchemy Core: one table, `mlproducer_once`, made when it is first needed.

A row whose `until` is past counts as none at all: it is the lease of a run, or the end of the memory of a done task.
PostgreSQL's own clock decides, so that workers' clocks may differ. SQLite's file is on one machine, whose monotonic
clock decides: nobody can set that. What it lacks to Unix seconds is kept in the file (`TIME`), with how far time has
come: a machine that starts again counts from zero, and goes on from there (docs/adr/0015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from mlproducer.errors import OnceUnavailable, SettingsError
from mlproducer.urls.keys import NONE
from mlproducer.urls.parts import TAKE_WRITES, BadUrl, choice, read_url
from mlproducer.worker.claims import Claim, Found

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError as error:
    raise SettingsError("ML_ONCE_URL: SQL needs `pip install sqlalchemy`, and psycopg for PostgreSQL") from error

CLEAN_SHARE: Final = 1 / 64
"""Of the finished tasks, how many remove rows whose time is past: rarely, so that it costs nothing."""
CLEAN_ROWS: Final = 500
"""At a time: more than 64, so that the table shrinks again."""
_BUSY_SECONDS: Final = 10

TABLE: Final = sa.Table(
    "mlproducer_once",
    sa.MetaData(),
    sa.Column("task_id", sa.String(255), primary_key=True),
    sa.Column("token", sa.String(64), nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("until", sa.Float(53), nullable=False, index=True),
)
TIME: Final = sa.Table(
    "mlproducer_once_time",
    TABLE.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("origin", sa.Float(53), nullable=False),
    sa.Column("mark", sa.Float(53), nullable=False),
)
_SERVER_NOW: Final = sa.literal_column("extract(epoch from clock_timestamp())::float8", sa.Float(53))


class SqlClaims:
    """A `ClaimStore`. Raises: SettingsError, if `url` is wrong or its driver is not installed."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._insert: Any = sqlite.insert if self._sqlite else postgresql.insert
        self._ready = False

    def claim(self, claim: Claim, lease: float) -> Found | None:
        while True:
            with self._explained(), self._engine.begin() as connection:
                now = self._now(connection)
                taken: dict[str, Any] = {"token": claim.token, "turn": claim.turn, "done": False, "until": now + lease}
                free = sa.or_(TABLE.c.until <= now, TABLE.c.token == claim.token)
                statement = self._insert(TABLE).values(task_id=claim.task_id, **taken)
                statement = statement.on_conflict_do_update(index_elements=["task_id"], set_=taken, where=free)
                # SQLAlchemy counts the rows of an INSERT only if asked to.
                if connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount:
                    return None
                row = connection.execute(
                    sa.select(TABLE.c.done, TABLE.c.turn).where(TABLE.c.task_id == claim.task_id, TABLE.c.until > now)
                ).first()
            if row is not None:
                return Found(done=row.done, turn=row.turn)
            # It was released between the two statements: it may be ours now.

    def renew(self, claim: Claim, lease: float) -> bool:
        with self._explained(), self._engine.begin() as connection:
            statement = sa.update(TABLE).where(*_ours(claim)).values(until=self._now(connection) + lease)
            return bool(connection.execute(statement).rowcount)

    def release(self, claim: Claim) -> None:
        with self._explained(), self._engine.begin() as connection:
            connection.execute(sa.delete(TABLE).where(*_ours(claim)))

    def finish(self, claim: Claim, ttl: float) -> None:
        with self._explained(), self._engine.begin() as connection:
            now = self._now(connection)
            done: dict[str, Any] = {"token": claim.token, "turn": claim.turn, "done": True, "until": now + ttl}
            statement = self._insert(TABLE).values(task_id=claim.task_id, **done)
            connection.execute(statement.on_conflict_do_update(index_elements=["task_id"], set_=done))
            if random.random() < CLEAN_SHARE:
                past = sa.select(TABLE.c.task_id).where(TABLE.c.until <= now).limit(CLEAN_ROWS)
                if not self._sqlite:
                    past = past.with_for_update(skip_locked=True)  # another worker cleans too
                connection.execute(sa.delete(TABLE).where(TABLE.c.task_id.in_(past)))

    def close(self) -> None:
        self._engine.dispose()

    def _now(self, connection: sa.Connection) -> Any:  # noqa: ANN401  # a number, or PostgreSQL's expression for it
        if not self._sqlite:
            return _SERVER_NOW
        monotonic = time.monotonic()
        origin = sa.func.max(TIME.c.origin, TIME.c.mark - monotonic)
        goes_on = sa.update(TIME).values(origin=origin, mark=sa.func.max(TIME.c.mark, monotonic + TIME.c.origin))
        now = connection.execute(goes_on.returning(TIME.c.mark)).scalar()
        if now is None:
            now = time.time()
            begun = {"id": 1, "origin": now - monotonic, "mark": now}
            connection.execute(self._insert(TIME).values(**begun).on_conflict_do_nothing())
        return now

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            if not self._ready:
                self._create()
                self._ready = True
            yield
        except sa.exc.SQLAlchemyError as error:
            self._ready = False  # the next server may be another
            cause = getattr(error, "orig", None) or error
            said = str(cause).strip().partition("\n")[0]
            raise OnceUnavailable(
                f"the database does not say which tasks were done ({type(cause).__name__}: {said}): see ML_ONCE_URL"
            ) from error

    def _create(self) -> None:
        """Two workers that start at once both find no table, and one of them fails to make it.

        Race: A and B find neither table; A makes the first one, B fails at it; A makes the second one. So each is
        looked for by itself, and B goes on with the second.
        """
        for table in [TABLE, TIME] if self._sqlite else [TABLE]:
            try:
                table.create(self._engine, checkfirst=True)
            except sa.exc.DBAPIError:
                if not sa.inspect(self._engine).has_table(table.name):
                    raise


def _ours(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return TABLE.c.task_id == claim.task_id, TABLE.c.token == claim.token, TABLE.c.done.is_(False)


def _engine(url: str) -> sa.Engine:
    try:
        parsed = _parsed(url)
        if parsed.get_backend_name() == "sqlite":
            return sa.create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
        driver = parsed.get_driver_name()
        waits: dict[str, object] = {}
        if driver.startswith("psycopg"):
            # libpq's own names; a server that is not there any more must not hold a worker for minutes. Of several, and
            # after a failover, it is the one that takes writes.
            waits = {"connect_timeout": _BUSY_SECONDS, "tcp_user_timeout": _BUSY_SECONDS * 1000}
            waits["target_session_attrs"] = "read-write"
            waits["sslpassword"] = parsed.query.get("sslpassword") or NONE  # else an encrypted key asks at the terminal
        if driver == "psycopg":
            waits["prepare_threshold"] = None  # behind a pooler of transactions the session is another's next time
        engine = sa.create_engine(parsed, pool_pre_ping=True, pool_size=1, max_overflow=4, connect_args=waits)
    except BadUrl as error:
        raise SettingsError(f"ML_ONCE_URL: {error}") from None
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, ValueError) as error:
        raise SettingsError(
            f"ML_ONCE_URL: cannot be used ({type(error).__name__}): is it like postgresql://user@host/name, and is its "
            "driver (psycopg) installed?"
        ) from None
    sa.event.listen(engine, "handle_error", _leave)
    return engine


def _parsed(url: str) -> sa.URL:
    scheme = url.partition("://")[0].lower()
    if scheme.partition("+")[0] not in {"postgres", "postgresql"}:
        return sa.make_url(url)
    driver = scheme if "+" in scheme else "postgresql+psycopg"
    parts = read_url(url, (scheme,), like="postgresql://user@host/name", several_hosts=True)
    choice(dict(parts.query).get("target_session_attrs", "any"), "target_session_attrs", TAKE_WRITES)
    if len(parts.hosts) == 1:
        return sa.make_url(url).set(drivername=driver)
    query: dict[str, tuple[str, ...] | str] = {**dict(parts.query), "host": tuple(h.shown(5432) for h in parts.hosts)}
    return sa.URL.create(driver, parts.user, parts.password, database=parts.path[1:] or None, query=query)


def _leave(context: sa.ExceptionContext) -> None:
    """A server that became read-only, or that stops or starts, is left: the next connection may be to another."""
    fault = context.original_exception
    state = getattr(fault, "sqlstate", None) or getattr(fault, "pgcode", None)
    if state in {"25006", "57P01", "57P02", "57P03"}:
        context.is_disconnect = True
